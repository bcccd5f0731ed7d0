package config

import (
	"net/netip"
	"testing"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

func TestEndpoints(t *testing.T) {
	const items = "default/items"
	unready := func(w *mesh.Workload) { w.Unhealthy = true }
	port := func(service, target uint16) func(*mesh.Workload) {
		return func(w *mesh.Workload) {
			w.Services[host(items)] = mesh.Membership{Ports: map[uint16]uint16{service: target}}
		}
	}
	remote := func(w *mesh.Workload) { w.Network = "far" }
	gatewayed := func(w *mesh.Workload) { w.Network, w.Gateway = "far", &mesh.GatewayAddress{} }
	addresses := func(ips ...string) func(*mesh.Workload) {
		return func(w *mesh.Workload) {
			w.Addresses = nil
			for _, ip := range ips {
				w.Addresses = append(w.Addresses, netip.MustParseAddr(ip))
			}
		}
	}
	stranger := func(w *mesh.Workload) { w.Services = nil }
	named := func(w *mesh.Workload) { w.Addresses, w.Hostname = nil, "db.example.com" }
	none := func(*mesh.Workload) {}

	for _, tt := range []struct {
		name    string
		service func(*mesh.Service)
		b       func(*mesh.Workload) // makes b what it is; a is ready
		want    string
	}{
		{"both", nil, none, "10.0.0.1:8080 10.0.0.2:8080"},
		{"only the ready", nil, unready, "10.0.0.1:8080"},
		{"all, if the service says so", func(s *mesh.Service) { s.Balance.AllowUnhealthy = true }, unready, "10.0.0.1:8080 10.0.0.2:8080"},
		{"a port of its own", nil, port(80, 9090), "10.0.0.1:8080 10.0.0.2:9090"},
		{"only where the port is known", func(s *mesh.Service) { s.Ports[0].Target = 0 }, port(80, 9090), "10.0.0.2:9090"},
		{"none of another service", nil, stranger, "10.0.0.1:8080"},
		{"none beyond reach", nil, remote, "10.0.0.1:8080"},
		{"behind a gateway", nil, gatewayed, "10.0.0.1:8080 10.0.0.2:8080"},
		{"none without an address", nil, addresses(), "10.0.0.1:8080"},
		{"by name", nil, named, "10.0.0.1:8080 invalid AddrPort"},
		{"the first address", nil, addresses("fd00::2", "10.0.0.2"), "10.0.0.1:8080 [fd00::2]:8080"},
		{"the family that is asked for", func(s *mesh.Service) { s.Families = mesh.IPv4Only }, addresses("fd00::2", "10.0.0.2"), "10.0.0.1:8080 10.0.0.2:8080"},
		{"the other family, if there is nothing else", func(s *mesh.Service) { s.Families = mesh.IPv6Only }, addresses("10.0.0.2", "fd00::2"), "10.0.0.1:8080 [fd00::2]:8080"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			service := svc(items, "10.1.0.1")
			if tt.service != nil {
				tt.service(service)
			}
			a, b := pod("default/a", "10.0.0.1", items), pod("default/b", "10.0.0.2", items)
			tt.b(b)
			s := NewStore(Options{})
			apply(t, s, b, a) // before their service
			apply(t, s, service)
			d := lookup(t, s, "", "10.1.0.1:80")
			if got := addrs(d); got != tt.want {
				t.Errorf("endpoints %s, want %s", got, tt.want)
			}
			remove(t, s, a)
			remove(t, s, b)
			if d := lookup(t, s, "", "10.1.0.1:80"); len(d.Endpoints) != 0 {
				t.Errorf("with the workloads gone: %s", addrs(d))
			}
		})
	}
}

