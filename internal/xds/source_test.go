package xds

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/istiod"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

func TestSubscribesAsIstiosNodeTunnel(t *testing.T) {
	r := start(t, Options{
		Istiod: istiod.Options{ClusterID: "c1", Token: "/nowhere", Headers: map[string]string{"X-Tenant": "t1"}},
		Node:   Node{IP: "10.0.0.7", Pod: "ztunnel-x", Namespace: "istio-system", Name: "n1", Metadata: map[string]any{"NETWORK": "net1", "LABELS": map[string]any{"a": "b"}}},
	})
	s := r.plane.accept(t)
	addresses, authorizations := s.subscribed()
	for _, q := range []*discoveryv3.DeltaDiscoveryRequest{addresses, authorizations} {
		if q.Node.GetId() != "ztunnel~10.0.0.7~ztunnel-x.istio-system~istio-system.svc.cluster.local" {
			t.Errorf("node: got %q", q.Node.GetId())
		}
		f := q.Node.GetMetadata().AsMap()
		for k, want := range map[string]string{"NAME": "ztunnel-x", "NAMESPACE": "istio-system", "INSTANCE_IPS": "10.0.0.7", "NODE_NAME": "n1", "NETWORK": "net1"} {
			if f[k] != want {
				t.Errorf("metadata %s: got %v, want %q", k, f[k], want)
			}
		}
		if len(q.ResourceNamesSubscribe)+len(q.ResourceNamesUnsubscribe)+len(q.InitialResourceVersions) > 0 {
			t.Errorf("the first subscription names resources: %v", q)
		}
	}
	if got := s.md.Get("clusterid"); !slices.Equal(got, []string{"c1"}) {
		t.Errorf("clusterid: got %q", got)
	}
	if got := s.md.Get("x-tenant"); !slices.Equal(got, []string{"t1"}) {
		t.Errorf("x-tenant: got %q", got)
	}
	if got := s.md.Get("authorization"); len(got) > 0 {
		t.Errorf("a token was sent over a connection that is not protected: %q", got)
	}
}

func TestChangesAreApplied(t *testing.T) {
	r := start(t, Options{})
	s := r.plane.accept(t)
	s.subscribed()
	s.ack(AddressType, nil, workload(t, "a", "1", "10.0.0.1"), workload(t, "b", "1", "10.0.0.2"), service(t, "web", "1", "10.9.0.1"))
	if r.isReady() {
		t.Error("ready without policies")
	}
	s.ack(AuthorizationType, nil)
	<-r.store.Ready()
	r.want("a", "b")
	if d := r.at("10.9.0.1:80"); d == nil || len(d.Endpoints) != 2 || d.Endpoints[0].Addr.Port() != 8080 {
		t.Fatalf("the service: got %+v", d)
	}
	if d := r.at("10.0.0.1:80"); d == nil || !d.Policies.Check(&authz.Input{}).Allowed {
		t.Fatalf("without policies: got %+v", d)
	}

	s.ack(AddressType, []string{uid("a")}, workload(t, "b", "2", "10.0.0.3"))
	r.want("b")
	if d := r.at("10.0.0.2:80"); d != nil {
		t.Errorf("the address that b had: got %+v", d)
	}
	s.ack(AuthorizationType, nil, denial(t, "p", "1"))
	if d := r.at("10.0.0.3:80"); d == nil || d.Policies.Check(&authz.Input{}).Allowed {
		t.Errorf("with a policy: got %+v", d)
	}
	s.ack(AuthorizationType, []string{"default/p"})
	if d := r.at("10.0.0.3:80"); d == nil || !d.Policies.Check(&authz.Input{}).Allowed {
		t.Errorf("when the policy is gone: got %+v", d)
	}
	s.ack(AddressType, []string{"default/web", uid("b"), "default/never-there"})
	r.want()
	if d := r.at("10.9.0.1:80"); d != nil {
		t.Errorf("when the service is gone: got %+v", d)
	}
	stats := r.source.Stats()
	if a := stats.Types[0]; !stats.Connected || a.Messages != 3 || a.Bytes == 0 || a.Nacks != 0 || a.Resources != 0 {
		t.Errorf("stats: got %+v", stats)
	}
	// What nobody asked for is answered, and that is all.
	if q := s.send("type.googleapis.com/other", nil); q.ErrorDetail != nil {
		t.Errorf("got %v", q)
	}
}

