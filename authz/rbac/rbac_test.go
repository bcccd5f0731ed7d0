package rbac

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	netrbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3" // for protojson
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

const yes = `{"any": true}`

// filterOf returns an ALLOW filter with one permission and one principal.
func filterOf(permission, principal string) string {
	return `{"rules": {"policies": {"ns[a]-policy[b]-rule[3]": {"permissions": [` + permission + `], "principals": [` + principal + `]}}}}`
}

// templated returns a permission for paths that fit a template.
func templated(template string) string {
	return `{"uriTemplate": {"name": "uri-template", "typedConfig":
		{"@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig", "pathTemplate": "` + template + `"}}}`
}

// claim returns a matcher for a claim, under metadata as both a permission and
// a principal have it.
func claim(more, value string, path ...string) string {
	keys := `{"key": "payload"}`
	for _, name := range path {
		keys += `, {"key": "` + name + `"}`
	}
	return `{"metadata": {"filter": "envoy.filters.http.jwt_authn", ` + more + ` "path": [` + keys + `], "value": ` + value + `}}`
}

// either returns a value matcher for a string and for an item of a list.
func either(text string) string {
	return `{"orMatch": {"valueMatchers": [{"listMatch": {"oneOf": ` + text + `}}, ` + text + `]}}`
}

func httpFilter(t *testing.T, json string) *httprbac.RBAC {
	t.Helper()
	var f httprbac.RBAC
	if err := protojson.Unmarshal([]byte(json), &f); err != nil {
		t.Fatalf("%s: %v", json, err)
	}
	return &f
}

// base is the request that the cases below vary.
func base() *authz.Input {
	return &authz.Input{
		Peer:   identity.ID{TrustDomain: "cluster.local", Namespace: "foo", ServiceAccount: "a"},
		Source: netip.MustParseAddr("10.0.0.1"), Dest: netip.MustParseAddrPort("10.96.0.1:80"),
		Token: authz.NewToken(map[string]any{"iss": "i", "sub": "s", "groups": []any{"admin", "dev"}, "nested": map[string]any{"k": "v"}}),
		HTTP:  &l7.Request{Method: "GET", Scheme: "http", Authority: "Web.Example.com", Path: "/a/b?q", Fields: l7.Fields{{Name: "x", Value: "1"}, {Name: "y", Value: ""}}},
	}
}

