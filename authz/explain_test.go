package authz_test

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

func TestExplanationAgreesWithTheVerdict(t *testing.T) {
	rnd := rand.New(rand.NewPCG(21, 21))
	reasons := map[authz.Reason]int{}
	for i := range 150 {
		o := drawn(rnd, 8).Options()
		set := authz.NewSet(crowd(t, rnd, o, 1+i%5))
		for range 20 {
			in := drawn(rnd, 60).Input()
			x, v := set.Explain(in), set.Decide(in)
			reasons[x.Reason]++
			if x.Allowed != v.Allowed || x.Details != v.Details() || (x.Decided == nil) != (v.Policy == nil) {
				t.Fatalf("got %+v for %+v", x, v)
			}
			if v.Policy != nil && (x.Decided.Policy != v.Policy.Namespace+"/"+v.Policy.Name || x.Decided.Rule != v.Rule || !x.Decided.Matches) {
				t.Fatalf("got %+v for %+v", x.Decided, v)
			}
			if (x.Audit != nil) != v.Audit || len(x.DryRun) != dryRuns(v) {
				t.Fatalf("got %+v for %+v", x, v)
			}
			if q := set.Ask(in, nil); x.Reason != authz.ReasonUnusable && (q == nil) != (len(x.Ask) == 0) {
				t.Fatalf("got %+v for %+v", x.Ask, q)
			}
			checkRules(t, x)
			if _, err := json.Marshal(x); err != nil {
				t.Fatal(err)
			}
			if line := x.Line(); strings.Contains(line, "\n") || !strings.HasPrefix(x.String(), line+"\n") {
				t.Fatalf("got %q", line)
			}
		}
	}
	for _, r := range []authz.Reason{authz.ReasonNoPolicy, authz.ReasonAllow, authz.ReasonDeny, authz.ReasonNoAllow, authz.ReasonUnusable} {
		if reasons[r] < 20 {
			t.Errorf("%s was explained %d times: the test shows little", r, reasons[r])
		}
	}
}

func dryRuns(v authz.Verdict) (n int) {
	for _, o := range []authz.Outcome{v.DryRun.Deny, v.DryRun.Allow} {
		if o.Result != authz.Unknown {
			n++
		}
	}
	return n
}

// checkRules checks that what does not match says why, and that no ALLOW rule
// lacks less than the nearest.
func checkRules(t *testing.T, x *authz.Explanation) {
	t.Helper()
	least, first := 1<<20, ""
	for _, p := range x.Policies {
		matches := false
		for _, r := range p.Rules {
			matches = matches || r.Matches
			if !r.Matches && len(r.Clauses) == 0 && !r.Inert {
				t.Fatalf("nothing says why %+v does not match", r)
			}
			for _, c := range r.Clauses {
				if c.Field == "" || c.Attribute == "" || len(c.Wanted) == 0 {
					t.Fatalf("%+v says little", c)
				}
			}
			if n := len(r.Clauses); p.Action == "ALLOW" && !p.DryRun && !r.Matches && !r.Inert && (n < least || n == least && r.ID < first) {
				least, first = n, r.ID
			}
		}
		if matches != p.Matches {
			t.Fatalf("%s: got %t", p.Policy, p.Matches)
		}
	}
	if x.Reason != authz.ReasonNoAllow {
		return
	}
	if x.Nearest == nil || first != "" && (len(x.Nearest.Clauses) != least || x.Nearest.ID != first) {
		t.Fatalf("got nearest %+v, want %s, which lacks %d", x.Nearest, first, least)
	}
}

