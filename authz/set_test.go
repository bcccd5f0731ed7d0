package authz_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

func TestNilAndEmptySetsAllow(t *testing.T) {
	var none *authz.Set
	empty, err := authz.Compile(authz.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*authz.Set{none, empty, authz.NewSet(nil)} {
		for _, in := range []*authz.Input{{}, {HTTP: &l7.Request{}}} {
			v := s.Check(in)
			if !v.Allowed || v.Policy != nil || v.Rule != -1 || v.Details() != "" {
				t.Errorf("got %+v, want allowed by nothing", v)
			}
		}
	}
}

func TestClosedSetNamesItsReason(t *testing.T) {
	v := authz.Closed("policy default/x: never was\tgood").Check(&authz.Input{})
	if got, want := v.Details(), "rbac_access_denied_matched_policy[closed:policy_default/x:_never_was_good]"; v.Allowed || got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if v.Policy != nil || v.Rule != -1 {
		t.Errorf("got %+v, want no policy", v)
	}
}

func TestCompileRejectsEachBadPolicyByName(t *testing.T) {
	set, err := authz.Compile(authz.Options{},
		&authz.Policy{Namespace: "a", Name: "good"},
		&authz.Policy{Namespace: "a", Name: "idle", Action: authz.Deny},
		&authz.Policy{Namespace: "b", Name: "mysql", Rules: []authz.Rule{{When: []authz.Condition{{Key: "experimental.envoy.filters.x[y]", Values: []string{"z"}}}}}})
	want := "AuthorizationPolicy a/idle: spec.rules: a DENY policy without rules does nothing; write [{}] to deny everything\n" +
		"AuthorizationPolicy b/mysql: spec.rules[0].when[0].key: there are no Envoy filters here whose metadata could be asked for"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	if v := set.Check(&authz.Input{HTTP: &l7.Request{}}); v.Allowed || !strings.Contains(v.Details(), "closed:AuthorizationPolicy/a/idle_rejected") {
		t.Errorf("got %+v %s, want closed", v, v.Details())
	}
	if !errors.Is(err, authz.ErrUnsupported) {
		t.Error("the error does not wrap ErrUnsupported")
	}
	var f *authz.FieldError
	if !errors.As(err, &f) || f.Unsupported || f.Policy != (mesh.Key{Kind: "AuthorizationPolicy", Namespace: "a", Name: "idle"}) {
		t.Errorf("got %+v, want the first of the errors", f)
	}
	if errors.Is(f, authz.ErrUnsupported) {
		t.Error("an invalid field counts as unsupported")
	}
}

func TestLimitsOfTheCRD(t *testing.T) {
	values := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprint("a", i))
		}
		return out
	}
	source, operation := authz.Source{Namespaces: []string{"x"}}, authz.Operation{Methods: []string{"x"}}
	ref := authz.TargetRef{Kind: "Service", Name: "x"}
	for _, tt := range []struct {
		name string
		p    authz.Policy
		want string // "" if it is within the limit
	}{
		{"512 rules", authz.Policy{Rules: make([]authz.Rule, 512)}, ""},
		{"513 rules", authz.Policy{Rules: make([]authz.Rule, 513)}, "spec.rules: has 513 entries, more than 512"},
		{"512 from", authz.Policy{Rules: []authz.Rule{{From: repeat(source, 512)}}}, ""},
		{"513 from", authz.Policy{Rules: []authz.Rule{{From: repeat(source, 513)}}}, "spec.rules[0].from: has 513 entries, more than 512"},
		{"513 to", authz.Policy{Rules: []authz.Rule{{To: repeat(operation, 513)}}}, "spec.rules[0].to: has 513 entries, more than 512"},
		{"16 targetRefs", authz.Policy{TargetRefs: repeat(ref, 16)}, ""},
		{"17 targetRefs", authz.Policy{TargetRefs: repeat(ref, 17)}, "spec.targetRefs: has 17 entries, more than 16"},
		{"16 accounts", authz.Policy{Rules: []authz.Rule{{From: []authz.Source{{ServiceAccounts: values(16)}}}}}, ""},
		{"17 accounts", authz.Policy{Rules: []authz.Rule{{From: []authz.Source{{NotServiceAccounts: values(17)}}}}},
			"spec.rules[0].from[0].source.notServiceAccounts: has 17 entries, more than 16"},
		{"long account", authz.Policy{Rules: []authz.Rule{{From: []authz.Source{{ServiceAccounts: []string{strings.Repeat("x", 321)}}}}}},
			"spec.rules[0].from[0].source.serviceAccounts[0]: has 321 characters, more than 320"},
		{"no such action", authz.Policy{Action: 9}, "spec.action: Action(9) is not an action"},
		{"empty label", authz.Policy{Selector: map[string]string{"": "x"}}, "spec.selector.matchLabels[]: an empty key is not allowed"},
	} {
		tt.p.Namespace, tt.p.Name = "a", "b"
		got := ""
		if err := authz.Validate(&tt.p); err != nil {
			got = strings.TrimPrefix(err.Error(), "AuthorizationPolicy a/b: ")
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func repeat[T any](v T, n int) (out []T) {
	for range n {
		out = append(out, v)
	}
	return out
}

func TestActionsAreSpeltAsInManifests(t *testing.T) {
	for _, a := range []authz.Action{authz.Allow, authz.Deny, authz.Audit, authz.Custom} {
		if got, err := authz.ParseAction(a.String()); got != a || err != nil {
			t.Errorf("ParseAction(%q): got %v, %v", a.String(), got, err)
		}
	}
	if a, err := authz.ParseAction(""); a != authz.Allow || err != nil {
		t.Errorf(`ParseAction(""): got %v, %v, want ALLOW`, a, err)
	}
	if _, err := authz.ParseAction("allow"); err == nil {
		t.Error(`ParseAction("allow"): got no error`)
	}
}

func TestPolicyKey(t *testing.T) {
	p := &authz.Policy{Namespace: "a", Name: "b"}
	if got, want := p.Key().String(), "AuthorizationPolicy/a/b"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// manyPolicies returns n policies, of which the last in order allows what
// request asks for.
func manyPolicies(n int) (out []*authz.Policy) {
	for i := range n {
		ns := fmt.Sprintf("team-%03d", i)
		out = append(out,
			&authz.Policy{Namespace: "web", Name: "allow-" + ns, Rules: []authz.Rule{{
				From: []authz.Source{{Principals: []string{"cluster.local/ns/" + ns + "/sa/front", "cluster.local/ns/" + ns + "/sa/back"}}},
				To:   []authz.Operation{{Methods: []string{"GET", "HEAD"}, Paths: []string{"/api/*", "/files/{*}/raw"}, Hosts: []string{"*.example.com"}}},
				When: []authz.Condition{
					{Key: "request.headers[x-version]", NotValues: []string{"0*"}},
					{Key: "request.auth.claims[realm][roles]", NotValues: []string{"admin"}},
				},
			}}})
	}
	out[0].Action = authz.Deny // of the wrong kind for the request below unless it is alone
	if n == 1 {
		out[0].Action = authz.Allow
	}
	return out
}

func request(n int) *authz.Input {
	return &authz.Input{
		Peer:   identity.ID{TrustDomain: "cluster.local", Namespace: fmt.Sprintf("team-%03d", n-1), ServiceAccount: "back"},
		Source: netip.MustParseAddr("10.0.0.1"), Dest: netip.MustParseAddrPort("10.96.0.1:80"),
		Token: authz.NewToken(map[string]any{"iss": "i", "sub": "s", "realm": map[string]any{"roles": []any{"guest", "dev"}}}),
		HTTP: &l7.Request{Method: "HEAD", Scheme: "http", Authority: "WEB.example.com", Path: "/files/some-name.txt/raw?x=y",
			Fields: l7.Fields{{Name: "accept", Value: "*/*"}, {Name: "user-agent", Value: "curl"}, {Name: "x-version", Value: "12"}}},
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	o := authz.Options{Providers: map[string]*authz.Provider{"x": {}}}
	ask := &authz.Policy{Namespace: "web", Name: "ask", Action: authz.Custom, Provider: "x", Rules: []authz.Rule{{From: []authz.Source{{Namespaces: []string{"team-098"}}}}}}
	set, err := authz.Compile(o, append(manyPolicies(20), ask)...)
	if err != nil {
		t.Fatal(err)
	}
	allowed, denied, opaque := request(20), request(99), request(20)
	if v := set.Check(denied); v.Ask == nil {
		t.Fatalf("got %+v, want a question", v)
	}
	opaque.HTTP = nil
	if v := set.Check(allowed); !v.Allowed {
		t.Fatalf("got %+v, want allowed", v)
	}
	if got := testing.AllocsPerRun(100, func() {
		set.Check(allowed)
		_ = set.Ask(denied, set.Check(denied).Ask)
		_ = set.Decide(denied).Details()
		set.Check(opaque)
	}); got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

// A Question may be older than the Set: what has been asked is told by its
// provider.
func TestAskGoesOnAfterAQuestionOfAnotherSet(t *testing.T) {
	o := authz.Options{Providers: map[string]*authz.Provider{"a": {}, "b": {}, "c": {}}}
	compile := func(providers ...string) *authz.Set {
		var policies []*authz.Policy
		for _, name := range providers {
			policies = append(policies, &authz.Policy{Namespace: "n", Name: name, Action: authz.Custom, Provider: name, Rules: []authz.Rule{{}}})
		}
		set, err := authz.Compile(o, policies...)
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	in := &authz.Input{HTTP: &l7.Request{}}
	old := compile("b").Ask(in, nil)
	if q := compile("a", "b", "c").Ask(in, old); q == nil || q.Provider != "c" {
		t.Errorf("got %+v, want c", q)
	}
	if q := compile("a").Ask(in, old); q != nil {
		t.Errorf("got %+v, want nothing", q)
	}
	for _, s := range []*authz.Set{nil, authz.NewSet(nil), authz.Closed("x")} {
		if q := s.Ask(in, nil); q != nil {
			t.Errorf("got %+v, want nothing", q)
		}
	}
	if v := authz.Closed("x").Decide(in); v.Allowed {
		t.Error("a closed set decides to allow")
	}
}

// Who is asked by server name has to look for one, whatever the action; and who
// sees no HTTP does not ask for it.
func TestAsksServerName(t *testing.T) {
	when := func(key string) []authz.Rule {
		return []authz.Rule{{When: []authz.Condition{{Key: key, NotValues: []string{"192.0.2.1"}}}}}
	}
	for _, action := range []authz.Action{authz.Allow, authz.Deny, authz.Audit} {
		for _, dry := range []bool{false, true} {
			for key, want := range map[string]bool{"connection.sni": true, "source.ip": false} {
				p := &authz.Policy{Name: "p", Namespace: "default", Action: action, DryRun: dry && action != authz.Audit, Rules: when(key)}
				set, err := authz.Compile(authz.Options{}, p)
				if err != nil || set.AsksServerName() != want {
					t.Errorf("%v by %s: %v, %v", action, key, set.AsksServerName(), err)
				}
				if node, err := authz.Compile(authz.Options{L4: true}, p); err == nil && node.AsksServerName() {
					t.Errorf("%v by %s: the node asks", action, key)
				}
			}
		}
	}
	var none *authz.Set
	if none.AsksServerName() || authz.Closed("x").AsksServerName() {
		t.Error("nobody asks")
	}
}
