package authz_test

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/authztest"
	"github.com/waystone-mesh/waystone/internal/identity"
)

// An authorization is a policy as istiod sends it to ztunnel, as far as
// testdata/ztunnel has it.
type authorization struct {
	Name, Namespace, Action string
	Groups                  []struct { // of which one matches
		Rules []struct { // which all match
			Matches []match // of which one matches
		}
	}
}

type match struct {
	Principals, NotPrincipals []struct {
		Exact    string
		Presence *struct{}
	}
	DestinationPorts []uint16
}

// matches evaluates a as ztunnel does: a match without anything in it does not
// match.
func (a *authorization) matches(in *authz.Input) bool {
	for _, g := range a.Groups {
		all := true
		for _, r := range g.Rules {
			all = all && slices.ContainsFunc(r.Matches, func(m match) bool { return m.matches(in) })
		}
		if all {
			return true
		}
	}
	return false
}

func (m match) matches(in *authz.Input) bool {
	if len(m.Principals)+len(m.NotPrincipals)+len(m.DestinationPorts) == 0 {
		return false
	}
	ok := len(m.Principals) == 0
	for _, p := range m.Principals {
		ok = ok || p.Exact != "" && p.Exact == in.Peer.Principal()
	}
	for _, p := range m.NotPrincipals {
		ok = ok && !(p.Presence != nil && !in.Peer.IsZero())
	}
	return ok && (len(m.DestinationPorts) == 0 || slices.Contains(m.DestinationPorts, in.Dest.Port()))
}

// What a real istiod sends to ztunnel decides as our own translation of the
// same policies does.
func TestNodeDecidesAsZtunnel(t *testing.T) {
	wire := readAuthorizations(t)
	text, err := os.ReadFile("testdata/ztunnel/policies.yaml")
	if err != nil {
		t.Fatal(err)
	}
	policies, err := authztest.Read(text, yaml.UnmarshalStrict)
	if err != nil {
		t.Fatal(err)
	}
	if len(wire) != len(policies) {
		t.Fatalf("got %d authorizations, want %d", len(wire), len(policies))
	}
	rnd := rand.New(rand.NewPCG(3, 3))
	of := func(words ...string) string { return words[rnd.IntN(len(words))] }
	for _, p := range policies {
		set, err := authz.Compile(authz.Options{L4: true}, p)
		if err != nil {
			t.Fatal(err)
		}
		a := wire[p.Namespace+"/"+p.Name]
		if a == nil {
			t.Fatalf("istiod did not send %s", p.Name)
		}
		for range 2000 {
			in := &authz.Input{Dest: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(9080+5*rnd.IntN(4)))}
			if rnd.IntN(4) > 0 {
				in.Peer = identity.ID{TrustDomain: of("cluster.local", "cluster.local", "other"), Namespace: of("bookinfo", "bookinfo", "default"),
					ServiceAccount: of("waypoint", "bookinfo-reviews", "sleep")}
			}
			want := a.matches(in) != (a.Action == "DENY")
			if got := set.Check(in); got.Allowed != want {
				t.Fatalf("%s: %v to %v: got %t, want %t", p.Name, in.Peer, in.Dest, got.Allowed, want)
			}
		}
	}
}

func readAuthorizations(t *testing.T) map[string]*authorization {
	t.Helper()
	b, err := os.ReadFile("testdata/ztunnel/Authorization.json")
	if err != nil {
		t.Fatal(err)
	}
	var list []struct{ Resource authorization }
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	out := map[string]*authorization{}
	for i := range list {
		a := &list[i].Resource
		out[a.Namespace+"/"+a.Name] = a
	}
	return out
}