func TestBadResourcesAreRefusedAlone(t *testing.T) {
	r := start(t, Options{})
	s := r.plane.accept(t)
	s.subscribed()
	s.ack(AddressType, nil, workload(t, "b", "1", "10.0.0.2"))
	s.ack(AuthorizationType, nil)

	bad := workload(t, "b", "2", "10.0.0.9", func(w *workloadapi.Workload) { w.TunnelProtocol = workloadapi.TunnelProtocol_LEGACY_ISTIO_MTLS })
	broken := &discoveryv3.Resource{Name: uid("broken"), Version: "1", Resource: &anypb.Any{Value: []byte{0xff}}}
	empty := &discoveryv3.Resource{Name: "default/empty"}
	q := s.send(AddressType, nil, workload(t, "a", "1", "10.0.0.1"), bad, broken, empty, service(t, "web", "1", "10.9.0.1"))
	for _, want := range []string{uid("b") + ": tunnel_protocol: LEGACY_ISTIO_MTLS is not supported", uid("broken") + ": ", "default/empty: is neither a workload nor a service"} {
		if !strings.Contains(q.ErrorDetail.GetMessage(), want) {
			t.Errorf("got %q, want %q in it", q.ErrorDetail.GetMessage(), want)
		}
	}
	if strings.Contains(q.ErrorDetail.GetMessage(), uid("a")) || q.ErrorDetail.GetCode() != int32(codes.InvalidArgument) {
		t.Errorf("got %v", q.ErrorDetail)
	}
	r.want("a", "b")
	if d := r.at("10.0.0.2:80"); d == nil {
		t.Error("the last good version is not in force")
	}
	if got := len(r.store.Rejected()); got != 3 {
		t.Errorf("%d rejected: %v", got, r.store.Rejected())
	}

	// What the store alone finds wrong is told too. A policy that never was good
	// closes what it is for, and only that.
	q = s.send(AuthorizationType, nil,
		denial(t, "p", "1", func(a *workloadapi.Authorization) {
			a.Scope = workloadapi.Scope_WORKLOAD_SELECTOR
			a.Groups = []*workloadapi.Group{{Rules: []*workloadapi.Rules{{Matches: []*workloadapi.Match{{DestinationPorts: []uint32{70000}}}}}}}
		}))
	if want := "default/p: groups[0]: rules[0]: matches[0].destination_ports[0]: 70000 is not a port"; q.ErrorDetail.GetMessage() != want {
		t.Errorf("got %q, want %q", q.ErrorDetail.GetMessage(), want)
	}
	s.ack(AddressType, nil, workload(t, "c", "1", "10.0.0.3", func(w *workloadapi.Workload) { w.AuthorizationPolicies = []string{"default/p"} }))
	if d := r.at("10.0.0.3:80"); d == nil || d.Policies.Check(&authz.Input{}).Allowed {
		t.Errorf("a workload that lists a policy that cannot be used: got %+v", d)
	}
	if d := r.at("10.0.0.1:80"); d == nil || !d.Policies.Check(&authz.Input{}).Allowed {
		t.Errorf("a workload that does not: got %+v", d)
	}
	if stats := r.source.Stats(); stats.Types[0].Nacks != 1 || stats.Types[1].Nacks != 1 {
		t.Errorf("stats: got %+v", stats)
	}

	s.ack(AuthorizationType, nil, denial(t, "p", "2"))
	s.ack(AddressType, []string{uid("broken"), "default/empty"}, workload(t, "b", "3", "10.0.0.9"))
	if got := r.store.Rejected(); len(got) != 0 {
		t.Errorf("rejected after all was mended: %v", got)
	}
}

func TestPolicyOfAnotherRootNamespace(t *testing.T) {
	r := start(t, Options{})
	s := r.plane.accept(t)
	s.subscribed()
	s.ack(AddressType, nil, workload(t, "a", "1", "10.0.0.1"))
	global := func(a *workloadapi.Authorization) { a.Scope = workloadapi.Scope_GLOBAL }
	elsewhere := denial(t, "p", "1", func(a *workloadapi.Authorization) { global(a); a.Namespace = "mesh-config" })
	elsewhere.Name = "mesh-config/p"
	s.ack(AuthorizationType, nil, elsewhere)
	if d := r.at("10.0.0.1:80"); d == nil || d.Policies.Check(&authz.Input{}).Allowed {
		t.Errorf("a policy of the mesh: got %+v", d)
	}
	s.ack(AuthorizationType, []string{"mesh-config/p"})
	if d := r.at("10.0.0.1:80"); d == nil || !d.Policies.Check(&authz.Input{}).Allowed {
		t.Errorf("when it is gone: got %+v", d)
	}
	root := denial(t, "p", "1", func(a *workloadapi.Authorization) { a.Namespace = "istio-system" })
	root.Name = "istio-system/p"
	s.ack(AddressType, nil, workload(t, "b", "1", "10.0.0.2", func(w *workloadapi.Workload) { w.Namespace = "istio-system" }))
	s.ack(AuthorizationType, nil, root)
	if d := r.at("10.0.0.2:80"); d == nil || d.Policies.Check(&authz.Input{}).Allowed {
		t.Errorf("a policy of what is the root namespace to us, in its namespace: got %+v", d)
	}
	if d := r.at("10.0.0.1:80"); d == nil || !d.Policies.Check(&authz.Input{}).Allowed {
		t.Errorf("and in another: got %+v", d)
	}
}

