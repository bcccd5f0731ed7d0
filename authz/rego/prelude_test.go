package rego

import (
	"net/netip"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/opa"
)

// One module that says it all answers as the two do that the oracle is made of.
func TestRenderIsTheOracle(t *testing.T) {
	policies := []*authz.Policy{
		{Name: "a", Namespace: "n", Rules: []authz.Rule{{From: []authz.Source{{ServiceAccounts: []string{"x"}}}, To: []authz.Operation{{Methods: []string{"GET"}}}}}},
		{Name: "d", Namespace: "n", Action: authz.Deny, Rules: []authz.Rule{{To: []authz.Operation{{Paths: []string{"/admin/{**}"}}}}}},
	}
	oracle, err := New(t.Context(), authz.Options{}, policies...)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := Module(authz.Options{}, policies...)
	if err != nil {
		t.Fatal(err)
	}
	q, err := opa.Prepare(t.Context(), "data.waystone.authz.answer", map[string]string{"policy.rego": Render(rules)})
	if err != nil {
		t.Fatal(err)
	}
	allowed := 0
	for _, method := range []string{"GET", "PUT"} {
		for _, path := range []string{"/a", "/admin/x"} {
			in := &authz.Input{Peer: identity.ID{TrustDomain: "cluster.local", Namespace: "n", ServiceAccount: "x"}, Source: netip.MustParseAddr("10.0.0.1"), HTTP: &l7.Request{Method: method, Path: path}}
			want, err := oracle.Check(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := q.Eval(t.Context(), Document(in))
			if err != nil {
				t.Fatal(err)
			}
			got, err := decode(answer)
			if err != nil || got.Allowed != want.Allowed || got.Rule != want.Rule {
				t.Errorf("%s %s: got %+v, %v, want %+v", method, path, got, err, want)
			}
			if got.Allowed {
				allowed++
			}
		}
	}
	if allowed != 1 {
		t.Errorf("%d are allowed: the test shows little", allowed)
	}
}
