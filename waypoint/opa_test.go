package waypoint_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/internal/opa"
)

// TestPolicyInRego has a policy for OPA's plugin for Envoy decide in this process,
// from the head and the content of requests, and change what goes on.
func TestPolicyInRego(t *testing.T) {
	a := withAuthorizers(t, meshtest.Options{})
	m := a.m
	shop(m, "http", meshtest.Echo)
	p := authz.Provider{Name: "opa", Kind: authz.OPA, Body: &authz.Body{Max: 1 << 10}, OPA: &authz.OPAPolicy{Path: "../internal/opa/testdata/envoy"}}
	decides := opa.New(&p, opa.Options{})
	t.Cleanup(decides.Close)
	a.addFor(p, extauthz.Options{Ask: decides.Ask}, "[{}]")
	token := func(claims string) string {
		part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
		return "Bearer " + part(`{"alg":"none"}`) + "." + part(claims) + "." + part("x")
	}
	ann, bob := token(`{"sub":"ann","roles":["guest"]}`), token(`{"sub":"bob","roles":["admin"]}`)
	for version, c := range map[string]*meshtest.Client{"HTTP/1.1": m.From("web"), "HTTP/2": m.FromHTTP2("web")} {
		t.Run(version, func(t *testing.T) {
			for _, x := range []struct {
				method, path, token, content string
				status                       int
				part                         string
			}{
				{"GET", "/people/1", "", "", 403, "refused"},
				{"GET", "/people/1", ann, "", 200, "X-User: ann\r\n"},
				{"GET", "/people/1?secret=1", ann, "", 403, "refused"},
				{"POST", "/people", ann, `{"owner":"ann"}`, 200, `{"owner":"ann"}`},
				{"POST", "/people", ann, `{"owner":"bob"}`, 403, "refused"},
				{"POST", "/people", ann, `{"owner":"ann"` + strings.Repeat(" ", 1<<10) + "}", 413, "Payload Too Large"},
				{"DELETE", "/", bob, "", 200, "X-User: bob\r\n"},
			} {
				header := []string{"content-type", "application/json"}
				if x.token != "" {
					header = append(header, "authorization", x.token)
				}
				r := c.Do(x.method, "http://items"+x.path, x.content, header...).Want(x.status).WantBody(x.part)
				if strings.Contains(r.Body, "Authorization") {
					t.Errorf("%s %s: the destination got the token: %q", x.method, x.path, r.Body)
				}
				if by, reason := r.Header.Get("x-decided-by"), r.Header.Get("x-reason"); x.status == 200 && by != "opa" || x.status == 403 && reason == "" {
					t.Errorf("%s %s: x-decided-by is %q, x-reason %q", x.method, x.path, by, reason)
				}
			}
		})
	}
	m.WantLog("path", "/people/1", "response_code", 403, "response_flags", "UAEX", "response_code_details", "ext_authz_denied")
}
