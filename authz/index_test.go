package authz_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/authztest"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// drawn returns random bytes.
func drawn(rnd *rand.Rand, n int) *authztest.Random {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rnd.UintN(256))
	}
	return &authztest.Random{Bytes: data}
}

// crowd returns the entries of many random policies.
func crowd(t *testing.T, rnd *rand.Rand, o authz.Options, n int) (entries []authz.Entry) {
	t.Helper()
	for i := range n {
		for j, p := range drawn(rnd, 400).Policies() {
			p.Name = fmt.Sprintf("p%d-%d", i, j)
			e, err := authz.Entries(o, p)
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, e...)
		}
	}
	return entries
}

func TestIndexChangesNoVerdict(t *testing.T) {
	sets, inputs := 120, 150
	if testing.Short() {
		sets = 30
	}
	rnd := rand.New(rand.NewPCG(11, 11))
	decided := map[string]int{}
	for i := range sets {
		o := drawn(rnd, 8).Options()
		entries := crowd(t, rnd, o, 1+i%40)
		plain := authz.NewSetForTest(entries, -1)
		indexed := []*authz.Set{authz.NewSet(entries), authz.NewSetForTest(entries, 0), authz.NewSetForTest(entries, 3)}
		for range inputs {
			in := drawn(rnd, 60).Input()
			want := plain.Check(in)
			for _, s := range indexed {
				sameVerdict(t, in, s, want)
				decide(t, in, plain, s)
			}
			switch {
			case want.Ask != nil:
				decided["asked"]++
			case want.Policy == nil:
				decided["by none"]++
			default:
				decided["by one"]++
			}
		}
	}
	for _, what := range []string{"asked", "by none", "by one"} {
		if decided[what] < 100 {
			t.Errorf("%d verdicts were %s: the test shows little", decided[what], what)
		}
	}
}

func sameVerdict(t *testing.T, in *authz.Input, s *authz.Set, want authz.Verdict) {
	t.Helper()
	got := s.Check(in)
	if got.Allowed != want.Allowed || got.Policy != want.Policy || got.Rule != want.Rule || got.Details() != want.Details() ||
		got.Audit != want.Audit || got.DryRun != want.DryRun || (got.Ask == nil) != (want.Ask == nil) || got.Ask != nil && got.Ask.ID != want.Ask.ID {
		t.Fatalf("on %+v: got %+v, want %+v", in, got, want)
	}
}

// decide compares what comes after the first question.
func decide(t *testing.T, in *authz.Input, plain, s *authz.Set) {
	t.Helper()
	p, q := plain.Ask(in, nil), s.Ask(in, nil)
	for p != nil && q != nil && p.ID == q.ID {
		p, q = plain.Ask(in, p), s.Ask(in, q)
	}
	if p != nil || q != nil {
		t.Fatalf("on %+v: got %+v, want %+v", in, q, p)
	}
	if got, want := s.Decide(in), plain.Decide(in); got.Allowed != want.Allowed || got.Details() != want.Details() || got.Rule != want.Rule {
		t.Fatalf("on %+v: got %+v, want %+v", in, got, want)
	}
}

// Identities that no certificate has can be read in two ways.
func TestIndexOfOddIdentities(t *testing.T) {
	var entries []authz.Entry
	for i, x := range []*authz.Expr{
		authz.Match("", authz.Principal, authz.Suffix("/ns/foo/sa/a")),
		authz.Match("", authz.Principal, authz.Prefix("td/ns/foo/")),
		authz.Match("", authz.ServiceAccount, authz.Exact("foo/a")),
		authz.Match("", authz.URI, authz.Exact("spiffe://td/ns/foo/sa/a")),
	} {
		for j := range 5 {
			entries = append(entries, authz.Entry{ID: fmt.Sprint(i, j), Rule: i, HTTP: x, Opaque: x})
		}
	}
	plain, indexed := authz.NewSetForTest(entries, -1), authz.NewSet(entries)
	matched := 0
	for _, id := range []identity.ID{{}, {TrustDomain: "td", Namespace: "foo", ServiceAccount: "a"}, {TrustDomain: "td", Namespace: "x", ServiceAccount: "y/ns/foo/sa/a"},
		{TrustDomain: "td", Namespace: "x", ServiceAccount: "/ns/foo/sa/a"}, {TrustDomain: "/td", Namespace: "foo", ServiceAccount: "a"}, {TrustDomain: "td", Namespace: "/ns/foo", ServiceAccount: "a"},
		{TrustDomain: "td/ns/foo", Namespace: "x", ServiceAccount: "y"}, {TrustDomain: "td", Namespace: "foo/sa/a", ServiceAccount: "b"}, {TrustDomain: "td", Namespace: "foo/a", ServiceAccount: ""}} {
		in := &authz.Input{Peer: id}
		want := plain.Check(in)
		sameVerdict(t, in, indexed, want)
		if want.Allowed {
			matched++
		}
	}
	if matched < 4 {
		t.Errorf("%d identities matched: the test shows little", matched)
	}
}

