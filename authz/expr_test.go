package authz_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

func regex(t *testing.T, s string) authz.Matcher {
	t.Helper()
	m, err := authz.Regexp(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMatchers(t *testing.T) {
	template, err := authz.Template("/a/{*}/b/{**}")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		m       authz.Matcher
		name    string
		yes, no []string
	}{
		{authz.Exact("a"), "a", []string{"a"}, []string{"", "A", "aa"}},
		{authz.Exact("Ab").Fold(), "ab", []string{"ab", "AB", "aB"}, []string{"a", "äb", "abc"}},
		{authz.Prefix("a"), "a*", []string{"a", "ab"}, []string{"", "ba"}},
		{authz.Prefix("A").Fold(), "a*", []string{"a", "Ab"}, []string{"", "b"}},
		{authz.Suffix("a"), "*a", []string{"a", "ba"}, []string{"", "ab"}},
		{authz.Suffix(".Org").Fold(), "*.org", []string{"x.ORG"}, []string{"org", "x.orgs"}},
		{authz.Present(), "*", []string{"", "a"}, nil},
		{authz.NonEmpty(), "*", []string{"a"}, []string{""}},
		{authz.Contains("a"), "*a*", []string{"a", "bab"}, []string{"", "b"}},
		{authz.Contains("a*b"), "*a*b*", []string{"xa*bx"}, []string{"axb"}},
		{authz.Glob("a*b*c"), "a*b*c", []string{"abc", "axbyc", "abbc"}, []string{"ab", "ac", "abcd", "acb"}},
		{authz.Glob("ab*ba"), "ab*ba", []string{"abba", "abxba"}, []string{"aba"}},
		{authz.Glob("a"), "a", []string{"a"}, []string{"b"}},
		{regex(t, "a|b.*"), "~a|b.*", []string{"a", "b", "bc"}, []string{"ac", "cb", ""}},
		{template, "/a/{*}/b/{**}", []string{"/a/x/b/", "/a/x/b/c/d"}, []string{"/a/x/b", "/a//b/", "/a/x/c/b/", "/b", "/a/x/b/\x00"}},
		{authz.Ports(1, 2), "1-2", nil, []string{"1"}},
	} {
		if got := tt.m.String(); got != tt.name {
			t.Errorf("String: got %q, want %q", got, tt.name)
		}
		for _, s := range tt.yes {
			if !tt.m.MatchString(s) {
				t.Errorf("%s does not match %q", tt.m, s)
			}
		}
		for _, s := range tt.no {
			if tt.m.MatchString(s) {
				t.Errorf("%s matches %q", tt.m, s)
			}
		}
	}
	if _, err := authz.Regexp("("); err == nil {
		t.Error("a bad regular expression compiles")
	}
	if _, err := authz.Template("/{x}"); err == nil {
		t.Error("a bad template compiles")
	}
	if _, err := authz.Template(""); err == nil {
		t.Error("an empty template compiles")
	}
}

// The SPIFFE ID is matched in pieces; every cut must give the same answer as
// the whole string.
func TestIdentityIsMatchedAsIfWhole(t *testing.T) {
	in := &authz.Input{Peer: identity.ID{TrustDomain: "td.org", Namespace: "foo", ServiceAccount: "bar"}}
	for a, whole := range map[authz.Attribute]string{
		authz.Principal: "td.org/ns/foo/sa/bar", authz.URI: "spiffe://td.org/ns/foo/sa/bar", authz.ServiceAccount: "",
	} {
		if a == authz.ServiceAccount {
			whole = "foo/bar"
		}
		for i := range len(whole) + 1 {
			for _, tt := range []struct {
				m    authz.Matcher
				want bool
			}{
				{authz.Prefix(whole[:i]), true},
				{authz.Prefix(whole[:i] + "!"), false},
				{authz.Suffix(whole[i:]), true},
				{authz.Suffix("!" + whole[i:]), false},
				{authz.Exact(whole[:i]), i == len(whole)},
				{authz.Exact(whole[:i] + "!"), false},
				{authz.Exact(whole[i:]), i == 0},
			} {
				if got := authz.Match("", a, tt.m).Match(in); got != tt.want {
					t.Errorf("%v=%s on %s: got %t, want %t", a, tt.m, whole, got, tt.want)
				}
			}
		}
		if !authz.Match("", a, authz.Exact(whole)).Match(in) || !authz.Match("", a, authz.Present()).Match(in) || !authz.Match("", a, authz.NonEmpty()).Match(in) {
			t.Errorf("%v does not match %s", a, whole)
		}
		if !authz.Match("", a, regex(t, ".*/.*bar")).Match(in) {
			t.Errorf("%v does not match %s by a regular expression", a, whole)
		}
		if authz.Match("", a, authz.Glob("*o*")).Match(in) {
			t.Errorf("%v matches by a matcher that is not for identities", a)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, tt := range []struct {
		cidr, addr string
		want       bool
	}{
		{"10.0.0.0/8", "10.1.2.3", true},
		{"10.0.0.0/8", "::ffff:10.1.2.3", true},
		{"::ffff:10.0.0.0/104", "10.1.2.3", true},
		{"::ffff:10.0.0.0/104", "11.1.2.3", false},
		{"::/0", "10.1.2.3", false},
		{"0.0.0.0/0", "::1", false},
		{"fe80::/10", "fe80::1%eth0", true},
	} {
		in := &authz.Input{Source: netip.MustParseAddr(tt.addr), Dest: netip.AddrPortFrom(netip.MustParseAddr(tt.addr), 1)}
		for _, a := range []authz.Attribute{authz.SourceIP, authz.DestIP} {
			if got := authz.Match("", a, authz.CIDR(netip.MustParsePrefix(tt.cidr))).Match(in); got != tt.want {
				t.Errorf("%v %s in %s: got %t, want %t", a, tt.addr, tt.cidr, got, tt.want)
			}
		}
	}
	if authz.Match("", authz.SourceIP, authz.Exact("")).Match(&authz.Input{}) || authz.Match("", authz.DestPort, authz.Ports(0, 9)).Match(&authz.Input{}) {
		t.Error("an input without addresses matches")
	}
}

func TestExprKeepsOnlyWhatCanChangeTheAnswer(t *testing.T) {
	a, b := authz.Match("a", authz.Method, authz.Exact("A")), authz.MatchHeader("b", "X-B", authz.Prefix("b"))
	always, never := authz.Always(""), authz.Never("")
	for _, tt := range []struct {
		x    *authz.Expr
		want string
	}{
		{authz.And("", a, always, b), "and(method=A, header[x-b]=b*)"},
		{authz.And("", a, never, b), "never"},
		{authz.And("", always), "always"},
		{authz.And("", a), "method=A"},
		{authz.Or("", a, never), "method=A"},
		{authz.Or("", a, b, authz.Not("", a)), "or(method=A, header[x-b]=b*, not(method=A))"},
		{authz.Or("", a, always), "always"},
		{authz.Or(""), "never"},
		{authz.And(""), "always"},
		{authz.Not("", always), "never"},
		{authz.Not("", never), "always"},
		{authz.MatchClaim("", []string{"a", "b.c"}, authz.NonEmpty()), "claim[a][b.c]=*"},
		{authz.Match("", authz.DestPort, authz.Ports(80, 80)), "destPort=80"},
		{authz.Match("", authz.SourceIP, authz.CIDR(netip.MustParsePrefix("10.1.0.0/8"))), "sourceIP=10.0.0.0/8"},
		{nil, "never"},
	} {
		if got := tt.x.String(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
	if (*authz.Expr)(nil).Match(&authz.Input{}) {
		t.Error("a nil Expr matches")
	}
}

func TestExprNamesItsOrigin(t *testing.T) {
	x := authz.Not("spec.x", authz.Match("spec.x[0]", authz.Method, authz.Present()))
	if got := x.Origin(); got != "spec.x" {
		t.Errorf("got %q, want spec.x", got)
	}
}

func TestHeadersOfARequest(t *testing.T) {
	in := &authz.Input{HTTP: &l7.Request{Method: "GET", Scheme: "http", Authority: "h", Path: "/p?q", Upgrade: "websocket",
		Fields: l7.Fields{{Name: "a", Value: "1"}, {Name: "b", Value: ""}, {Name: "a", Value: "2"}}}}
	for name, value := range map[string]string{":method": "GET", ":scheme": "http", ":authority": "h", "Host": "h", ":path": "/p?q",
		"Upgrade": "websocket", "A": "1,2", "b": ""} {
		if !authz.MatchHeader("", name, authz.Exact(value)).Match(in) {
			t.Errorf("%s is not %q", name, value)
		}
	}
	for _, name := range []string{"c", "upgrade", ":path"} {
		if authz.MatchHeader("", name, authz.Present()).Match(&authz.Input{HTTP: &l7.Request{}}) {
			t.Errorf("%s is there", name)
		}
	}
	if authz.MatchHeader("", "a", authz.Present()).Match(&authz.Input{}) {
		t.Error("what is not HTTP has a header")
	}
}

func TestOnlyRequestsHaveHTTPAttributes(t *testing.T) {
	for a := authz.Principal; a <= authz.Claim; a++ {
		want := strings.Contains(" host method path header requestPrincipal claim ", " "+a.String()+" ")
		if a.IsHTTP() != want {
			t.Errorf("%v.IsHTTP: got %t", a, a.IsHTTP())
		}
	}
}
