package manifest

import (
	"slices"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

func TestDecodeFindsLines(t *testing.T) {
	const text = `# a comment

apiVersion: v1
kind: Namespace
metadata:
  name: a
--- # the next
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Namespace
  metadata:
    name: b
- apiVersion: v1
  kind: Service
  metadata: {name: s}
  spec:
    ports:
    - port: 80
      nodePrt: 1
---
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: p
spec:
  rules:
  - when:
    - key: request.headers[a.b]
      vals: [x]
---
a: 1
a: 2
...
---
text: |
  ---- four
  --x
kind: X
apiVersion: y/v1
`
	f := Decode("f.yaml", []byte(text))
	var got []string
	for _, o := range f.Objects {
		line := nameOf(o.Key)
		if o.Err != nil {
			line = o.Err.Error()
		}
		got = append(got, line)
	}
	for _, e := range f.Errors {
		got = append(got, e.Error())
	}
	for _, u := range f.Unknown {
		got = append(got, u.Kind)
	}
	want := []string{
		"Namespace a",
		"Namespace b",
		`f.yaml:21: Service default/s: spec.ports[0].nodePrt: unknown field`,
		`f.yaml:32: AuthorizationPolicy default/p: spec.rules[0].when[0].vals: unknown field`,
		`f.yaml:35: not YAML: key "a" already set in map`,
		"y/v1 X",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if l := f.Objects[0].Line; l != 3 {
		t.Errorf("the first object is on line %d, want 3", l)
	}
	if l := f.Objects[1].Line; l != 11 {
		t.Errorf("the second object is on line %d, want 11", l)
	}
}

func TestDecodeReadsJSON(t *testing.T) {
	const text = `{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}

{"apiVersion": "v1",
 "kind": "Namespace",
 "metadata": {"name": "b", "labels": {"istio.io/dataplane-mode": "sidecar"}}}`
	f := Decode("f.json", []byte(text))
	if len(f.Objects) != 2 || len(f.Errors) != 0 {
		t.Fatalf("got %s", render(f))
	}
	if got, want := f.Objects[1].Err.Error(), `f.json:5: Namespace b: metadata.labels["istio.io/dataplane-mode"]: "sidecar" is neither ambient nor none`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if f := Decode("f.json", []byte("{")); len(f.Errors) != 1 {
		t.Errorf("broken JSON gives %s", render(f))
	}
}

func TestDecodeRefusesEmptyLists(t *testing.T) {
	for _, part := range []string{"from: []", "to: []", "when: []", "from: [{}]", "from: [null]", "to: [{operation: {}}]", "when: [{key: request.method}]"} {
		f := Decode("f.yaml", []byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {rules: [{"+part+"}]}\n"))
		if len(f.Objects) != 1 || f.Objects[0].Err == nil {
			t.Errorf("%s: got %s, want an error", part, render(f))
		}
	}
}

func TestIngressHasItsRoutes(t *testing.T) {
	const text = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: a}
spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP, hostname: "*.x.com", allowedRoutes: {namespaces: {from: Same}}}]}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: in, namespace: a}, spec: {parentRefs: [{name: gw, sectionName: http}], hostnames: [a.x.com], rules: [{backendRefs: [{name: s, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: out, namespace: b}, spec: {parentRefs: [{name: gw, namespace: a}], rules: [{}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: s, namespace: a}, spec: {ports: [{port: 80}]}}
`
	x := NewIndex(Options{})
	for _, o := range Decode("f.yaml", []byte(text)).Objects {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		x.Set(o)
	}
	got := x.Ingress(mesh.Key{Kind: "Gateway", Namespace: "a", Name: "gw"})
	want := `{Listeners:[{Name:"http" Port:80 Protocol:"HTTP" Hostname:"*.x.com"}] Routes:[{Hostnames:["a.x.com"] Route:Route{Namespace:"a" Name:"in" Parents:[{Service:a/gw Section:"http"}] Rules:[{Backends:[{Service:a/s.a.svc.cluster.local Port:80 Weight:1}]}]}}]}`
	if render(got) != want {
		t.Errorf("got  %s\nwant %s", render(got), want)
	}
	if got := x.Ingress(mesh.Key{Namespace: "a", Name: "other"}); got != nil {
		t.Errorf("got %s, want nil", render(got))
	}
}

// FuzzDecode gives Decode anything: it must not panic, and whatever it accepts
// an Index must take.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n  selector: {matchLabels: {app: x}}\n  action: DENY\n  rules:\n  - from: [{source: {principals: [\"*\"], trustDomains: [td]}}]\n    to: [{operation: {paths: [\"/a/{*}\"], ports: [\"80\"]}}]\n    when: [{key: \"request.headers[x]\", values: [a]}]\n"))
	f.Add([]byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{kind: Service, name: s}], rules: [{from: [null]}]}\n"))
	f.Add([]byte("apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: STRICT}}}\n"))
	f.Add([]byte("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{group: \"\", kind: Service, name: s}], rules: [{matches: [{path: {value: /x}}], backendRefs: [{name: s, port: 80}]}]}\n"))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: p}, status: {podIP: 10.0.0.1}}, null, 3]\n"))
	f.Add([]byte("&a [*a]\n---\n{{}: 1}\n---\n? [a]\n: b\n"))
	f.Add(readFile(f, "testdata/istiod/manifests.yaml"))
	f.Add([]byte("apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: p}\nspec: {targetRefs: [{kind: Service, name: s}], jwtRules: [{issuer: i, timeout: 5s, jwks: \"{}\"}]}\n"))
	f.Add([]byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: \"extensionProviders: [{name: x, opa: {configMap: {name: istio}}}]\", p.rego: package p}}"))
	f.Add([]byte("pathNormalization: {normalization: NONE}\nextensionProviders:\n- name: x\n  envoyExtAuthzHttp: {service: s, port: 1, timeout: 1s, includeRequestBodyInCheck: {maxRequestBytes: 1}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, name := range []string{"f.yaml", "f.json"} {
			got := Decode(name, data)
			x := NewIndex(Options{})
			for _, o := range got.Objects {
				x.Set(o)
			}
			file := DecodeMesh(name, data).Objects[0]
			x.Set(file)
			if m := x.Mesh(); m != nil {
				for _, p := range m.Providers {
					if err := p.Validate(); err != nil {
						t.Errorf("a provider that is accepted is not valid: %v", err)
					}
				}
			}
			x.Delete(file.Key)
			for _, o := range got.Objects {
				x.Delete(o.Key)
			}
			if n := len(x.Resources()); n != 0 {
				t.Errorf("%d resources remain when every object is gone", n)
			}
		}
	})
}
