package authztest

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// A Random turns bytes into choices. When it runs out of them it chooses the
// first of everything.
type Random struct{ Bytes []byte }

// N returns a number from 0 to n-1.
func (r *Random) N(n int) int {
	if len(r.Bytes) == 0 || n < 2 {
		return 0
	}
	b := r.Bytes[0]
	r.Bytes = r.Bytes[1:]
	return int(b) % n
}

// One reports true once in n times.
func (r *Random) One(n int) bool { return r.N(n) == 1 }

func (r *Random) of(words []string) string { return words[r.N(len(words))] }

// some returns a few of words, mostly none.
func (r *Random) some(words []string) (out []string) {
	if !r.One(4) {
		return nil
	}
	for range 1 + r.N(3) {
		out = append(out, r.of(words))
	}
	return out
}

// The vocabulary: what policies say, and what requests are like.
var (
	principals = []string{"cluster.local/ns/foo/sa/a", "cluster.local/ns/bar/sa/b", "*", "*/sa/a", "cluster.local/ns/foo/*",
		"td1/ns/foo/sa/a", "*local/ns/foo/sa/b", "ol*/ns/foo/sa/a", "old/ns/bar/sa/a", "foo", "*/ns/foo/sa/ab", "td1/ns/foo/sa/*"}
	namespaces   = []string{"foo", "bar", "*", "f*", "*r", "b*r", "ns", "fo"}
	accounts     = []string{"a", "foo/a", "bar/b", "b", "foo/ab"}
	trustDomains = []string{"cluster.local", "td1", "old", "*", "c*", "*ld", "td*"}
	blocks       = []string{"10.0.0.1", "10.0.0.0/8", "10.1.0.0/16", "::/0", "fd00::/8", "0.0.0.0/0", "192.168.0.7", "10.0.0.5/30", "::ffff:10.0.0.1"}
	hosts        = []string{"a.example.com", "*.example.com", "A.*", "*", "a.example.com:80", "B.EXAMPLE.COM", "*:80", "a*"}
	ports        = []string{"80", "8080", "0", "65535"}
	methods      = []string{"GET", "POST", "*", "P*", "get", "*T"}
	paths        = []string{"/", "/a", "/a*", "*b", "*", "/a/{*}", "/a/{**}", "/{*}/b", "/a/{**}/b", "/{**}", "/a/b", "/A", "/a/{*}/{**}/b/"}
	words        = []string{"v", "v*", "*v", "*", "vv", "v,w", "V"}
	subjects     = []string{"*", "i/s", "i/*", "*/s", "i*", "*s", "*i/s", "i/s*", "https://i/x/s", "*/*", "i", "*/", "/s"}
)

// conditions are the keys of conditions and their values.
var conditions = []struct {
	key    string
	values []string
}{
	{"request.headers[X-A]", words},
	{"request.headers[:method]", methods},
	{"request.headers[Host]", hosts},
	{"request.headers[:path]", []string{"/a", "/a*", "*b", "*", "/a?b"}},
	{"request.headers[Cookie]", []string{"v", "v; w", "*w", "*"}},
	{"source.ip", blocks},
	{"remote.ip", blocks},
	{"source.namespace", namespaces},
	{"source.principal", principals},
	{"source.serviceAccount", accounts},
	{"source.trustDomain", trustDomains},
	{"destination.ip", blocks},
	{"destination.port", ports},
	{"request.auth.principal", subjects},
	{"request.auth.audiences", words},
	{"request.auth.presenter", words},
	{"request.auth.claims[c]", words},
	{"request.auth.claims[c][d.e]", words},
	{"connection.sni", []string{"a.example.com", "*.example.com", "*", "a*"}},
}

// Policies returns a few policies, all of them valid.
func (r *Random) Policies() (out []*authz.Policy) {
	for i := range 1 + r.N(3) {
		p := &authz.Policy{Name: fmt.Sprintf("p%d", i), Namespace: "foo", Action: authz.Action(r.N(4)), DryRun: r.One(5)}
		if p.Action == authz.Custom {
			p.Provider = r.of([]string{"grpc", "http", "unknown"})
		}
		for range 1 + r.N(2) {
			p.Rules = append(p.Rules, r.rule(p.Action))
		}
		if p.Action == authz.Allow && r.One(8) {
			p.Rules = nil
		}
		out = append(out, p)
	}
	return out
}

// Options returns options for a waypoint or, one time in four, for a node.
func (r *Random) Options() authz.Options {
	o := authz.Options{L4: r.One(4), Providers: map[string]*authz.Provider{"grpc": {}, "http": {Kind: authz.HTTP}}}
	if r.One(2) {
		o.TrustDomain, o.Aliases = "td1", []string{"old"}
	}
	return o
}

