package xds

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

const (
	largeWorkloads = 200_000
	largeServices  = 10_000
)

// largeMesh returns the first response of a control plane of a large mesh, as it
// comes: 20 pods make a service, 100 a node, and all must have mTLS.
func largeMesh(tb testing.TB) []byte {
	tb.Helper()
	r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: AddressType, Nonce: "1"}
	add := func(name string, a *workloadapi.Address) {
		wire, err := proto.Marshal(a)
		if err != nil {
			tb.Fatal(err)
		}
		r.Resources = append(r.Resources, &discoveryv3.Resource{
			Name: name, Version: fmt.Sprintf("%x", 0x9e3779b97f4a7c15*uint64(1+len(r.Resources))), Resource: &anypb.Any{TypeUrl: AddressType, Value: wire},
		})
	}
	for i := range largeServices {
		ns := fmt.Sprint("team-", i/20)
		s := &workloadapi.Service{
			Name: fmt.Sprint("svc-", i), Namespace: ns, Hostname: fmt.Sprintf("svc-%d.%s.svc.cluster.local", i, ns), Canonical: true,
			Addresses: []*workloadapi.NetworkAddress{{Address: []byte{10, 96, byte(i >> 8), byte(i)}}},
			Ports:     []*workloadapi.Port{{ServicePort: 80, TargetPort: 8080}, {ServicePort: 443, TargetPort: 8443}},
		}
		add(ns+"/"+s.Hostname, &workloadapi.Address{Type: &workloadapi.Address_Service{Service: s}})
	}
	for i := range largeWorkloads {
		add(largeWorkload(i, false))
	}
	wire, err := proto.Marshal(r)
	if err != nil {
		tb.Fatal(err)
	}
	return wire
}

func largeWorkload(i int, unhealthy bool) (string, *workloadapi.Address) {
	svc := i % largeServices
	ns := fmt.Sprint("team-", svc/20)
	name := fmt.Sprintf("svc-%d-6d5b7f9f46-%05x", svc, i)
	w := &workloadapi.Workload{
		Uid: "Kubernetes//Pod/" + ns + "/" + name, Name: name, Namespace: ns, Addresses: [][]byte{{10, 128 + byte(i>>16), byte(i >> 8), byte(i)}},
		TunnelProtocol: workloadapi.TunnelProtocol_HBONE, ServiceAccount: fmt.Sprint("svc-", svc), Node: fmt.Sprint("node-", i/100),
		CanonicalName: fmt.Sprint("svc-", svc), CanonicalRevision: "v1", WorkloadName: fmt.Sprint("svc-", svc), ClusterId: "Kubernetes",
		AuthorizationPolicies: []string{"istio-system/istio_converted_static_strict"},
		Locality:              &workloadapi.Locality{Region: "region-1", Zone: fmt.Sprint("zone-", i%3)},
		Services: map[string]*workloadapi.PortList{fmt.Sprintf("%s/svc-%d.%s.svc.cluster.local", ns, svc, ns): {
			Ports: []*workloadapi.Port{{ServicePort: 80, TargetPort: 8080}, {ServicePort: 443, TargetPort: 8443}},
		}},
	}
	if unhealthy {
		w.Status = workloadapi.WorkloadStatus_UNHEALTHY
	}
	return w.Uid, &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: w}}
}

// frame is how much of a response comes in a piece: istiod's server sends frames
// of HTTP/2's usual length.
const frame = 16 << 10

// apply applies a response.
func apply(tb testing.TB, sub *subscription, store *config.Store, wire []byte) {
	tb.Helper()
	var r response
	var data mem.BufferSlice
	for piece := range slices.Chunk(wire, frame) {
		data = append(data, mem.SliceBuffer(piece))
	}
	if err := r.read(data); err != nil {
		tb.Fatal(err)
	}
	if refused, _ := sub.apply(store, &r); len(refused) > 0 {
		tb.Fatal(join(refused))
	}
}

// load is what a stream does with a response: it decodes it and applies it.
func load(tb testing.TB, wire []byte) (*subscription, *config.Store) {
	tb.Helper()
	var c converter
	sub := &subscription{url: AddressType, convert: c.address}
	store := config.NewStore(config.Options{Node: "node-7"})
	apply(tb, sub, store, wire)
	return sub, store
}

// BenchmarkLoad loads a mesh of 200,000 workloads and 10,000 services from one
// response: what a restart of the node tunnel costs. MiB is what is kept of it,
// peak-MiB what the heap was at most, the response itself not counted. It
// excludes the network.
func BenchmarkLoad(b *testing.B) {
	wire := largeMesh(b)
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	var kept, peak uint64
	for b.Loop() {
		before := heapNow()
		stop := make(chan struct{})
		most := make(chan uint64)
		go watchHeap(stop, most)
		sub, store := load(b, wire)
		close(stop)
		peak = max(peak, <-most-before)
		b.StopTimer()
		kept = max(kept, heapNow()-before)
		if got := store.Snapshot().Workloads(); got == nil || sub.known.len() != largeWorkloads+largeServices {
			b.Fatal("not all was loaded")
		}
		runtime.KeepAlive(sub)
		runtime.KeepAlive(store)
		b.StartTimer()
	}
	b.ReportMetric(float64(kept)/(1<<20), "MiB")
	b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
}

// heapNow returns what is alive.
func heapNow() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// watchHeap reports how large the heap has been until stop is closed.
func watchHeap(stop <-chan struct{}, most chan<- uint64) {
	var m runtime.MemStats
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	high := uint64(0)
	for {
		runtime.ReadMemStats(&m)
		high = max(high, m.HeapAlloc)
		select {
		case <-tick.C:
		case <-stop:
			most <- high
			return
		}
	}
}

// BenchmarkChange applies one pod's change of readiness to the large mesh.
func BenchmarkChange(b *testing.B) {
	sub, store := load(b, largeMesh(b))
	var wires [2][]byte
	for i := range wires {
		name, a := largeWorkload(4242, i == 0)
		value, err := proto.Marshal(a)
		if err != nil {
			b.Fatal(err)
		}
		r := &discoveryv3.DeltaDiscoveryResponse{Resources: []*discoveryv3.Resource{{Name: name, Version: fmt.Sprint(i), Resource: &anypb.Any{Value: value}}}}
		if wires[i], err = proto.Marshal(r); err != nil {
			b.Fatal(err)
		}
	}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		apply(b, sub, store, wires[n%2])
		n++
	}
}
