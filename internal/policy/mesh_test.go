package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// write makes files in a directory.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const aPolicy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: nn}\nspec: {rules: [{}]}\n"

// Of a directory, what the proxies read is read.
func TestReadIsAsTheProxiesDo(t *testing.T) {
	dir := write(t, map[string]string{"a.yaml": aPolicy, "b.txt": "{", ".hidden.yaml": "{", "deeper/c.yaml": "{", "d.json": `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"nn"}}`})
	m, err := Read(dir)
	if err != nil || len(m.objects) != 2 || len(m.errs) != 0 || !m.HasPolicies() {
		t.Errorf("got %+v, %v", m, err)
	}
	for _, paths := range [][]string{{filepath.Join(dir, "none")}, {filepath.Join(dir, "deeper"), filepath.Join(dir, "b.txt"), t.TempDir()}} {
		if _, err := Read(paths...); err == nil {
			t.Errorf("%q: no error", paths)
		}
	}
}

func TestTheLastOfAnObjectCounts(t *testing.T) {
	first := write(t, map[string]string{"a.yaml": strings.Replace(aPolicy, "rules: [{}]", "rules: [{to: [{operation: {portz: []}}]}]", 1)})
	last := write(t, map[string]string{"b.yaml": aPolicy})
	m, err := Read(first, last)
	if err != nil {
		t.Fatal(err)
	}
	if problems := New(Options{}, m).Problems(); problems != nil {
		t.Errorf("what is not in force any more is a problem: %v", problems)
	}
	if m, _ = Read(last, first); len(New(Options{}, m).Problems()) != 1 {
		t.Error("what is wrong is no problem")
	}
	both := write(t, map[string]string{"a.yaml": aPolicy, "b.yaml": aPolicy})
	m, _ = Read(both)
	if problems := New(Options{}, m).Problems(); len(problems) != 1 || !strings.Contains(problems[0].Error(), "b.yaml:1: AuthorizationPolicy nn/a: is also in "+both) {
		t.Errorf("got %v", problems)
	}
}

// A policy that the Store refuses is a problem, and where it is written is said.
func TestWhatTheStoreRefusesIsAProblem(t *testing.T) {
	m := New(Options{}, manifests("\n"+strings.Replace(aPolicy, "rules: [{}]", "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]", 1), `
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w, namespace: nn}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
`))
	problems := m.Problems()
	if len(problems) != 1 || !strings.Contains(problems[0].Error(), "test.yaml:") || !strings.Contains(problems[0].Error(), "root namespace") {
		t.Errorf("got %v", problems)
	}
}

func TestMeshConfigIsHeard(t *testing.T) {
	m := New(Options{}, manifests(`
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    trustDomain: td
    rootNamespace: root
    pathNormalization: {normalization: MERGE_SLASHES}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: everywhere, namespace: root}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]
  rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b]}}], to: [{operation: {paths: [/a/b]}}]}]
`).With(shop(t)))
	x := explain(t, m, Request{To: "Service/shop/cart", From: "a/b", Path: "//a//b"})
	if !x.Allowed || x.Request.From != "td/ns/a/sa/b" || x.Request.Path != "/a/b" || x.Policy != "root/everywhere" {
		t.Errorf("got %s", x)
	}
}

// What was never in a cluster: each thing that is assumed is said, and what is
// there is not replaced.
func TestWhatIsAssumed(t *testing.T) {
	text := `
apiVersion: v1
kind: List
items:
- apiVersion: apps/v1
  kind: StatefulSet
  metadata: {name: db, namespace: app}
  spec: {template: {metadata: {labels: {app: db}}, spec: {serviceAccountName: db, containers: [{name: c}]}}}
- apiVersion: batch/v1
  kind: CronJob
  metadata: {name: job, namespace: app}
  spec: {jobTemplate: {spec: {template: {metadata: {labels: {app: job}}, spec: {serviceAccountName: job, containers: [{name: c}]}}}}}
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: web, namespace: app}
  spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c}]}}}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-1, namespace: app, labels: {app: web}}
  spec: {containers: [{name: c}]}
- apiVersion: v1
  kind: Service
  metadata: {name: headless, namespace: app}
  spec: {clusterIP: None, selector: {app: db}, ports: [{port: 1}]}
- apiVersion: v1
  kind: Service
  metadata: {name: alias, namespace: app}
  spec: {type: ExternalName, externalName: x.example}
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: app}
  spec: {selector: {app: web}, ports: [{port: 1}]}
`
	m := New(Options{}, manifests(text))
	pods := map[string]bool{}
	for w := range m.view(node).Workloads() {
		pods[w.Name] = w.Tunnel == mesh.HBONE && len(w.Addresses) == 1
	}
	if len(pods) != 3 || !pods["db"] || !pods["job"] || !pods["web-1"] {
		t.Errorf("got %v", pods)
	}
	for k, want := range map[mesh.Key]string{
		{Kind: "Pod", Namespace: "app", Name: "db"}:      "of the StatefulSet of that name",
		{Kind: "Pod", Namespace: "app", Name: "job"}:     "of the CronJob of that name",
		{Kind: "Pod", Namespace: "app", Name: "web-1"}:   "it has no status",
		{Kind: "Service", Namespace: "app", Name: "web"}: "it has none yet",
		{Kind: "Namespace", Name: "app"}:                 "there is no Namespace to say",
	} {
		if got := m.note(k.Kind, k.Namespace, k.Name); !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", k, got, want)
		}
	}
	for s := range m.view(node).Services() {
		if has := len(s.Addresses) > 0; has != (s.Name == "web") {
			t.Errorf("%s has addresses: %t", s.Name, has)
		}
	}
}

