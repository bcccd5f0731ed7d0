package policy

import (
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

var shopWaypoint = mesh.Key{Namespace: "shop", Name: "waypoint"}

// What is written is valid, our own lint has nothing to say against it, and it
// closes the way around: a client of the mesh that dials a pod is refused.
func TestGuardClosesTheWayAround(t *testing.T) {
	files, err := Read(examples)
	if err != nil {
		t.Fatal(err)
	}
	around := Request{To: "Workload/shop/cart-1", From: "shop/storefront"}
	if x := explain(t, New(Options{}, files), around); !x.Allowed {
		t.Fatalf("it is closed already: %s", x)
	}
	text, err := Guard(Options{}, files, shopWaypoint)
	if err != nil {
		t.Fatal(err)
	}
	files.Add("guard.yaml", []byte(text))
	m := New(Options{}, files)
	if problems := m.Problems(); problems != nil {
		t.Error(problems)
	}
	if findings := m.Lint(); len(findings) != 0 {
		t.Error(Findings(findings))
	}
	if n := strings.Count(text, "kind: AuthorizationPolicy"); n != 5 {
		t.Errorf("%d policies, want one for each service:\n%s", n, text)
	}
	if x := explain(t, m, around); x.Allowed || x.Policy != "none" {
		t.Errorf("got %s", x)
	}
	if x := explain(t, m, Request{To: "Service/shop/cart", From: "shop/storefront", Path: "/cart/1"}); !x.Allowed {
		t.Errorf("got %s", x)
	}
}

// Two Services of one set of pods have one guard, which lets in all of their
// waypoints; and pods that are served by themselves have their own.
func TestGuardOfSharedPods(t *testing.T) {
	files := manifests(`
apiVersion: v1
kind: Service
metadata: {name: cart-too, namespace: shop, labels: {istio.io/use-waypoint: other}}
spec: {clusterIP: 10.96.20.99, selector: {app: cart}, ports: [{name: http, port: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other, namespace: shop, labels: {istio.io/waypoint-for: all}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Pod
metadata: {name: job, namespace: shop, labels: {app: job, pod-template-hash: x, istio.io/use-waypoint: other}}
spec: {serviceAccountName: job, containers: [{name: job}]}
`).With(shop(t))
	text, err := Guard(Options{}, files, mesh.Key{Namespace: "shop", Name: "other"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cart-too-only-by-waypoint", "- cluster.local/ns/shop/sa/other\n        - cluster.local/ns/shop/sa/waypoint\n", "job-only-by-waypoint", "app: \"job\"", "# Assumed: the waypoint shop/other runs as"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "pod-template-hash") || strings.Count(text, "kind: AuthorizationPolicy") != 2 {
		t.Errorf("got\n%s", text)
	}
}

// A part of a Service's connections comes by its canary.
func TestGuardLetsInTheCanary(t *testing.T) {
	files := withCanary(t)
	for _, name := range []string{"waypoint", "next"} {
		text, err := Guard(Options{}, files, mesh.Key{Namespace: "shop", Name: name})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"cart-only-by-waypoint", "- cluster.local/ns/shop/sa/next\n", "- cluster.local/ns/shop/sa/waypoint\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", name, want, text)
			}
		}
	}
}

// withCanary is the shop with a canary for a fifth of the cart's connections, and a
// policy there.
func withCanary(t *testing.T) *Manifests {
	return manifests(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: next, namespace: shop}
spec: {gatewayClassName: istio-waypoint, addresses: [{value: 10.244.1.99}], listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop, labels: {istio.io/use-waypoint: waypoint, istio.io/use-waypoint-canary: next}, annotations: {istio.io/use-waypoint-canary-weight: "20"}}
spec: {clusterIP: 10.96.20.98, selector: {app: cart}, ports: [{name: http, port: 8080}, {name: tcp, port: 9000}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-writes, namespace: shop}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: next}], action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}
`).With(shop(t))
}

func TestGuardSaysWhatItCannotClose(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"another ALLOW", `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: friends, namespace: shop}
spec: {rules: [{from: [{source: {namespaces: [operators]}}]}]}
`, "cluster.local/ns/operators/sa/console is still allowed by AuthorizationPolicy shop/friends rule 0"},
		{"a DENY", `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: refuse, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {serviceAccounts: [waypoint]}}]}]}
`, "the waypoint itself is denied by AuthorizationPolicy shop/refuse rule 0"},
		{"a namespace outside", `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}
`, "is not in the mesh"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := manifests(tt.text).over(shop(t), func(string) bool { return true })
			text, err := Guard(Options{}, files, shopWaypoint)
			if text == "" || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	if text, err := Guard(Options{}, shop(t), mesh.Key{Namespace: "shop", Name: "none"}); text != "" || err == nil {
		t.Errorf("got %q, %v", text, err)
	}
}
