package waypoint

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/routing"
	"github.com/waystone-mesh/waystone/telemetry"
)

// A refused is an error, and how it looks.
type refused struct {
	name string
	err  error

	status  int
	flag    telemetry.Flag
	details string
	body    string
	grpc    int
	by      telemetry.Reason
	rule    string
	policy  string
	fields  l7.Fields
}

// theQuestion is what CUSTOM policies ask in these tests.
func theQuestion(t *testing.T) *authz.Question {
	t.Helper()
	set, err := authz.Compile(authz.Options{Providers: map[string]*authz.Provider{"opa": {Name: "opa"}}}, &authz.Policy{
		Name: "ask", Namespace: "ns", Action: authz.Custom, Provider: "opa", Rules: []authz.Rule{{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return set.Ask(&authz.Input{HTTP: &l7.Request{}}, nil)
}

// verdict is what policies say about a request that nobody wants.
func verdict(t *testing.T, p *authz.Policy) authz.Verdict {
	t.Helper()
	p.Name, p.Namespace = "p", "ns"
	set, err := authz.Compile(authz.Options{Providers: map[string]*authz.Provider{}}, p)
	if err != nil {
		t.Fatal(err)
	}
	return set.Decide(&authz.Input{HTTP: &l7.Request{}})
}

func everyRefusal(t *testing.T) []refused {
	q := theQuestion(t)
	const rule, policy = "istio-ext-authz-opa-ns[ns]-policy[ask]-rule[0]", "ns/ask"
	said := func(a extauthz.Answer) error { return &unauthorizedError{q, &a} }
	field := func(name, value string) l7.Fields { return l7.Fields{{Name: name, Value: value}} }
	stream := &h2.StreamError{Code: h2.CodeCancel, Remote: true}
	const gone = "upstream connect error or disconnect/reset before headers"
	return []refused{
		{name: "a DENY rule", err: &deniedError{verdict(t, &authz.Policy{Action: authz.Deny, Rules: []authz.Rule{{}}})},
			status: 403, details: "rbac_access_denied_matched_policy[ns[ns]-policy[p]-rule[0]]", body: "RBAC: access denied", grpc: 7,
			by: telemetry.ByDenyRule, rule: "ns[ns]-policy[p]-rule[0]", policy: "ns/p"},
		{name: "no ALLOW rule", err: &deniedError{verdict(t, &authz.Policy{})},
			status: 403, details: "rbac_access_denied_matched_policy[none]", body: "RBAC: access denied", grpc: 7, by: telemetry.ByNoAllowRule},
		{name: "a policy that cannot be enforced", err: &deniedError{authz.Closed("it is broken").Decide(&authz.Input{})},
			status: 403, details: "rbac_access_denied_matched_policy[closed:it_is_broken]", body: "RBAC: access denied", grpc: 7, by: telemetry.ByClosedPolicy},
		{name: "a provider that is not configured", err: &deniedError{verdict(t, &authz.Policy{Action: authz.Custom, Provider: "x", Rules: []authz.Rule{{}}})},
			status: 403, details: "rbac_access_denied_matched_policy[istio-ext-authz-x-ns[ns]-policy[p]-rule[0]-deny-due-to-bad-CUSTOM-action]", body: "RBAC: access denied", grpc: 7,
			by: telemetry.ByNoProvider, rule: "istio-ext-authz-x-ns[ns]-policy[p]-rule[0]-deny-due-to-bad-CUSTOM-action", policy: "ns/p"},
		{name: "an authorizer that is not there", err: &unaskedError{q},
			status: 403, details: "rbac_access_denied_matched_policy[" + rule + "-deny-due-to-bad-CUSTOM-action]", body: "RBAC: access denied", grpc: 7,
			by: telemetry.ByNoProvider, rule: rule, policy: policy},
		{name: "an authorizer", err: said(extauthz.Answer{Status: 401, Fields: field("www-authenticate", "Basic"), Body: []byte("no\n")}),
			status: 401, flag: telemetry.UAEX, details: "ext_authz_denied", body: "no\n", grpc: 16,
			by: telemetry.ByProvider, rule: rule, policy: policy, fields: field("www-authenticate", "Basic")},
		{name: "an authorizer that sends to another page", err: said(extauthz.Answer{Status: 302, Fields: field("location", "/login")}),
			status: 302, flag: telemetry.UAEX, details: "ext_authz_denied", grpc: 2,
			by: telemetry.ByProvider, rule: rule, policy: policy, fields: field("location", "/login")},
		{name: "an authorizer with fields that are not its to set", err: said(extauthz.Answer{Status: 403, Fields: l7.Fields{{Name: "content-length", Value: "7"}, {Name: "x", Value: "a\r\nb: c"}}}),
			status: 403, flag: telemetry.UAEX, details: "ext_authz_denied", grpc: 7, by: telemetry.ByProvider, rule: rule, policy: policy},
		{name: "an authorizer with a status of its own", err: said(extauthz.Answer{Status: 100}),
			status: 403, flag: telemetry.UAEX, details: "ext_authz_denied", grpc: 7, by: telemetry.ByProvider, rule: rule, policy: policy},
		{name: "no answer", err: said(extauthz.Answer{Status: 503, Err: errors.New("deadline exceeded")}),
			status: 503, flag: telemetry.UAEX, details: "ext_authz_error", grpc: 14, by: telemetry.ByProvider, rule: rule, policy: policy},
		{name: "too much content", err: &tooLargeError{q},
			status: 413, details: "request_payload_too_large", body: "Payload Too Large", grpc: 2, by: telemetry.ByProvider, rule: rule, policy: policy},
		{name: "a token", err: &tokenError{401, "Jwt is expired", "jwt_authn_access_denied{Jwt_is_expired}", "Bearer x"},
			status: 401, details: "jwt_authn_access_denied{Jwt_is_expired}", body: "Jwt is expired", grpc: 16,
			by: telemetry.ByToken, fields: field("www-authenticate", "Bearer x")},
		{name: "a token for others", err: &tokenError{403, "Audiences in Jwt are not allowed", "d", "Bearer x"},
			status: 403, details: "d", body: "Audiences in Jwt are not allowed", grpc: 7, by: telemetry.ByToken, fields: field("www-authenticate", "Bearer x")},
		{name: "a bad request", err: &badRequestError{errors.New("x")}, status: 400, flag: telemetry.DPE, details: "http.invalid_request", grpc: 13},
		{name: "a CONNECT", err: errConnect, status: 405, flag: telemetry.DPE, details: "http.connect_not_allowed", grpc: 2},
		{name: "overload", err: errOverloaded, status: 503, flag: telemetry.OM, details: "overload", body: "envoy overloaded", grpc: 14},
		{name: "no destination", err: errNoDestination, status: 404, flag: telemetry.NR, details: "route_not_found", grpc: 12},
		{name: "no route", err: errNoRoute, status: 404, flag: telemetry.NR, details: "route_not_found", grpc: 12},
		{name: "no backend", err: errNoBackend, status: 500, flag: telemetry.NC, details: "cluster_not_found", grpc: 2},
		{name: "a bad backend", err: &routeError{"x"}, status: 500, details: "direct_response", grpc: 2},
		{name: "no weight", err: errNoWeight, status: 500, details: "direct_response", grpc: 2},
		{name: "no endpoint", err: errNoEndpoint, status: 503, flag: telemetry.UH, details: "no_healthy_upstream", body: "no healthy upstream", grpc: 14},
		{name: "no connection", err: &connectError{errors.New("connection refused")},
			status: 503, flag: telemetry.UF, details: "upstream_reset_before_response_started{connection_failure}", body: gone, grpc: 14},
		{name: "a connection that ended", err: &upstreamError{errors.New("EOF")},
			status: 503, flag: telemetry.UC, details: "upstream_reset_before_response_started{connection_termination}", body: gone, grpc: 14},
		{name: "a reset", err: &upstreamError{stream},
			status: 503, flag: telemetry.UR, details: "upstream_reset_before_response_started{remote_reset}", body: gone, grpc: 14},
		{name: "a bad response", err: &upstreamError{fmt.Errorf("%w: %w", errBadResponse, h1.ErrInvalid)},
			status: 503, flag: telemetry.UPE, details: "upstream_reset_before_response_started{protocol_error}", body: gone, grpc: 14},
		{name: "anything else", err: errors.New("x"), status: 500, details: "internal_error", grpc: 2},
	}
}

// TestRefusals holds how every error looks, to HTTP and to gRPC.
func TestRefusals(t *testing.T) {
	for _, want := range everyRefusal(t) {
		t.Run(want.name, func(t *testing.T) {
			got := refusalFor(want.err)
			if got.status != want.status || got.flag != want.flag || got.details != want.details || got.body != want.body || !slices.Equal(got.fields, want.fields) {
				t.Errorf("got %d, flag %v, %s, %q, %v", got.status, got.flag, got.details, got.body, got.fields)
			}
			if got.by != want.by || got.rule != want.rule || got.policy != want.policy {
				t.Errorf("by %q, rule %q of %q", got.by, got.rule, got.policy)
			}
			f := got.forGRPC()
			if f.Get("content-type") != "application/grpc" || f.Get("grpc-status") != fmt.Sprint(want.grpc) || f.Get("grpc-message") != strings.ReplaceAll(want.body, "\n", "%0A") {
				t.Errorf("of gRPC: %v, want status %d", f, want.grpc)
			}
			for _, other := range want.fields {
				if f.Get(other.Name) != other.Value {
					t.Errorf("of gRPC: there is no %v in %v", other, f)
				}
			}
			if got.err.Error() == "" || http.StatusText(got.status) == "" {
				t.Errorf("nobody will know what %d, %q is", got.status, got.err)
			}
		})
	}
}

// TestRefusalKeepsWhatTheAuthorizerSaysOfGRPC lets its own status stand.
func TestRefusalKeepsWhatTheAuthorizerSaysOfGRPC(t *testing.T) {
	r := refusalFor(&unauthorizedError{theQuestion(t), &extauthz.Answer{Status: 403, Body: []byte("50 % ü"), Fields: l7.Fields{
		{Name: "grpc-status", Value: "9"}, {Name: "content-type", Value: "text/html"}, {Name: "set-cookie", Value: "a"}, {Name: "set-cookie", Value: "b"},
	}}})
	want := l7.Fields{
		{Name: "content-type", Value: "application/grpc"}, {Name: "grpc-status", Value: "9"}, {Name: "grpc-message", Value: "50 %25 %C3%BC"},
		{Name: "set-cookie", Value: "a"}, {Name: "set-cookie", Value: "b"},
	}
	if got := r.forGRPC(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestEditQuery has parameters set and removed.
func TestEditQuery(t *testing.T) {
	type ps = []extauthz.Parameter
	for _, c := range []struct {
		path   string
		set    ps
		remove []string
		want   string
	}{
		{"/a", nil, []string{"x"}, "/a"},
		{"/a?", nil, []string{"x"}, "/a"},
		{"/a?x", nil, []string{"x"}, "/a"},
		{"/a?x=1&y=2&x=3&xx=4", nil, []string{"x"}, "/a?y=2&xx=4"},
		{"/a", ps{{Name: "x", Value: "1"}}, nil, "/a?x=1"},
		{"/a?b&x=0&c=%2F&x=2", ps{{Name: "x", Value: "1"}}, nil, "/a?b&x=1&c=%2F"},
		{"/a?x=0", ps{{Name: "x", Value: "1"}}, []string{"x"}, "/a?x=1"},
		{"/a?b", ps{{Name: "c", Value: "a b\r\n#&é%20="}}, nil, "/a?b&c=a%20b%0D%0A%23%26%C3%A9%20="},
		{"/a?b", ps{{Name: "c=d&", Value: ""}}, nil, "/a?b&c%3Dd%26="},
		{"*", nil, []string{"x"}, "*"},
	} {
		if got := editQuery(c.path, c.set, c.remove); got != c.want {
			t.Errorf("%s, set %v, remove %v: got %s, want %s", c.path, c.set, c.remove, got, c.want)
		}
	}
}

// TestConcealTokens keeps tokens out of the log.
func TestConcealTokens(t *testing.T) {
	for path, want := range map[string]string{
		"/a": "/a", "/a?b=c": "/a?b=c", "/eyJ?b": "/eyJ?b",
		"/a?access_token=x&b":             "/a?access_token=(redacted)&b",
		"/a?b&t=eyJhbGciOiJI.x.y&c=d":     "/a?b&t=(redacted)&c=d",
		"/a?t=Bearer%20eyJhbGciOiJI.x.y":  "/a?t=(redacted)",
		"/a?not_access_token=x&eyJ=1&b=2": "/a?not_access_token=x&eyJ=1&b=2",
	} {
		if got := concealTokens(path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

// FuzzEditQuery has whatever is set in a query be found there, once, in a path that
// can go on.
func FuzzEditQuery(f *testing.F) {
	f.Add("/a?b=c&d", "b", "x y", "d")
	f.Add("/?&&=", "", "&=#", "")
	f.Fuzz(func(t *testing.T, path, name, value, remove string) {
		if _, err := routing.Normalize(routing.NormalizeNone, path); err != nil || path == "*" {
			return
		}
		got := editQuery(path, []extauthz.Parameter{{Name: name, Value: value}}, []string{remove})
		if _, err := routing.Normalize(routing.NormalizeNone, got); err != nil {
			t.Fatalf("%q became %q: %v", path, got, err)
		}
		_, query, _ := strings.Cut(got, "?")
		found := 0
		for pair := range strings.SplitSeq(query, "&") {
			if n, _, _ := strings.Cut(pair, "="); n == escapeQuery(name, true) {
				found++
			}
		}
		if found != 1 {
			t.Errorf("%q became %q, in which %q is %d times", path, got, name, found)
		}
		concealTokens(got)
	})
}