func TestPermissionsAndPrincipals(t *testing.T) {
	plaintext := func(in *authz.Input) { in.Peer = identity.ID{} }
	sni := func(in *authz.Input) { in.SNI = "db" }
	opaque := func(in *authz.Input) { in.HTTP = nil }
	noToken := func(in *authz.Input) { in.Token = nil }
	for _, tt := range []struct {
		permission, principal string
		vary                  func(*authz.Input)
		want                  bool
	}{
		{yes, yes, nil, true},
		{yes, yes, opaque, true},
		{`{"any": false}`, yes, nil, false},
		{yes, `{"any": false}`, nil, false},
		{`{"andRules": {"rules": [{"any": true}, {"urlPath": {"path": {"exact": "/a/b"}}}]}}`, yes, nil, true},
		{`{"andRules": {"rules": [{"any": true}, {"urlPath": {"path": {"exact": "/a/b?q"}}}]}}`, yes, nil, false},
		{`{"orRules": {"rules": [{"urlPath": {"path": {"suffix": "x"}}}, {"urlPath": {"path": {"contains": "/b"}}}]}}`, yes, nil, true},
		{`{"notRule": {"urlPath": {"path": {"prefix": "/a"}}}}`, yes, nil, false},
		{`{"notRule": {"urlPath": {"path": {"prefix": "/a"}}}}`, yes, opaque, true},
		{`{"urlPath": {"path": {"safeRegex": {"regex": "/a/."}}}}`, yes, nil, true},
		{`{"urlPath": {"path": {"safeRegex": {"regex": "/a/"}}}}`, yes, nil, false},
		// As Envoy writes templates, without the braces of a policy.
		{templated("/a/*"), yes, nil, true},
		{templated("/a/**"), yes, nil, true},
		{templated("/**"), yes, nil, true},
		{templated("/*/b"), yes, nil, true},
		{templated("/a/b"), yes, nil, true},
		{templated("/b/*"), yes, nil, false},
		{templated("/*"), yes, nil, false},
		{templated("/a/b/**"), yes, nil, false},
		{templated("/a/*/"), yes, nil, false},
		{templated("/a"), yes, nil, false},
		{`{"destinationIp": {"addressPrefix": "10.96.0.0", "prefixLen": 16}}`, yes, nil, true},
		{`{"destinationIp": {"addressPrefix": "10.97.0.0", "prefixLen": 16}}`, yes, nil, false},
		{`{"destinationPort": 80}`, yes, nil, true},
		{`{"destinationPort": 81}`, yes, nil, false},
		{`{"destinationPortRange": {"start": 80, "end": 82}}`, yes, nil, true},
		{`{"destinationPortRange": {"start": 70, "end": 80}}`, yes, nil, false},
		{`{"requestedServerName": {"exact": "db"}}`, yes, sni, true},
		{`{"requestedServerName": {"exact": "db"}}`, yes, nil, false},
		{`{"requestedServerName": {"safeRegex": {"regex": ".+"}}}`, yes, nil, false},
		// To Envoy a server name that is missing is empty.
		{`{"requestedServerName": {"safeRegex": {"regex": ".*"}}}`, yes, nil, true},

		{`{"header": {"name": ":authority", "stringMatch": {"suffix": ".example.COM", "ignoreCase": true}}}`, yes, nil, true},
		{`{"header": {"name": ":authority", "stringMatch": {"suffix": ".example.com"}}}`, yes, nil, false},
		{`{"header": {"name": ":authority", "stringMatch": {"prefix": "web"}}}`, yes, nil, false},
		{`{"header": {"name": ":method", "stringMatch": {"exact": "GET"}}}`, yes, nil, true},
		{`{"header": {"name": "x", "presentMatch": true}}`, yes, nil, true},
		{`{"header": {"name": "y", "presentMatch": true}}`, yes, nil, true},
		{`{"header": {"name": "z", "presentMatch": true}}`, yes, nil, false},
		{`{"header": {"name": "z", "presentMatch": false}}`, yes, nil, true},
		{`{"header": {"name": "z", "presentMatch": true, "invertMatch": true}}`, yes, nil, true},
		{`{"header": {"name": "x", "presentMatch": false, "invertMatch": true}}`, yes, nil, true},
		{`{"header": {"name": "x"}}`, yes, nil, true},
		{`{"header": {"name": "x", "invertMatch": true}}`, yes, nil, false},
		{`{"header": {"name": "x", "exactMatch": "1"}}`, yes, nil, true},
		{`{"header": {"name": "x", "exactMatch": "1", "invertMatch": true}}`, yes, nil, false},
		{`{"header": {"name": "x", "exactMatch": "2", "invertMatch": true}}`, yes, nil, true},
		{`{"header": {"name": "z", "exactMatch": "2", "invertMatch": true}}`, yes, nil, false},
		{`{"header": {"name": "z", "exactMatch": "2", "invertMatch": true, "treatMissingHeaderAsEmpty": true}}`, yes, nil, true},
		{`{"header": {"name": "z", "exactMatch": "", "treatMissingHeaderAsEmpty": true}}`, yes, nil, true},
		{`{"header": {"name": "x", "prefixMatch": "1"}}`, yes, nil, true},
		{`{"header": {"name": "x", "suffixMatch": "2"}}`, yes, nil, false},
		{`{"header": {"name": "x", "containsMatch": "1"}}`, yes, nil, true},
		{`{"header": {"name": "x", "safeRegexMatch": {"regex": "[0-9]"}}}`, yes, nil, true},

		{yes, `{"andIds": {"ids": [{"any": true}, {"sourceIp": {"addressPrefix": "10.0.0.1", "prefixLen": 32}}]}}`, nil, true},
		{yes, `{"orIds": {"ids": [{"directRemoteIp": {"addressPrefix": "11.0.0.0", "prefixLen": 8}}, {"remoteIp": {"addressPrefix": "10.0.0.0", "prefixLen": 8}}]}}`, nil, true},
		{yes, `{"directRemoteIp": {"addressPrefix": "1.2.3.4"}}`, nil, true},
		{yes, `{"notId": {"header": {"name": "x", "exactMatch": "1"}}}`, nil, false},
		{yes, `{"urlPath": {"path": {"prefix": "/a"}}}`, nil, true},
		{yes, `{"authenticated": {}}`, nil, true},
		{yes, `{"authenticated": {}}`, plaintext, false},
		{yes, `{"authenticated": {"principalName": {"exact": "spiffe://cluster.local/ns/foo/sa/a"}}}`, nil, true},
		{yes, `{"authenticated": {"principalName": {"exact": "cluster.local/ns/foo/sa/a"}}}`, nil, false},
		{yes, `{"authenticated": {"principalName": {"prefix": "spiffe://cluster.local/ns/fo"}}}`, nil, true},
		{yes, `{"authenticated": {"principalName": {"suffix": "/sa/a"}}}`, nil, true},
		{yes, `{"notId": {"authenticated": {"principalName": {"safeRegex": {"regex": ".*/ns/foo/.*"}}}}}`, plaintext, true},

		// Of a claim istiod asks for a string, bare and as an item of a list.
		{yes, claim(``, `{"stringMatch": {"exact": "i"}}`, "iss"), nil, true},
		{yes, claim(``, `{"stringMatch": {"exact": "x"}}`, "iss"), nil, false},
		{yes, claim(``, `{"orMatch": {"valueMatchers": [{"stringMatch": {"exact": "x"}}, {"stringMatch": {"safeRegex": {"regex": ".+"}}}]}}`, "sub"), nil, true},
		{yes, claim(`"invert": true,`, `{"stringMatch": {"exact": "x"}}`, "iss"), nil, true},
		{yes, claim(``, either(`{"stringMatch": {"prefix": "ad"}}`), "groups"), nil, true},
		{yes, claim(``, either(`{"stringMatch": {"prefix": "ad"}}`), "group"), nil, false},
		{yes, claim(``, either(`{"stringMatch": {"exact": "v"}}`), "nested", "k"), nil, true},
		{yes, claim(``, either(`{"orMatch": {"valueMatchers": [{"stringMatch": {"exact": "w"}}, {"stringMatch": {"exact": "v"}}]}}`), "nested", "k"), nil, true},
		{yes, claim(``, either(`{"stringMatch": {"exact": "v"}}`), "nested", "k"), noToken, false},
		{yes, claim(``, either(`{"stringMatch": {"exact": "v"}}`), "nested", "k"), opaque, false},
		{claim(``, either(`{"stringMatch": {"exact": "dev"}}`), "groups"), yes, nil, true},
	} {
		in := base()
		if tt.vary != nil {
			tt.vary(in)
		}
		s, err := HTTP(httpFilter(t, filterOf(tt.permission, tt.principal)))
		if err != nil {
			t.Errorf("%s %s: %v", tt.permission, tt.principal, err)
			continue
		}
		v := s.Check(in)
		if v.Allowed != tt.want {
			t.Errorf("%s %s: got %t, want %t", tt.permission, tt.principal, v.Allowed, tt.want)
		}
		if v.Allowed && (v.Policy.Namespace != "a" || v.Policy.Name != "b" || v.Rule != 3) {
			t.Errorf("got policy %+v rule %d, want a/b rule 3", v.Policy, v.Rule)
		}
	}
}

