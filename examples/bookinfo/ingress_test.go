package bookinfo

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// ingress returns the Ingress of a Gateway in manifests, whose requests a handler
// sees with the address that they were sent to in X-Sent-To.
func ingress(t *testing.T, gateway string, texts ...string) *Ingress {
	t.Helper()
	index := manifest.NewIndex(manifest.Options{})
	for _, text := range texts {
		f := manifest.Decode("test.yaml", []byte(text))
		for _, o := range f.Objects {
			if o.Err != nil {
				t.Fatal(o.Err)
			}
			index.Set(o)
		}
	}
	g := NewIngress(echo{})
	if err := g.Set(index.Ingress(mesh.Key{Kind: "Gateway", Namespace: "default", Name: gateway})); err != nil {
		t.Fatal(err)
	}
	return g
}

// echo answers with what it was asked.
type echo struct{}

func (echo) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	w.Header().Set("X-Sent-To", r.URL.Host)
	w.Header().Set("X-Asked-Host", r.Host)
	w.Header().Set("X-Asked-Path", r.URL.RequestURI())
	w.Header().Set("X-Asked-For", r.Header.Get("X-Forwarded-For"))
	w.Header().Set("X-Asked-Added", r.Header.Get("X-Added"))
	return w.Result(), nil
}

func ask(g *Ingress, url string) *http.Response {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, url, nil)
	r.RequestURI = r.URL.RequestURI()
	g.ServeHTTP(w, r)
	return w.Result()
}

func manifests(t *testing.T, names ...string) (texts []string) {
	t.Helper()
	for _, n := range names {
		text, err := Manifests.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	return texts
}

func TestIngressServesBookinfosRoutes(t *testing.T) {
	g := ingress(t, "bookinfo-gateway", manifests(t, "01-bookinfo.yaml", "bookinfo-gateway.yaml")...)
	for path, want := range map[string]int{
		"/productpage": 200, "/static/x": 200, "/login": 200, "/api/v1/products": 200, "/api/v1/products/0": 200,
		"/": 404, "/productpage/x": 404, "/api/v1/productsx": 404, "/secret/../productpage": 200, "/productpage/../secret": 404, "/a%00b": 400,
	} {
		resp := ask(g, "http://shop.example:8080"+path)
		if resp.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, resp.StatusCode, want)
			continue
		}
		if want == 200 && resp.Header.Get("X-Sent-To") != "productpage.default.svc.cluster.local:9080" {
			t.Errorf("%s: sent to %s", path, resp.Header.Get("X-Sent-To"))
		}
	}
	resp := ask(g, "http://shop.example:8080/api/v1/products/a%2Fb?q=%20")
	if got := resp.Header.Get("X-Asked-Path"); got != "/api/v1/products/a%2Fb?q=%20" {
		t.Errorf("path: got %s", got)
	}
	if got := resp.Header.Get("X-Asked-Host"); got != "shop.example:8080" {
		t.Errorf("host: got %s", got)
	}
	if got := resp.Header.Get("X-Asked-For"); got != "192.0.2.1" {
		t.Errorf("X-Forwarded-For: got %s", got)
	}
}

const routes = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: default}
spec: {gatewayClassName: istio, listeners: [{name: http, port: 8080, protocol: HTTP}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: exact, namespace: default}
spec:
  parentRefs: [{name: gw}]
  hostnames: [a.example]
  rules:
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}]
  - matches: [{path: {type: PathPrefix, value: /new}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-added, value: "yes"}]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-answered, value: "yes"}]}}
    backendRefs: [{name: web, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: wild, namespace: default}
spec:
  parentRefs: [{name: gw}]
  hostnames: ["*.example"]
  rules:
  - backendRefs: [{name: missing, port: 80}]
`

func TestIngressKnowsHostsFiltersAndMissingBackends(t *testing.T) {
	g := ingress(t, "gw", routes)
	if resp := ask(g, "http://a.example:8080/old/x"); resp.StatusCode != 302 || !strings.HasSuffix(resp.Header.Get("Location"), "/new") {
		t.Errorf("redirect: got %d %v", resp.StatusCode, resp.Header)
	}
	resp := ask(g, "http://A.example/new")
	if resp.StatusCode != 200 || resp.Header.Get("X-Asked-Added") != "yes" || resp.Header.Get("X-Answered") != "yes" {
		t.Errorf("filters: got %d %v", resp.StatusCode, resp.Header)
	}
	if resp := ask(g, "http://a.example/other"); resp.StatusCode != 500 {
		t.Errorf("what the exact host has no rule for is the wildcard's: got %d", resp.StatusCode)
	}
	if resp := ask(g, "http://b.example/"); resp.StatusCode != 500 {
		t.Errorf("missing backend: got %d", resp.StatusCode)
	}
	for _, host := range []string{"example", "other.test"} {
		if resp := ask(g, "http://"+host+"/"); resp.StatusCode != 404 {
			t.Errorf("%s: got %d", host, resp.StatusCode)
		}
	}
}

func TestIngressWithoutAGatewayServesNothing(t *testing.T) {
	g := ingress(t, "other", routes)
	if resp := ask(g, "http://a.example/new"); resp.StatusCode != 404 {
		t.Errorf("got %d", resp.StatusCode)
	}
	if err := g.serve(t.Context(), "127.0.0.1", nil); err == nil {
		t.Error("a Gateway without listeners is served")
	}
}
