package waypoint_test

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/meshtest"
)

// named answers with a name.
func named(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-internal", "secret")
		fmt.Fprintf(w, "%s %s %s added=%s removed=%s", name, r.Method, r.URL, r.Header.Get("x-added"), r.Header.Get("x-removed"))
	}
}

const itemsRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: items, namespace: default}
spec:
  parentRefs: [{kind: Service, group: "", name: items, port: 80}]
  rules:
`

func TestRouteWeights(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		m.Workload("web")
		for _, name := range []string{"items", "one", "two"} {
			m.Workload(name).Serve(named(name))
			m.Service(name, 80)
		}
		m.Service("items", 80).Waypoint()
		m.Apply(itemsRoute + `
  - matches: [{path: {type: PathPrefix, value: /split}}]
    backendRefs: [{name: one, port: 80, weight: 80}, {name: two, port: 80, weight: 20}]
`)
		got := map[string]int{}
		const n = 2000
		clients := []*meshtest.Client{m.From("web"), m.FromHTTP2("web")}
		for i := range n {
			r := clients[i%2].Get("http://items/split").Want(200)
			name, _, _ := strings.Cut(r.Body, " ")
			got[name]++
		}
		for name, want := range map[string]float64{"one": 80, "two": 20} {
			if percent := 100 * float64(got[name]) / n; math.Abs(percent-want) > 5 {
				t.Errorf("%s got %.1f%% of requests, want %v%%", name, percent, want)
			}
		}
	})
}

func TestRouteFeatures(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		m.Workload("web")
		m.Workload("items").Serve(named("items"))
		m.Workload("other").Serve(named("other"))
		m.Service("items", 80)
		m.Service("other", 80)
		m.Service("empty", 80)
		m.Service("items", 80).Waypoint()
		m.Apply(itemsRoute + `
  - matches: [{path: {type: PathPrefix, value: /headers}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-added, value: "yes"}], remove: [x-removed]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-answered, value: "too"}], remove: [x-internal]}}
    backendRefs: [{name: items, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}}]
  - matches: [{path: {type: PathPrefix, value: /rewritten}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: elsewhere.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /inside}}}]
    backendRefs: [{name: other, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /empty}}]
    backendRefs: [{name: empty, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /missing}}]
    backendRefs: [{name: no-such-service, port: 80}]
`)
		for _, c := range []*meshtest.Client{m.From("web"), m.FromHTTP2("web")} {
			r := c.Do("GET", "http://items/headers", "", "x-removed", "here").Want(200).WantBody("added=yes removed=")
			if strings.HasSuffix(r.Body, "here") || r.Header.Get("x-answered") != "too" || r.Header.Get("x-internal") != "" {
				t.Errorf("headers: got %q and %v", r.Body, r.Header)
			}
			if r := c.Get("http://items/old/thing?q=1").Want(301); r.Header.Get("location") != "http://items/new/thing?q=1" {
				t.Errorf("redirect: location is %q", r.Header.Get("location"))
			}
			c.Get("http://items/rewritten/path?q=1").Want(200).WantBody("other GET /inside/path?q=1")
			c.Get("http://items/empty").Want(503)
			c.Get("http://items/missing").Want(500)
			c.Get("http://items/nothing-matches").Want(404)
		}
		m.WantLog("path", "/empty", "response_flags", "UH", "response_code_details", "no_healthy_upstream")
		m.WantLog("path", "/nothing-matches", "response_flags", "NR", "response_code_details", "route_not_found")
		m.WantLog("path", "/old/thing?q=1", "response_code", 301, "response_code_details", "direct_response")
		m.WantMetric(`istio_requests_total{reporter="waypoint",response_code="503",response_flags="UH"}`, 2)
	})
}

const denyAdmin = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-admin, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  action: DENY
  rules: [{to: [{operation: {paths: [/admin, /admin/*]}}]}]
`

// TestPathsAreNormalisedBeforePolicy asks for one path in several spellings, none
// of which may get past the policy, and what gets past must be what was judged.
func TestPathsAreNormalisedBeforePolicy(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		shop(m, "http", named("items"))
		m.Apply(denyAdmin)
		c := m.From("web")
		for path, status := range map[string]int{
			"/admin": 403, "/a/../admin": 403, "/./admin": 403, "/admin/x": 403, "/admin%2e%2e": 200,
			"/%61dmin": 403, "/adm%69n": 403, "/a/%2e%2e/admin": 403, "/a/%2E./admin": 403, "/public": 200, "/a/../public": 200,
		} {
			c.HTTP.Transport.(*http.Transport).DisableCompression = true
			if r := c.Get("http://items" + path); r.Status != status {
				t.Errorf("%s: got %d %q, want %d", path, r.Status, r.Body, status)
			}
		}
		c.Get("http://items/a/../public").WantBody("GET /public")
	})
}

// TestPolicyEditOnOpenConnections changes policy under kept-alive connections,
// with requests in flight all the while: none is lost.
func TestPolicyEditOnOpenConnections(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		shop(m, "http", meshtest.Echo)
		clients := []*meshtest.Client{m.From("web"), m.FromHTTP2("web")}
		for i := range 20 {
			for _, c := range clients {
				c.Post("http://items/", strconv.Itoa(i)).Want(200)
			}
			m.Apply(denyPost)
			for _, c := range clients {
				c.Post("http://items/", strconv.Itoa(i)).Want(403)
				c.Get("http://items/").Want(200)
			}
			m.Delete("AuthorizationPolicy/default/deny-post")
		}
	})
}