func TestCasesAreRun(t *testing.T) {
	m := load(t, examples, examples+"/opa")
	s := cases(t)
	results := Test(t.Context(), s, m, time.Now())
	if Failed(results) != 0 {
		t.Error(Text(results))
	}
	if len(results) != len(s.Cases) || !strings.HasSuffix(Text(results), "13 cases, 13 passed, 0 failed\n") {
		t.Errorf("got %s", Text(results))
	}
	for i := range s.Cases {
		s.Cases[i].Allow = !s.Cases[i].Allow
	}
	if n := Failed(Test(t.Context(), s, m, time.Now())); n != len(s.Cases) {
		t.Errorf("%d of %d fail when all should", n, len(s.Cases))
	}
}

// A policy in Rego is asked; one that is broken, or fails, refuses unless it is
// said to fail open.
func TestRegoIsAsked(t *testing.T) {
	mesh := func(rego, more string) *Mesh {
		return New(Options{}, manifests(`
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "extensionProviders: [{name: o, opa: {configMap: {name: r, namespace: shop}`+more+`}}]"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: r, namespace: shop}
data:
  p.rego: |
    package envoy.authz
    `+rego+allow("ask", "Service", "cart", "action: CUSTOM\nprovider: {name: o}\nrules: [{}]")).With(shop(t)))
	}
	for _, tt := range []struct {
		name, rego, more string
		allowed          bool
		status           int
		says             string
	}{
		{"yes", "allow := true", "", true, 0, "asks o (opa)"},
		{"no", `allow := {"allowed": false, "http_status": 418}`, "", false, 418, "the provider o says no"},
		{"undefined", "allow if false", "", false, 403, "the policy of o fails"},
		{"broken", "allow :=", "", true, 0, "not known:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := explain(t, mesh(tt.rego, tt.more), Request{To: "Service/shop/cart", From: "shop/storefront"})
			if x.Allowed != tt.allowed || x.Status != tt.status || !strings.Contains(x.String(), tt.says) {
				t.Errorf("got %s", x)
			}
		})
	}
}

func TestRegoOfPolicies(t *testing.T) {
	m := load(t, examples, examples+"/opa")
	all, err := m.Rego(RegoOptions{})
	if err != nil || !strings.Contains(all, "AuthorizationPolicy shop/cart-callers, spec.rules[1]") || strings.Count(all, "package waystone.authz") != 1 {
		t.Errorf("got %v\n%s", err, all)
	}
	one, err := m.Rego(RegoOptions{Policies: []mesh.Key{{Namespace: "shop", Name: "cart-callers"}}, Bare: true})
	if err != nil || strings.Contains(one, "orders-customers") || strings.Contains(one, "any_principal(values) if") {
		t.Errorf("got %v\n%s", err, one)
	}
	if _, err := m.Rego(RegoOptions{Policies: []mesh.Key{{Namespace: "a", Name: "b"}}}); err == nil {
		t.Error("no error")
	}
	if _, err := New(Options{}, shop(t)).Rego(RegoOptions{}); err == nil {
		t.Error("no error")
	}
}

func TestProgressIsForTerminals(t *testing.T) {
	var out strings.Builder
	began := time.Now().Add(-time.Hour)
	p := NewProgress(&out, true, began)
	p.Tell(3600, 5<<20)
	p.Tell(3601, 5<<20) // too soon
	p.End()
	if got := out.String(); !strings.Contains(got, "3600 lines, 5 MiB, 1 lines/s") || strings.Contains(got, "3601") {
		t.Errorf("got %q", got)
	}
	out.Reset()
	p = NewProgress(&out, false, began)
	p.Tell(1, 1)
	p.End()
	if out.String() != "" {
		t.Errorf("got %q", out.String())
	}
}

// FuzzManifests has what may be anything read, assumed, judged and found fault
// with: nothing of it may panic.
func FuzzManifests(f *testing.F) {
	for _, name := range []string{"/shop.yaml", "/mistakes/mistakes.yaml", "/opa/opa.yaml", "/require-token.yaml"} {
		text, err := os.ReadFile(examples + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("kind: List\nitems: [{kind: Pod, metadata: {name: x}}, 1, [], {kind: List, items: [{kind: Service, metadata: {name: y}, spec: {1: 2}}]}]")
	f.Add("kind: Gateway\nmetadata: {name: g, labels: [x]}\nspec: {listeners: [{protocol: HBONE}, 3]}\nstatus: []")
	f.Add("kind: Deployment\nmetadata: {name: d}\nspec: {template: {metadata: {labels: {a: [1]}}, spec: null}}")
	f.Add("kind: CronJob\nmetadata: {name: &a d, namespace: *a}\nspec: {jobTemplate: 1}")
	f.Fuzz(func(t *testing.T, text string) {
		files := manifests(text)
		m := New(Options{}, files)
		m.Problems()
		_ = Findings(m.Lint())
		_, _ = m.Rego(RegoOptions{})
		_, _ = Guard(Options{}, files, shopWaypoint)
		for _, to := range []string{"Service/shop/cart", "10.244.1.12", "Gateway/shop/waypoint", "Workload/shop/catalog-1"} {
			if x, err := m.Explain(t.Context(), Request{To: to, From: "shop/storefront", Claims: map[string]any{}}, time.Now()); err == nil {
				_ = x.String()
			}
		}
	})
}
