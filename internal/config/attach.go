package config

import (
	"cmp"
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// gatewayNameLabel selects the pods of a waypoint by its name. Ambient's first
// releases attached policies to waypoints by it.
const gatewayNameLabel = "istio.io/gateway-name"

// waypointClass is the GatewayClass that a policy of the root namespace targets
// to reach every waypoint.
const waypointClass = "istio-waypoint"

// waypoint reports whose view this is: a waypoint's or the node tunnel's.
func (s *state) waypoint() bool { return s.options.Gateway != mesh.Key{} }

// gateway returns our waypoint as declared, or nil while it is not known.
func (s *state) gateway() *Gateway { return s.gateways[s.options.Gateway] }

// isOurs reports whether a workload is a pod of our waypoint.
func (s *state) isOurs(w *mesh.Workload) bool {
	k := w.IsWaypointFor
	return k != nil && s.waypoint() && k.Namespace == s.options.Gateway.Namespace && k.Name == s.options.Gateway.Name
}

// gatewayChanged marks what a change to a Gateway may concern: if it is ours,
// its class and service account decide which policies attach.
func (s *state) gatewayChanged(k mesh.Key) {
	s.listings = true
	if k == s.options.Gateway {
		s.markAll(func(*mesh.Service) bool { return true }, func(*mesh.Workload) bool { return true })
	}
}

// authzOptions returns how policies are compiled for this view.
func (s *state) authzOptions() authz.Options {
	return authz.Options{
		TrustDomain: s.mesh.TrustDomain, Aliases: s.mesh.Aliases, RootNamespace: s.mesh.RootNamespace,
		Providers: s.mesh.Providers, L4: !s.waypoint(),
	}
}

// markAttached marks what a policy is attached to, or has it marked.
func (s *state) markAttached(p *target) {
	if !s.waypoint() {
		s.affected.add(s, p)
		return
	}
	if s.onGateway(p) {
		s.markAll(func(*mesh.Service) bool { return true }, func(*mesh.Workload) bool { return true })
		return
	}
	s.markAll(func(svc *mesh.Service) bool { return s.targets(p, svc) }, nil)
}

// onGateway reports whether p is attached to our waypoint and so to everything
// that it serves: by a targetRef to the Gateway, or from the root namespace to
// its class, or by the selector of a service account's waypoint.
//
// Other selectors are the node tunnel's business, and so are policies with
// neither (spec of waypoints: a namespace's policy does not reach them).
func (s *state) onGateway(p *target) bool {
	gw := s.options.Gateway
	root := p.key.Namespace == s.options.RootNamespace
	if p.unknown { // it might be
		return root || p.key.Namespace == gw.Namespace
	}
	for i := range p.refs {
		ref := &p.refs[i]
		switch ref.Kind {
		case "Gateway":
			if p.key.Namespace == gw.Namespace && ref.Name == gw.Name {
				return true
			}
		case "GatewayClass":
			g := s.gateway()
			if root && (ref.Name == waypointClass || g != nil && ref.Name == g.Class) {
				return true
			}
		}
	}
	if sel := p.selector; len(sel) != 1 || sel[gatewayNameLabel] != gw.Name || !root && p.key.Namespace != gw.Namespace {
		return false
	}
	g := s.gateway()
	return s.options.Compat118 || g != nil && g.ServiceAccount != ""
}

// targets reports whether p names the service svc, which is in its namespace.
func (s *state) targets(p *target, svc *mesh.Service) bool {
	if p.key.Namespace != svc.Namespace {
		return false
	}
	if p.unknown {
		return true // it might be
	}
	kind := "ServiceEntry"
	if isKubernetes(svc) {
		kind = "Service"
	}
	return slices.ContainsFunc(p.refs, func(r authz.TargetRef) bool {
		return r.Kind == kind && r.Name == svc.Name
	})
}

// isKubernetes tells a Service from a ServiceEntry. Not every source says so.
func isKubernetes(svc *mesh.Service) bool {
	return svc.Canonical || strings.HasPrefix(svc.Hostname, svc.Name+"."+svc.Namespace+".svc.")
}

// selects reports whether p is, in the node tunnel's view, attached to w: as a
// policy of the whole mesh or of its namespace, or because w lists it.
func (s *state) selects(p *target, w *mesh.Workload) bool {
	listed := func() bool {
		return slices.ContainsFunc(w.Policies, func(k mesh.Key) bool {
			return k.Namespace == p.key.Namespace && k.Name == p.key.Name
		})
	}
	inScope := p.key.Namespace == w.Namespace || p.key.Namespace == s.options.RootNamespace && !p.own
	switch {
	case p.unknown:
		return inScope || listed()
	case len(p.refs) > 0:
		return false
	case len(p.selector) > 0:
		return listed()
	}
	return inScope || listed()
}

// attached says which policies are attached to a service or, if svc is nil, to a
// workload: in which namespaces they can be, in order, and whether one is.
func (s *state) attached(svc *mesh.Service, w *mesh.Workload) (namespaces []string, is func(*target) bool) {
	is = s.onGateway
	switch {
	case !s.waypoint() && svc != nil:
		return nil, nil
	case !s.waypoint():
		namespaces = []string{s.options.RootNamespace, w.Namespace}
		for _, k := range w.Policies {
			namespaces = append(namespaces, k.Namespace)
		}
		is = func(p *target) bool { return s.selects(p, w) }
	case svc != nil:
		namespaces = []string{s.options.RootNamespace, s.options.Gateway.Namespace, svc.Namespace}
		is = func(p *target) bool { return s.onGateway(p) || s.targets(p, svc) }
	default:
		namespaces = []string{s.options.RootNamespace, s.options.Gateway.Namespace}
	}
	slices.Sort(namespaces)
	return slices.Compact(namespaces), is
}

// routesOf returns the routes that our waypoint applies to a port of a service:
// those of producers, which live in the service's namespace or the waypoint's.
func (s *state) routesOf(svc *mesh.Service, port *mesh.Port) []*routeState {
	if !s.waypoint() {
		return nil
	}
	var out []*routeState
	for _, r := range s.onService[svc.Host()] {
		ns := r.route.Namespace
		if (ns == svc.Namespace || ns == s.options.Gateway.Namespace) && r.route.Speaks(svc, port) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *routeState) int { return cmp.Compare(a.version, b.version) })
	return out
}

