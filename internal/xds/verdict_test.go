package xds

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

// matches evaluates an Authorization as Istio's node tunnel does, by its rules
// and not by ours: groups are alternatives, a group's rules all have to match, of
// their matches one has to, of a match all kinds, of a kind one value and none of
// the not_ ones. Rules without matches match; a match without values does not.
func matches(a *workloadapi.Authorization, in *authz.Input) bool {
	return slices.ContainsFunc(a.Groups, func(g *workloadapi.Group) bool {
		return !slices.ContainsFunc(g.Rules, func(r *workloadapi.Rules) bool {
			return len(r.Matches) > 0 && !slices.ContainsFunc(r.Matches, func(m *workloadapi.Match) bool { return matchesOne(m, in) })
		})
	})
}

func matchesOne(m *workloadapi.Match, in *authz.Input) bool {
	if proto.Equal(m, &workloadapi.Match{Extensions: m.Extensions}) {
		return false
	}
	principal := func(v *workloadapi.StringMatch) bool { return !in.Peer.IsZero() && matchesText(v, in.Peer.Principal()) }
	namespace := func(v *workloadapi.StringMatch) bool { return !in.Peer.IsZero() && matchesText(v, in.Peer.Namespace) }
	account := func(v *workloadapi.ServiceAccountMatch) bool {
		return !in.Peer.IsZero() && v.Namespace == in.Peer.Namespace && v.ServiceAccount == in.Peer.ServiceAccount
	}
	contains := func(ip netip.Addr) func(*workloadapi.IPBlock) bool {
		return func(b *workloadapi.IPBlock) bool {
			a, _ := netip.AddrFromSlice(b.Address)
			return netip.PrefixFrom(a, int(b.Length)).Contains(ip)
		}
	}
	port := func(p uint32) bool { return p == uint32(in.Dest.Port()) }
	return kindMatches(m.Principals, m.NotPrincipals, principal) &&
		kindMatches(m.Namespaces, m.NotNamespaces, namespace) &&
		kindMatches(m.ServiceAccounts, m.NotServiceAccounts, account) &&
		kindMatches(m.SourceIps, m.NotSourceIps, contains(in.Source)) &&
		kindMatches(m.DestinationIps, m.NotDestinationIps, contains(in.Dest.Addr())) &&
		kindMatches(m.DestinationPorts, m.NotDestinationPorts, port)
}

func kindMatches[T any](values, notValues []T, match func(T) bool) bool {
	return (len(values) == 0 || slices.ContainsFunc(values, match)) && !slices.ContainsFunc(notValues, match)
}

func matchesText(m *workloadapi.StringMatch, v string) bool {
	switch t := m.MatchType.(type) {
	case *workloadapi.StringMatch_Exact:
		return t.Exact == v
	case *workloadapi.StringMatch_Prefix:
		return strings.HasPrefix(v, t.Prefix)
	case *workloadapi.StringMatch_Suffix:
		return strings.HasSuffix(v, t.Suffix)
	}
	return v != ""
}

// A dice makes policies and connections, of few enough words that they meet.
type dice struct{ *rand.Rand }

func of[T any](d dice, words ...T) T { return words[d.IntN(len(words))] }

// some returns none to two of what one makes, mostly none.
func some[T any](d dice, one func() T) (out []T) {
	for range []int{0, 0, 0, 0, 1, 1, 2}[d.IntN(7)] {
		out = append(out, one())
	}
	return out
}

func (d dice) id() identity.ID {
	return identity.ID{TrustDomain: of(d, "cluster.local", "td"), Namespace: of(d, "a", "b"), ServiceAccount: of(d, "x", "y")}
}

func (d dice) text(words ...string) *workloadapi.StringMatch {
	w := of(d, words...)
	switch d.IntN(4) {
	case 0:
		return &workloadapi.StringMatch{MatchType: &workloadapi.StringMatch_Presence{Presence: &emptypb.Empty{}}}
	case 1:
		return &workloadapi.StringMatch{MatchType: &workloadapi.StringMatch_Prefix{Prefix: w[:1+d.IntN(len(w))]}}
	case 2:
		return &workloadapi.StringMatch{MatchType: &workloadapi.StringMatch_Suffix{Suffix: w[d.IntN(len(w)):]}}
	}
	return &workloadapi.StringMatch{MatchType: &workloadapi.StringMatch_Exact{Exact: w}}
}

