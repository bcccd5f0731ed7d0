package ztunnel

import (
	"fmt"
	"net/netip"
	"slices"
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
func crowded(tb testing.TB, n int, locality bool, edit ...func(int, *mesh.Workload)) (*decider, *mesh.Workload) {
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
		w := pod(i)
		w.Services = map[mesh.Hostname]mesh.Membership{host("default", "items"): {}}
		for _, f := range edit {
			f(i, w)
		}
	}
	if err := store.Apply(all); err != nil {
		tb.Fatal(err)
	}
	return &decider{snap: store.Snapshot(), domain: "cluster.local", port: 15008}, client
}

// Drawing endpoints of a large service has the odds of adding up what all weigh;
// and what was tried, or cannot be reached, is not drawn.
func TestDrawnByCapacity(t *testing.T) {
	const n, rounds = 120, 60_000
	d, client := crowded(t, n, false, func(i int, w *mesh.Workload) {
		w.Capacity = uint32(i % 4) // 0 is 1
		if i%10 == 0 {
			w.Network = "other"
		}
	})
	dest := d.lookup("default", authority("10.9.0.1:80"))
	var tried []*mesh.Workload
	weight, total := map[string]float64{}, 0.0
	for i := range dest.Endpoints {
		switch w := dest.Endpoints[i].Workload; {
		case len(tried) < 5:
			tried = append(tried, w)
		default:
			weight[w.UID] = float64(max(1, w.Capacity))
			total += weight[w.UID]
		}
	}
	got := map[string]float64{}
	for range rounds {
		r, err := d.decide(client, authority("10.9.0.1:80"), tried)
		if err != nil {
			t.Fatal(err)
		}
		got[r.dest.UID]++
	}
	for uid, weight := range weight {
		want := rounds * weight / total
		if got[uid] < 0.7*want || got[uid] > 1.3*want { // six deviations, and more
			t.Errorf("%s: drawn %v times, want about %.0f", uid, got[uid], want)
		}
	}
	if len(got) != len(weight) {
		t.Errorf("%d were drawn, want %d", len(got), len(weight))
	}
	// One that is left among many is found, however seldom it is drawn.
	for i := range dest.Endpoints[1:] {
		tried = append(tried, dest.Endpoints[1+i].Workload)
	}
	tried = slices.DeleteFunc(tried, func(w *mesh.Workload) bool { return w == dest.Endpoints[7].Workload })
	tried = append(tried, dest.Endpoints[0].Workload)
	for range 100 {
		if r, err := d.decide(client, authority("10.9.0.1:80"), tried); err != nil || r.dest != dest.Endpoints[7].Workload {
			t.Fatalf("got %v, %v", r.dest, err)
		}
	}
}