// rule returns a rule. Those of CUSTOM policies may not ask for a JWT.
func (r *Random) rule(a authz.Action) (out authz.Rule) {
	if r.One(2) {
		for range 1 + r.N(2) {
			s := r.source()
			if a == authz.Custom {
				s.RequestPrincipals, s.NotRequestPrincipals = nil, nil
			}
			out.From = append(out.From, s)
		}
	}
	if r.One(2) {
		for range 1 + r.N(2) {
			out.To = append(out.To, r.operation())
		}
	}
	for range r.N(3) {
		c := conditions[r.N(len(conditions))]
		if a == authz.Custom && strings.HasPrefix(c.key, "request.auth.") {
			continue
		}
		w := authz.Condition{Key: c.key, Values: r.some(c.values), NotValues: r.some(c.values)}
		if w.Values == nil && w.NotValues == nil {
			w.Values = []string{r.of(c.values)}
		}
		out.When = append(out.When, w)
	}
	return out
}

func (r *Random) source() authz.Source {
	s := authz.Source{
		IPBlocks: r.some(blocks), NotIPBlocks: r.some(blocks),
		RemoteIPBlocks: r.some(blocks), NotRemoteIPBlocks: r.some(blocks),
		TrustDomains: r.some(trustDomains), NotTrustDomains: r.some(trustDomains),
	}
	if r.One(3) {
		s.RequestPrincipals, s.NotRequestPrincipals = r.some(subjects), r.some(subjects)
	}
	if r.One(4) {
		s.ServiceAccounts, s.NotServiceAccounts = []string{r.of(accounts)}, r.some(accounts)
		return s
	}
	s.Namespaces, s.NotNamespaces = r.some(namespaces), r.some(namespaces)
	s.Principals, s.NotPrincipals = []string{r.of(principals)}, r.some(principals)
	return s
}

func (r *Random) operation() authz.Operation {
	o := authz.Operation{
		Hosts: r.some(hosts), NotHosts: r.some(hosts),
		Ports: r.some(ports), NotPorts: r.some(ports),
		Methods: r.some(methods), NotMethods: r.some(methods),
		Paths: r.some(paths), NotPaths: r.some(paths),
	}
	switch {
	case len(o.Hosts)+len(o.NotHosts)+len(o.Ports)+len(o.NotPorts)+len(o.Methods)+len(o.NotMethods)+len(o.Paths)+len(o.NotPaths) > 0:
	case r.One(2):
		o.Paths = []string{r.of(paths)}
	default:
		o.Ports = []string{r.of(ports)}
	}
	return o
}

// Input returns an input, one time in five an opaque one.
func (r *Random) Input() *authz.Input {
	in := &authz.Input{
		Source: netip.MustParseAddr(r.of([]string{"10.0.0.1", "10.1.2.3", "fd00::1", "192.168.0.7", "::ffff:10.0.0.1", "10.0.0.6"})),
		Dest:   netip.AddrPortFrom(netip.MustParseAddr(r.of([]string{"10.0.0.1", "10.1.0.9", "fd00::2"})), uint16([]int{80, 8080, 0, 65535, 81}[r.N(5)])),
		SNI:    r.of([]string{"", "a.example.com", "b.example.com", "x", "A.Example.com"}),
	}
	if !r.One(6) {
		in.Peer = identity.ID{
			TrustDomain:    r.of([]string{"cluster.local", "td1", "old", "other"}),
			Namespace:      r.of([]string{"foo", "bar", "ns", "fooo", "f"}),
			ServiceAccount: r.of([]string{"a", "b", "ab", "sa"}),
		}
	}
	if r.One(5) {
		return in
	}
	in.HTTP = &l7.Request{
		Method:    r.of([]string{"GET", "POST", "PUT", "get"}),
		Scheme:    "http",
		Authority: r.of([]string{"a.example.com", "b.example.com:80", "A.EXAMPLE.COM", "other", ""}),
		Path: r.of([]string{"/", "/a", "/ab", "/a/b", "/a/", "/a/b/c", "/a/x/b", "/x/b", "/a?b", "/a/b?x=/c", "*", "/A", "/a/*/b",
			"/a/x/y/b/", "/a/b/b/", "/a/%2F", "/a/x|b", "/a/b#x", "/a?b#/b", "/a//b"}),
	}
	for range r.N(3) {
		in.HTTP.Fields = append(in.HTTP.Fields, l7.Field{Name: r.of([]string{"x-a", "x-a", "x-b", "cookie"}), Value: r.of(values)})
	}
	if !r.One(3) {
		in.Token = authz.NewToken(r.claims())
	}
	return in
}

// values are those of header fields and claims.
var values = []string{"v", "", "w", "vv", "V"}

// claims returns what a token says.
func (r *Random) claims() map[string]any {
	c := map[string]any{
		"iss": r.of([]string{"i", "https://i/x", "ii", ""}),
		"sub": r.of([]string{"s", "ss", "x", "*", ""}),
	}
	for _, name := range []string{"aud", "azp", "c"} {
		if v := r.claim(); v != nil {
			c[name] = v
		}
	}
	return c
}

func (r *Random) claim() any {
	switch r.N(5) {
	case 0:
		return r.of(values)
	case 1:
		return []any{r.of(values), 1.0, r.of(values)}
	case 2:
		return map[string]any{"d.e": r.claim(), "d": r.of(values)}
	case 3:
		return []any{nil, true, []any{"v"}}
	}
	return nil
}
