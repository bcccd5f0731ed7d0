package ztunnel

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A world is a small mesh, as values. Addresses are 10.0.0.n for pods and
// 10.9.0.n for services.
type world struct {
	t         *testing.T
	store     *config.Store
	resources []config.Update
	workloads map[string]*mesh.Workload
}

func newWorld(t *testing.T) *world {
	return &world{t: t, store: config.NewStore(config.Options{Node: "node-a"}), workloads: map[string]*mesh.Workload{}}
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func singleIP(s string) netip.Prefix {
	a := ip(s)
	return netip.PrefixFrom(a, a.BitLen())
}

func host(namespace, name string) mesh.Hostname {
	return mesh.Hostname{Namespace: namespace, Host: name + "." + namespace + ".svc.cluster.local"}
}

func at(addr string) *mesh.GatewayAddress {
	return &mesh.GatewayAddress{Address: mesh.Address{IP: ip(addr)}, Port: 15008}
}

// pod adds a pod that speaks HBONE and is part of the services named.
func (w *world) pod(name, addr string, edit func(*mesh.Workload), services ...string) *mesh.Workload {
	p := &mesh.Workload{
		UID: "Kubernetes//Pod/default/" + name, Name: name, Namespace: "default", ServiceAccount: name,
		TrustDomain: "cluster.local", Tunnel: mesh.HBONE, Services: map[mesh.Hostname]mesh.Membership{},
	}
	if addr != "" {
		p.Addresses = []netip.Addr{ip(addr)}
	}
	for _, s := range services {
		p.Services[host("default", s)] = mesh.Membership{}
	}
	if edit != nil {
		edit(p)
	}
	w.workloads[name] = p
	w.resources = append(w.resources, config.Update{Value: p})
	return p
}

// service adds a service whose port 80 leads to 8080.
func (w *world) service(name, addr string, edit func(*mesh.Service)) {
	s := &mesh.Service{
		Name: name, Namespace: "default", Hostname: host("default", name).Host, Canonical: true,
		Ports: []mesh.Port{{Name: "http", Service: 80, Target: 8080}},
	}
	if addr != "" {
		s.Addresses = []mesh.Prefix{{Prefix: netip.PrefixFrom(ip(addr), 32)}}
	}
	if edit != nil {
		edit(s)
	}
	w.resources = append(w.resources, config.Update{Value: s})
}

// decider returns who decides when everything is in force.
func (w *world) decider() *decider {
	w.t.Helper()
	if err := w.store.Apply(w.resources); err != nil {
		w.t.Fatal(err)
	}
	return &decider{snap: w.store.Snapshot(), domain: "cluster.local", port: 15008}
}

func authority(s string) mesh.Authority {
	a, err := mesh.ParseAuthority(s)
	if err != nil {
		panic(err)
	}
	return a
}

// bookshop has a client, a service of every kind, and what may lie before them.
func bookshop(t *testing.T) *world {
	w := newWorld(t)
	plain := func(p *mesh.Workload) { p.Tunnel = mesh.Plain }
	w.pod("web", "10.0.0.1", nil)
	w.pod("legacy", "10.0.0.2", plain)
	w.pod("items", "10.0.0.10", nil, "items", "guarded", "headless", "sure")
	w.pod("old", "10.0.0.11", plain, "old")
	w.pod("behind", "10.0.0.12", func(p *mesh.Workload) { p.Waypoint = at("10.0.0.20") })
	w.pod("oldbehind", "10.0.0.13", func(p *mesh.Workload) { p.Waypoint, p.Tunnel = at("10.0.0.20"), mesh.Plain })
	w.pod("notready", "10.0.0.14", func(p *mesh.Workload) { p.Unhealthy = true }, "down")
	w.pod("far", "10.0.0.15", func(p *mesh.Workload) {
		p.Network, p.Gateway = "other", at("192.0.2.1")
	}, "far")
	w.pod("named", "", func(p *mesh.Workload) { p.Hostname = "db.example.com" }, "named")
	w.pod("lost", "10.0.0.16", func(p *mesh.Workload) { p.Waypoint = at("10.0.0.99") })
	w.pod("waypoint", "10.0.0.20", func(p *mesh.Workload) { p.NativeTunnel = true }, "waypoint")
	w.service("items", "10.9.0.1", nil)
	w.service("old", "10.9.0.2", nil)
	w.service("guarded", "10.9.0.3", func(s *mesh.Service) {
		s.Waypoint = &mesh.GatewayAddress{Hostname: host("default", "waypoint"), Port: 15008}
	})
	w.service("headless", "", nil)
	w.service("down", "10.9.0.4", nil)
	w.service("pass", "10.9.0.5", func(s *mesh.Service) { s.Balance.Mode = mesh.Passthrough })
	w.service("far", "10.9.0.6", nil)
	w.service("named", "10.9.0.7", nil)
	w.service("sure", "10.9.0.8", func(s *mesh.Service) {
		s.SANs = []string{"spiffe://cluster.local/ns/other/sa/also", "not one"}
	})
	w.service("unguarded", "10.9.0.9", func(s *mesh.Service) { s.Waypoint = at("10.0.0.99") })
	w.service("deserted", "10.9.0.10", func(s *mesh.Service) {
		s.Waypoint = &mesh.GatewayAddress{Hostname: host("default", "down"), Port: 80}
	})
	w.service("waypoint", "10.9.0.20", func(s *mesh.Service) { s.Ports = []mesh.Port{{Service: 15008, Target: 15009}} })
	return w
}

// brief is a route in a line: how, where, what the CONNECT says, who may answer.
func brief(r route, err error) string {
	for _, known := range []error{errSelfCall, errNoEndpoint, errNoPort, errUnknownName, errOtherNetwork, errNoWaypoint, errWaypointEmpty, errNoAddress, errNoGateway, errNoIdentity, errNotInRegistry} {
		if errors.Is(err, known) {
			return known.Error()[len("ztunnel: "):]
		}
	}
	switch {
	case err != nil:
		return err.Error()
	case r.name != "":
		return fmt.Sprintf("%v by name %s port %d", r.hop, r.name, r.addr.Port())
	case r.double:
		return fmt.Sprintf("double HBONE %v for %v as %v, inner as %v", r.addr, r.authority, r.wants, r.inner)
	case !r.tunnel:
		return fmt.Sprintf("TCP %v %v", r.hop, r.addr)
	}
	return fmt.Sprintf("HBONE %v %v for %v as %v", r.hop, r.addr, r.authority, r.wants)
}

func TestDecide(t *testing.T) {
	const (
		items    = " as spiffe://cluster.local/ns/default/sa/items"
		waypoint = " as spiffe://cluster.local/ns/default/sa/waypoint"
	)
	d := bookshop(t)
	dec := d.decider()
	for _, row := range []struct{ what, from, target, want string }{
		{"VIP", "web", "10.9.0.1:80", "HBONE Direct 10.0.0.10:15008 for 10.0.0.10:8080" + items},
		{"VIP of what speaks TCP", "web", "10.9.0.2:80", "TCP Direct 10.0.0.11:8080"},
		{"VIP with a waypoint", "web", "10.9.0.3:80", "HBONE ToServerWaypoint 10.0.0.20:15009 for 10.9.0.3:80" + waypoint},
		{"VIP with a waypoint, port unknown", "web", "10.9.0.3:81", "HBONE ToServerWaypoint 10.0.0.20:15009 for 10.9.0.3:81" + waypoint},
		{"VIP of no healthy endpoint", "web", "10.9.0.4:80", "no healthy upstream"},
		{"VIP, port unknown", "web", "10.9.0.1:81", "the service has no such port"},
		{"VIP, PASSTHROUGH", "web", "10.9.0.5:443", "TCP Passthrough 10.9.0.5:443"},
		{"name, PASSTHROUGH", "web", "pass:443", "no healthy upstream"},
		{"VIP of another network, gateway unknown", "web", "10.9.0.6:80", "the gateway of the other network is not known, or has no healthy endpoint"},
		{"VIP of what has a name only", "web", "10.9.0.7:80", "Direct by name db.example.com port 15008"},
		{"VIP of a service with identities", "web", "10.9.0.8:80", "HBONE Direct 10.0.0.10:15008 for 10.0.0.10:8080" + items + ",spiffe://cluster.local/ns/other/sa/also"},
		{"VIP whose waypoint is not there", "web", "10.9.0.9:80", "the waypoint is not known"},
		{"VIP whose waypoint has no pods", "web", "10.9.0.10:80", "the waypoint has no healthy endpoint"},
		{"own VIP", "items", "10.9.0.1:80", "HBONE Direct 10.0.0.10:15008 for 10.0.0.10:8080" + items},

		{"pod IP", "web", "10.0.0.10:9000", "HBONE Direct 10.0.0.10:15008 for 10.0.0.10:9000" + items},
		{"pod IP, its service has a waypoint", "web", "10.0.0.10:8080", "HBONE Direct 10.0.0.10:15008 for 10.0.0.10:8080" + items},
		{"pod IP of what speaks TCP", "web", "10.0.0.11:9000", "TCP Direct 10.0.0.11:9000"},
		{"pod IP with a waypoint", "web", "10.0.0.12:9000", "HBONE ToServerWaypoint 10.0.0.20:15008 for 10.0.0.12:9000" + waypoint},
		{"pod IP with a waypoint, speaks TCP", "web", "10.0.0.13:9000", "HBONE ToServerWaypoint 10.0.0.20:15008 for 10.0.0.13:9000" + waypoint},
		{"pod IP, the caller is its waypoint", "waypoint", "10.0.0.12:9000", "HBONE Direct 10.0.0.12:15008 for 10.0.0.12:9000 as spiffe://cluster.local/ns/default/sa/behind"},
		{"pod IP whose waypoint is not there", "web", "10.0.0.16:80", "the waypoint is not known"},
		{"pod IP that is not ready", "web", "10.0.0.14:80", "HBONE Direct 10.0.0.14:15008 for 10.0.0.14:80 as spiffe://cluster.local/ns/default/sa/notready"},
		{"pod IP of another network", "web", "10.0.0.15:80", "TCP Passthrough 10.0.0.15:80"},

		{"unknown IP", "web", "192.0.2.7:443", "TCP Passthrough 192.0.2.7:443"},
		{"unknown IPv6", "web", "[2001:db8::1]:443", "TCP Passthrough [2001:db8::1]:443"},
		{"loopback, a port of ours", "web", "127.0.0.1:15001", "the connection is for the node tunnel itself"},
		{"loopback, another port", "web", "127.0.0.1:15002", "TCP Passthrough 127.0.0.1:15002"},

		{"whole name", "web", "items.default.svc.cluster.local:80", "HBONE Direct 10.0.0.10:15008 for 10.0.0.10:8080" + items},
		{"name with an end", "web", "items.default.svc.cluster.local.:80", "HBONE Direct 10.0.0.10:15008 for 10.0.0.10:8080" + items},
		{"name with svc", "web", "items.default.svc:80", "HBONE Direct 10.0.0.10:15008 for 10.0.0.10:8080" + items},
		{"name and namespace", "web", "items.default:80", "HBONE Direct 10.0.0.10:15008 for 10.0.0.10:8080" + items},
		{"short name", "web", "ITEMS:80", "HBONE Direct 10.0.0.10:15008 for 10.0.0.10:8080" + items},
		{"name with a waypoint", "web", "guarded:80", "HBONE ToServerWaypoint 10.0.0.20:15009 for 10.9.0.3:80" + waypoint},
		{"name of a headless service", "web", "headless:80", "HBONE Direct 10.0.0.10:15008 for 10.0.0.10:8080" + items},
		{"unknown name", "web", "example.com:443", "the name is not known in the mesh"},

		{"not in the mesh, VIP", "legacy", "10.9.0.1:80", "TCP Direct 10.0.0.10:8080"},
		{"not in the mesh, VIP with a waypoint", "legacy", "10.9.0.3:80", "TCP Direct 10.0.0.10:8080"},
		{"not in the mesh, pod IP with a waypoint", "legacy", "10.0.0.12:80", "TCP Direct 10.0.0.12:80"},
	} {
		r, err := dec.decide(d.workloads[row.from], authority(row.target), nil)
		if got := brief(r, err); got != row.want {
			t.Errorf("%s: %s to %s:\n got %s\nwant %s", row.what, row.from, row.target, got, row.want)
		}
	}
}

// A short name means the service of the client's own namespace.
func TestDecideInTheClientsNamespace(t *testing.T) {
	w := bookshop(t)
	elsewhere := w.pod("visitor", "10.0.0.30", func(p *mesh.Workload) { p.Namespace = "elsewhere" })
	d := w.decider()
	if got, want := brief(d.decide(elsewhere, authority("items:80"), nil)), "the name is not known in the mesh"; got != want {
		t.Errorf("items: got %s, want %s", got, want)
	}
	if r, err := d.decide(elsewhere, authority("items.default:80"), nil); err != nil || r.dest.Name != "items" {
		t.Errorf("items.default: got %s", brief(r, err))
	}
}

// An older version of the waypoint is the waypoint still.
func TestDecideKnowsTheWaypointByItsUID(t *testing.T) {
	w := bookshop(t)
	before := w.workloads["waypoint"]
	after := *before
	after.CanonicalRevision = "v2"
	w.resources = append(w.resources, config.Update{Value: &after})
	if got := brief(w.decider().decide(before, authority("10.0.0.12:80"), nil)); got != "HBONE Direct 10.0.0.12:15008 for 10.0.0.12:80 as spiffe://cluster.local/ns/default/sa/behind" {
		t.Errorf("got %s", got)
	}
}

func TestDecidePicks(t *testing.T) {
	w := newWorld(t)
	src := w.pod("web", "10.0.0.1", nil)
	w.pod("a", "10.0.0.10", func(p *mesh.Workload) { p.Capacity = 3 }, "items")
	b := w.pod("b", "10.0.0.11", nil, "items")
	w.pod("far", "10.0.0.12", func(p *mesh.Workload) { p.Network, p.Gateway = "other", at("192.0.2.1") }, "items")
	w.service("items", "10.9.0.1", nil)
	w.pod("stable", "10.0.0.20", nil)
	w.pod("canary", "10.0.0.21", nil)
	w.service("weighed", "10.9.0.2", func(s *mesh.Service) {
		s.Waypoint = at("10.0.0.20")
		s.Canary = []mesh.WeightedWaypoint{{Waypoint: *at("10.0.0.20"), Weight: 3}, {Waypoint: *at("10.0.0.21"), Weight: 1}}
	})
	d := w.decider()
	count := func(target string, tried ...*mesh.Workload) map[string]int {
		t.Helper()
		n := map[string]int{}
		for range 4000 {
			d.dice = rand.Uint32()
			r, err := d.decide(src, authority(target), tried)
			if err != nil {
				t.Fatal(err)
			}
			n[r.dest.Name]++
		}
		return n
	}
	// Of 4,000 with a share of a quarter the standard deviation is 27.
	near := func(what string, n map[string]int, quarter string) {
		if len(n) != 2 || n[quarter] < 850 || n[quarter] > 1150 {
			t.Errorf("%s: got %v, want a quarter %s", what, n, quarter)
		}
	}
	near("by capacity, in our network", count("10.9.0.1:80"), "b")
	near("canary", count("10.9.0.2:80"), "canary")
	newer := *b
	if n := count("10.9.0.1:80", &newer); !maps.Equal(n, map[string]int{"a": 4000}) {
		t.Errorf("with b tried: got %v", n)
	}
	if n := count("10.9.0.1:80", w.workloads["a"], b); len(n) != 2 {
		t.Errorf("with all tried: got %v", n)
	}

	// Who failed lately comes after who did not, and before who was tried.
	now := time.Unix(0, 0)
	d.failed = newFailed(func() time.Time { return now })
	d.failed.note(&newer)
	if n := count("10.9.0.1:80"); !maps.Equal(n, map[string]int{"a": 4000}) {
		t.Errorf("with b failed: got %v", n)
	}
	if n := count("10.9.0.1:80", w.workloads["a"]); !maps.Equal(n, map[string]int{"b": 4000}) {
		t.Errorf("with b failed and a tried: got %v", n)
	}
	d.failed.note(w.workloads["a"])
	near("with both failed", count("10.9.0.1:80"), "b")
	now = now.Add(failedFor)
	near("a while later", count("10.9.0.1:80"), "b")
}

func TestFailedIsBounded(t *testing.T) {
	now := time.Unix(0, 0)
	f := newFailed(func() time.Time { return now })
	name := func(i int) *mesh.Workload { return &mesh.Workload{UID: fmt.Sprint(i)} }
	for i := range maxFailed + 10 {
		f.note(name(i))
	}
	if len(f.until) != maxFailed || !f.has(name(0)) || f.has(name(maxFailed)) {
		t.Errorf("%d are remembered, want the first %d", len(f.until), maxFailed)
	}
	f.forget(name(0))
	if f.has(name(0)) {
		t.Error("who was reached is remembered as failed")
	}
	f.note(name(0))
	now = now.Add(failedFor)
	f.note(name(maxFailed))
	if len(f.until) != 1 || !f.has(name(maxFailed)) {
		t.Errorf("%d are remembered, want the last alone", len(f.until))
	}
}
