package file

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

const bookinfo = "../../examples/bookinfo"

// load reads the steps of the example into the view of one proxy.
func load(t *testing.T, o config.Options, steps ...string) *config.Snapshot {
	t.Helper()
	dir := t.TempDir()
	for _, name := range steps {
		data, err := os.ReadFile(filepath.Join(bookinfo, name))
		if err != nil {
			t.Fatal(err)
		}
		put(t, dir, name, string(data))
	}
	s := New(Options{Path: dir, Manifest: manifest.Options{ByLabel: true}})
	names, err := s.list()
	if err != nil {
		t.Fatal(err)
	}
	store := config.NewStore(o)
	s.look(store, names, nil, true)
	store.Synced()
	for _, p := range s.Problems() {
		t.Error(p.Err)
	}
	for _, r := range store.Rejected() {
		t.Errorf("rejected %s: %v", r.Key, r.Err)
	}
	return store.Snapshot()
}

func account(namespace, name string) identity.ID {
	return identity.ID{TrustDomain: "cluster.local", Namespace: namespace, ServiceAccount: name}
}

func TestExampleAtTheWaypoint(t *testing.T) {
	s := load(t, config.Options{Gateway: mesh.Key{Kind: "Gateway", Namespace: "default", Name: "bookinfo-productpage"}},
		"00-mesh.yaml", "01-bookinfo.yaml", "ambient-namespace.yaml", "waypoint.yaml", "l7-policy.yaml", "reviews-waypoint.yaml", "reviews-split.yaml")
	vip := mesh.Authority{IP: netip.MustParseAddr("127.96.0.10"), Port: 9080}
	d := s.Lookup("", "default", vip)
	if d == nil || !d.Attached || len(d.Endpoints) != 1 || d.Endpoints[0].Addr.String() != "127.244.1.24:9080" {
		t.Fatalf("got %+v", d)
	}
	for _, c := range []struct {
		peer   identity.ID
		method string
		want   bool
	}{
		{account("default", "sleep"), "GET", true},
		{account("default", "sleep"), "DELETE", false},
		{account("default", "notsleep"), "GET", false},
		{account("istio-system", "istio-ingressgateway-service-account"), "GET", true},
	} {
		in := &authz.Input{Peer: c.peer, Source: netip.MustParseAddr("127.244.2.9"), Dest: vip.AddrPort(), HTTP: &l7.Request{Method: c.method, Path: "/productpage"}}
		if got := d.Policies.Check(in); got.Allowed != c.want {
			t.Errorf("%s %s: got %v, want %v", c.peer, c.method, got.Allowed, c.want)
		}
	}
	if d := s.Lookup("", "default", mesh.Authority{IP: netip.MustParseAddr("127.96.0.12"), Port: 9080}); d == nil || d.Attached {
		t.Errorf("reviews: got %+v", d)
	}
}

func TestExampleAtTheReviewsWaypoint(t *testing.T) {
	s := load(t, config.Options{Gateway: mesh.Key{Kind: "Gateway", Namespace: "default", Name: "bookinfo-reviews"}},
		"00-mesh.yaml", "01-bookinfo.yaml", "ambient-namespace.yaml", "reviews-waypoint.yaml", "reviews-split.yaml")
	d := s.Lookup("", "default", mesh.Authority{IP: netip.MustParseAddr("127.96.0.12"), Port: 9080})
	if d == nil || !d.Attached || len(d.Endpoints) != 3 {
		t.Fatalf("got %+v", d)
	}
	rule := d.Routes.Match(&l7.Request{Method: "GET", Path: "/reviews/0"})
	if rule == nil || len(rule.Backends) != 2 {
		t.Fatalf("got %+v", rule)
	}
	b := s.Backend(rule.Backends[1].Service, rule.Backends[1].Port)
	if b == nil || len(b.Endpoints) != 1 || b.Endpoints[0].Workload.Name != "reviews-v2" {
		t.Errorf("got %+v", b)
	}
}

func TestExampleAtTheNodeTunnel(t *testing.T) {
	s := load(t, config.Options{Node: "node-1"}, "00-mesh.yaml", "01-bookinfo.yaml", "ambient-namespace.yaml", "l4-policy.yaml")
	d := s.Lookup("", "default", mesh.Authority{IP: netip.MustParseAddr("127.244.1.24"), Port: 9080})
	if d == nil || d.Workload == nil || d.Workload.Tunnel != mesh.HBONE {
		t.Fatalf("got %+v", d)
	}
	for name, want := range map[string]bool{"sleep": true, "notsleep": false} {
		in := &authz.Input{Peer: account("default", name), Dest: netip.MustParseAddrPort("127.244.1.24:9080")}
		if got := d.Policies.Check(in); got.Allowed != want {
			t.Errorf("%s: got %v, want %v", name, got.Allowed, want)
		}
	}
	if got := len(s.Local("node-1")); got != 4 {
		t.Errorf("%d workloads on node-1, want 4", got)
	}
	// With the waypoint's policy instead, the node tunnel has nothing to refuse.
	s = load(t, config.Options{Node: "node-1"}, "00-mesh.yaml", "01-bookinfo.yaml", "ambient-namespace.yaml", "waypoint.yaml", "l7-policy.yaml")
	d = s.Lookup("", "default", mesh.Authority{IP: netip.MustParseAddr("127.244.1.24"), Port: 9080})
	if d == nil || !d.Policies.Check(&authz.Input{Peer: account("default", "bookinfo-productpage-istio-waypoint"), Dest: netip.MustParseAddrPort("127.244.1.24:9080")}).Allowed {
		t.Errorf("got %+v", d)
	}
	if d.Workload.Waypoint == nil || s.Gateway(d.Workload.Waypoint) == nil {
		t.Errorf("no waypoint: %+v", d.Workload)
	}
}

// TestRefusedPolicyCloses checks that a policy that never was good refuses
// everything at its target, as far as it can be told.
func TestRefusedPolicyCloses(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"01-bookinfo.yaml", "ambient-namespace.yaml"} {
		data, err := os.ReadFile(filepath.Join(bookinfo, name))
		if err != nil {
			t.Fatal(err)
		}
		put(t, dir, name, string(data))
	}
	put(t, dir, "p.yaml", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n  selector: {matchLabels: {app: details}}\n  rules: [{form: []}]\n")
	s := New(Options{Path: dir, Manifest: manifest.Options{ByLabel: true}})
	names, err := s.list()
	if err != nil {
		t.Fatal(err)
	}
	store := config.NewStore(config.Options{})
	s.look(store, names, nil, true)
	check := func(ip string) bool {
		d := store.Snapshot().Lookup("", "default", mesh.Authority{IP: netip.MustParseAddr(ip), Port: 9080})
		return d.Policies.Check(&authz.Input{Peer: account("default", "sleep"), Dest: netip.AddrPortFrom(netip.MustParseAddr(ip), 9080)}).Allowed
	}
	if check("127.244.1.21") {
		t.Error("details is open")
	}
	if !check("127.244.1.24") {
		t.Error("productpage is closed")
	}
	put(t, dir, "p.yaml", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n  selector: {matchLabels: {app: details}}\n  rules: [{}]\n")
	s.look(store, names, map[string]bool{"p.yaml": true}, false)
	if !check("127.244.1.21") {
		t.Error("details is closed still")
	}
}
