package xds

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

// A controlPlane is an ADS server whose every word a test says.
type controlPlane struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	streams chan *opened
}

// An opened is a stream that a client has opened.
type opened struct {
	t        *testing.T
	st       discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	md       metadata.MD
	requests chan *discoveryv3.DeltaDiscoveryRequest
	end      chan error
}

func (c *controlPlane) DeltaAggregatedResources(st discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	md, _ := metadata.FromIncomingContext(st.Context())
	o := &opened{st: st, md: md, requests: make(chan *discoveryv3.DeltaDiscoveryRequest, 100), end: make(chan error, 1)}
	go func() {
		for {
			r, err := st.Recv()
			if err != nil {
				return
			}
			o.requests <- r
		}
	}()
	c.streams <- o
	select {
	case err := <-o.end:
		return err
	case <-st.Context().Done():
		return nil
	}
}

// serve serves c at ln until the test ends.
func (c *controlPlane) serve(t *testing.T, ln net.Listener, o ...grpc.ServerOption) (stop func()) {
	g := grpc.NewServer(o...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, c)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(ln) }()
	stop = sync.OnceFunc(func() { g.Stop(); <-done })
	t.Cleanup(stop)
	return stop
}

// patience is for what will have happened long before, unless it never does.
const patience = 20 * time.Second

// accept returns the next stream.
func (c *controlPlane) accept(t *testing.T) *opened {
	t.Helper()
	select {
	case o := <-c.streams:
		o.t = t
		return o
	case <-time.After(patience):
		t.Fatal("no stream")
		return nil
	}
}

// request returns the next request of the stream.
func (o *opened) request() *discoveryv3.DeltaDiscoveryRequest {
	o.t.Helper()
	select {
	case r := <-o.requests:
		return r
	case <-time.After(patience):
		o.t.Fatal("no request")
		return nil
	}
}

// subscribed returns the requests by which a stream begins.
func (o *opened) subscribed() (addresses, authorizations *discoveryv3.DeltaDiscoveryRequest) {
	o.t.Helper()
	addresses, authorizations = o.request(), o.request()
	if addresses.TypeUrl != AddressType || authorizations.TypeUrl != AuthorizationType {
		o.t.Fatalf("subscribed to %q and %q", addresses.TypeUrl, authorizations.TypeUrl)
	}
	return addresses, authorizations
}

// send sends a response and returns what is answered.
func (o *opened) send(url string, removed []string, resources ...*discoveryv3.Resource) *discoveryv3.DeltaDiscoveryRequest {
	o.t.Helper()
	nonce := url + "#" + time.Now().String()
	if err := o.st.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, Nonce: nonce, Resources: resources, RemovedResources: removed}); err != nil {
		o.t.Fatal(err)
	}
	r := o.request()
	if r.ResponseNonce != nonce || r.TypeUrl != url {
		o.t.Fatalf("answered %v", r)
	}
	return r
}

// ack is send, and nothing may be refused.
func (o *opened) ack(url string, removed []string, resources ...*discoveryv3.Resource) {
	o.t.Helper()
	if r := o.send(url, removed, resources...); r.ErrorDetail != nil {
		o.t.Fatalf("refused: %s", r.ErrorDetail.Message)
	}
}

func resource(t *testing.T, name, version string, m proto.Message) *discoveryv3.Resource {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &discoveryv3.Resource{Name: name, Version: version, Resource: &anypb.Any{Value: b}}
}

// workload returns pod n of namespace default at an address, of service "web".
func workload(t *testing.T, n, version, ip string, edit ...func(*workloadapi.Workload)) *discoveryv3.Resource {
	t.Helper()
	w := &workloadapi.Workload{
		Uid: uid(n), Name: n, Namespace: "default", Addresses: [][]byte{net.ParseIP(ip).To4()}, TunnelProtocol: workloadapi.TunnelProtocol_HBONE,
		Node: "n1", Services: map[string]*workloadapi.PortList{"default/web": {Ports: []*workloadapi.Port{{ServicePort: 80, TargetPort: 8080}}}},
	}
	for _, f := range edit {
		f(w)
	}
	return resource(t, w.Uid, version, &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: w}})
}

func uid(n string) string { return "Kubernetes//Pod/default/" + n }

func service(t *testing.T, host, version, ip string) *discoveryv3.Resource {
	t.Helper()
	s := &workloadapi.Service{
		Name: host, Namespace: "default", Hostname: host, Ports: []*workloadapi.Port{{ServicePort: 80, TargetPort: 80}},
		Addresses: []*workloadapi.NetworkAddress{{Address: net.ParseIP(ip).To4()}},
	}
	return resource(t, "default/"+host, version, &workloadapi.Address{Type: &workloadapi.Address_Service{Service: s}})
}

// denial returns a policy of namespace default that denies everything.
func denial(t *testing.T, n, version string, edit ...func(*workloadapi.Authorization)) *discoveryv3.Resource {
	t.Helper()
	a := &workloadapi.Authorization{Name: n, Namespace: "default", Scope: workloadapi.Scope_NAMESPACE, Action: workloadapi.Action_DENY, Groups: []*workloadapi.Group{{}}}
	for _, f := range edit {
		f(a)
	}
	return resource(t, "default/"+n, version, a)
}

// A rig is a Source, the Store that it feeds, and the control plane at the other
// end.
type rig struct {
	*testing.T
	plane  *controlPlane
	source *Source
	store  *config.Store
	stop   func() // of the control plane
	log    *logBuffer
}

// A logBuffer is what was logged.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a Source against a control plane in memory.
func start(t *testing.T, o Options) *rig {
	t.Helper()
	ln := bufconn.Listen(1 << 20)
	r := &rig{T: t, plane: &controlPlane{streams: make(chan *opened, 10)}}
	r.stop = r.plane.serve(t, ln)
	o.Istiod.Address = "http://istiod:15010"
	o.Istiod.Dial = func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }
	r.run(o)
	return r
}

// run runs a Source until the test ends.
func (r *rig) run(o Options) {
	r.Helper()
	r.log = new(logBuffer)
	o.Log = newLog(r.log)
	source, err := New(o)
	if err != nil {
		r.Fatal(err)
	}
	r.source, r.store = source, config.NewStore(config.Options{Node: "n1"})
	ctx, cancel := context.WithCancel(r.Context())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx, r.store) }()
	r.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.Error(err)
		}
	})
}

// workloads returns the names of those that the store has, in order.
func (r *rig) workloads() (names []string) {
	for w := range r.store.Snapshot().Workloads() {
		names = append(names, w.Name)
	}
	slices.Sort(names)
	return names
}

func (r *rig) want(names ...string) {
	r.Helper()
	if got := r.workloads(); !slices.Equal(got, names) {
		r.Errorf("workloads: got %q, want %q", got, names)
	}
}

func (r *rig) isReady() bool {
	select {
	case <-r.store.Ready():
		return true
	default:
		return false
	}
}

// at returns what the store finds at an address.
func (r *rig) at(authority string) *config.Destination {
	r.Helper()
	a, err := mesh.ParseAuthority(authority)
	if err != nil {
		r.Fatal(err)
	}
	return r.store.Snapshot().Lookup("", "default", a)
}

var errGone = errors.New("gone")

func newLog(b *logBuffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
