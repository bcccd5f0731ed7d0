package authz_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
)

// Whatever Implies and Contradiction say holds for every input. What they do not
// see is not an error, but some of it they must.
func TestImpliesAndContradictionAreRight(t *testing.T) {
	rnd := rand.New(rand.NewPCG(31, 31))
	implied, excluded, matched := 0, 0, 0
	for range 150 {
		var exprs []*authz.Expr
		for _, e := range crowd(t, rnd, drawn(rnd, 8).Options(), 4) {
			if e.Rule >= 0 && e.HTTP != nil {
				exprs = append(exprs, e.HTTP)
			}
		}
		var inputs []*authz.Input
		for range 60 {
			inputs = append(inputs, drawn(rnd, 60).Input())
		}
		for i, a := range exprs {
			_, _, never := a.Contradiction()
			for _, in := range inputs {
				if never && a.Match(in) {
					t.Fatalf("%s is said to be never, and matches %+v", a, in)
				}
			}
			if never {
				excluded++
			}
			for j, b := range exprs {
				if i == j || !a.Implies(b) {
					continue
				}
				implied++
				for _, in := range inputs {
					if !a.Match(in) {
						continue
					}
					matched++
					if !b.Match(in) {
						t.Fatalf("%s is said to imply %s, not so for %+v", a, b, in)
					}
				}
			}
		}
	}
	if implied < 200 || excluded < 20 || matched < 1000 {
		t.Errorf("%d were implied, with %d matches, and %d excluded: the test shows little", implied, matched, excluded)
	}
}

