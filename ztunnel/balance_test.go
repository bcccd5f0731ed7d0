package ztunnel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// BenchmarkLoadBalance is load_balance of Istio's node tunnel (benches/basic.rs):
// one endpoint of a service is chosen, for its size, and where it is to be near.
// Here that is a whole decision about a connection; which endpoints are near was
// found out when they came.
func BenchmarkLoadBalance(b *testing.B) {
	for _, locality := range []bool{false, true} {
		for _, n := range []int{1, 10, 1000, 10_000} {
			name := fmt.Sprintf("endpoints=%d", n)
			if locality {
				name = "locality/" + name
			}
			b.Run(name, func(b *testing.B) {
				d, client := crowded(b, n, locality)
				target := authority("10.9.0.1:80")
				b.ReportAllocs()
				for b.Loop() {
					if r, err := d.decide(client, target, nil); err != nil || !r.tunnel {
						b.Fatal(r, err)
					}
				}
			})
		}
	}
}

// crowded returns who decides where there is a service of n endpoints, of which a
// third is near, and a client of it.
func crowded(b *testing.B, n int, locality bool) (*decider, *mesh.Workload) {
	here := mesh.Locality{Region: "r", Zone: "z0"}
	store := config.NewStore(config.Options{Node: "node-a", Locality: here})
	s := &mesh.Service{Name: "items", Namespace: "default", Hostname: host("default", "items").Host, Ports: []mesh.Port{{Service: 80, Target: 8080}},
		Addresses: []mesh.Prefix{{Prefix: singleIP("10.9.0.1")}}}
	if locality {
		s.Balance = mesh.Balance{Mode: mesh.Failover, Preference: []mesh.Scope{mesh.Network, mesh.Region, mesh.Zone}}
	}
	all := []config.Update{{Value: s}}
	pod := func(i int) *mesh.Workload {
		w := &mesh.Workload{UID: fmt.Sprint("Kubernetes//Pod/default/p-", i), Name: fmt.Sprint("p-", i), Namespace: "default", TrustDomain: "cluster.local",
			Tunnel: mesh.HBONE, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})},
			Locality: mesh.Locality{Region: "r", Zone: fmt.Sprint("z", i%3)}}
		all = append(all, config.Update{Value: w})
		return w
	}
	client := pod(n)
	for i := range n {
		pod(i).Services = map[mesh.Hostname]mesh.Membership{host("default", "items"): {}}
	}
	if err := store.Apply(all); err != nil {
		b.Fatal(err)
	}
	return &decider{snap: store.Snapshot(), domain: "cluster.local", port: 15008}, client
}
