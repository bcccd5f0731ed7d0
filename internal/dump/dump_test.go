package dump

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/examples/bookinfo"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

var gateway = mesh.Key{Kind: "Gateway", Namespace: "default", Name: "bookinfo-productpage"}

// subject is the mesh of the walk-through, at its fullest, with one bad policy.
func subject(t *testing.T, o config.Options) Subject {
	t.Helper()
	index := manifest.NewIndex(manifest.Options{ByLabel: true})
	store := config.NewStore(o)
	for _, name := range []string{"00-mesh.yaml", "01-bookinfo.yaml", "ambient-namespace.yaml", "waypoint.yaml", "l7-policy.yaml", "reviews-split.yaml"} {
		text, err := bookinfo.Manifests.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, index, store, string(text))
	}
	apply(t, index, store, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: l4, namespace: default}
spec:
  selector: {matchLabels: {app: details}}
  action: DENY
  rules:
  - from:
    - source: {principals: ["cluster.local/ns/a/*", "*"], notNamespaces: ["*-b"], ipBlocks: [10.0.0.0/8]}
    to:
    - operation: {ports: ["9080"]}
    when:
    - {key: source.namespace, notValues: [c]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: bad, namespace: default}
spec: {selector: {matchLabels: {app: details}}, action: PERHAPS}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: default}
spec:
  targetRefs: [{group: "", kind: Service, name: productpage}]
  jwtRules:
  - issuer: one
    jwksUri: https://user:secret@issuer.example.com/keys?token=secret
    fromHeaders: [{name: x-token, prefix: "Token "}]
  - issuer: two
    jwks: '{"keys": [{"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}]}'
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: candidate, namespace: default, annotations: {istio.io/dry-run: "true", waystone.dev/replaces: productpage-viewer}}
spec: {targetRefs: [{group: "", kind: Service, name: productpage}], rules: [{}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: rego, namespace: istio-system}
data: {policy.rego: "package secret"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    trustDomainAliases: [old.example.com]
    pathNormalization: {normalization: MERGE_SLASHES}
    extensionProviders:
    - name: web
      envoyExtAuthzHttp: {service: authz.foo.svc, port: 80, timeout: 2s, includeAdditionalHeadersInCheck: {x-key: secret}, includeRequestBodyInCheck: {maxRequestBytes: 10}}
    - name: rego
      opa: {configMap: {name: rego}, statusOnError: "503"}
`)
	source, err := identity.Open("self:"+t.TempDir(), identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return Subject{store.Snapshot(), store.Rejected(), []string{"a.yaml:1: no"}, source}
}

func apply(t *testing.T, index *manifest.Index, store *config.Store, text string) {
	t.Helper()
	for _, o := range manifest.Decode("test.yaml", []byte(text)).Objects {
		if err := store.Apply(index.Set(o)); err != nil && o.Err == nil {
			t.Fatal(err)
		}
	}
}

// at follows a path of fields and indices through JSON.
func at(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			next, ok := m[p]
			if !ok {
				t.Fatalf("%v: no field %q in %v", path, p, v)
			}
			v = next
		case int:
			list, _ := v.([]any)
			if p >= len(list) {
				t.Fatalf("%v: no element %d in %v", path, p, v)
			}
			v = list[p]
		}
	}
	return v
}

func find(t *testing.T, list any, field, value string) any {
	t.Helper()
	for _, x := range list.([]any) {
		if m := x.(map[string]any); m[field] == value {
			return x
		}
	}
	t.Fatalf("none has %s %q", field, value)
	return nil
}

func encoded(t *testing.T, v any) any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "PRIVATE KEY") {
		t.Error("there is a private key in the dump")
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func want(t *testing.T, got any, want string) {
	t.Helper()
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != want {
		t.Errorf("got %s, want %s", text, want)
	}
}

func TestWaypointDumpSaysWhatIsServed(t *testing.T) {
	d := encoded(t, Waypoint(subject(t, config.Options{Gateway: gateway}), gateway, "127.244.1.50:15008"))
	want(t, at(t, d, "gateway", "forServiceAccount"), `"bookinfo-productpage"`)
	want(t, at(t, d, "gateway", "waypointFor"), `"all"`)
	want(t, at(t, d, "listeners"), `[{"address":"127.244.1.50:15008","name":"hbone","protocol":"HBONE"}]`)
	want(t, at(t, d, "attached"), `[{"endpoints":["127.244.1.24:9080"],"hasPolicies":true,"hasRequestAuthentications":true,"hasRoutes":false,"port":9080,"protocol":"http","service":"default/productpage.default.svc.cluster.local"},`+
		`{"endpoints":["127.244.1.24"],"hasPolicies":true,"hasRequestAuthentications":false,"hasRoutes":false,"workload":"Kubernetes//Pod/default/productpage-v1"}]`)
	p := find(t, at(t, d, "policies"), "name", "productpage-viewer")
	want(t, at(t, p, "selector"), `{"istio.io/gateway-name":"bookinfo-productpage"}`)
	want(t, at(t, d, "routes", 0, "name"), `"reviews"`)
	want(t, at(t, d, "certificates", 0, "identity"), `"spiffe://cluster.local/ns/default/sa/bookinfo-productpage-istio-waypoint"`)
	find(t, at(t, d, "rejected"), "name", "bad")
}

func TestWaypointDumpTellsOfAuthorizationButNoSecrets(t *testing.T) {
	d := encoded(t, Waypoint(subject(t, config.Options{Gateway: gateway}), gateway, "127.244.1.50:15008"))
	want(t, at(t, d, "mesh"), `{"pathNormalization":"MERGE_SLASHES","rootNamespace":"istio-system","trustDomain":"cluster.local","trustDomainAliases":["old.example.com"]}`)
	want(t, at(t, d, "providers"), `[{"kind":"opa","name":"rego","opa":{"configMap":"istio-system/rego","modules":["policy.rego"]},"statusOnError":503,"timeout":"1s"},`+
		`{"includeAdditionalHeadersInCheck":["x-key"],"includeRequestBodyInCheck":{"maxRequestBytes":10},"kind":"envoyExtAuthzHttp","name":"web","port":80,"service":"authz.foo.svc","statusOnError":403,"timeout":"2s"}]`)
	want(t, at(t, d, "requestAuthentications", 0, "jwtRules"), `[{"fromHeaders":[{"Name":"x-token","Prefix":"Token "}],"issuer":"one","jwksUri":"https://issuer.example.com/keys"},{"inlineJwks":true,"issuer":"two"}]`)
	want(t, at(t, find(t, at(t, d, "policies"), "name", "candidate"), "replaces"), `"productpage-viewer"`)
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"secret", "c2VjcmV0"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("there is %q in the dump", secret)
		}
	}
}

func TestWaypointDumpWithoutItsGateway(t *testing.T) {
	s := subject(t, config.Options{Gateway: gateway})
	s.Snapshot = new(config.Snapshot)
	d := encoded(t, Waypoint(s, gateway, ":15008"))
	for _, field := range []string{"attached", "workloads", "services", "providers", "policies", "requestAuthentications", "routes", "certificates"} {
		want(t, at(t, d, field), `[]`)
	}
	want(t, at(t, d, "gateway"), `null`)
}

func TestADumpTellsOfWhatIsUnusual(t *testing.T) {
	w := workload(&mesh.Workload{
		Unhealthy: true, AppTunnel: &mesh.AppTunnel{Proxy: true, Port: 15088}, Capacity: 3,
		Gateway: &mesh.GatewayAddress{Hostname: mesh.Hostname{Namespace: "ns", Host: "gw"}, Port: 15008}, Policies: []mesh.Key{{Namespace: "a", Name: "b"}},
	})
	if w.Status != "Unhealthy" || *w.ApplicationTunnel != (AppTunnel{"PROXY", 15088}) || w.NetworkGateway.Destination != "ns/gw" || w.Capacity != 3 || w.ServiceAccount != "default" {
		t.Errorf("got %+v", w)
	}
	if !slices.Equal(w.AuthorizationPolicies, []string{"a/b"}) {
		t.Errorf("got %v", w.AuthorizationPolicies)
	}
	s := service(&mesh.Service{Balance: mesh.Balance{Mode: mesh.Failover, Preference: []mesh.Scope{mesh.Network, mesh.Zone}, AllowUnhealthy: true}})
	if l := s.LoadBalancer; l.Mode != "Failover" || l.HealthPolicy != "AllowAll" || !slices.Equal(l.RoutingPreferences, []string{"Network", "Zone"}) {
		t.Errorf("got %+v", l)
	}
	r := rejections([]config.Rejection{{Key: mesh.Key{Kind: "K", Namespace: "n", Name: "x"}, Err: errors.New("why")}})
	if r[0].Kind != "K" || r[0].Reason != "why" || r[0].Closed {
		t.Errorf("got %+v", r)
	}
}

func TestACertificateThatIsMissingIsTold(t *testing.T) {
	source, err := identity.Open("self:"+t.TempDir(), identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := certificates(source, []identity.ID{{TrustDomain: "other", Namespace: "a", ServiceAccount: "b"}})
	if len(got) != 1 || len(got[0].RootCerts) != 0 || !strings.HasPrefix(got[0].State, "Unavailable: ") || len(got[0].CertChain) != 0 {
		t.Errorf("got %+v", got)
	}
}