func TestPrefixesAreFoundFromTheLongest(t *testing.T) {
	paths := []string{"/", "/a", "/a/", "/a/b", "/a/b/c", "/a/c", "/ab", "/b", "/b/{*}/x", "/a/b/c/d/e", "/z/{**}"}
	var entries []authz.Entry
	for i, path := range paths {
		p := &authz.Policy{Namespace: "n", Name: fmt.Sprint(path), Rules: []authz.Rule{{To: []authz.Operation{{Paths: []string{path + "*"}}}}}}
		if path[len(path)-1] == '}' || path == "/b/{*}/x" {
			p.Rules[0].To[0].Paths[0] = path
		}
		e, err := authz.Entries(authz.Options{}, p)
		if err != nil {
			t.Fatal(err)
		}
		e[0].ID = fmt.Sprintf("%02d", len(paths)-i) // the longer, the sooner
		entries = append(entries, e...)
	}
	plain, indexed := authz.NewSetForTest(entries, -1), authz.NewSetForTest(entries, 0)
	for _, path := range append(slices.Clone(paths), "", "*", "/a/b/", "/a/b/c/d", "/aa", "/a0", "/b/1/x", "/b/1/y", "/c", "/z/", "/z", "a") {
		in := &authz.Input{HTTP: &l7.Request{Method: "GET", Path: path}}
		sameVerdict(t, in, indexed, plain.Check(in))
	}
}

func TestGuardsAreWhatAnExprNeeds(t *testing.T) {
	template, _ := authz.Template("/a/{*}/b")
	anyTemplate, _ := authz.Template("{**}")
	principal := func(m authz.Matcher) *authz.Expr { return authz.Match("", authz.Principal, m) }
	path := func(m authz.Matcher) *authz.Expr { return authz.Match("", authz.Path, m) }
	method := func(s string) *authz.Expr { return authz.Match("", authz.Method, authz.Exact(s)) }
	var many []*authz.Expr
	for i := range 65 {
		many = append(many, method(fmt.Sprint(i)))
	}
	for _, tt := range []struct {
		x    *authz.Expr
		want []string
	}{
		{method("GET"), []string{"method=GET"}},
		{authz.MatchHeader("", ":method", authz.Exact("GET")), []string{"method=GET"}},
		{authz.Match("", authz.Method, authz.Prefix("G")), nil},
		{authz.Match("", authz.Method, authz.Exact("GET").Fold()), nil},
		{authz.MatchHeader("", "x", authz.Exact("GET")), nil},
		{path(authz.Exact("/a")), []string{"path=/a"}},
		{path(authz.Prefix("/a")), []string{"path=/a*"}},
		{path(authz.Suffix("/a")), nil},
		{path(authz.Present()), nil},
		{path(template), []string{"path=/a/*"}},
		{path(anyTemplate), nil},
		{authz.Match("", authz.Namespace, authz.Exact("n")), []string{"namespace=n"}},
		{authz.Match("", authz.Namespace, authz.Glob("n*")), nil},
		{authz.Match("", authz.ServiceAccount, authz.Exact("n/a")), []string{"account=n/sa/a", "namespace=n"}},
		{authz.Match("", authz.ServiceAccount, authz.Exact("a")), nil},
		{authz.Match("", authz.TrustDomain, authz.Exact("td")), nil},
		{principal(authz.Exact("td/ns/n/sa/a")), []string{"principal=td/ns/n/sa/a", "account=n/sa/a", "namespace=n"}},
		{authz.Match("", authz.URI, authz.Exact("spiffe://td/ns/n/sa/a")), []string{"principal=td/ns/n/sa/a", "account=n/sa/a", "namespace=n"}},
		{authz.Match("", authz.URI, authz.Exact("td/ns/n/sa/a")), nil},
		{authz.Match("", authz.URI, authz.Suffix("/ns/n/sa/a")), []string{"account=n/sa/a", "namespace=n"}},
		{principal(authz.Exact("td/ns/n/sa/a/b")), nil},
		{principal(authz.Exact("n/a")), nil},
		{principal(authz.Exact("td")), nil},
		{principal(authz.Suffix("x/ns/n/sa/a")), []string{"account=n/sa/a", "namespace=n"}},
		{principal(authz.Suffix("/sa/a")), nil},
		{principal(authz.Prefix("td/ns/n/")), []string{"namespace=n"}},
		{principal(authz.Prefix("td/ns/n")), nil},
		{principal(authz.Prefix("td/ns/n/sa/a")), []string{"namespace=n"}},
		{authz.And("", method("GET"), path(authz.Exact("/a"))), []string{"path=/a", "method=GET"}},
		{authz.And("", authz.Or("", method("GET"), method("PUT")), method("PUT")), []string{"method=PUT"}},
		{authz.And("", method("PUT"), authz.Or("", method("GET"), method("PUT"))), []string{"method=PUT"}},
		{authz.Or("", method("GET"), path(authz.Exact("/a"))), nil},
		{authz.Or("", method("GET"), method("PUT")), []string{"method=GET", "method=PUT"}},
		{authz.Or("", principal(authz.Exact("td/ns/n/sa/a")), authz.Match("", authz.Namespace, authz.Exact("m"))), []string{"namespace=n", "namespace=m"}},
		{authz.Or("", many...), nil},
		{asked(t, "https://i/x/s"), []string{"subject=s", "issuer=https://i/x"}},
		{asked(t, "i/s*"), []string{"issuer=i"}},
		{asked(t, "*/s"), []string{"subject=s"}},
		{asked(t, "*i/s"), []string{"subject=s"}},
		{asked(t, "i"), []string{"subject=", "issuer=i"}},
		{asked(t, "*"), nil},
		{asked(t, "i*"), nil},
		{authz.Match("", authz.RequestPrincipal, authz.Exact("i/s")), nil}, // matches nothing
		{authz.Not("", method("GET")), nil},
		{authz.Always(""), nil},
		{authz.Match("", authz.SourceIP, authz.CIDR(netip.MustParsePrefix("10.1.2.3/16"))), []string{"source=10.1.0.0/16"}},
		{authz.Match("", authz.SourceIP, authz.CIDR(netip.MustParsePrefix("::ffff:10.1.2.3/128"))), []string{"source=10.1.2.3/32"}},
		{authz.Match("", authz.SourceIP, authz.CIDR(netip.Prefix{})), nil},
		{authz.Match("", authz.DestIP, authz.CIDR(netip.MustParsePrefix("fd00::/8"))), []string{"dest=fd00::/8"}},
		{authz.Match("", authz.DestPort, authz.Ports(80, 80)), []string{"port=80"}},
		{authz.Match("", authz.DestPort, authz.Ports(80, 81)), nil},
	} {
		if got := authz.GuardsForTest(tt.x); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.x, got, tt.want)
		}
	}
}