func (d dice) block() *workloadapi.IPBlock {
	ip := of(d, "10.0.0.1", "10.0.0.2", "10.9.0.1", "fd00::1")
	a := netip.MustParseAddr(ip)
	return &workloadapi.IPBlock{Address: a.AsSlice(), Length: uint32(of(d, 0, 8, a.BitLen(), a.BitLen()))}
}

func (d dice) match() *workloadapi.Match {
	principal := func() *workloadapi.StringMatch { return d.text(d.id().Principal()) }
	namespace := func() *workloadapi.StringMatch { return d.text("a", "b") }
	account := func() *workloadapi.ServiceAccountMatch {
		return &workloadapi.ServiceAccountMatch{Namespace: of(d, "a", "b"), ServiceAccount: of(d, "x", "y")}
	}
	port := func() uint32 { return of(d, uint32(80), 443) }
	m := &workloadapi.Match{}
	for range d.IntN(4) { // few kinds at a time: most policies ask for few
		switch d.IntN(6) {
		case 0:
			m.Principals, m.NotPrincipals = some(d, principal), some(d, principal)
		case 1:
			m.Namespaces, m.NotNamespaces = some(d, namespace), some(d, namespace)
		case 2:
			m.ServiceAccounts, m.NotServiceAccounts = some(d, account), some(d, account)
		case 3:
			m.SourceIps, m.NotSourceIps = some(d, d.block), some(d, d.block)
		case 4:
			m.DestinationIps, m.NotDestinationIps = some(d, d.block), some(d, d.block)
		case 5:
			m.DestinationPorts, m.NotDestinationPorts = some(d, port), some(d, port)
		}
	}
	return m
}

func (d dice) authorization() *workloadapi.Authorization {
	a := &workloadapi.Authorization{Name: "p", Namespace: "a", Scope: workloadapi.Scope_WORKLOAD_SELECTOR, Action: workloadapi.Action(d.IntN(2))}
	for range d.IntN(3) {
		g := &workloadapi.Group{}
		for range d.IntN(4) {
			r := &workloadapi.Rules{}
			for range d.IntN(4) {
				r.Matches = append(r.Matches, d.match())
			}
			g.Rules = append(g.Rules, r)
		}
		a.Groups = append(a.Groups, g)
	}
	return a
}

func (d dice) input() *authz.Input {
	in := &authz.Input{
		Source: netip.MustParseAddr(of(d, "10.0.0.1", "10.0.0.2", "10.9.0.1", "192.0.2.1", "fd00::1")),
		Dest:   netip.AddrPortFrom(netip.MustParseAddr(of(d, "10.0.0.1", "10.0.0.2", "10.9.0.1")), uint16(of(d, 80, 443, 9080))),
	}
	if d.IntN(4) > 0 {
		in.Peer = d.id()
	}
	return in
}

// asIstio is a mesh without names for its trust domain but its own.
var asIstio = authz.Options{TrustDomain: "cluster.local", L4: true}

// check compares what a policy, converted and compiled, says with what Istio's
// node tunnel would.
func check(t *testing.T, d dice, a *workloadapi.Authorization, n int) {
	t.Helper()
	wire, err := proto.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	c := converter{root: "istio-system"}
	u := c.authorization(a.Namespace+"/"+a.Name, wire)
	if u.Err != nil {
		t.Fatalf("%v: %s", u.Err, protojson.Format(a))
	}
	set, err := authz.Compile(asIstio, u.Value.(*authz.Policy))
	if err != nil {
		t.Fatalf("%v: %s", err, protojson.Format(a))
	}
	for range n {
		in := d.input()
		want := matches(a, in) != (a.Action == workloadapi.Action_DENY)
		if got := set.Check(in); got.Allowed != want {
			t.Fatalf("%v from %v to %v: got %t, want %t\n%s\n%+v", in.Peer, in.Source, in.Dest, got.Allowed, want, protojson.Format(a), u.Value)
		}
	}
}

func TestVerdictsAreThoseOfIstiosNodeTunnel(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(5, 6))}
	counts := map[bool]int{}
	for range 3000 {
		a := d.authorization()
		check(t, d, a, 20)
		counts[matches(a, d.input())]++
	}
	if counts[true] < 300 || counts[false] < 300 {
		t.Errorf("policies matched %d times of %d: there is nothing to compare", counts[true], counts[true]+counts[false])
	}
}

