package policy

import (
	"strings"
	"testing"
)

// The world that policies are held against is that of the manifests.
func TestLintKnowsTheWorld(t *testing.T) {
	m := New(Options{}, manifests(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, namespace: shop}
spec: {hosts: [x.example]}
---
apiVersion: v1
kind: Service
metadata: {name: lost, namespace: shop, labels: {istio.io/use-waypoint: gone, istio.io/use-waypoint-namespace: other}}
spec: {clusterIP: 10.96.20.98, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: shop, labels: {istio.io/use-waypoint: none}}
spec: {clusterIP: 10.96.20.97, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "extensionProviders: [{name: ext, envoyExtAuthzHttp: {service: ext.shop.svc.cluster.local, port: 9000}}]"}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: on-entry, namespace: shop}
spec: {targetRefs: [{kind: ServiceEntry, group: networking.istio.io, name: ext}], rules: [{}]}
`+allow("on-lost", "Service", "lost", "rules: [{}]")+allow("on-out", "Service", "out", "rules: [{}]")+
		allow("asks", "Service", "orders-db", "action: CUSTOM\nprovider: {name: ext}\nrules: [{}]")+
		allow("asks-nobody", "Service", "cart", "action: CUSTOM\nprovider: {name: nobody}\nrules: [{}]")).With(shop(t)))
	got := Findings(m.Lint())
	for _, want := range []string{
		"shop/on-lost: spec.targetRefs[0].name: Service shop/lost names the waypoint other/gone, which is not there",
		"shop/on-out: spec.targetRefs[0].name: Service shop/out has no waypoint",
		"shop/asks: spec.rules[0]: on port 5432 of Service shop/orders-db, which is not HTTP, the provider ext is not asked",
		`shop/asks-nobody: spec.provider.name: there is no provider "nobody"`,
		"3 errors, 1 warnings",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// A waypoint serves what a part of the connections to comes by it.
func TestLintKnowsCanaries(t *testing.T) {
	if got := Findings(New(Options{}, withCanary(t)).Lint()); !strings.Contains(got, "port 9000 of Service shop/cart") {
		t.Errorf("got\n%s", got)
	}
}

// What a PeerAuthentication comes to is nobody's policy.
func TestLintLeavesWhatIsGenerated(t *testing.T) {
	m := New(Options{}, manifests(`
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: cart, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, portLevelMtls: {9090: {mode: PERMISSIVE}}}
`).With(shop(t)))
	if got := m.Lint(); len(got) != 0 {
		t.Error(Findings(got))
	}
	if x := explain(t, m, Request{To: "Workload/shop/cart-1"}); x.Allowed || !strings.Contains(x.Policy, "istio_converted") && !strings.Contains(x.Policy, "converted_") {
		t.Errorf("got %s", x)
	}
}
