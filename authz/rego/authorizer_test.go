package rego

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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

func TestPolicyForEnvoyRunsUnchanged(t *testing.T) {
	a, err := NewAuthorizer(t.Context(), AuthorizerOptions{Path: "testdata/envoy"})
	if err != nil {
		t.Fatal(err)
	}
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

// The document is the one of OPA's plugin for Envoy: see its documentation,
// "Example Input".
func TestInputIsThePlugins(t *testing.T) {
	r := asked("POST", "/a%20b/c?x=1&x=2", "", `{"n":12345678901234567890}`)
	input, err := envoyInput(r)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"source":{"address":{"socketAddress":{"address":"10.0.0.1","portValue":4000}},"principal":"spiffe://cluster.local/ns/default/sa/sleep"}`,
		`"parsed_path":["a b","c"]`, `"parsed_query":{"x":["1","2"]}`, `"parsed_body":{"n":12345678901234567890}`,
		`"truncated_body":false`, `"version":{"encoding":"protojson","ext_authz":"v3"}`, `"time":"1970-01-01T00:16:40Z"`, `"protocol":"HTTP/1.1"`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	r.Partial = true
	if input, _ = envoyInput(r); input["parsed_body"] != nil || input["truncated_body"] != true {
		t.Errorf("of partial content parsed_body is %v", input["parsed_body"])
	}
}

func TestFormsAreParsed(t *testing.T) {
	r := asked("POST", "*", "", "a=1&a=2&b=x%20y")
	r.Head.Fields = l7.Fields{{Name: "content-type", Value: "application/x-www-form-urlencoded; charset=utf-8"}}
	input, err := envoyInput(r)
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := json.Marshal(input["parsed_body"]); string(text) != `{"a":["1","2"],"b":["x y"]}` {
		t.Errorf("the form is %s", text)
	}
}

func TestDecisions(t *testing.T) {
	for _, x := range []struct{ rule, want string }{
		{`allow := true`, ""},
		{`allow := false`, ""},
		{`allow := 1 if input.nothing`, "the decision is undefined"},
		{`allow := "yes"`, "neither a boolean nor an object"},
		{`allow := {"http_status": 200}`, "has no allowed"},
		{`allow := {"allowed": false, "http_status": 99}`, "http_status: 99"},
		{`allow := {"allowed": true, "headers": {"x": 1}}`, `headers["x"] is neither a string nor a list of strings`},
		{`allow := {"allowed": true, "response_headers_to_add": {"x": [1]}}`, `response_headers_to_add["x"]`},
		{`allow := {"allowed": "yes"}`, "cannot unmarshal"},
		{"allow := true\nallow := false", "evaluate: "},
	} {
		a, err := NewAuthorizer(t.Context(), AuthorizerOptions{Modules: map[string]string{"p.rego": "package envoy.authz\n" + x.rule}})
		if err != nil {
			t.Fatal(err)
		}
		switch answer, err := a.Ask(t.Context(), asked("GET", "/", "", "")); {
		case x.want == "" && err != nil, x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)):
			t.Errorf("%s: %v, want %q", x.rule, err, x.want)
		case err != nil && answer.Allowed:
			t.Errorf("%s: an error, and allowed", x.rule)
		}
	}
}

func TestQueryIsEdited(t *testing.T) {
	a, err := NewAuthorizer(t.Context(), AuthorizerOptions{Decision: "x/y", Modules: map[string]string{"p.rego": `package x
y := {"allowed": true, "query_parameters_to_set": {"B": "1"}, "query_parameters_to_remove": ["c"], "headers": {":path": "/else", "Host": "else"}}`}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Ask(t.Context(), asked("GET", "/", "", ""))
	if err != nil || !slices.Equal(got.SetQuery, []extauthz.Parameter{{Name: "B", Value: "1"}}) || !slices.Equal(got.RemoveQuery, []string{"c"}) || len(got.Edits) > 0 {
		t.Errorf("the answer is %+v, %v", got, err)
	}
}

func TestErrorsAreLocated(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "broken.rego"), []byte("package envoy.authz\n\nallow := true if {\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		o    AuthorizerOptions
		want string
	}{
		"syntax":     {AuthorizerOptions{Path: dir}, "broken.rego:"},
		"a function": {AuthorizerOptions{Modules: map[string]string{"p.rego": "package envoy.authz\nallow if nothing.known(1)"}}, "p.rego:2"},
		"no file":    {AuthorizerOptions{Path: filepath.Join(dir, "none")}, "none"},
		"no Rego":    {AuthorizerOptions{Path: t.TempDir()}, "there is no Rego in it"},
		"a path":     {AuthorizerOptions{Decision: "a//b"}, `decision path "a//b"`},
	} {
		if _, err := NewAuthorizer(t.Context(), x.o); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %s", name, err, x.want)
		}
	}
}

func TestDecisionsEndInTime(t *testing.T) {
	a, err := NewAuthorizer(t.Context(), AuthorizerOptions{Modules: map[string]string{"p.rego": `package envoy.authz
allow if { some x in numbers.range(1, 100000); some y in numbers.range(1, 100000); x * y == -1 }`}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if got, err := a.Ask(ctx, asked("GET", "/", "", "")); err == nil || got.Allowed {
		t.Errorf("the answer is %+v, want an error", got)
	}
}

func TestDecisionsAreLoggedWithoutSecrets(t *testing.T) {
	var log bytes.Buffer
	a, err := NewAuthorizer(t.Context(), AuthorizerOptions{Path: "testdata/envoy", Log: &log})
	if err != nil {
		t.Fatal(err)
	}
	r := asked("POST", "/people", guest, `{"owner":"ann","pin":"1234"}`)
	if _, err := a.Ask(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	var entry map[string]any
	if err := json.Unmarshal(log.Bytes(), &entry); err != nil {
		t.Fatalf("%v in %s", err, log.String())
	}
	if at(entry, "result")["allowed"] != true || entry["path"] != "envoy/authz/allow" || at(entry, "input", "attributes", "request", "http")["method"] != "POST" {
		t.Errorf("the entry is %s", log.String())
	}
	if text := log.String(); strings.Contains(text, "1234") || strings.Contains(text, token(guest)) {
		t.Errorf("a secret is in %s", text)
	}
}

// BenchmarkDecision is one decision by the policy in testdata.
func BenchmarkDecision(b *testing.B) {
	a, err := NewAuthorizer(b.Context(), AuthorizerOptions{Path: "testdata/envoy"})
	if err != nil {
		b.Fatal(err)
	}
	r := asked("GET", "/people/1", guest, "")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Ask(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}
