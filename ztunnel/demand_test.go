package ztunnel

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// What a decision depends on is asked for, one name after the other, and each once.
func TestWhatIsMissingIsWanted(t *testing.T) {
	canary := func(s *mesh.Service) {
		s.Waypoint = at("10.0.0.20")
		s.Canary = []mesh.WeightedWaypoint{{Waypoint: *at("10.0.0.20"), Weight: 1}, {Waypoint: *at("10.0.0.21"), Weight: 1}}
	}
	for _, row := range []struct {
		about, target string
		build         func(w *world)
		want          []string
	}{
		{"nothing", "10.9.0.1:80", func(*world) {}, []string{"/10.9.0.1"}},
		{"loopback never leaves the pod", "127.0.0.1:80", func(*world) {}, nil},
		{"a service", "10.9.0.1:80", func(w *world) { w.service("items", "10.9.0.1", nil) }, nil},
		{"IPv6", "[2001:db8::1]:80", func(*world) {}, []string{"/2001:db8::1"}},
		{"a block, of which the address may be another's", "10.9.0.1:80", func(w *world) {
			w.service("items", "", func(s *mesh.Service) {
				s.Addresses = []mesh.Prefix{{Prefix: netip.MustParsePrefix("10.9.0.0/24")}}
			})
		}, []string{"/10.9.0.1"}},
		{"all waypoints: we may be of any of them", "10.9.0.1:80", func(w *world) { w.service("items", "10.9.0.1", canary) },
			[]string{"/10.0.0.20", "/10.0.0.21"}},
		{"a waypoint that is known", "10.9.0.1:80", func(w *world) {
			w.service("items", "10.9.0.1", func(s *mesh.Service) { s.Waypoint = at("10.0.0.20") })
			w.pod("waypoint", "10.0.0.20", nil)
		}, nil},
		{"the gateway of an endpoint", "10.9.0.1:80", func(w *world) {
			w.service("items", "10.9.0.1", nil)
			w.pod("far", "", func(p *mesh.Workload) {
				p.Network, p.Gateway = "west", &mesh.GatewayAddress{Hostname: mesh.Hostname{Namespace: "ns", Host: "lb.example.com"}}
			}, "items")
		}, []string{"ns/lb.example.com"}},
		{"a name in full", "items.shop.svc.cluster.local:80", func(*world) {}, []string{"shop/items.shop.svc.cluster.local"}},
	} {
		w := newWorld(t)
		web := w.pod("web", "10.0.0.1", nil)
		row.build(w)
		d := w.decider()
		d.wanted = &wanted{}
		for range 20 {
			_, _ = d.decide(web, authority(row.target), nil)
			if d.wanted.next == "" {
				break
			}
			d.wanted.asked, d.wanted.next = append(d.wanted.asked, d.wanted.next), ""
		}
		if !slices.Equal(d.wanted.asked, row.want) {
			t.Errorf("%s: asked for %q, want %q", row.about, d.wanted.asked, row.want)
		}
	}
}
