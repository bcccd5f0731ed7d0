package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/dump"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// maxDump is more than the configuration of any mesh of ours takes: 1 GiB.
const maxDump = 1 << 30

// Running returns the mesh as a running waypoint knows it, by what it serves for
// administration at an address. If waypoint is not zero, it has to be that one.
func Running(ctx context.Context, o Options, address string, waypoint mesh.Key) (*Mesh, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/config_dump", nil)
	if err != nil {
		return nil, fmt.Errorf("admin address %q: %w", address, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w; is its port forwarded (kubectl port-forward POD 15000)?", err)
	}
	defer resp.Body.Close()
	data, err := ReadAtMost(resp.Body, maxDump)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", req.URL, err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: status %s", req.URL, resp.Status)
	}
	m, err := FromDump(o, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", req.URL, err)
	}
	if waypoint != (mesh.Key{}) && (m.only.Namespace != waypoint.Namespace || m.only.Name != waypoint.Name) {
		return nil, fmt.Errorf("%s: is the waypoint %s/%s, not %s/%s", req.URL, m.only.Namespace, m.only.Name, waypoint.Namespace, waypoint.Name)
	}
	return m, nil
}

// FromDump reads what a waypoint says at /config_dump.
func FromDump(o Options, data []byte) (*Mesh, error) {
	var d dump.WaypointDump
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("not a waypoint's dump: %w", err)
	}
	if d.Gateway == nil {
		return nil, fmt.Errorf("not a waypoint's dump: it is not said of which Gateway, or that is not known to it yet")
	}
	m := &Mesh{o: o, only: mesh.Key{Kind: "Gateway", Namespace: d.Gateway.Namespace, Name: d.Gateway.Name}, views: map[mesh.Key]*view{},
		place: func(mesh.Key, string) (string, int) { return "", 0 }}
	add := func(r config.Resource) { m.updates = append(m.updates, config.Update{Value: r}) }
	gw := fromGateway(d.Gateway)
	add(gw)
	settings, err := fromMesh(&d)
	if err != nil {
		return nil, err
	}
	m.o.TrustDomain, m.o.RootNamespace = settings.TrustDomain, settings.RootNamespace
	add(settings)
	ports, services := map[string]map[mesh.Hostname]mesh.Membership{}, map[mesh.Hostname]*mesh.Service{}
	protocols := protocolsOf(d.Attached)
	for i := range d.Services {
		s := fromService(&d.Services[i], protocols, ports)
		services[s.Host()] = s
		add(s)
	}
	for i := range d.Workloads {
		w := fromWorkload(&d.Workloads[i])
		if w.Services = ports[w.UID]; serves(w, gw, services) {
			w.IsWaypointFor = &m.only
		}
		add(w)
	}
	for i := range d.Policies {
		p, err := fromPolicy(&d.Policies[i])
		if err != nil {
			return nil, err
		}
		add(p)
	}
	for i := range d.Tokens {
		add(fromTokens(&d.Tokens[i]))
	}
	for i := range d.Routes {
		add(fromRoute(&d.Routes[i]))
	}
	for _, r := range d.Rejected {
		e := &manifest.Error{Object: mesh.Key{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}, Reason: r.Reason}
		if r.Closed { // it is not said what it is attached to, and so it is all that it could be
			e.Reason += "; what it is attached to refuses everyone"
			m.updates = append(m.updates, config.Update{Key: e.Object, Err: e})
		}
		m.errs = append(m.errs, e)
	}
	return m, nil
}

func fromGateway(g *dump.Gateway) *config.Gateway {
	out := &config.Gateway{Namespace: g.Namespace, Name: g.Name, Class: g.Class, ServiceAccount: g.ServiceAccount, For: config.ForAll}
	for _, a := range g.Addresses {
		if a := fromAddress(a); a != nil {
			out.Addresses = append(out.Addresses, *a)
		}
	}
	return out
}

// protocolsOf returns what is declared to be spoken on ports, by service and port.
func protocolsOf(attached []dump.Attached) map[string]mesh.AppProtocol {
	out := map[string]mesh.AppProtocol{}
	for _, a := range attached {
		for _, p := range []mesh.AppProtocol{mesh.HTTP1, mesh.HTTP2, mesh.GRPC, mesh.TCP, mesh.TLS} {
			if a.Protocol == p.String() {
				out[a.Service+" "+strconv.Itoa(int(a.Port))] = p
			}
		}
	}
	return out
}

