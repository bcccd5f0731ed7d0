package authz_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/authz"
)

func TestProviderNamesFieldsAtFault(t *testing.T) {
	web := authz.Provider{
		Name: "x", Kind: authz.HTTP, Port: 70000, Timeout: -1, StatusOnError: 1000, Body: &authz.Body{Max: -1}, PathPrefix: "check",
		IncludeHeaders: []string{"a", "*"}, HeadersToUpstream: []string{""},
	}
	for _, tt := range []struct {
		provider authz.Provider
		want     []string // in this order, and no others
	}{
		{web, []string{
			"MeshConfig extensionProviders[name=x].envoyExtAuthzHttp.timeout: ", "envoyExtAuthzHttp.statusOnError: 1000",
			"includeRequestBodyInCheck.maxRequestBytes: -1", "envoyExtAuthzHttp.service: is required", "port: 70000 is not 1 to 65535",
			`pathPrefix: "check"`, `includeRequestHeadersInCheck[1]: "*"`, "headersToUpstreamOnAllow[0]",
		}},
		{authz.Provider{Name: "x", Service: "a/b/c", Port: 1}, []string{`MeshConfig extensionProviders[name=x].envoyExtAuthzGrpc.service: "a/b/c"`}},
		{authz.Provider{Service: "a", Port: 1}, []string{"extensionProviders[name=].name: is required"}},
		{authz.Provider{Name: "x", Kind: authz.OPA}, []string{"extensionProviders[name=x].opa: needs path, bundle or configMap"}},
		{authz.Provider{Name: "x", Kind: authz.OPA, OPA: &authz.OPAPolicy{Path: "p", Decision: "a//b"}}, []string{`opa.decision: "a//b"`}},
		{authz.Provider{Name: "x", Kind: authz.OPA, OPA: &authz.OPAPolicy{Path: "p", Decision: "/a/b"}}, nil},
		{authz.Provider{Name: "x", Kind: authz.OPA, OPA: &authz.OPAPolicy{Modules: map[string]string{"a.rego": ""}}}, nil},
		{authz.Provider{Name: "x", Service: "foo/a.foo.svc", Port: 1}, nil},
	} {
		err := tt.provider.Validate()
		if err == nil {
			err = errors.New("")
		}
		lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' })
		if len(lines) != len(tt.want) {
			t.Errorf("%+v: got %d errors, want %d:\n%v", tt.provider, len(lines), len(tt.want), err)
			continue
		}
		for i, want := range tt.want {
			if !strings.Contains(lines[i], want) {
				t.Errorf("error %d is %q, want %q", i, lines[i], want)
			}
		}
	}
}

func TestProviderDefaults(t *testing.T) {
	for _, tt := range []struct {
		provider authz.Provider
		patience time.Duration
		refusal  int
		content  int
		httpOnly bool
	}{
		{authz.Provider{}, 600 * time.Second, 403, 0, false},
		{authz.Provider{Kind: authz.HTTP, Body: &authz.Body{Max: 7}}, 600 * time.Second, 403, 7, true},
		{authz.Provider{Kind: authz.OPA}, time.Second, 403, 0, false},
		{authz.Provider{Kind: authz.OPA, Timeout: time.Minute, StatusOnError: 503}, time.Minute, 503, 0, false},
	} {
		p := &tt.provider
		if p.Patience() != tt.patience || p.Refusal() != tt.refusal || p.Content() != tt.content || p.HTTPOnly() != tt.httpOnly {
			t.Errorf("%+v: %v %d %d %v, want %v %d %d %v", *p, p.Patience(), p.Refusal(), p.Content(), p.HTTPOnly(), tt.patience, tt.refusal, tt.content, tt.httpOnly)
		}
	}
}