func TestImplies(t *testing.T) {
	m := func(a authz.Attribute, m authz.Matcher) *authz.Expr { return authz.Match("", a, m) }
	method := func(s string) *authz.Expr { return m(authz.Method, authz.Exact(s)) }
	path := func(s string) *authz.Expr { return m(authz.Path, authz.Wildcard(s)) }
	principal := func(s string) *authz.Expr { return m(authz.Principal, authz.Wildcard(s)) }
	ns := func(s string) *authz.Expr { return m(authz.Namespace, authz.Glob(s)) }
	account := m(authz.ServiceAccount, authz.Exact("foo/a"))
	source := func(s string) *authz.Expr { return m(authz.SourceIP, authz.CIDR(netip.MustParsePrefix(s))) }
	port := func(a, b uint16) *authz.Expr { return m(authz.DestPort, authz.Ports(a, b)) }
	host := func(s string) *authz.Expr { return m(authz.Host, authz.Wildcard(s).Fold()) }
	claim := func(x authz.Matcher) *authz.Expr { return authz.MatchClaim("", []string{"c"}, x) }
	template, _ := authz.Template("/a/{*}")
	not := func(x *authz.Expr) *authz.Expr { return authz.Not("", x) }
	and := func(x ...*authz.Expr) *authz.Expr { return authz.And("", x...) }
	or := func(x ...*authz.Expr) *authz.Expr { return authz.Or("", x...) }
	for _, tt := range []struct {
		a, b *authz.Expr
		want bool
	}{
		{nil, method("GET"), true},
		{method("GET"), nil, false},
		{authz.Always(""), method("GET"), false},
		{method("GET"), authz.Always(""), true},
		{method("GET"), method("GET"), true},
		{method("GET"), method("PUT"), false},
		{method("GET"), path("GET"), false},
		{path("/a"), path("/a*"), true},
		{path("/a*"), path("/a"), false},
		{path("/ab*"), path("/a*"), true},
		{path("*/ab"), path("*b"), true},
		{path("/a"), path("*"), true},
		{path("/a*"), path("*"), true},
		{m(authz.Path, template), path("/a*"), true},
		{m(authz.Path, template), path("/b*"), false},
		{m(authz.Path, template), m(authz.Path, template), true},
		{claim(authz.Prefix("x")), claim(authz.NonEmpty()), true},
		{claim(authz.Present()), claim(authz.NonEmpty()), false},
		{claim(authz.Contains("a*b")), claim(authz.Glob("*a*b*")), false},
		{source("10.1.0.0/16"), source("10.0.0.0/8"), true},
		{source("10.0.0.0/8"), source("10.1.0.0/16"), false},
		{port(80, 81), port(80, 90), true},
		{port(80, 91), port(80, 90), false},
		{host("a.example.com"), host("*.Example.com"), true},
		{host("a"), m(authz.Host, authz.Exact("a")), false},
		{principal("td/ns/foo/sa/a"), ns("foo"), true},
		{principal("td/ns/foo/sa/a"), ns("f*"), true},
		{principal("td/ns/foo/*"), ns("foo"), true},
		{principal("td/ns/foo/sa/a"), account, true},
		{principal("*/ns/foo/sa/a"), account, true},
		{principal("td/ns/foo/sa/a"), m(authz.TrustDomain, authz.Exact("td")), true},
		{principal("td/ns/foo/sa/a"), m(authz.URI, authz.Prefix("spiffe://td/")), true},
		{account, ns("foo"), true},
		{account, ns("bar"), false},
		{account, principal("td/ns/foo/sa/a"), false},
		{ns("foo"), account, false},
		{ns("foo"), principal("*"), true},
		{ns("foo"), method("GET"), false},
		{and(method("GET"), path("/a")), path("/*"), true},
		{method("GET"), or(method("PUT"), method("GET")), true},
		{or(method("PUT"), method("GET")), method("GET"), false},
		{or(method("PUT"), method("GET")), or(method("GET"), method("PUT"), method("POST")), true},
		{and(method("GET"), path("/a")), and(path("/*"), method("GET")), true},
		{and(method("GET"), path("/a")), or(and(path("/a"), method("GET")), method("PUT")), true},
		{not(path("/a*")), not(path("/ab")), true},
		{not(path("/ab")), not(path("/a*")), false},
		{method("GET"), not(method("PUT")), true},
		{method("GET"), not(or(method("PUT"), method("GET"))), false},
		{method("GET"), not(and(method("PUT"), path("/a"))), true},
		{method("GET"), not(or(not(method("GET")), method("PUT"))), true},
		{method("GET"), not(or(not(method("PUT")), method("PUT"))), false},
		{principal("td/ns/foo/sa/a"), not(ns("bar")), true},
		{ns("foo"), not(principal("td/ns/bar/sa/a")), true},
		{ns("foo"), not(principal("td/ns/foo/sa/a")), false},
		{ns("foo"), not(method("GET")), false},
		{path("/a*"), not(path("/b*")), true},
		{path("*/a"), not(path("*/b")), true},
		{path("/a*"), not(m(authz.Path, template)), false},
		{claim(authz.Exact("x")), not(claim(authz.Exact("y"))), false},
		{not(method("GET")), method("PUT"), false},
	} {
		if got := tt.a.Implies(tt.b); got != tt.want {
			t.Errorf("%s implies %s: got %t", tt.a, tt.b, got)
		}
	}
	for x, want := range map[*authz.Expr][2]bool{nil: {false, true}, authz.Never(""): {false, true}, authz.Always(""): {true, true}, method("GET"): {true, false}} {
		if value, ok := x.Constant(); ok != want[1] || ok && value != want[0] {
			t.Errorf("%s: got %t, %t", x, value, ok)
		}
	}
	for _, tt := range []struct {
		x    *authz.Expr
		want bool
	}{
		{and(method("GET"), method("PUT")), true},
		{and(or(method("GET"), method("PUT")), or(method("POST"), method("HEAD"))), true},
		{and(or(method("GET"), method("PUT")), or(method("PUT"), method("HEAD"))), false},
		{and(method("GET"), not(method("GET"))), true},
		{and(not(path("/a*")), path("/ab")), true},
		{and(not(path("/ab")), path("/a*")), false},
		{and(principal("td/ns/foo/sa/a"), ns("bar")), true},
		{and(ns("bar"), principal("td/ns/foo/sa/a")), true},
		{and(source("10.0.0.0/8"), source("11.0.0.0/8")), true},
		{and(port(1, 2), port(3, 4)), true},
		{and(or(and(method("GET"), method("PUT")), and(path("/a"), path("/b"))), host("x")), true},
		{or(and(method("GET"), method("PUT")), and(path("/a"), path("/b"))), true},
		{or(and(method("GET"), method("PUT")), path("/a")), false},
		{and(or(and(method("GET"), path("/a")), and(method("GET"), path("/b"))), method("PUT")), true},
		{and(method("PUT"), or(and(method("GET"), path("/a")), and(method("GET"), path("/b")))), true},
		{and(claim(authz.Exact("x")), claim(authz.Exact("y"))), false},
		{and(claim(authz.Exact("x")), not(claim(authz.Prefix("x")))), true},
		{and(not(method("GET")), not(method("PUT"))), false},
		{and(host("a"), m(authz.Host, authz.Exact("b"))), false}, // it does not look so far
		{method("GET"), false},
		{nil, false},
	} {
		if _, _, got := tt.x.Contradiction(); got != tt.want {
			t.Errorf("%s is a contradiction: got %t", tt.x, got)
		}
	}
}
