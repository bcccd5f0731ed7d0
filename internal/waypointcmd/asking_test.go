package waypointcmd

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/waypoint"
)

// An askingMesh has the service items, behind a waypoint that asks authorizers as
// the program does.
type askingMesh struct {
	*meshtest.Mesh
	t *testing.T
	a *authorizers
}

func newAskingMesh(t *testing.T) *askingMesh {
	t.Helper()
	m := &askingMesh{t: t}
	m.Mesh = meshtest.With(t, meshtest.Options{Waypoint: func(o *waypoint.Options) {
		m.a = newAuthorizers(authorizerOptions{
			Self: o.Self, Identity: o.Identity, Store: o.Store, Loop: o.Loops.Loops()[0], ClusterDomain: "cluster.local", Dial: o.Dial,
		})
		o.Authorizer = m.a.client
	}})
	t.Cleanup(func() {
		if err := m.a.close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	m.Workload("default/web")
	m.Workload("default/items").Serve(meshtest.Echo)
	m.Service("items", 80).Waypoint()
	return m
}

// ask has a provider asked about all of items.
func (m *askingMesh) ask(provider string) {
	m.t.Helper()
	m.Apply(fmt.Sprintf(`
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - name: x
      %s
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  action: CUSTOM
  provider: {name: x}
  rules: [{}]
`, provider))
}

// A guard is an authorizer that lets /open pass, and notes who asked.
type guard struct {
	authv3.UnimplementedAuthorizationServer

	mu     sync.Mutex
	askers []string
}

func (g *guard) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.askers = append(g.askers, r.GetAttributes().GetSource().GetPrincipal())
	if r.GetAttributes().GetRequest().GetHttp().GetPath() != "/open" {
		return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.PermissionDenied)}}, nil
	}
	return &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
		Headers: []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: "x-guard", Value: "seen"}}},
	}}}, nil
}

// serve runs the guard in a workload.
func (g *guard) serve(t *testing.T, w *meshtest.Workload) *grpc.Server {
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, g)
	ln := w.Listen(meshtest.AppPort)
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(s.Stop)
	return s
}

// The authorizer is in the mesh: its node tunnel takes HBONE only, and its policy
// lets the waypoint alone ask.
func TestAuthorizerInTheMeshIsAskedOverGRPC(t *testing.T) {
	m := newAskingMesh(t)
	var first, second guard
	one := m.Workload("default/guard.1")
	server := first.serve(t, one)
	m.Service("guard", 9000).Protocol("grpc")
	m.Apply(`
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: default}
spec:
  selector: {matchLabels: {app: guard}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/waypoint]}}]}]
`)
	m.ask(`envoyExtAuthzGrpc: {service: guard.default.svc.cluster.local, port: 9000, timeout: 10s}`)
	m.From("web").Get("http://items/open").Want(200)
	m.From("web").Get("http://items/shut").Want(403)
	if want := "spiffe://cluster.local/ns/default/sa/web"; !slices.Contains(first.askers, want) {
		t.Errorf("asked about %v, want %s", first.askers, want)
	}
	m.WaitMetric(`istio_tcp_connections_opened_total{reporter="destination",source_principal="spiffe://cluster.local/ns/default/sa/waypoint",`+
		`destination_principal="spiffe://cluster.local/ns/default/sa/guard"}`, 2) // a lane for each question
	m.From("web").Get("http://guard:9000/").WantError()
	// The pod is replaced by another.
	second.serve(t, m.Workload("default/guard.2"))
	one.Ready(false)
	server.Stop()
	m.Until("the other guard is asked", func() bool {
		m.From("web").Get("http://items/open")
		second.mu.Lock()
		defer second.mu.Unlock()
		return len(second.askers) > 0
	})
	m.From("web").Get("http://items/open").Want(200)
	if s := m.a.status(); len(s) != 1 || s[0].Asked < 4 || s[0].Kind != "envoyExtAuthzGrpc" {
		t.Errorf("the status is %+v", s)
	}
}

func TestAuthorizerInTheMeshIsAskedOverHTTP(t *testing.T) {
	m := newAskingMesh(t)
	m.Workload("default/guard").Serve(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/check/open" {
			w.Header().Set("x-why", "shut")
			w.WriteHeader(401)
			_, _ = io.WriteString(w, "who are you?")
		}
	})
	m.Service("guard", 9000)
	m.ask(`envoyExtAuthzHttp: {service: guard.default, port: 9000, pathPrefix: /check, headersToDownstreamOnDeny: [x-why]}`)
	for range 5 {
		m.From("web").Get("http://items/open").Want(200)
		m.From("web").Get("http://items/shut").Want(401).WantBody("who are you?")
	}
	m.ask(`envoyExtAuthzHttp: {service: gone.default.svc.cluster.local, port: 9000}`)
	m.From("web").Get("http://items/open").Want(403)
	m.ask(`envoyExtAuthzHttp: {service: gone.default.svc.cluster.local, port: 9000, failOpen: true}`)
	m.From("web").Get("http://items/shut").Want(200)
	if s := m.a.status(); len(s) != 1 || s[0].Failed != 1 || !strings.Contains(s[0].LastError, "there is no service gone.default.svc.cluster.local") {
		t.Errorf("the status is %+v", s)
	}
}

func TestPolicyInAConfigMapDecides(t *testing.T) {
	m := newAskingMesh(t)
	rego := func(rule string) {
		m.Apply(`
apiVersion: v1
kind: ConfigMap
metadata: {name: rego, namespace: default}
data:
  policy.rego: |
    package envoy.authz
    ` + rule)
	}
	rego(`allow := {"allowed": input.parsed_path[0] == "open", "body": "shut by rego"}`)
	m.ask(`opa: {configMap: {name: rego, namespace: default}}`)
	m.From("web").Get("http://items/open").Want(200)
	m.From("web").Get("http://items/shut").Want(403).WantBody("shut by rego")
	rego(`allow := input.source_principal == "spiffe://cluster.local/ns/default/sa/web"`)
	m.From("web").Get("http://items/shut").Want(200)
	rego(`allow := {`)
	m.From("web").Get("http://items/shut").Want(200) // the last good one
	if s := m.a.status(); len(s) != 1 || s[0].Policy == nil || !strings.Contains(s[0].Policy.Error, "default/rego: policy.rego:2:10: ") {
		t.Errorf("the status is %+v", s)
	}
	m.Delete(mesh.Key{Kind: "ConfigMap", Namespace: "istio-system", Name: "istio"}.String())
	m.From("web").Get("http://items/open").Want(403) // nobody can be asked
}
