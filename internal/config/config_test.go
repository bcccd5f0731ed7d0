package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

const domain = ".svc.cluster.local"

// ourGateway is the waypoint whose view the tests of a waypoint take.
var ourGateway = mesh.Key{Kind: "Gateway", Namespace: "default", Name: "waypoint"}

func waypointStore() *Store { return NewStore(Options{Gateway: ourGateway}) }

// host returns the name of the service "namespace/name".
func host(name string) mesh.Hostname {
	ns, n, _ := strings.Cut(name, "/")
	return mesh.Hostname{Namespace: ns, Host: n + "." + ns + domain}
}

// svc returns a Kubernetes Service "namespace/name" with port 80 → 8080 and
// VIPs, which may be CIDRs.
func svc(name string, vips ...string) *mesh.Service {
	h := host(name)
	_, n, _ := strings.Cut(name, "/")
	s := &mesh.Service{Name: n, Namespace: h.Namespace, Hostname: h.Host, Canonical: true,
		Ports: []mesh.Port{{Name: "http", Service: 80, Target: 8080, Protocol: mesh.HTTP1}}}
	for _, v := range vips {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			ip := netip.MustParseAddr(v)
			p = netip.PrefixFrom(ip, ip.BitLen())
		}
		s.Addresses = append(s.Addresses, mesh.Prefix{Prefix: p})
	}
	return s
}

// served returns svc attached to our waypoint.
func served(name string, vips ...string) *mesh.Service {
	s := svc(name, vips...)
	s.Waypoint = &mesh.GatewayAddress{Hostname: host("default/waypoint"), Port: 15008}
	return s
}

// pod returns a ready HBONE pod "namespace/name" that is a member of services.
func pod(name, ip string, services ...string) *mesh.Workload {
	ns, n, _ := strings.Cut(name, "/")
	w := &mesh.Workload{UID: "Kubernetes//Pod/" + name, Name: n, Namespace: ns, ServiceAccount: "sa-" + n, TrustDomain: "cluster.local",
		Tunnel: mesh.HBONE, Node: "node-1", Addresses: []netip.Addr{netip.MustParseAddr(ip)}, Services: map[mesh.Hostname]mesh.Membership{}}
	for _, s := range services {
		w.Services[host(s)] = mesh.Membership{}
	}
	return w
}

// policy returns a DENY policy "namespace/name" of POST requests.
func policy(name string, refs ...authz.TargetRef) *authz.Policy {
	ns, n, _ := strings.Cut(name, "/")
	return &authz.Policy{Namespace: ns, Name: n, Action: authz.Deny, TargetRefs: refs,
		Rules: []authz.Rule{{From: []authz.Source{{Namespaces: []string{"bad"}}}}}}
}

func ref(kind, name string) authz.TargetRef {
	group := map[string]string{"Gateway": "gateway.networking.k8s.io", "GatewayClass": "gateway.networking.k8s.io", "ServiceEntry": "networking.istio.io"}[kind]
	return authz.TargetRef{Group: group, Kind: kind, Name: name}
}

// route returns a route "namespace/name" that answers for its parents.
func route(name string, parents ...routing.Parent) *routing.Route {
	ns, n, _ := strings.Cut(name, "/")
	return &routing.Route{Namespace: ns, Name: n, Parents: parents,
		Rules: []routing.RouteRule{{Name: name, Backends: []routing.Backend{{Weight: 1}}}}}
}

// gateway returns our waypoint as declared.
func gateway() *Gateway {
	return &Gateway{Namespace: "default", Name: "waypoint", Class: "istio-waypoint",
		Addresses: []mesh.GatewayAddress{{Hostname: host("default/waypoint"), Port: 15008}}}
}

// apply applies resources that must be good.
func apply(t testing.TB, s *Store, rs ...Resource) {
	t.Helper()
	if err := s.Apply(updates(rs...)); err != nil {
		t.Fatal(err)
	}
}

func updates(rs ...Resource) []Update {
	var us []Update
	for _, r := range rs {
		us = append(us, Update{Key: r.Key(), Value: r})
	}
	return us
}

func remove(t testing.TB, s *Store, r Resource) {
	t.Helper()
	if err := s.Apply([]Update{{Key: r.Key()}}); err != nil {
		t.Fatal(err)
	}
}

// lookup asks for "host:port" or "ip:port" as a client of a namespace.
func lookup(t testing.TB, s *Store, client, authority string) *Destination {
	t.Helper()
	a, err := mesh.ParseAuthority(authority)
	if err != nil {
		t.Fatal(err)
	}
	return s.Snapshot().Lookup("", client, a)
}

// name says what a Destination is.
func name(d *Destination) string {
	switch {
	case d == nil:
		return "nothing"
	case d.Workload != nil:
		return "workload " + d.Workload.Namespace + "/" + d.Workload.Name
	case d.Port == nil:
		return "service " + d.Service.Namespace + "/" + d.Service.Name + " without the port"
	}
	return fmt.Sprintf("service %s/%s:%d", d.Service.Namespace, d.Service.Name, d.Port.Service)
}

// verdict is what a Destination's policies say to a client of a namespace.
func verdict(d *Destination, client string) string {
	v := d.Policies.Check(&authz.Input{Peer: identity.ID{TrustDomain: "cluster.local", Namespace: client, ServiceAccount: "sa"},
		Source: netip.MustParseAddr("10.0.0.1"), Dest: netip.MustParseAddrPort("10.0.0.2:80")})
	if v.Allowed {
		return "allowed"
	}
	return v.Details()
}

// addrs lists where a Destination's endpoints are.
func addrs(d *Destination) string {
	var out []string
	for _, e := range d.Endpoints {
		out = append(out, e.Addr.String())
	}
	return strings.Join(out, " ")
}

// routing80 returns port 80 of a service as the parent of a route.
func routing80(name string) routing.Parent { return routing.Parent{Service: host(name), Port: 80} }

// rule returns the name of the rule that a plain request matches.
func rule(t testing.TB, d *Destination) string {
	t.Helper()
	r := d.Routes.Match(&l7.Request{Method: "GET", Path: "/"})
	if r == nil {
		return "none"
	}
	return r.Name
}