func fromPolicy(p *dump.Policy) (*authz.Policy, error) {
	action, err := authz.ParseAction(p.Action)
	return &authz.Policy{Namespace: p.Namespace, Name: p.Name, Action: action, Provider: p.Provider, DryRun: p.DryRun, Replaces: p.Replaces, Selector: p.Selector, TargetRefs: p.TargetRefs, Rules: p.Rules}, err
}

// fromAddress reads network/ip, or namespace/host.
func fromAddress(a *dump.GatewayAddress) *mesh.GatewayAddress {
	if a == nil {
		return nil
	}
	before, after, _ := strings.Cut(a.Destination, "/")
	if ip, err := netip.ParseAddr(after); err == nil {
		return &mesh.GatewayAddress{Address: mesh.Address{Network: before, IP: ip}, Port: a.HBONEMTLSPort}
	}
	return &mesh.GatewayAddress{Hostname: mesh.Hostname{Namespace: before, Host: after}, Port: a.HBONEMTLSPort}
}

func fromService(s *dump.Service, protocols map[string]mesh.AppProtocol, members map[string]map[mesh.Hostname]mesh.Membership) *mesh.Service {
	out := &mesh.Service{Name: s.Name, Namespace: s.Namespace, Hostname: s.Hostname, SANs: s.SubjectAltNames, Waypoint: fromAddress(s.Waypoint)}
	for i := range s.WeightedWaypoints {
		w := &s.WeightedWaypoints[i]
		if a := fromAddress(w.Destination); a != nil {
			out.Canary = append(out.Canary, mesh.WeightedWaypoint{Waypoint: *a, Weight: w.Weight})
		}
	}
	out.Canonical = strings.HasPrefix(s.Hostname, s.Name+"."+s.Namespace+".svc.")
	for _, vip := range slices.Concat(s.VIPs, s.CIDRVIPs) {
		network, text, _ := strings.Cut(vip, "/")
		p, err := netip.ParsePrefix(text)
		if a, aerr := netip.ParseAddr(text); aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err == nil {
			out.Addresses = append(out.Addresses, mesh.Prefix{Network: network, Prefix: p})
		}
	}
	for text, target := range s.Ports {
		n, _ := strconv.ParseUint(text, 10, 16)
		out.Ports = append(out.Ports, mesh.Port{Service: uint16(n), Target: target, Protocol: protocols[s.Namespace+"/"+s.Hostname+" "+text]})
	}
	slices.SortFunc(out.Ports, func(a, b mesh.Port) int { return int(a.Service) - int(b.Service) })
	for uid, e := range s.Endpoints {
		ports := map[uint16]uint16{}
		for text, target := range e.Port {
			n, _ := strconv.ParseUint(text, 10, 16)
			ports[uint16(n)] = target
		}
		if members[uid] == nil {
			members[uid] = map[mesh.Hostname]mesh.Membership{}
		}
		members[uid][out.Host()] = mesh.Membership{Ports: ports}
	}
	return out
}

func fromWorkload(w *dump.Workload) *mesh.Workload {
	out := &mesh.Workload{UID: w.UID, Name: w.Name, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount, TrustDomain: w.TrustDomain,
		ClusterID: w.ClusterID, Network: w.Network, Node: w.Node, Hostname: w.Hostname, NativeTunnel: w.NativeTunnel,
		Unhealthy: w.Status == "Unhealthy", Waypoint: fromAddress(w.Waypoint), Gateway: fromAddress(w.NetworkGateway)}
	if w.Protocol == mesh.HBONE.String() {
		out.Tunnel = mesh.HBONE
	}
	for _, text := range w.WorkloadIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			out.Addresses = append(out.Addresses, ip)
		}
	}
	for _, name := range w.AuthorizationPolicies {
		if k, err := ParseName(name); err == nil {
			k.Kind = authz.Kind
			out.Policies = append(out.Policies, k)
		}
	}
	return out
}
