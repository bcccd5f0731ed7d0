package authz_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
)

// l4Policies returns n policies of ten rules each, such as a node tunnel has, and
// a connection that only the last rule of the last matches. They differ in the
// namespace that the client must be of, in its address, or in the port.
func l4Policies(n int, differ string) ([]*authz.Policy, *authz.Input) {
	number := func(policy, rule int) int { return policy*10 + rule }
	rule := func(k int) authz.Rule {
		switch differ {
		case "namespace":
			return authz.Rule{From: []authz.Source{{Namespaces: []string{fmt.Sprint("team-", k)}}}}
		case "principal":
			return authz.Rule{From: []authz.Source{{Principals: []string{fmt.Sprintf("cluster.local/ns/team-%d/sa/front", k)}}}}
		case "address":
			return authz.Rule{From: []authz.Source{{IPBlocks: []string{fmt.Sprintf("10.%d.%d.%d", 1+k>>16, k>>8&255, k&255)}}}}
		}
		return authz.Rule{To: []authz.Operation{{Ports: []string{fmt.Sprint(1000 + k%60_000)}}}, From: []authz.Source{{Namespaces: []string{fmt.Sprint("team-", k/60_000)}}}}
	}
	var policies []*authz.Policy
	for i := range n {
		p := &authz.Policy{Namespace: "web", Name: fmt.Sprintf("p-%05d", i)}
		for j := range 10 {
			p.Rules = append(p.Rules, rule(number(i, j)))
		}
		policies = append(policies, p)
	}
	last := number(n-1, 9)
	in := &authz.Input{
		Peer:   identity.ID{TrustDomain: "cluster.local", Namespace: fmt.Sprint("team-", last), ServiceAccount: "front"},
		Source: netip.AddrFrom4([4]byte{10, byte(1 + last>>16), byte(last >> 8), byte(last)}),
		Dest:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), uint16(1000+last%60_000)),
	}
	if differ == "port" {
		in.Peer.Namespace = fmt.Sprint("team-", last/60_000)
	}
	return policies, in
}

// BenchmarkRBAC is what Istio's node tunnel calls rbac: a connection is asked about
// that 10,000 policies of ten rules each are in force for.
func BenchmarkRBAC(b *testing.B) {
	for _, differ := range []string{"namespace", "principal", "address", "port"} {
		for _, n := range []int{100, 10_000} {
			policies, in := l4Policies(n, differ)
			set, err := authz.Compile(authz.Options{L4: true}, policies...)
			if err != nil {
				b.Fatal(err)
			}
			other := *in
			other.Peer.Namespace, other.Source, other.Dest = "strangers", netip.MustParseAddr("192.0.2.1"), netip.MustParseAddrPort("10.0.0.1:1")
			for _, ask := range []struct {
				name  string
				in    *authz.Input
				match bool
			}{{"match", in, true}, {"none", &other, false}} {
				b.Run(fmt.Sprintf("differ=%s/policies=%d/%s", differ, n, ask.name), func(b *testing.B) {
					if v := set.Check(ask.in); v.Allowed != ask.match {
						b.Fatalf("got %+v, want allowed: %t", v, ask.match)
					}
					b.ReportAllocs()
					for b.Loop() {
						set.Check(ask.in)
					}
				})
			}
		}
	}
}
