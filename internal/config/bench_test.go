package config

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// large is a mesh of 100,000 workloads in 10,000 services, in the view of a
// waypoint that serves them all. It is made once: that takes a second.
var large = sync.OnceValue(func() *Store {
	s := waypointStore()
	all := []Update{{Value: gateway()}, {Value: policy("default/p", ref("Gateway", "waypoint"))}}
	for i := range 10_000 {
		all = append(all, Update{Value: served(fmt.Sprint("default/s", i), netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String())})
	}
	for i := range 100_000 {
		all = append(all, Update{Value: nth(i)})
	}
	if err := s.Apply(all); err != nil {
		panic(err)
	}
	return s
})

// nth returns workload i of the large mesh: ten make a service, a hundred fill a
// node.
func nth(i int) *mesh.Workload {
	w := pod(fmt.Sprint("default/w", i), netip.AddrFrom4([4]byte{10, 8 + byte(i>>16), byte(i >> 8), byte(i)}).String(), fmt.Sprint("default/s", i%10_000))
	w.Node = fmt.Sprint("node-", i/100)
	return w
}

// alternate measures applying batches in turn.
func alternate(b *testing.B, s *Store, batches ...[]Update) {
	b.Helper()
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Apply(batches[n%len(batches)]); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// BenchmarkPublish publishes one endpoint's change of readiness. It excludes
// what a source does to find it out and what listeners do about it.
func BenchmarkPublish(b *testing.B) {
	b.Run("100k", func(b *testing.B) {
		s := large()
		ready, unready := nth(4242), nth(4242)
		unready.Unhealthy = true
		alternate(b, s, updates(unready), updates(ready))
	})
	b.Run("policy", func(b *testing.B) { // of one service: all are asked whether it is theirs
		s := large()
		p := policy("default/bench", ref("Service", "s1"))
		alternate(b, s, updates(p), []Update{{Key: p.Key()}})
	})
}

// BenchmarkBuild makes a mesh of 10,000 workloads from nothing: what a restart
// costs.
func BenchmarkBuild(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		s := waypointStore()
		all := []Update{{Value: gateway()}}
		for i := range 1_000 {
			all = append(all, Update{Value: served(fmt.Sprint("default/s", i), netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String())})
		}
		for i := range 10_000 {
			w := nth(i)
			w.Services = map[mesh.Hostname]mesh.Membership{host(fmt.Sprint("default/s", i%1000)): {}}
			all = append(all, Update{Value: w})
		}
		if err := s.Apply(all); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLookup finds a destination in the large mesh.
func BenchmarkLookup(b *testing.B) {
	s := large().Snapshot()
	for _, bb := range []struct{ name, authority string }{
		{"vip", "10.1.3.7:80"},
		{"workload", "10.8.3.7:80"},
		{"host", "s77.default.svc.cluster.local:80"},
		{"nothing", "192.0.2.1:80"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			a, err := mesh.ParseAuthority(bb.authority)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if d := s.Lookup("", "default", a); (d == nil) != (bb.name == "nothing") {
					b.Fatal(name(d))
				}
			}
		})
	}
}