func TestEndpointsByLocality(t *testing.T) {
	near := mesh.Locality{Region: "r1", Zone: "z1", Subzone: "s1"}
	place := func(name, ip, node, cluster, network string, l mesh.Locality) *mesh.Workload {
		w := pod(name, ip, "default/items")
		w.Node, w.ClusterID, w.Network, w.Locality = node, cluster, network, l
		if network != "" {
			w.Gateway = &mesh.GatewayAddress{}
		}
		return w
	}
	all := []Resource{
		place("default/a-node", "10.0.0.1", "node-1", "c1", "", near),
		place("default/b-subzone", "10.0.0.2", "node-2", "c1", "", near),
		place("default/c-zone", "10.0.0.3", "node-3", "c1", "", mesh.Locality{Region: "r1", Zone: "z1", Subzone: "s2"}),
		place("default/d-region", "10.0.0.4", "node-4", "c2", "", mesh.Locality{Region: "r1", Zone: "z2"}),
		place("default/e-far", "10.0.0.5", "node-5", "c2", "far", mesh.Locality{Region: "r2", Zone: "z9"}),
	}
	scopes := func(s ...mesh.Scope) []mesh.Scope { return s }
	for _, tt := range []struct {
		name    string
		mode    mesh.BalanceMode
		prefer  []mesh.Scope
		without int // how many of the nearest are gone
		want    string
	}{
		{"any", mesh.Standard, scopes(mesh.Region), 0, "10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080 10.0.0.4:8080 10.0.0.5:8080"},
		{"this node only", mesh.Strict, scopes(mesh.Node), 0, "10.0.0.1:8080"},
		{"this node only, and there is none", mesh.Strict, scopes(mesh.Node), 1, ""},
		{"this cluster only", mesh.Strict, scopes(mesh.Cluster), 0, "10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080"},
		{"strictly the zone, preferably the network", mesh.Strict, scopes(mesh.Network, mesh.Zone), 0, "10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080"},
		{"a network is preferred, not required", mesh.Strict, scopes(mesh.Network), 4, "10.0.0.5:8080"},
		{"the network if it can be", mesh.Strict, scopes(mesh.Network), 3, "10.0.0.4:8080"},
		{"nearest", mesh.Failover, scopes(mesh.Network, mesh.Region, mesh.Zone, mesh.Subzone, mesh.Node), 0, "10.0.0.1:8080"},
		{"next", mesh.Failover, scopes(mesh.Network, mesh.Region, mesh.Zone, mesh.Subzone, mesh.Node), 1, "10.0.0.2:8080"},
		{"the zone's alike", mesh.Failover, scopes(mesh.Network, mesh.Region, mesh.Zone), 0, "10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080"},
		{"then the region's", mesh.Failover, scopes(mesh.Network, mesh.Region, mesh.Zone), 3, "10.0.0.4:8080"},
		{"then whatever there is", mesh.Failover, scopes(mesh.Network, mesh.Region, mesh.Zone), 4, "10.0.0.5:8080"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			service := svc("default/items", "10.1.0.1")
			service.Balance = mesh.Balance{Mode: tt.mode, Preference: tt.prefer}
			s := NewStore(Options{Node: "node-1", ClusterID: "c1", Locality: near})
			apply(t, s, service)
			apply(t, s, all...)
			for _, r := range all[:tt.without] {
				remove(t, s, r)
			}
			if got := addrs(lookup(t, s, "", "10.1.0.1:80")); got != tt.want {
				t.Errorf("endpoints %s, want %s", got, tt.want)
			}
		})
	}
}

func TestLocalityIsThatOfTheNode(t *testing.T) {
	service := svc("default/items", "10.1.0.1")
	service.Balance = mesh.Balance{Mode: mesh.Failover, Preference: []mesh.Scope{mesh.Zone}}
	at := func(name, ip, node, zone string) *mesh.Workload {
		w := pod(name, ip, "default/items")
		w.Node, w.Locality.Zone = node, zone
		return w
	}
	s := NewStore(Options{Node: "here"})
	apply(t, s, service, at("default/a", "10.0.0.1", "there", "z1"), at("default/b", "10.0.0.2", "there", "z2"))
	if got := addrs(lookup(t, s, "", "10.1.0.1:80")); got != "10.0.0.1:8080 10.0.0.2:8080" {
		t.Errorf("nowhere: endpoints %s, want both", got)
	}
	mine := pod("default/mine", "10.0.0.3")
	mine.Node, mine.Locality.Zone = "here", "z2"
	apply(t, s, mine)
	if got := addrs(lookup(t, s, "", "10.1.0.1:80")); got != "10.0.0.2:8080" {
		t.Errorf("in z2: endpoints %s, want that of z2", got)
	}
}