// exact returns values of a StringMatch each.
func exact(values ...string) (out []*workloadapi.StringMatch) {
	for _, v := range values {
		out = append(out, &workloadapi.StringMatch{MatchType: &workloadapi.StringMatch_Exact{Exact: v}})
	}
	return out
}

func rulesOf(matches ...*workloadapi.Match) *workloadapi.Rules {
	return &workloadapi.Rules{Matches: matches}
}

func TestRulesAreWrittenAsTheyWereRead(t *testing.T) {
	accounts := func(n int) (out []*workloadapi.ServiceAccountMatch) {
		for i := range n {
			out = append(out, &workloadapi.ServiceAccountMatch{Namespace: "a", ServiceAccount: fmt.Sprint("x", i)})
		}
		return out
	}
	for name, tt := range map[string]struct {
		group *workloadapi.Group
		want  []authz.Rule
	}{
		"from, to and when": {
			&workloadapi.Group{Rules: []*workloadapi.Rules{
				rulesOf(&workloadapi.Match{DestinationPorts: []uint32{80}}, &workloadapi.Match{NotDestinationPorts: []uint32{81}}),
				rulesOf(&workloadapi.Match{Principals: exact("p")}, &workloadapi.Match{Namespaces: exact("n")}),
				rulesOf(&workloadapi.Match{Namespaces: exact("m")}),
				rulesOf(&workloadapi.Match{DestinationIps: []*workloadapi.IPBlock{{Address: []byte{10, 0, 0, 0}, Length: 8}}}),
			}},
			[]authz.Rule{{
				To:   []authz.Operation{{Ports: []string{"80"}}, {NotPorts: []string{"81"}}},
				From: []authz.Source{{Principals: []string{"p"}}, {Namespaces: []string{"n"}}},
				When: []authz.Condition{{Key: "source.namespace", Values: []string{"m"}}, {Key: "destination.ip", Values: []string{"10.0.0.0/8"}}},
			}},
		},
		"nothing":                     {&workloadapi.Group{}, []authz.Rule{{}}},
		"rules without matches":       {&workloadapi.Group{Rules: []*workloadapi.Rules{{}}}, []authz.Rule{{}}},
		"a match that asks nothing":   {&workloadapi.Group{Rules: []*workloadapi.Rules{rulesOf(&workloadapi.Match{})}}, nil},
		"one of them beside another":  {&workloadapi.Group{Rules: []*workloadapi.Rules{rulesOf(&workloadapi.Match{}, &workloadapi.Match{DestinationPorts: []uint32{80}})}}, []authz.Rule{{To: []authz.Operation{{Ports: []string{"80"}}}}}},
		"few service accounts":        {&workloadapi.Group{Rules: []*workloadapi.Rules{rulesOf(&workloadapi.Match{ServiceAccounts: accounts(1)})}}, []authz.Rule{{From: []authz.Source{{ServiceAccounts: []string{"a/x0"}}}}}},
		"accounts beside a namespace": {&workloadapi.Group{Rules: []*workloadapi.Rules{rulesOf(&workloadapi.Match{Namespaces: exact("a"), ServiceAccounts: accounts(1)})}}, []authz.Rule{{When: []authz.Condition{{Key: "source.namespace", Values: []string{"a"}}, {Key: "source.principal", Values: []string{"*/ns/a/sa/x0"}}}}}},
		"what does not fit is multiplied": {
			&workloadapi.Group{Rules: []*workloadapi.Rules{
				rulesOf(&workloadapi.Match{Principals: exact("p"), DestinationPorts: []uint32{80}}, &workloadapi.Match{DestinationPorts: []uint32{81}}),
			}},
			[]authz.Rule{
				{When: []authz.Condition{{Key: "source.principal", Values: []string{"p"}}, {Key: "destination.port", Values: []string{"80"}}}},
				{When: []authz.Condition{{Key: "destination.port", Values: []string{"81"}}}},
			},
		},
	} {
		got, err := group(tt.group)
		if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", tt.want) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, tt.want)
		}
	}
	many := &workloadapi.Match{ServiceAccounts: accounts(17)}
	got, err := group(&workloadapi.Group{Rules: []*workloadapi.Rules{rulesOf(many)}})
	if err != nil || len(got) != 1 || len(got[0].When[0].Values) != 17 {
		t.Errorf("many service accounts: got %+v, %v", got, err)
	}
}
