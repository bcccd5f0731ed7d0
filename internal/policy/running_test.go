package policy

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/waystone-mesh/waystone/internal/dump"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// nobody has no certificates.
type nobody struct{}

func (nobody) Certificate(context.Context, identity.ID) (*tls.Certificate, error) {
	return nil, errors.New("none")
}
func (nobody) Roots() *x509bundle.Set { return nil }
func (nobody) Terms() *identity.Terms { return new(identity.Terms) }

// dumped is what the waypoint of the shop says at /config_dump.
func dumped(t *testing.T, paths ...string) []byte {
	t.Helper()
	m := load(t, paths...)
	gateway := mesh.Key{Kind: "Gateway", Namespace: "shop", Name: "waypoint"}
	v := m.view(gateway)
	data, err := json.Marshal(dump.Waypoint(dump.Subject{Snapshot: v.Snapshot, Rejected: v.rejected, Identity: nobody{}}, gateway, ":15008"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A running waypoint gives the answers that the files gave it.
func TestRunningIsAsTheFiles(t *testing.T) {
	files := load(t, examples)
	running, err := FromDump(Options{}, dumped(t, examples))
	if err != nil {
		t.Fatal(err)
	}
	suite := cases(t)
	asked := 0
	for _, c := range suite.Cases {
		if strings.Contains(c.Name, "OPA") {
			continue
		}
		asked++
		want, got := explain(t, files, c.Request), explain(t, running, c.Request)
		want.Assumed, got.Assumed = nil, nil
		if want.String() != got.String() {
			t.Errorf("%s: got %s\nwant %s", c.Name, got, want)
		}
	}
	if asked < 10 {
		t.Errorf("%d cases", asked)
	}
}

// cases returns those of the example.
func cases(t *testing.T) *Suite {
	t.Helper()
	data, err := ReadAtMost(open(t, examples+"/test/cases.yaml"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ReadCases("cases.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A policy that never was good closes there, and so here.
func TestRunningIsAsClosed(t *testing.T) {
	m := New(Options{}, manifests("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: bad, namespace: shop}\nspec: {rulez: 1, targetRefs: [{kind: Service, group: '', name: cart}]}").With(shop(t)))
	gateway := mesh.Key{Kind: "Gateway", Namespace: "shop", Name: "waypoint"}
	v := m.view(gateway)
	data, err := json.Marshal(dump.Waypoint(dump.Subject{Snapshot: v.Snapshot, Rejected: v.rejected, Identity: nobody{}}, gateway, ":15008"))
	if err != nil {
		t.Fatal(err)
	}
	running, err := FromDump(Options{}, data)
	if err != nil {
		t.Fatal(err)
	}
	x := explain(t, running, Request{To: "Service/shop/cart", From: "shop/storefront"})
	if x.Allowed || len(x.Problems) != 1 || !strings.Contains(x.Problems[0], "refuses everyone") || !strings.Contains(x.Line, "shop/bad was rejected") {
		t.Errorf("got %s", x)
	}
}

// What is in the waypoint alone is not asked here.
func TestRunningDoesNotAskItsOPA(t *testing.T) {
	m, err := FromDump(Options{}, dumped(t, examples, examples+"/opa"))
	if err != nil {
		t.Fatal(err)
	}
	x := explain(t, m, Request{To: "Service/shop/orders", From: "shop/storefront", Method: "DELETE", Path: "/orders/1",
		Claims: map[string]any{"iss": "https://accounts.shop.example", "sub": "bob", "groups": []any{"staff"}}})
	if !x.Allowed || !x.Unsure || x.Steps[0].Asked[0].Kind != "opa" {
		t.Errorf("got %s", x)
	}
}

func TestRunningAsksTheAdminAddress(t *testing.T) {
	data := dumped(t, examples)
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/config_dump" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(status)
		_, _ = w.Write(data)
	}))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	m, err := Running(t.Context(), Options{}, address, mesh.Key{Namespace: "shop", Name: "waypoint"})
	if err != nil {
		t.Fatal(err)
	}
	x, err := m.Explain(t.Context(), Request{To: "Service/shop/cart", From: "shop/storefront", Method: "DELETE", Path: "/cart/1", Waypoint: mesh.Key{Namespace: "shop", Name: "waypoint"}}, time.Now())
	if err != nil || x.Allowed || !strings.Contains(x.Line, "shop/cart-callers") {
		t.Errorf("got %s, %v", x, err)
	}
	if _, err := Running(t.Context(), Options{}, address, mesh.Key{Namespace: "shop", Name: "other"}); err == nil || !strings.Contains(err.Error(), "is the waypoint shop/waypoint, not shop/other") {
		t.Errorf("got %v", err)
	}
	status = http.StatusNotFound
	if _, err := Running(t.Context(), Options{}, address, mesh.Key{}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v", err)
	}
	server.Close()
	if _, err := Running(t.Context(), Options{}, address, mesh.Key{}); err == nil || !strings.Contains(err.Error(), "kubectl port-forward") {
		t.Errorf("got %v", err)
	}
}

func TestDumpsThatAreNone(t *testing.T) {
	for _, text := range []string{"", "{}", "[]", `{"gateway":null}`, `{"gateway":{"name":"a","namespace":"b"},"mesh":{"pathNormalization":"X"}}`,
		`{"gateway":{"name":"a","namespace":"b"},"providers":[{"name":"x","kind":"y"}]}`, `{"gateway":{"name":"a","namespace":"b"},"policies":[{"action":"MAYBE"}]}`} {
		if _, err := FromDump(Options{}, []byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// FuzzFromDump has a dump that may be anything asked.
func FuzzFromDump(f *testing.F) {
	f.Add(`{"gateway":{"name":"a","namespace":"b","addresses":[{"destination":"/10.0.0.1"},null]},"mesh":{},"services":[{"name":"s","namespace":"b","hostname":"s.b","vips":["/10.0.0.2","x","/10.0.0.0/8"],"ports":{"80":8080,"x":1},"waypoint":{"destination":"/10.0.0.1"},"endpoints":{"u":{"port":{"80":8080}}}}],"workloads":[{"uid":"u","name":"w","namespace":"b","workloadIps":["10.0.0.3","y"],"protocol":"HBONE","authorizationPolicies":["b/p","q"]}],"policies":[{"name":"p","namespace":"b","action":"DENY","rules":[{"From":[{"Principals":["*"]}]}]}],"requestAuthentications":[{"name":"t","namespace":"b","jwtRules":[{"issuer":"i"}]}],"routes":[{"name":"r","namespace":"b"}],"rejected":[{"kind":"K"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		m, err := FromDump(Options{}, []byte(text))
		if err != nil {
			return
		}
		for _, to := range []string{"Service/b/s", "10.0.0.2:80", "10.0.0.3"} {
			if x, err := m.Explain(t.Context(), Request{To: to, From: "b/c"}, time.Now()); err == nil {
				_ = x.String()
			}
		}
	})
}