// What istiod writes about identities is taken apart; it must match as the
// regular expression does.
func TestIdentityExpressions(t *testing.T) {
	ids := []identity.ID{{}, {TrustDomain: "td", Namespace: "foo", ServiceAccount: "a"}, {TrustDomain: "td", Namespace: "ns", ServiceAccount: "foo"},
		{TrustDomain: "td", Namespace: "ns", ServiceAccount: "sa"}, {TrustDomain: "td", Namespace: "sa", ServiceAccount: "ns"}, {TrustDomain: "x.td", Namespace: "food", ServiceAccount: "ba"},
		{TrustDomain: "xatd", Namespace: "foo", ServiceAccount: "b.a"}, {TrustDomain: "td", Namespace: "foo", ServiceAccount: "bxa"}}
	for _, expr := range []string{".*", ".+", "spiffe://.*", "spiffe://.+", ".*/ns/foo/.*", ".*/ns/sa/.*", ".*/ns/f.*/.*", ".*/ns/.*/.*",
		"spiffe://.+/ns/foo/(.+/|)sa/a(/.+)?", "spiffe://.+/ns/food/(.+/|)sa/ba(/.+)?", "spiffe://.*a", "spiffe://.*/sa/a", "spiffe://.*foo/sa/a", "spiffe://[^/]*td/.*", "spiffe://td/.*", `spiffe://[^/]*\\.td/.*`, `spiffe://x[^/]*/.*`, `spiffe://[^/]*/.*`,
		`spiffe://.+/ns/foo/(.+/|)sa/b\\.a(/.+)?`, `spiffe://.*b\\.a`, `spiffe://.*/ns/foo/sa/b\\.a`} {
		m, err := authz.Regexp(strings.ReplaceAll(expr, `\\`, `\`)) // as JSON has it
		if err != nil {
			t.Fatal(err)
		}
		s, err := HTTP(httpFilter(t, filterOf(yes, `{"filterState": {"key": "io.istio.peer_principal", "stringMatch": {"safeRegex": {"regex": "`+expr+`"}}}}`)))
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			want := !id.IsZero() && m.MatchString(id.String())
			if got := s.Check(&authz.Input{Peer: id}).Allowed; got != want {
				t.Errorf("%s on %v: got %t, want %t", expr, id, got, want)
			}
		}
		in := &authz.Input{Peer: ids[1]}
		whole := strings.HasPrefix(expr, ".*/ns/") && expr != ".*/ns/foo/.*" || expr == "spiffe://td/.*" // matched as they are
		if n := testing.AllocsPerRun(10, func() { s.Check(in) }); n != 0 && !whole {
			t.Errorf("%s: %v allocations, want 0", expr, n)
		}
	}
}

func TestWhatIsNotCoveredFailsClosed(t *testing.T) {
	for _, tt := range []struct{ filter, want string }{
		{filterOf(`{"metadata": {"filter": "f"}}`, yes), `permissions[0].metadata: there is no metadata of "f" here`},
		{filterOf(yes, `{"metadata": {"filter": "envoy.filters.http.jwt_authn"}}`), `principals[0].metadata: there is no metadata of "envoy.filters.http.jwt_authn" here but the claims`},
		{filterOf(yes, claim(``, `{"listMatch": {"oneOf": {"stringMatch": {"exact": "x"}}}}`, "a")), `only the same string`},
		{filterOf(yes, claim(``, `{"orMatch": {"valueMatchers": [{"listMatch": {"oneOf": {"stringMatch": {"exact": "x"}}}}, {"stringMatch": {"exact": "y"}}]}}`, "a")), `only the same string`},
		{filterOf(yes, claim(``, `{"orMatch": {"valueMatchers": [{"listMatch": {"oneOf": {"boolMatch": true}}}, {"boolMatch": true}]}}`, "a")), `BoolMatch is not supported`},
		{filterOf(yes, claim(``, `{"stringMatch": {"safeRegex": {"regex": "("}}}`, "iss")), `error parsing regexp`},
		{filterOf(yes, claim(``, `{"presentMatch": true}`, "sub")), `PresentMatch is not supported`},
		{filterOf(`{"matcher": {"name": "m"}}`, yes), `permissions[0]: permission *rbacv3.Permission_Matcher is not supported`},
		{filterOf(`{"sourcedMetadata": {}}`, yes), `is not supported`},
		{filterOf(`{}`, yes), `permission <nil> is not supported`},
		{filterOf(yes, `{}`), `principal <nil> is not supported`},
		{filterOf(yes, `{"filterState": {"key": "k", "stringMatch": {"exact": "x"}}}`), `not "k"`},
		{filterOf(yes, `{"authenticated": {"principalName": {"exact": "x", "ignoreCase": true}}}`), `an identity with ignore_case`},
		{filterOf(yes, `{"authenticated": {"principalName": {"contains": "/ns/foo/"}}}`), `part of an identity`},
		{filterOf(yes, `{"authenticated": {"principalName": {}}}`), `string matcher <nil>`},
		{filterOf(yes, `{"notId": {}}`), `principals[0].not_id`},
		{filterOf(yes, `{"andIds": {"ids": [{}]}}`), `principals[0].and_ids[0]`},
		{filterOf(yes, `{"orIds": {"ids": [{}]}}`), `principals[0].or_ids[0]`},
		{filterOf(`{"urlPath": {"path": {"contains": "x", "ignoreCase": true}}}`, yes), `contains with ignore_case`},
		{filterOf(`{"urlPath": {"path": {"safeRegex": {"regex": "("}}}}`, yes), `error parsing regexp`},
		{filterOf(`{"header": {"name": "x", "safeRegexMatch": {"regex": "("}}}`, yes), `error parsing regexp`},
		{filterOf(`{"header": {"name": "x", "rangeMatch": {}}}`, yes), `RangeMatch is not supported`},
		{filterOf(templated("/{x}"), yes), `uri_template: "/{x}" has other operators`},
		{filterOf(templated("/{*}"), yes), `uri_template: "/{*}" has other operators`},
		{filterOf(templated("/a/*.txt"), yes), `uri_template: "/a/*.txt" has other operators`},
		{filterOf(templated("/a/***"), yes), `uri_template: "/a/***" has other operators`},
		{filterOf(templated("/**/a/*"), yes), `uri_template: "/{**}/a/{*}": {**} must be the last operator`},
		{filterOf(templated("/a//*"), yes), `uri_template: "/a//{*}": segment ""`},
		{filterOf(`{"uriTemplate": {"name": "t", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"}}}`, yes), `uri_template`},
		{filterOf(`{"destinationIp": {"addressPrefix": "x"}}`, yes), `destination_ip`},
		{filterOf(`{"destinationIp": {"addressPrefix": "10.0.0.1", "prefixLen": 33}}`, yes), `cannot have a prefix of 33 bits`},
		{filterOf(`{"destinationPort": 70000}`, yes), `are not ports`},
		{filterOf(`{"destinationPortRange": {"start": 5, "end": 5}}`, yes), `are not ports`},
		{`{"rules": {"policies": {"p": {"permissions": [{"any": true}], "principals": [{"any": true}], "condition": {}}}}}`, `CEL is not supported`},
		{`{"shadowRules": {"policies": {"p": {"permissions": [{}], "principals": [{"any": true}]}}}}`, `shadow_rules.policies[p]`},
		{`{"shadowRules": {}, "shadowRulesStatPrefix": "istio_ext_authz_"}`, `by the action ALLOW`},
		{`{"shadowRules": {"action": "DENY", "policies": {"istio-ext-authz-p": {"permissions": [{"any": true}], "principals": [{"any": true}]}}}, "shadowRulesStatPrefix": "istio_ext_authz_"}`, `names no authorizer`},
		{`{"rules": {"action": 7}}`, `action 7`},
		{`{"matcher": {}}`, `only rules are`},
	} {
		f := httpFilter(t, tt.filter)
		n := &netrbac.RBAC{Rules: f.Rules, ShadowRules: f.ShadowRules, Matcher: f.Matcher, ShadowRulesStatPrefix: f.ShadowRulesStatPrefix}
		for _, compile := range []func() (*authz.Set, error){
			func() (*authz.Set, error) { return HTTP(f) },
			func() (*authz.Set, error) { return Network(n) },
		} {
			s, err := compile()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: got %v, want …%s…", tt.filter, err, tt.want)
			}
			if v := s.Check(base()); v.Allowed {
				t.Errorf("%s: does not deny", tt.filter)
			}
		}
	}
}

// A field of a later protocol may be part of a condition, wherever it is.
func TestFieldsThatAreNotKnownFailClosed(t *testing.T) {
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 4000, protowire.VarintType), 1)
	policy := func(f *httprbac.RBAC) *rbacv3.Policy { return f.Rules.Policies["ns[a]-policy[b]-rule[3]"] }
	for name, where := range map[string]func(*httprbac.RBAC) proto.Message{
		"the filter":       func(f *httprbac.RBAC) proto.Message { return f },
		"a policy":         func(f *httprbac.RBAC) proto.Message { return policy(f) },
		"a permission":     func(f *httprbac.RBAC) proto.Message { return policy(f).Permissions[0] },
		"a header matcher": func(f *httprbac.RBAC) proto.Message { return policy(f).Principals[0].GetNotId().GetHeader() },
	} {
		f := httpFilter(t, filterOf(yes, `{"notId": {"header": {"name": "x", "exactMatch": "2"}}}`))
		if s, err := HTTP(f); err != nil || !s.Check(base()).Allowed {
			t.Fatalf("without it: %v", err)
		}
		where(f).ProtoReflect().SetUnknown(unknown)
		n := &netrbac.RBAC{Rules: f.Rules}
		n.ProtoReflect().SetUnknown(f.ProtoReflect().GetUnknown())
		for _, compile := range []func() (*authz.Set, error){func() (*authz.Set, error) { return HTTP(f) }, func() (*authz.Set, error) { return Network(n) }} {
			if s, err := compile(); !errors.Is(err, authz.ErrUnsupported) || s.Check(base()).Allowed {
				t.Errorf("%s: got %v, want that the field is not known", name, err)
			}
		}
	}
}

func TestUnsupportedIsTold(t *testing.T) {
	_, err := HTTP(httpFilter(t, filterOf(`{"metadata": {"filter": "f"}}`, yes)))
	if !errors.Is(err, authz.ErrUnsupported) {
		t.Errorf("got %v, want one that wraps ErrUnsupported", err)
	}
}

func TestFiltersWithoutRulesAllow(t *testing.T) {
	for filter, want := range map[string]bool{
		`{}`:                             true,
		`{"rules": {}}`:                  false, // ALLOW, and nothing to allow by
		`{"rules": {"action": "DENY"}}`:  true,
		`{"rules": {"action": "LOG"}}`:   true,
		`{"shadowRules": {}}`:            true,
		`{"rules": {"policies": {}}}`:    false,
		`{"rules": {"action": "ALLOW"}}`: false,
	} {
		s, err := HTTP(httpFilter(t, filter))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Check(base()).Allowed; got != want {
			t.Errorf("%s: got %t, want %t", filter, got, want)
		}
	}
}

func TestChainIsAllOfItsFilters(t *testing.T) {
	set := func(json string) *authz.Set {
		s, err := HTTP(httpFilter(t, json))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	rule := func(action, name string) string {
		return `{"rules": {"action": "` + action + `", "policies": {"` + name + `": {"permissions": [` + yes + `], "principals": [` + yes + `]}}}}`
	}
	log, allow, deny := set(rule("LOG", "log")), set(rule("ALLOW", "allow me")), set(rule("DENY", "deny"))
	for _, tt := range []struct {
		chain   Chain
		allowed bool
		audit   bool
		policy  string
	}{
		{nil, true, false, ""},
		{Chain{log, allow}, true, true, "allow me"},
		{Chain{log, deny, allow}, false, true, "deny"},
		{Chain{deny, log}, false, false, "deny"},
		{Chain{nil, allow}, true, false, "allow me"},
	} {
		v, name := tt.chain.Check(base()), ""
		if v.Policy != nil {
			name = v.Policy.Name
		}
		if v.Allowed != tt.allowed || v.Audit != tt.audit || name != tt.policy {
			t.Errorf("got %+v by %q, want %+v", v, name, tt)
		}
	}
}

func TestOriginOfAName(t *testing.T) {
	for name, want := range map[string]struct {
		ns, name string
		rule     int
	}{
		"ns[a]-policy[b]-rule[12]": {"a", "b", 12},
		"ns[a]-policy[b]-rule[-1]": {"", "ns[a]-policy[b]-rule[-1]", 0},
		"ns[a]-policy[b]":          {"", "ns[a]-policy[b]", 0},
		"other":                    {"", "other", 0},
		"":                         {"", "", 0},
	} {
		p, rule := origin(name)
		if p.Namespace != want.ns || p.Name != want.name || rule != want.rule {
			t.Errorf("%q: got %s/%s %d, want %+v", name, p.Namespace, p.Name, rule, want)
		}
	}
}

func TestChainAsksEachAuthorizerOnceInOrder(t *testing.T) {
	ask := func(provider, path string) *authz.Set {
		s, err := HTTP(httpFilter(t, `{"shadowRules": {"action": "DENY", "policies": {"istio-ext-authz-`+provider+`-ns[a]-policy[b]-rule[1]":
			{"permissions": [{"urlPath": {"path": {"prefix": "`+path+`"}}}], "principals": [`+yes+`]}}}, "shadowRulesStatPrefix": "istio_ext_authz_"}`))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	deny, err := HTTP(httpFilter(t, `{"rules": {"action": "DENY", "policies": {"no": {"permissions": [{"urlPath": {"path": {"prefix": "/a"}}}], "principals": [`+yes+`]}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	in := base()
	chain := Chain{ask("z", "/a"), ask("y", "/x"), ask("p", "/a"), deny}
	if v := chain.Check(in); v.Allowed || v.Ask == nil || v.Policy.Provider != "z" {
		t.Errorf("got %+v, want refused until z has been asked", v)
	}
	var asked []string
	for q := chain.Ask(in, nil); q != nil; q = chain.Ask(in, q) {
		asked = append(asked, q.Provider+" "+q.ID)
	}
	if want := []string{"p istio-ext-authz-p-ns[a]-policy[b]-rule[1]", "z istio-ext-authz-z-ns[a]-policy[b]-rule[1]"}; !slices.Equal(asked, want) {
		t.Errorf("got %q, want %q", asked, want)
	}
	if v := chain.Decide(in); v.Allowed || v.Ask != nil || v.Policy.Name != "no" {
		t.Errorf("got %+v, want denied by no", v)
	}
}

// A clause of a filter says what it asks for, and where in the filter it is.
func TestFiltersCanBeExplained(t *testing.T) {
	s, err := HTTP(httpFilter(t, filterOf(`{"header": {"name": ":method", "stringMatch": {"exact": "PUT"}}}`,
		`{"notId": {"authenticated": {"principalName": {"prefix": "spiffe://cluster.local/ns/foo"}}}}`)))
	if err != nil {
		t.Fatal(err)
	}
	x := s.Explain(base())
	want := "denied: no ALLOW rule matches; nearest AuthorizationPolicy a/b rule 3: request.headers[:method] wanted PUT, saw GET and " +
		"source.principal wanted none of cluster.local/ns/foo*, saw cluster.local/ns/foo/sa/a"
	if got := x.Line(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := x.Nearest.Clauses[0].Field, "rules.policies[ns[a]-policy[b]-rule[3]].permissions[0].header"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(x.Policies) != 1 || x.Policies[0].Policy != "a/b" || len(x.Policies[0].Rules) != 1 {
		t.Errorf("got %+v, want one policy", x.Policies)
	}
}

// FuzzHTTP has filters of any bytes, which come from whoever is taken for a
// control plane.
func FuzzHTTP(f *testing.F) {
	for _, text := range []string{filterOf(yes, yes), filterOf(`{"urlPath": {"path": {"safeRegex": {"regex": "/a/."}}}}`, claim(``, either(`{"stringMatch": {"exact": "v"}}`), "nested", "k")),
		`{"shadowRules": {"action": "DENY", "policies": {"istio-ext-authz-p-ns[a]-policy[b]-rule[1]": {"permissions": [{"any": true}], "principals": [{"any": true}]}}}, "shadowRulesStatPrefix": "istio_ext_authz_"}`} {
		var m httprbac.RBAC
		if err := protojson.Unmarshal([]byte(text), &m); err != nil {
			f.Fatal(err)
		}
		b, err := proto.Marshal(&m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m httprbac.RBAC
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		s, err := HTTP(&m)
		opaque := base()
		opaque.HTTP, opaque.Token = nil, nil
		for _, in := range []*authz.Input{base(), opaque, {}} {
			if v := s.Check(in); err != nil && v.Allowed {
				t.Fatalf("%v allows although it is not understood: %v", &m, err)
			}
			_ = s.Explain(in).String()
		}
	})
}
