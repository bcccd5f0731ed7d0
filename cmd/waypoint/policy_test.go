package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// policies have an authorizer asked about what is under /asked, and tokens of an
// issuer taken, which is what it takes under /known.
const policies = `apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - name: door
      envoyExtAuthzHttp: {service: 127.0.0.1, port: DOOR, headersToUpstreamOnAllow: [x-user], includeRequestHeadersInCheck: [x-ticket]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: productpage}]
  action: CUSTOM
  provider: {name: door}
  rules: [{to: [{operation: {paths: ["/hello"]}}], when: [{key: "request.headers[x-ticket]", values: ["*"]}]}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: issuer, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: productpage}]
  jwtRules: [{issuer: issuer.example, jwksUri: "https://127.0.0.1:KEYS/keys"}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: known, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: productpage}]
  action: DENY
  rules: [{to: [{operation: {paths: ["/echo"]}}], from: [{source: {notRequestPrincipals: ["issuer.example/ann"]}}]}]
`

// TestTokensAndAuthorizers runs the program with an issuer, whose keys are fetched
// over TLS, and an authorizer beside it.
func TestTokensAndAuthorizers(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	keys := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"one","x":%q}]}`, b64(public))
	}))
	defer keys.Close()
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-ticket") != "valid" {
			w.WriteHeader(http.StatusPaymentRequired)
			fmt.Fprint(w, "buy one")
			return
		}
		w.Header().Set("x-user", "ann")
	}))
	defer door.Close()
	token := func(subject string) string {
		text := b64([]byte(`{"alg":"EdDSA"}`)) + "." + b64(fmt.Appendf(nil, `{"iss":"issuer.example","sub":%q,"exp":%d}`, subject, time.Now().Add(time.Hour).Unix()))
		return text + "." + b64(ed25519.Sign(private, []byte(text)))
	}
	forged := token("ann")[:strings.LastIndex(token("ann"), ".")] + token("bob")[strings.LastIndex(token("bob"), "."):]
	roots := filepath.Join(t.TempDir(), "roots.pem")
	put(t, roots, encode("CERTIFICATE", keys.Certificate().Raw))

	r := newRig(t, strings.NewReplacer("KEYS", port(t, keys), "DOOR", port(t, door)).Replace(policies), "--jwks-ca", roots, "--access-log-keys", "request_principal,explanation")
	r.app()
	r.node()
	c := r.client("/ns/default/sa/sleep").http(netip.AddrPortFrom(r.vip, bookinfoPort).String(), http1)
	for _, x := range []struct {
		path, ticket, token string
		status              int
		body                string
	}{
		{"/hello", "", "", 200, "hello"},
		{"/hello", "valid", "", 200, "hello"},
		{"/hello", "forged", "", 402, "buy one"},
		{"/echo", "", "", 403, "RBAC: access denied"},
		{"/echo", "", token("bob"), 403, "RBAC: access denied"},
		{"/echo", "", token("ann"), 200, ""},
		{"/hello", "", forged, 401, "Jwt verification fails"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://productpage:9080"+x.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if x.ticket != "" {
			req.Header.Set("x-ticket", x.ticket)
		}
		if x.token != "" {
			req.Header.Set("authorization", "Bearer "+x.token)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != x.status || !strings.Contains(string(body), x.body) {
			t.Errorf("%s, ticket %q, token %.20q: got %d, %q, %v; want %d, %q", x.path, x.ticket, x.token, res.StatusCode, body, err, x.status, x.body)
		}
	}

	var recent struct {
		Decisions []struct {
			Status          int
			Token, Provider string
			Explanation     *struct{ Reason string }
		}
	}
	r.json("/authz/recent?allowed=false", &recent)
	var got []string
	for _, d := range recent.Decisions {
		reason := ""
		if d.Explanation != nil {
			reason = d.Explanation.Reason
		}
		got = append(got, fmt.Sprint(d.Status, d.Token, d.Provider, reason))
	}
	if got, want := strings.Join(got, "; "), "401Jwt verification fails; 403denyRule; 403denyRule; 402door: denied"; got != want {
		t.Errorf("/authz/recent has %q, want %q", got, want)
	}
	r.until("told in the access log", func() bool {
		log, _ := os.ReadFile(r.access)
		return strings.Contains(string(log), `"request_principal":"issuer.example/ann"`) &&
			strings.Contains(string(log), `"explanation":"denied by the authorizer door, asked by istio-ext-authz-door-ns[default]-policy[ask]-rule[0]"`)
	})
	var dump struct {
		TokenKeys   []struct{ Keys []string }
		Authorizers []struct {
			Provider string
			Asked    int
		}
	}
	r.json("/config_dump", &dump)
	if got, want := fmt.Sprint(dump), "{[{[one]}] [{door 2}]}"; got != want {
		t.Errorf("/config_dump has %s, want %s", got, want)
	}
}

func port(t *testing.T, s *httptest.Server) string {
	t.Helper()
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// json reads what administration says.
func (r *rig) json(path string, v any) {
	r.t.Helper()
	status, body := r.get("http://" + r.at(15000) + path)
	if err := json.Unmarshal([]byte(body), v); err != nil || status != 200 {
		r.t.Errorf("%s: %d, %v: %s", path, status, err, body)
	}
}