// asked returns what asks for a request principal.
func asked(t *testing.T, principal string) *authz.Expr {
	t.Helper()
	e, err := authz.Entries(authz.Options{}, &authz.Policy{Rules: []authz.Rule{{From: []authz.Source{{RequestPrincipals: []string{principal}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	return e[0].HTTP
}

// Blocks may lie in one another, and an address is in one of each length.
func TestBlocksAreFoundWhateverTheirLength(t *testing.T) {
	blocks := []string{"0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3", "10.1.2.4", "10.2.0.0/16", "::/0", "fd00::/8", "fd00::1", "192.0.2.1"}
	var entries []authz.Entry
	for i, block := range blocks {
		p := &authz.Policy{Namespace: "n", Name: "p", Rules: []authz.Rule{{From: []authz.Source{{IPBlocks: []string{block}}}}, {When: []authz.Condition{{Key: "destination.ip", Values: []string{block}}}}}}
		e, err := authz.Entries(authz.Options{L4: true}, p)
		if err != nil {
			t.Fatal(err)
		}
		for j := range e {
			e[j].ID = fmt.Sprintf("%02d", len(blocks)-i) // the narrower, the sooner
		}
		entries = append(entries, e...)
	}
	plain, indexed := authz.NewSetForTest(entries, -1), authz.NewSetForTest(entries, 0)
	addresses := []string{"10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.3.3", "10.2.2.2", "10.3.3.3", "11.0.0.0", "fd00::1", "fd00::2", "fe80::1%eth0", "::1", "::ffff:10.1.2.3", "192.0.2.1"}
	for _, src := range addresses {
		for _, dst := range addresses {
			in := &authz.Input{Source: netip.MustParseAddr(src), Dest: netip.AddrPortFrom(netip.MustParseAddr(dst), 80)}
			sameVerdict(t, in, indexed, plain.Check(in))
		}
	}
	sameVerdict(t, new(authz.Input), indexed, plain.Check(new(authz.Input)))
}
