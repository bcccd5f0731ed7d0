package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

func explain(t testing.TB, m *Mesh, r Request) *Report {
	t.Helper()
	x, err := m.Explain(t.Context(), r, time.Unix(1_700_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// Pods that answer alike are told of once; and one that refuses counts.
func TestExplainAsksEveryPod(t *testing.T) {
	m := New(Options{}, manifests(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: app}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: v2, namespace: app}
spec: {selector: {matchLabels: {version: v2}}, action: DENY, rules: [{to: [{operation: {ports: ["8080"]}}]}]}
`+pods("app", "web-1", "app: web, version: v1", "web-2", "app: web, version: v1", "web-3", "app: web, version: v2")))
	x := explain(t, m, Request{To: "Service/app/web", From: "app/client"})
	if len(x.Steps) != 3 || strings.Join(x.Steps[1].Pods, " ") != "app/web-1 app/web-2" || !x.Steps[1].Allowed || x.Steps[2].Allowed || x.Allowed || x.Policy != "app/v2" {
		t.Errorf("got %s", x)
	}
}

// pods writes pods: names and labels.
func pods(namespace string, list ...string) string {
	var b strings.Builder
	for i := 0; i+1 < len(list); i += 2 {
		b.WriteString("\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: " + list[i] + ", namespace: " + namespace + ", labels: {" + list[i+1] + "}}\n" +
			"spec: {serviceAccountName: " + namespace + ", containers: [{name: c}]}\n")
	}
	return b.String()
}

// There are two ways to a service with a canary, with policies of their own.
func TestExplainGoesByOneOfTwoWaypoints(t *testing.T) {
	m := New(Options{}, withCanary(t))
	r := Request{To: "Service/shop/cart:8080", From: "shop/storefront", Method: "POST"}
	x := explain(t, m, r)
	if !x.Allowed || !strings.Contains(x.String(), "not one of the 20 % that go through the waypoint shop/next") {
		t.Errorf("got %s", x)
	}
	r.Waypoint = mesh.Key{Namespace: "shop", Name: "next"}
	if x := explain(t, m, r); x.Allowed || x.Policy != "shop/no-writes" || strings.Contains(x.String(), "20 %") {
		t.Errorf("got %s", x)
	}
}

func TestExplainFollowsRoutes(t *testing.T) {
	m := New(Options{}, manifests(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: "", name: cart, port: 8080}]
  rules:
  - matches: [{path: {value: /orders}}]
    backendRefs: [{name: orders, port: 8080}]
  - matches: [{path: {value: /cart}}]
`).With(shop(t)))
	x := explain(t, m, Request{To: "Service/shop/cart", From: "shop/storefront", Path: "/orders/1"})
	if n := len(x.Steps); n != 2 || x.Steps[1].Where != "pod shop/orders-1" || x.Steps[0].Route != "shop.split.0" {
		t.Errorf("got %s", x)
	}
	x = explain(t, m, Request{To: "Service/shop/cart", From: "shop/storefront", Path: "/other"})
	if !strings.Contains(x.String(), "no route matches: 404") || !x.Allowed {
		t.Errorf("got %s", x)
	}
}

func TestExplainAsksAnotherWaypoint(t *testing.T) {
	m := New(Options{}, manifests(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: other, namespace: shop}
spec: {targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: other}]}
`).With(shop(t)))
	r := Request{To: "Service/shop/cart", From: "shop/storefront"}
	if x := explain(t, m, r); !x.Allowed {
		t.Errorf("got %s", x)
	}
	r.Waypoint = mesh.Key{Namespace: "shop", Name: "other"}
	if x := explain(t, m, r); x.Allowed || x.Policy != "none" || x.Status != 403 {
		t.Errorf("got %s", x)
	}
}

func TestExplainOfPortsAndProtocols(t *testing.T) {
	m := New(Options{}, manifests(allow("p", "Service", "orders-db", "action: DENY\nrules: [{to: [{operation: {paths: [/x]}}]}]")).With(shop(t)))
	// HTTP to a port that is declared to be something else is a connection.
	x := explain(t, m, Request{To: "Service/shop/orders-db", From: "shop/orders", Path: "/y"})
	if x.Allowed || x.Status != 0 || !strings.Contains(x.String(), "declared to be tcp") {
		t.Errorf("got %s", x)
	}
	x = explain(t, m, Request{To: "Service/shop/cart:81", From: "shop/orders"})
	if !strings.Contains(x.String(), "has no port 81") {
		t.Errorf("got %s", x)
	}
}

func TestQuestionsThatAreWrong(t *testing.T) {
	m := load(t, examples)
	for _, tt := range []struct {
		r    Request
		want string
	}{
		{Request{}, "to:"},
		{Request{To: "Service/shop/nothing"}, "there is no Service shop/nothing"},
		{Request{To: "Gateway/shop/nothing"}, "there is no waypoint shop/nothing"},
		{Request{To: "Pod/shop/nothing"}, "there is no pod shop/nothing"},
		{Request{To: "Service/cart"}, "is not of the form"},
		{Request{To: "Deployment/shop/cart"}, "is none of"},
		{Request{To: "Service/shop/cart:x"}, "is not 1 to 65535"},
		{Request{To: "10.9.9.9"}, "nothing in the manifests"},
		{Request{To: "cart.other:80"}, "nothing in the manifests"},
		{Request{To: "Service/shop/cart", From: "sleep"}, "neither namespace/account nor"},
		{Request{To: "Service/shop/cart", From: "a b/c"}, "identity"},
		{Request{To: "Service/shop/cart", At: "home"}, "neither waypoint nor node"},
		{Request{To: "Service/shop/orders", From: "shop/storefront", Token: "a.b.c", TrustToken: true}, "jwt:"},
	} {
		if _, err := m.Explain(t.Context(), tt.r, time.Now()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %s", tt.r, err, tt.want)
		}
	}
}

func TestExplainFindsTargets(t *testing.T) {
	m := load(t, examples)
	for to, want := range map[string]string{
		"Service/shop/cart":           "Service shop/cart",
		"service/shop/cart:8080":      "Service shop/cart",
		"10.96.20.11":                 "Service shop/cart",
		"10.96.20.11:8080":            "Service shop/cart",
		"cart.shop.svc.cluster.local": "Service shop/cart",
		"cart.shop:8080":              "Service shop/cart",
		"cart":                        "Service shop/cart",
		"Workload/shop/cart-1":        "pod shop/cart-1",
		"Pod/shop/cart-1:8080":        "pod shop/cart-1",
		"10.244.1.12":                 "pod shop/cart-1",
	} {
		if x := explain(t, m, Request{To: to, From: "shop/storefront"}); x.Request.To != want || !strings.HasSuffix(x.Request.Dest, ":8080") {
			t.Errorf("%s: got %+v, want %s", to, x.Request, want)
		}
	}
}

// A token is never part of what is said.
func TestNoTokenIsShown(t *testing.T) {
	m := load(t, examples)
	const token = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2FjY291bnRzLnNob3AuZXhhbXBsZSJ9.c2lnbmF0dXJl"
	for _, r := range []Request{
		{To: "Service/shop/orders", From: "shop/storefront", Token: token, Path: "/orders?access_token=" + token},
		{To: "Service/shop/orders", From: "shop/storefront", Token: token[:60], TrustToken: true},
	} {
		x, err := m.Explain(t.Context(), r, time.Now())
		if err != nil {
			if strings.Contains(err.Error(), "eyJ") {
				t.Errorf("got %v", err)
			}
			continue
		}
		if strings.Contains(x.String(), "eyJ") {
			t.Errorf("got %s", x)
		}
	}
}

func BenchmarkExplain(b *testing.B) {
	m := load(b, examples)
	r := Request{To: "Service/shop/cart", From: "shop/storefront", Method: "DELETE", Path: "/cart/1"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Explain(b.Context(), r, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad measures what a command does before it can answer.
func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		m := load(b, examples)
		m.view(mesh.Key{Kind: "Gateway", Namespace: "shop", Name: "waypoint"})
	}
}
