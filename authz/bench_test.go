package authz_test

import (
	"fmt"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// teams returns n policies of ten rules each, of n teams. What they have in
// common is everything but what differ names. Only the last rule of the last
// policy matches the request.
func teams(n int, differ string) (policies []*authz.Policy, in *authz.Input) {
	of := func(what string, policy, rule int) string {
		if what == differ || differ == "all" {
			return fmt.Sprintf("%03d-%d", policy, rule)
		}
		return "any"
	}
	for i := range n {
		p := &authz.Policy{Namespace: "web", Name: fmt.Sprintf("team-%03d", i)}
		for j := range 10 {
			ns := "cluster.local/ns/team-" + of("principal", i, j)
			header := "1"
			if i != n-1 || j != 9 {
				header = "0"
			}
			source := authz.Source{Principals: []string{ns + "/sa/front", ns + "/sa/back"}}
			if differ == "token" {
				source = authz.Source{RequestPrincipals: []string{"https://issuer.example.com/" + of("token", i, j)}}
			}
			p.Rules = append(p.Rules, authz.Rule{
				From: []authz.Source{source},
				To: []authz.Operation{{
					Methods: []string{"HEAD" + of("method", i, j), "GET" + of("method", i, j)},
					Paths:   []string{"/api/" + of("path", i, j) + "/items", "/api/" + of("path", i, j) + "/items/*"},
				}},
				When: []authz.Condition{{Key: "request.headers[x-version]", Values: []string{header, "2"}}},
			})
		}
		policies = append(policies, p)
	}
	return policies, &authz.Input{
		Peer:  identity.ID{TrustDomain: "cluster.local", Namespace: "team-" + of("principal", n-1, 9), ServiceAccount: "back"},
		Token: authz.NewToken(map[string]any{"iss": "https://issuer.example.com", "sub": of("token", n-1, 9)}),
		HTTP: &l7.Request{Method: "GET" + of("method", n-1, 9), Scheme: "http", Authority: "web.example.com",
			Path:   "/api/" + of("path", n-1, 9) + "/items/17?sort=name",
			Fields: l7.Fields{{Name: "accept", Value: "*/*"}, {Name: "user-agent", Value: "curl"}, {Name: "x-version", Value: "1"}}},
	}
}

// shapes are what is asked of teams: what the last rule matches, and what none
// does, for differing from all of them in one thing or in all.
var shapes = []struct {
	name    string
	matches bool
	vary    func(*authz.Input)
}{
	{"match", true, func(*authz.Input) {}},
	{"other-principal", false, func(in *authz.Input) {
		in.Peer.Namespace, in.Token = "strangers", authz.NewToken(map[string]any{"iss": "https://issuer.example.com", "sub": "nobody"})
	}},
	{"no-principal", false, func(in *authz.Input) { in.Peer, in.Token = identity.ID{}, nil }},
	{"other-path", false, func(in *authz.Input) { in.HTTP.Path = "/static/logo.png" }},
	{"other-method", false, func(in *authz.Input) { in.HTTP.Method = "DELETE" }},
	{"other-all", false, func(in *authz.Input) {
		in.Peer.Namespace, in.Token, in.HTTP.Method, in.HTTP.Path = "strangers", nil, "DELETE", "/static/logo.png"
	}},
}

// policiesOf returns n policies of teams, of an action, and a request of a shape.
// ALLOW policies let pass what their last rule matches; of DENY policies it is
// refused.
func policiesOf(n int, differ string, action authz.Action, vary func(*authz.Input)) ([]*authz.Policy, *authz.Input) {
	policies, in := teams(n, differ)
	for _, p := range policies {
		p.Action = action
	}
	vary(in)
	return policies, in
}

// Check must not cost more for policies that cannot apply, be it for the method,
// the path or the principal, and whether one applies or none.
func BenchmarkCheck(b *testing.B) {
	for _, differ := range []string{"principal", "token", "path", "method", "all"} {
		for _, shape := range shapes {
			for _, n := range []int{1, 10, 100, 1000} {
				b.Run(fmt.Sprintf("differ=%s/ask=%s/policies=%d", differ, shape.name, n), func(b *testing.B) {
					policies, in := policiesOf(n, differ, authz.Allow, shape.vary)
					set, err := authz.Compile(authz.Options{}, policies...)
					if err != nil {
						b.Fatal(err)
					}
					if v := set.Check(in); v.Allowed != shape.matches || v.Allowed && v.Rule != 9 {
						b.Fatalf("got %+v, want allowed by the last rule: %t", v, shape.matches)
					}
					b.ReportAllocs()
					for b.Loop() {
						set.Check(in)
					}
				})
			}
		}
	}
}

// The cost of Check in rules that are looked at: it is that of one policy, however
// many there are that cannot apply. Times are BenchmarkCheck's; this can fail on
// any machine. And nothing of it allocates.
func TestPoliciesThatCannotApplyCostNothing(t *testing.T) {
	for _, action := range []authz.Action{authz.Allow, authz.Deny} {
		for _, differ := range []string{"principal", "token", "path", "method", "all"} {
			for _, n := range []int{10, 300} {
				policies, _ := policiesOf(n, differ, action, func(*authz.Input) {})
				set, err := authz.Compile(authz.Options{}, policies...)
				if err != nil {
					t.Fatal(err)
				}
				for _, shape := range shapes {
					_, in := teams(n, differ)
					shape.vary(in)
					name := fmt.Sprintf("%v differ=%s ask=%s policies=%d", action, differ, shape.name, n)
					if v := set.Check(in); v.Allowed != (shape.matches == (action == authz.Allow)) {
						t.Fatalf("%s: got %+v", name, v)
					}
					if got := authz.LookedAtForTest(set, in); got > 10 {
						t.Errorf("%s: %d rules are looked at", name, got)
					}
					if got := testing.AllocsPerRun(10, func() { set.Check(in) }); got != 0 {
						t.Errorf("%s: %v allocations, want 0", name, got)
					}
				}
			}
		}
	}
}

// A few rules, as most destinations have, are looked at one after the other.
func BenchmarkCheckFew(b *testing.B) {
	for _, n := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			policies, in := teams(1, "all")
			policies[0].Rules = policies[0].Rules[10-n:]
			set, err := authz.Compile(authz.Options{}, policies...)
			if err != nil {
				b.Fatal(err)
			}
			if v := set.Check(in); !v.Allowed {
				b.Fatalf("got %+v, want allowed", v)
			}
			b.ReportAllocs()
			for b.Loop() {
				set.Check(in)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			policies, _ := teams(n, "all")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := authz.Compile(authz.Options{}, policies...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Whoever has many destinations makes the sets of entries it has already.
func BenchmarkNewSet(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			policies, _ := teams(n, "all")
			var entries []authz.Entry
			for _, p := range policies {
				e, err := authz.Entries(authz.Options{}, p)
				if err != nil {
					b.Fatal(err)
				}
				entries = append(entries, e...)
			}
			b.ReportAllocs()
			for b.Loop() {
				authz.NewSet(entries)
			}
		})
	}
}

// What a line of the access log costs that says why a request was denied, and
// what the whole explanation does.
func BenchmarkExplain(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		policies, in := teams(n, "all")
		in.HTTP.Fields = nil
		set, err := authz.Compile(authz.Options{}, policies...)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("brief/policies=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = set.Brief(in).Line()
			}
		})
		b.Run(fmt.Sprintf("whole/policies=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				set.Explain(in)
			}
		})
	}
}
