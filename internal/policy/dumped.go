package policy

import (
	"fmt"
	"slices"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/dump"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// fromMesh returns what is in force of MeshConfig. Of a policy of OPA's a dump has
// not the text: it can be asked there only.
func fromMesh(d *dump.WaypointDump) (*config.Mesh, error) {
	m := &config.Mesh{Providers: map[string]*authz.Provider{}, TrustDomain: d.Mesh.TrustDomain, Aliases: d.Mesh.Aliases, RootNamespace: d.Mesh.RootNamespace}
	var err error
	if m.Normalization, err = routing.ParseNormalization(d.Mesh.PathNormalization); err != nil {
		return nil, err
	}
	kinds := []authz.ProviderKind{authz.GRPC, authz.HTTP, authz.OPA}
	for _, p := range d.Providers {
		i := slices.IndexFunc(kinds, func(k authz.ProviderKind) bool { return k.String() == p.Kind })
		if i < 0 {
			return nil, fmt.Errorf("provider %s: its kind %q is not known", p.Name, p.Kind)
		}
		out := &authz.Provider{Name: p.Name, Kind: kinds[i], Service: p.Service, Port: p.Port, FailOpen: p.FailOpen, StatusOnError: p.Status}
		if out.Kind == authz.OPA {
			out.OPA = &authz.OPAPolicy{Path: "in the waypoint"}
		}
		m.Providers[p.Name] = out
	}
	return m, nil
}

// fromTokens returns a RequestAuthentication. Keys in it are not in a dump, so
// that they are as good as elsewhere: at its issuer's.
func fromTokens(t *dump.Tokens) *jwt.RequestAuthentication {
	out := &jwt.RequestAuthentication{Namespace: t.Namespace, Name: t.Name, Selector: t.Selector, TargetRefs: t.TargetRefs}
	for _, r := range t.Rules {
		out.Rules = append(out.Rules, jwt.Rule{
			Issuer: r.Issuer, Audiences: r.Audiences, JWKSURI: r.JWKSURI, FromHeaders: r.FromHeaders, FromParams: r.FromParams, FromCookies: r.FromCookies,
			ForwardOriginalToken: r.ForwardOriginalToken, OutputPayloadToHeader: r.Payload, OutputClaimToHeaders: r.Claims, SpaceDelimitedClaims: r.SpaceDelimitedClaims,
		})
	}
	return out
}

func fromRoute(r *dump.Route) *routing.Route {
	return &routing.Route{Namespace: r.Namespace, Name: r.Name, Parents: r.Parents, Rules: r.Rules}
}

// serves reports whether a workload is a pod of a Gateway: it speaks HBONE itself,
// and is where the Gateway is, or a member of a Service that is.
func serves(w *mesh.Workload, gw *config.Gateway, services map[mesh.Hostname]*mesh.Service) bool {
	if !w.NativeTunnel {
		return false
	}
	return slices.ContainsFunc(gw.Addresses, func(a mesh.GatewayAddress) bool {
		if slices.Contains(w.Addresses, a.Address.IP) {
			return true
		}
		for host := range w.Services {
			s := services[host]
			if host == a.Hostname || s != nil && slices.ContainsFunc(s.Addresses, func(p mesh.Prefix) bool { return p.Prefix.Addr() == a.Address.IP }) {
				return true
			}
		}
		return false
	})
}
