package config

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// The benchmarks here are those of Istio's node tunnel (benches/basic.rs), under
// the names that they have there. An operation is a publish, and so is everything
// that a lookup finds afterwards compiled.

func ipOf(n int) string {
	return netip.AddrFrom4([4]byte{10, 64 + byte(n>>16), byte(n >> 8), byte(n)}).String()
}

// BenchmarkXDS is xds/insert-remove: a workload comes, and goes.
func BenchmarkXDS(b *testing.B) {
	b.Run("insert-remove", func(b *testing.B) {
		s := NewStore(Options{})
		w := pod("default/w", "10.0.0.1", "default/s")
		come, gone := updates(w), []Update{{Key: w.Key()}}
		b.ReportAllocs()
		for b.Loop() {
			if s.Apply(come) != nil || s.Apply(gone) != nil {
				b.Fatal("not applied")
			}
		}
	})
}

// BenchmarkVIPMatch is vip_match/{exact,cidr}-{hit,miss}-{n}: an address is looked
// up where n services have one, or a block, of their own. Half of the blocks lie in
// others.
func BenchmarkVIPMatch(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		for _, kind := range []string{"exact", "cidr"} {
			s := NewStore(Options{})
			var all []Update
			for i := range n {
				x := svc(fmt.Sprint("default/s", i))
				x.Addresses = []mesh.Prefix{{Prefix: netip.MustParsePrefix(ipOf(16*i) + "/32")}}
				if kind == "cidr" {
					x.Addresses[0].Prefix = netip.MustParsePrefix(fmt.Sprintf("%s/%d", ipOf(16*i), 28-i%8)).Masked()
				}
				all = append(all, Update{Value: x})
			}
			if err := s.Apply(all); err != nil {
				b.Fatal(err)
			}
			for _, ask := range []struct {
				name, ip string
			}{{"hit", ipOf(16 * (n / 2))}, {"miss", "192.0.2.1"}} {
				b.Run(fmt.Sprintf("%s-%s-%d", kind, ask.name, n), func(b *testing.B) {
					snap, a := s.Snapshot(), mesh.Authority{IP: netip.MustParseAddr(ask.ip), Port: 80}
					b.ReportAllocs()
					for b.Loop() {
						if (snap.Lookup("", "default", a) == nil) != (ask.name == "miss") {
							b.Fatal("found")
						}
					}
				})
			}
		}
	}
}

// BenchmarkEndpointInsert is
// endpoint_insert/{shared-service,distinct-service,no-service,batched-service}/{n}:
// n workloads come, each by itself or, batched, all at once.
func BenchmarkEndpointInsert(b *testing.B) {
	for _, kind := range []string{"shared-service", "distinct-service", "no-service", "batched-service"} {
		for _, n := range []int{10, 100, 1000} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				var services, workloads []Update
				for i := range n {
					w := pod(fmt.Sprint("default/w", i), ipOf(i))
					switch kind {
					case "no-service":
					case "distinct-service":
						services = append(services, Update{Value: svc(fmt.Sprint("default/s", i))})
						w.Services = map[mesh.Hostname]mesh.Membership{host(fmt.Sprint("default/s", i)): {}}
					default:
						services = append(services, Update{Value: svc("default/s")})
						w.Services = map[mesh.Hostname]mesh.Membership{host("default/s"): {}}
					}
					workloads = append(workloads, Update{Value: w})
				}
				step := 1
				if kind == "batched-service" {
					step = n
				}
				b.ReportAllocs()
				for b.Loop() {
					s := NewStore(Options{})
					if err := s.Apply(services); err != nil {
						b.Fatal(err)
					}
					for i := 0; i < n; i += step {
						if err := s.Apply(workloads[i : i+step]); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N)/float64(n), "ns/workload")
			})
		}
	}
}

// BenchmarkManyPolicies publishes the change of one of 10,000 policies that are
// all in force for each of a thousand workloads: what of rbac is not asked of a
// connection.
func BenchmarkManyPolicies(b *testing.B) {
	const policies, workloads = 10_000, 1000
	s := NewStore(Options{})
	allow := func(i int, account string) *authz.Policy {
		return &authz.Policy{Namespace: "default", Name: fmt.Sprintf("p-%05d", i), Rules: []authz.Rule{
			{From: []authz.Source{{Principals: []string{fmt.Sprintf("cluster.local/ns/default/sa/%s-%d", account, i)}}}},
		}}
	}
	var all []Update
	for i := range policies {
		all = append(all, Update{Value: allow(i, "a")})
	}
	for i := range workloads {
		all = append(all, Update{Value: pod(fmt.Sprint("default/w", i), ipOf(i))})
	}
	if err := s.Apply(all); err != nil {
		b.Fatal(err)
	}
	alternate(b, s, updates(allow(4242, "b")), updates(allow(4242, "a")))
}
