package config

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

func TestLookup(t *testing.T) {
	entry := svc("other/items-entry", "10.1.0.1", "10.2.0.0/16")
	entry.Hostname, entry.Canonical = host("default/items").Host, false
	private := svc("private/items", "10.1.0.2", "10.3.0.0/16")
	private.Private = true
	wild := svc("default/wild", "10.4.0.0/16", "10.4.1.0/24", "fd00::/64")
	wild.Hostname, wild.Canonical = "*.example.com", false
	longer := svc("default/longer", "10.4.2.0/24")
	longer.Hostname, longer.Canonical = "*.api.example.com", false
	mine := svc("mine/short", "10.4.0.0/20")
	vm := pod("default/vm", "10.0.0.7")
	vm.UID = "Kubernetes/networking.istio.io/WorkloadEntry/default/vm"
	plain := pod("default/plain", "10.0.0.8")
	plain.Tunnel = mesh.Plain
	node := pod("default/node", "10.0.0.9")
	node.HostNetwork = true

	s := NewStore(Options{})
	apply(t, s, svc("default/items", "10.1.0.1", "fd01::1"), entry, private, wild, longer, mine, vm, plain, node,
		svc("aaa/shadow", "10.0.0.6"), svc("zzz/shadow", "10.0.0.6"),
		pod("default/web", "10.0.0.6"), pod("default/old", "10.0.0.7"), pod("default/a", "10.0.0.8"))

	for _, tt := range []struct{ client, authority, want string }{
		{"default", "10.1.0.1:80", "service default/items:80"},
		{"other", "10.1.0.1:80", "service other/items-entry:80"}, // the client's own
		{"else", "10.1.0.1:80", "service default/items:80"},      // canonical
		{"else", "10.1.0.1:81", "service default/items without the port"},
		{"else", "[fd01::1]:80", "service default/items:80"},
		{"private", "10.1.0.2:80", "service private/items:80"},
		{"default", "10.1.0.2:80", "nothing"}, // not for others
		{"private", "10.3.9.9:80", "service private/items:80"},
		{"default", "10.3.9.9:80", "nothing"},
		{"default", "10.2.3.4:80", "service other/items-entry:80"},
		{"default", "10.4.2.1:80", "service default/longer:80"}, // the longest prefix
		{"default", "10.4.3.1:80", "service default/wild:80"},   // but first the client's own: /16 over another's /20
		{"else", "10.4.3.1:80", "service mine/short:80"},
		{"mine", "10.4.2.1:80", "service mine/short:80"},
		{"mine", "[fd00::5]:80", "service default/wild:80"},
		{"zzz", "10.0.0.6:80", "service zzz/shadow:80"}, // a VIP before a workload
		{"else", "10.0.0.6:80", "service aaa/shadow:80"},
		{"else", "10.0.0.7:80", "workload default/old"}, // a pod before a workload entry
		{"else", "10.0.0.8:80", "workload default/a"},   // HBONE before plain
		{"else", "10.0.0.9:80", "nothing"},              // a node's address is no pod's
		{"else", "192.0.2.1:80", "nothing"},
		{"default", "items.default.svc.cluster.local:80", "service default/items:80"},
		{"other", "items.default.svc.cluster.local:80", "service other/items-entry:80"},
		{"else", "items.default.svc.cluster.local:99", "service default/items without the port"},
		{"else", "items.private.svc.cluster.local:80", "nothing"},
		{"private", "items.private.svc.cluster.local:80", "service private/items:80"},
		{"else", "www.example.com:80", "service default/wild:80"},
		{"else", "v1.api.example.com:80", "service default/longer:80"},
		{"else", "a.v1.api.example.com:80", "service default/longer:80"},
		{"else", "example.com:80", "nothing"},
		{"else", "nowhere:80", "nothing"},
	} {
		if got := name(lookup(t, s, tt.client, tt.authority)); got != tt.want {
			t.Errorf("%s as a client of %s: %s, want %s", tt.authority, tt.client, got, tt.want)
		}
	}
	if got := name(s.Snapshot().Lookup("elsewhere", "else", mesh.Authority{IP: netip.MustParseAddr("10.1.0.1"), Port: 80})); got != "nothing" {
		t.Errorf("in another network: %s, want nothing", got)
	}
	if got := s.Snapshot().Workload("", netip.MustParseAddr("10.0.0.6")); got == nil || got.Name != "web" {
		t.Errorf("workload at the address of a VIP: %v, want web", got)
	}
	if got := name(s.Snapshot().WorkloadAt("", netip.MustParseAddr("10.1.0.1"))); got != "nothing" {
		t.Errorf("workload at a VIP: %s, want nothing", got)
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	s := NewStore(Options{})
	wild := svc("default/wild", "10.4.0.0/16")
	wild.Hostname = "*.example.com"
	apply(t, s, svc("default/items", "10.1.0.1"), wild, pod("default/web", "10.0.0.6"))
	snap := s.Snapshot()
	for _, text := range []string{"10.1.0.1:80", "10.4.1.1:80", "10.0.0.6:80", "items.default.svc.cluster.local:80", "www.example.com:80", "10.9.9.9:80", "nowhere.cluster.local:80"} {
		a, err := mesh.ParseAuthority(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := testing.AllocsPerRun(100, func() { snap.Lookup("", "default", a) }); got != 0 {
			t.Errorf("%s: %v allocations, want 0", text, got)
		}
	}
}

func TestBackendAndGateway(t *testing.T) {
	s := waypointStore()
	wp := svc("default/waypoint", "10.1.0.9")
	wp.Ports = []mesh.Port{{Name: "mesh", Service: 15008, Target: 15008}}
	wp.SANs = []string{"spiffe://cluster.local/ns/default/sa/extra", "*.example.com"}
	apply(t, s, svc("default/items", "10.1.0.1"), wp, pod("default/wp-1", "10.0.0.9", "default/waypoint"))
	snap := s.Snapshot()

	if got := name(snap.Backend(host("default/items"), 80)); got != "service default/items:80" {
		t.Errorf("backend: %s", got)
	}
	if d := snap.Backend(host("default/items"), 81); d != nil {
		t.Errorf("backend of an unknown port: %s, want nothing", name(d))
	}
	if d := snap.Backend(host("default/none"), 80); d != nil {
		t.Errorf("backend of an unknown service: %s, want nothing", name(d))
	}
	for _, tt := range []struct {
		g    mesh.GatewayAddress
		want string
	}{
		{mesh.GatewayAddress{Hostname: host("default/waypoint"), Port: 15008}, "service default/waypoint:15008"},
		{mesh.GatewayAddress{Hostname: host("default/waypoint")}, "service default/waypoint:15008"},
		{mesh.GatewayAddress{Hostname: host("default/items")}, "nothing"},
		{mesh.GatewayAddress{Address: mesh.Address{IP: netip.MustParseAddr("10.1.0.9")}, Port: 15008}, "service default/waypoint:15008"},
		{mesh.GatewayAddress{Address: mesh.Address{IP: netip.MustParseAddr("10.0.0.9")}, Port: 15008}, "workload default/wp-1"},
		{mesh.GatewayAddress{Address: mesh.Address{IP: netip.MustParseAddr("192.0.2.1")}, Port: 15008}, "nothing"},
	} {
		if got := name(snap.Gateway(&tt.g)); got != tt.want {
			t.Errorf("gateway %+v: %s, want %s", tt.g, got, tt.want)
		}
	}
	d := snap.Gateway(&mesh.GatewayAddress{Hostname: host("default/waypoint")})
	const wants = "spiffe://cluster.local/ns/default/sa/extra,spiffe://cluster.local/ns/default/sa/sa-wp-1"
	if len(d.Endpoints) != 1 || d.Endpoints[0].Wants != wants || addrs(d) != "10.0.0.9:15008" {
		t.Errorf("endpoints %+v, want 10.0.0.9:15008 as %s", d.Endpoints, wants)
	}
}

func TestSnapshotLists(t *testing.T) {
	s := waypointStore()
	elsewhere := pod("default/c", "10.0.0.3")
	elsewhere.Node = "node-2"
	g := gateway()
	r := route("default/r", routing80("default/items"))
	p := policy("default/p", ref("Service", "items"))
	apply(t, s, pod("default/b", "10.0.0.2"), pod("default/a", "10.0.0.1"), elsewhere, svc("default/items"), g, r, p)
	snap := s.Snapshot()
	var local []string
	for _, w := range snap.Local("node-1") {
		local = append(local, w.Name)
	}
	if !slices.Equal(local, []string{"a", "b"}) {
		t.Errorf("local to node-1: %v, want a and b", local)
	}
	if n := len(slices.Collect(snap.Workloads())); n != 3 {
		t.Errorf("%d workloads, want 3", n)
	}
	if n := len(slices.Collect(snap.Services())); n != 1 {
		t.Errorf("%d services, want 1", n)
	}
	if !slices.Contains(snap.Policies(), p) || !slices.Contains(snap.Routes(), r) || !slices.Contains(snap.Gateways(), g) {
		t.Errorf("policies %v, routes %v, gateways %v", snap.Policies(), snap.Routes(), snap.Gateways())
	}
	if d := snap.Destination("Kubernetes//Pod/default/a"); name(d) != "workload default/a" {
		t.Errorf("by UID: %s", name(d))
	}
	if got := snap.Service(host("default/items")); got == nil || got.Name != "items" {
		t.Errorf("service by name: %v", got)
	}
}