func TestNothingIsLostInAnOutage(t *testing.T) {
	r := start(t, Options{})
	s := r.plane.accept(t)
	s.subscribed()
	s.ack(AddressType, nil, workload(t, "a", "v1", "10.0.0.1"), workload(t, "b", "v2", "10.0.0.2"), service(t, "web", "v3", "10.9.0.1"))
	q := s.send(AuthorizationType, nil, denial(t, "p", "v4"), denial(t, "bad", "v5", func(a *workloadapi.Authorization) { a.Action = 7 }))
	if q.ErrorDetail == nil {
		t.Fatal("not refused")
	}
	s.end <- status.Error(codes.Unavailable, "going away")

	s = r.plane.accept(t)
	r.want("a", "b")
	addresses, authorizations := s.subscribed()
	for name, want := range map[string]string{uid("a"): "v1", uid("b"): "v2", "default/web": "v3"} {
		if got, ok := addresses.InitialResourceVersions[name]; !ok || got != want {
			t.Errorf("version of %s: got %q, %t, want %q", name, got, ok, want)
		}
	}
	versions := authorizations.InitialResourceVersions
	if bad, ok := versions["default/bad"]; versions["default/p"] != "v4" || !ok || bad != "" {
		t.Errorf("versions of policies: got %v, want none of the one that was refused", versions)
	}
	// What was unchanged is not sent again; what went away meanwhile is told.
	s.ack(AddressType, []string{uid("a")})
	r.want("b")
	s.ack(AuthorizationType, []string{"default/bad"})
	if got := r.store.Rejected(); len(got) != 0 {
		t.Errorf("rejected: %v", got)
	}
	if stats := r.source.Stats(); !stats.Connected || stats.Terminations[Error] != 1 {
		t.Errorf("stats: got %+v", stats)
	}
	s.end <- nil
	s = r.plane.accept(t)
	addresses, _ = s.subscribed()
	if len(addresses.InitialResourceVersions) != 2 {
		t.Errorf("versions: got %v", addresses.InitialResourceVersions)
	}
	if got := strings.Count(r.log.String(), "xds: connected"); got != 2 {
		t.Errorf("connected %d times:\n%s", got, r.log)
	}
}

func TestNamesMeanWhatTheyMeantBefore(t *testing.T) {
	r := start(t, Options{})
	s := r.plane.accept(t)
	s.subscribed()
	s.ack(AddressType, nil, resource(t, "default/x", "1", &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: &workloadapi.Workload{
		Uid: "default/x", Name: "x", Namespace: "default", Addresses: [][]byte{{10, 0, 0, 1}},
	}}}))
	r.want("x")
	s.ack(AddressType, nil, service(t, "x", "2", "10.9.0.1"))
	r.want()
	if d := r.at("10.9.0.1:80"); d == nil {
		t.Error("no service")
	}
}

// A control plane that is away is asked again, at first at once and then less
// and less often; that is said once.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		log := new(logBuffer)
		r := &rig{T: t, log: log}
		source, err := New(Options{Istiod: istiod.Options{Address: "http://istiod", Dial: func(context.Context, string) (net.Conn, error) {
			at = append(at, time.Since(start))
			return nil, errGone
		}}, Log: newLog(log)})
		if err != nil {
			t.Fatal(err)
		}
		r.store = config.NewStore(config.Options{})
		if err := source.Run(ctx, r.store); err != nil {
			t.Error(err)
		}
		if len(at) < 16 || len(at) > 30 || at[1] > 50*time.Millisecond {
			t.Errorf("asked %d times in two minutes: %v", len(at), at)
		}
		if last := at[len(at)-1] - at[len(at)-2]; last < 11*time.Second || last > 19*time.Second {
			t.Errorf("in the end asked every %v", last)
		}
		if got := strings.Count(log.String(), "no stream from istiod"); got < 10 || strings.Count(log.String(), "WARN") != 2 || !strings.Contains(log.String(), "gone") {
			t.Errorf("%d lines, of which not one is a warning:\n%s", got, log)
		}
		if got := source.Stats(); got.Terminations[ConnectionError] < 10 || got.Connected {
			t.Errorf("stats: got %+v", got)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	for address, want := range map[string]string{
		"":                    "is not of the form https://host:port",
		"ftp://istiod":        "the scheme is neither https nor http",
		"https://istiod/path": "has more than a host and a port",
		"https://istiod":      "no roots",
	} {
		if _, err := New(Options{Istiod: istiod.Options{Address: address}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q in it", address, err, want)
		}
	}
}

func TestKeysComeBackToTheirNames(t *testing.T) {
	for _, k := range []struct {
		kind kind
		name string
	}{{aWorkload, uid("a")}, {aWorkload, "0ae5"}, {aService, "default/web"}, {aPolicy, "default/p"}, {aMeshPolicy, "mesh-config/p"}} {
		key := k.kind.key(k.name, "istio-system")
		if key == (mesh.Key{}) || kindOf(key) != k.kind || nameOf(key) != k.name {
			t.Errorf("%v %q: got %v, which is %v of %q", k.kind, k.name, key, kindOf(key), nameOf(key))
		}
	}
}
