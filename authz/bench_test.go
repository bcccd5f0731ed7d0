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
			p.Rules = append(p.Rules, authz.Rule{
				From: []authz.Source{{Principals: []string{ns + "/sa/front", ns + "/sa/back"}}},
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
		Peer: identity.ID{TrustDomain: "cluster.local", Namespace: "team-" + of("principal", n-1, 9), ServiceAccount: "back"},
		HTTP: &l7.Request{Method: "GET" + of("method", n-1, 9), Scheme: "http", Authority: "web.example.com",
			Path:   "/api/" + of("path", n-1, 9) + "/items/17?sort=name",
			Fields: l7.Fields{{Name: "accept", Value: "*/*"}, {Name: "user-agent", Value: "curl"}, {Name: "x-version", Value: "1"}}},
	}
}

// Check must not cost more for policies that cannot apply, be it for the method,
// the path or the principal.
func BenchmarkCheck(b *testing.B) {
	for _, differ := range []string{"principal", "path", "method", "all"} {
		for _, n := range []int{1, 10, 100, 1000} {
			b.Run(fmt.Sprintf("differ=%s/policies=%d", differ, n), func(b *testing.B) {
				policies, in := teams(n, differ)
				set, err := authz.Compile(authz.Options{}, policies...)
				if err != nil {
					b.Fatal(err)
				}
				if v := set.Check(in); !v.Allowed || v.Rule != 9 {
					b.Fatalf("got %+v, want allowed by the last rule", v)
				}
				b.ReportAllocs()
				for b.Loop() {
					set.Check(in)
				}
			})
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

// What a line of the access log costs that says why a request was denied.
func BenchmarkBrief(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			policies, in := teams(n, "all")
			in.HTTP.Fields = nil
			set, err := authz.Compile(authz.Options{}, policies...)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				_ = set.Brief(in).Line()
			}
		})
	}
}