func TestExplanationOfNothing(t *testing.T) {
	var none *authz.Set
	for _, s := range []*authz.Set{none, authz.NewSet(nil)} {
		x := s.Explain(&authz.Input{})
		if got, want := x.String(), "allowed: no ALLOW policy applies\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	// An ALLOW entry of no policy, as of an Envoy filter without any.
	x := authz.NewSet([]authz.Entry{{Rule: -1}}).Explain(&authz.Input{})
	if got, want := x.String(), "denied: no ALLOW rule matches\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A request's strings are views of a buffer that is read into again.
func TestExplanationKeepsNothingOfTheInput(t *testing.T) {
	set, err := authz.Compile(authz.Options{}, &authz.Policy{Namespace: "n", Name: "p", Rules: []authz.Rule{{
		To:   []authz.Operation{{Hosts: []string{"a"}, Methods: []string{"A"}, Paths: []string{"/a"}}},
		When: []authz.Condition{{Key: "request.headers[x]", Values: []string{"a"}}, {Key: "connection.sni", Values: []string{"a"}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	buffer := []byte("bbbbb")
	view := unsafe.String(&buffer[0], len(buffer))
	x := set.Explain(&authz.Input{SNI: view, HTTP: &l7.Request{Method: view, Authority: view, Path: view, Fields: l7.Fields{{Name: "x", Value: view}}}})
	want := x.String()
	copy(buffer, "ccccc")
	if got := x.String(); got != want || !strings.Contains(got, "bbbbb") {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLongValuesAreCut(t *testing.T) {
	set, err := authz.Compile(authz.Options{}, &authz.Policy{Namespace: "n", Name: "p", Rules: []authz.Rule{{To: []authz.Operation{{Paths: []string{"/a"}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	x := set.Brief(&authz.Input{HTTP: &l7.Request{Path: "/" + strings.Repeat("ä", 200)}})
	if got, want := x.Nearest.Clauses[0].Saw, "/"+strings.Repeat("ä", 127)+"…"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What no AuthorizationPolicy can say, but an Envoy filter can.
func TestClausesOfNestedConditions(t *testing.T) {
	method := func(s string) *authz.Expr { return authz.Match("at."+s, authz.Method, authz.Exact(s)) }
	path := authz.Match("at.path", authz.Path, authz.Prefix("/a"))
	claim := authz.MatchClaim("at.claim", []string{"a", "b"}, authz.Exact("x"))
	uri := authz.Match("at.uri", authz.URI, authz.Exact("spiffe://td/ns/n/sa/a"))
	for _, tt := range []struct {
		x    *authz.Expr
		want string
	}{
		{authz.Not("not", authz.And("and", method("GET"), path)), "method wanted none of GET, saw GET and path wanted none of /a*, saw /a/b"},
		{authz.Not("not", authz.Not("not", method("PUT"))), "method wanted PUT, saw GET"},
		{authz.And("and", authz.Or("or", method("GET"), path), authz.Or("or", authz.And("", method("PUT"), claim), claim)), "request.auth.claims[a][b] wanted x, saw no valid token"},
		{uri, "source.principal wanted td/ns/n/sa/a, saw no identity"},
		{authz.Or("or", method("PUT"), method("POST")), "method wanted PUT or POST, saw GET"},
	} {
		set := authz.NewSet([]authz.Entry{{ID: "r", Policy: &authz.Policy{Name: "p"}, HTTP: tt.x}})
		got := set.Brief(&authz.Input{HTTP: &l7.Request{Method: "GET", Path: "/a/b"}}).Line()
		if want := "denied: no ALLOW rule matches; nearest AuthorizationPolicy p rule 0: " + tt.want; got != want {
			t.Errorf("%s: got %s, want %s", tt.x, got, want)
		}
	}
	// How they hold.
	deny := authz.NewSet([]authz.Entry{{Action: authz.Deny, Policy: &authz.Policy{Name: "p"},
		HTTP: authz.And("and", authz.Not("not", authz.Or("or", claim, method("PUT"))), authz.Or("or", method("PUT"), path), authz.Not("not", claim))}})
	want := "denied by AuthorizationPolicy p rule 0: request.auth.claims[a][b] x does not match: there is no valid token and path /a* matches /a/b and " +
		"request.auth.claims[a][b] x does not match: there is no valid token"
	if got := deny.Brief(&authz.Input{HTTP: &l7.Request{Method: "GET", Path: "/a/b"}}).Line(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Values of clauses that are of no or of odd shape.
func TestClaimsInExplanations(t *testing.T) {
	set, err := authz.Compile(authz.Options{}, &authz.Policy{Namespace: "n", Name: "p", Rules: []authz.Rule{{When: []authz.Condition{{Key: "request.auth.claims[c]", Values: []string{"x"}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		claim any
		want  string
	}{
		{nil, "none"},
		{"", "an empty value"},
		{"a b", `"a b"`},
		{1.5, "1.5"},
		{true, "true"},
		{map[string]any{"secret": "s"}, `"an object"`},
		{[]any{"a", nil, []any{1.0}}, `"a, , 1"`},
		{[]any{}, "an empty value"},
	} {
		x := set.Brief(&authz.Input{HTTP: &l7.Request{}, Token: authz.NewToken(map[string]any{"c": tt.claim})})
		want := "denied: no ALLOW rule matches; nearest AuthorizationPolicy n/p rule 0: when request.auth.claims[c] wanted x, saw " + tt.want
		if got := x.Line(); got != want {
			t.Errorf("%v: got %s, want %s", tt.claim, got, want)
		}
	}
}

// Of a thousand rules a line of a log looks at some hundreds. If the index leads to
// the nearest, it is among them.
func TestBriefLooksAtWhatIsLikely(t *testing.T) {
	policies, in := teams(100, "all")
	set, err := authz.Compile(authz.Options{}, policies...)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		vary func(in *authz.Input)
		want string
	}{
		{func(in *authz.Input) { in.HTTP.Fields = nil }, "when request.headers[x-version] wanted 1 or 2, saw none"},
		{func(in *authz.Input) { in.HTTP.Method = "PUT" }, "to.operation.methods wanted HEAD099-9 or GET099-9, saw PUT"},
		{func(in *authz.Input) { in.HTTP.Path = "/" }, "to.operation.paths wanted /api/099-9/items or /api/099-9/items/*, saw /"},
	} {
		in, req := *in, *in.HTTP
		in.HTTP = &req
		tt.vary(&in)
		want := "denied: no ALLOW rule matches; nearest AuthorizationPolicy web/team-099 rule 9: " + tt.want
		for _, x := range []*authz.Explanation{set.Brief(&in), set.Explain(&in)} {
			if got := x.Line(); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
	other := *in
	other.Peer.ServiceAccount = "x"
	want := "denied: no ALLOW rule matches; nearest AuthorizationPolicy web/team-099 rule 9: from.source.principals wanted " +
		"cluster.local/ns/team-099-9/sa/front or cluster.local/ns/team-099-9/sa/back, saw cluster.local/ns/team-099-9/sa/x"
	if got := set.Explain(&other).Line(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// What differs is the path alone, and an index finds that by what it begins
	// with.
	byPath, there := teams(100, "path")
	there.HTTP.Fields = nil
	if set, err = authz.Compile(authz.Options{}, byPath...); err != nil {
		t.Fatal(err)
	}
	if x := set.Brief(there); x.Nearest == nil || x.Nearest.ID != "ns[web]-policy[team-099]-rule[9]" || len(x.Nearest.Clauses) != 1 {
		t.Errorf("got %+v, want the rule for the path", x.Nearest)
	}
	// Nothing is as it should be.
	in.HTTP, in.Peer = &l7.Request{Path: "/"}, identity.ID{}
	if x := set.Brief(in); x.Nearest == nil || x.Nearest.ID != "ns[web]-policy[team-000]-rule[0]" {
		t.Errorf("got %+v, want the first rule", x.Nearest)
	}
}
