package opa

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// token makes a JWT that nobody has signed.
func token(claims string) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"none"}`)) + "." + part([]byte(claims)) + "." + part([]byte("x"))
}

func asked(method, path, claims string, content string) *extauthz.Request {
	r := &extauthz.Request{
		Source: netip.MustParseAddrPort("10.0.0.1:4000"), Dest: netip.MustParseAddrPort("10.96.0.10:80"),
		Peer: identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "sleep"}, At: time.Unix(1000, 0),
		Head:    &l7.Request{Method: method, Scheme: "http", Authority: "people", Path: path, Length: int64(len(content))},
		Content: []byte(content),
	}
	if claims != "" {
		r.Head.Fields = append(r.Head.Fields, l7.Field{Name: "authorization", Value: "Bearer " + token(claims)})
	}
	if content != "" {
		r.Head.Fields = append(r.Head.Fields, l7.Field{Name: "content-type", Value: "application/json"})
	}
	return r
}

const guest, admin = `{"sub":"ann","roles":["guest"]}`, `{"sub":"bob","roles":["admin","guest"]}`

// provider is one that a policy of o decides for, and that sees all content.
func provider(o authz.OPAPolicy) *authz.Provider {
	return &authz.Provider{Name: "x", Kind: authz.OPA, OPA: &o, Body: &authz.Body{Max: 4096}}
}

// opened returns an Authorizer that has read its policy.
func opened(t testing.TB, p authz.OPAPolicy, o Options) *Authorizer {
	t.Helper()
	a := New(provider(p), o)
	t.Cleanup(a.Close)
	<-a.looked
	return a
}

func module(rego string) authz.OPAPolicy {
	return authz.OPAPolicy{Modules: map[string]string{"p.rego": "package envoy.authz\n" + rego}, ConfigMap: "default/rego"}
}

// good fails the test unless the policy is in force.
func good(t testing.TB, a *Authorizer) *Authorizer {
	t.Helper()
	if s := a.Status(); s.Err != nil || s.Loaded.IsZero() {
		t.Fatalf("the policy is not in force: %+v", s)
	}
	return a
}

func TestPolicyForEnvoyRunsUnchanged(t *testing.T) {
	a := good(t, opened(t, authz.OPAPolicy{Path: "testdata/envoy"}, Options{}))
	for _, x := range []struct {
		name    string
		request *extauthz.Request
		allowed bool
	}{
		{"nobody", asked("GET", "/people", "", ""), false},
		{"a guest reads", asked("GET", "/people/1?x=1", guest, ""), true},
		{"a guest reads what is secret", asked("GET", "/people?secret=1", guest, ""), false},
		{"a guest reads elsewhere", asked("GET", "/salaries", guest, ""), false},
		{"a guest writes what is another's", asked("POST", "/people", guest, `{"owner":"bob"}`), false},
		{"a guest writes what is hers", asked("POST", "/people", guest, `{"owner":"ann"}`), true},
		{"an administrator", asked("DELETE", "/salaries", admin, ""), true},
	} {
		got, err := a.Ask(t.Context(), x.request)
		if err != nil || got.Allowed != x.allowed {
			t.Errorf("%s: %+v, %v; want allowed %v", x.name, got, err, x.allowed)
			continue
		}
		if !x.allowed {
			if got.Status != 403 || string(got.Body) != "refused" || got.Fields.Get("x-reason") == "" {
				t.Errorf("%s: refused with %+v", x.name, got)
			}
			continue
		}
		fields := extauthz.Apply(x.request.Head.Fields, got.Edits)
		if fields.Has("authorization") || fields.Get("x-user") == "" || got.Response[0].Name != "x-decided-by" {
			t.Errorf("%s: the request has %v, its response gets %v", x.name, fields, got.Response)
		}
		if roles, _ := fields.Joined("x-roles"); x.name == "an administrator" && roles != "admin,guest" {
			t.Errorf("%s: x-roles is %q", x.name, roles)
		}
	}
}

// Most policies for Envoy were published in version 0 of the language.
func TestPolicyOfVersion0RunsUnchanged(t *testing.T) {
	a := good(t, opened(t, authz.OPAPolicy{Path: "testdata/legacy", Decision: "istio/authz/allow"}, Options{}))
	for _, x := range []struct {
		user, path string
		allowed    bool
	}{
		{"", "/health", true}, {"", "/productpage", false}, {"alice", "/productpage", true}, {"alice", "/api/v1/products", false},
		{"bob", "/api/v1/products", true}, {"eve", "/productpage", false},
	} {
		r := asked("GET", x.path, "", "")
		if x.user != "" {
			r.Head.Fields = l7.Fields{{Name: "authorization", Value: "Basic " + base64.URLEncoding.EncodeToString([]byte(x.user+":password"))}}
		}
		if got, err := a.Ask(t.Context(), r); err != nil || got.Allowed != x.allowed {
			t.Errorf("%s %s: %+v, %v, want %v", x.user, x.path, got, err, x.allowed)
		}
	}
}

func TestDecisionsEndInTime(t *testing.T) {
	for name, rego := range map[string]string{
		"a loop":  `allow if { some x in numbers.range(1, 100000); some y in numbers.range(1, 100000); x * y == -1 }`,
		"a range": `allow if count(numbers.range(1, 1000000000)) == 0`,
	} {
		a := good(t, opened(t, module(rego), Options{}))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		began := time.Now()
		got, err := a.Ask(ctx, asked("GET", "/", "", ""))
		if !errors.Is(err, context.DeadlineExceeded) || got.Allowed || !strings.Contains(err.Error(), "no decision in time") {
			t.Errorf("%s: the answer is %+v, %v, want an error", name, got, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: it went on for %v", name, took)
		}
	}
}

// A Client makes of an error what the provider says; of 1 s, when it says nothing.
func TestTheProviderSaysWhatNoDecisionMeans(t *testing.T) {
	for _, open := range []bool{false, true} {
		p := provider(module(`allow if { some x in numbers.range(1, 100000); some y in numbers.range(1, 100000); x * y == -1 }`))
		p.FailOpen, p.Timeout, p.StatusOnError = open, 10*time.Millisecond, 503
		a := New(p, Options{})
		c, err := extauthz.New(p, extauthz.Options{Ask: a.Ask})
		if err != nil {
			t.Fatal(err)
		}
		answers := make(chan extauthz.Answer, 1)
		c.Ask(asked("GET", "/", "", ""), func(a extauthz.Answer) { answers <- a })
		if got := <-answers; got.Allowed != open || got.Status != 503 || got.Err == nil {
			t.Errorf("failOpen %v: the answer is %+v", open, got)
		}
		// What cannot be read is refused by the policy, and not a failure to decide:
		// else it would be for the client to choose.
		c.Ask(asked("GET", "/%zz", "", ""), func(a extauthz.Answer) { answers <- a })
		if got := <-answers; got.Allowed || got.Status != 400 || got.Err != nil {
			t.Errorf("failOpen %v: a broken path is answered %+v", open, got)
		}
		c.Close()
		a.Close()
	}
}

// One evaluation keeps a core busy, so there are no more than cores; who does not
// come to it in time is not decided.
func TestEvaluationsAreBounded(t *testing.T) {
	a := good(t, opened(t, module("allow := true"), Options{Slots: 1}))
	a.slots <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if got, err := a.Ask(ctx, asked("GET", "/", "", "")); err == nil || got.Allowed || !strings.Contains(err.Error(), "busy") {
		t.Errorf("the answer is %+v, %v", got, err)
	}
	<-a.slots
	if got, err := a.Ask(t.Context(), asked("GET", "/", "", "")); err != nil || !got.Allowed {
		t.Errorf("the answer is %+v, %v", got, err)
	}
}

func TestWithoutAPolicyNothingIsDecided(t *testing.T) {
	a := opened(t, module("allow := 1 if nothing.known(2)"), Options{})
	got, err := a.Ask(t.Context(), asked("GET", "/", "", ""))
	want := "MeshConfig extensionProviders[name=x].opa.configMap: default/rego: p.rego:2:15: undefined function nothing.known"
	if err == nil || got.Allowed || !strings.Contains(err.Error(), want) {
		t.Errorf("the answer is %+v, %v, want %s", got, err, want)
	}
	if s := a.Status(); !s.Loaded.IsZero() || s.Err == nil {
		t.Errorf("the status is %+v", s)
	}
}

// messages is a slog.Handler that hands on what is said.
type messages chan string

func (messages) Enabled(context.Context, slog.Level) bool        { return true }
func (m messages) Handle(_ context.Context, r slog.Record) error { m <- r.Message; return nil }
func (m messages) WithAttrs([]slog.Attr) slog.Handler            { return m }
func (m messages) WithGroup(string) slog.Handler                 { return m }
func (m messages) logger() *slog.Logger                          { return slog.New(m) }