// An addressBook holds the names and addresses of our waypoint: whatever has
// one of them as its waypoint is attached to us.
type addressBook struct {
	hosts     map[mesh.Hostname]bool
	addresses map[mesh.Address]bool
}

// ourAddresses gathers them: what the Gateway declares, where our pods are, the
// services that these are members of, and the addresses and names that belong
// together.
func (s *state) ourAddresses() addressBook {
	b := addressBook{map[mesh.Hostname]bool{}, map[mesh.Address]bool{}}
	if g := s.gateway(); g != nil {
		for i := range g.Addresses {
			if a := &g.Addresses[i]; a.Hostname != (mesh.Hostname{}) {
				b.hosts[a.Hostname] = true
			} else {
				b.addresses[a.Address] = true
			}
		}
	}
	for _, pod := range s.pods {
		for _, ip := range pod.workload.Addresses {
			b.addresses[mesh.Address{Network: pod.workload.Network, IP: ip}] = true
		}
		for h := range pod.workload.Services {
			b.hosts[h] = true
		}
	}
	for a := range b.addresses {
		for _, st := range s.vips.owners[a] {
			b.hosts[st.host] = true
		}
	}
	for h := range b.hosts {
		if st := s.services[h]; st != nil && st.service != nil {
			for _, p := range st.service.Addresses {
				b.addresses[mesh.Address{Network: p.Network, IP: p.Prefix.Addr()}] = true
			}
		}
	}
	return b
}

// leadsHere reports whether the address of a waypoint is ours. While no Gateway
// is known, as with a source that has only addresses, a service that is called
// as it is will do.
func (s *state) leadsHere(b *addressBook, g *mesh.GatewayAddress) bool {
	switch {
	case g == nil:
		return false
	case g.Hostname == mesh.Hostname{}:
		return b.addresses[g.Address]
	case b.hosts[g.Hostname]:
		return true
	case s.gateway() != nil || g.Hostname.Namespace != s.options.Gateway.Namespace:
		return false
	}
	name, _, _ := strings.Cut(g.Hostname.Host, ".")
	return name == s.options.Gateway.Name
}

// serves reports whether a service is attached to us, by its waypoint or by a
// share of its traffic.
func (s *state) serves(b *addressBook, svc *mesh.Service) bool {
	return slices.ContainsFunc(svc.Waypoints(), func(g *mesh.GatewayAddress) bool { return s.leadsHere(b, g) })
}
