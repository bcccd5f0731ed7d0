package rego

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/authztest"
)

// agree compares the native verdict and the oracle's on policies and inputs drawn
// from data. Compiling for OPA takes most of the time, so one set of policies is
// asked about many inputs: the first are made of data too, that whoever chooses it
// can choose them, and the others of numbers that data determines.
func agree(t *testing.T, data []byte, inputs int) {
	t.Helper()
	const chosen = 4
	r := &authztest.Random{Bytes: data}
	o, policies := r.Options(), r.Policies()
	h := fnv.New64a()
	_, _ = h.Write(data)
	rnd, n := rand.New(rand.NewPCG(h.Sum64(), 0)), 0
	agreeOn(t, o, policies, inputs, func() *authz.Input {
		if n++; n <= chosen {
			return r.Input()
		}
		return draw(rnd, 60).Input()
	})
}

// draw returns random choices.
func draw(rnd *rand.Rand, n int) *authztest.Random {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rnd.UintN(256))
	}
	return &authztest.Random{Bytes: data}
}

func agreeOn(t *testing.T, o authz.Options, policies []*authz.Policy, inputs int, input func() *authz.Input) {
	t.Helper()
	set, err := authz.Compile(o, policies...)
	if err != nil {
		t.Fatalf("compile: %v\n%s", err, show(policies))
	}
	oracle, err := New(t.Context(), o, policies...)
	if err != nil {
		t.Fatalf("oracle: %v\n%s", err, show(policies))
	}
	for range inputs {
		same(t, oracle, set, input(), func() string {
			rego, _ := Module(o, policies...)
			return show(o) + "\n" + show(policies) + "\n" + rego
		})
	}
}

func same(t *testing.T, oracle *Oracle, set *authz.Set, in *authz.Input, about func() string) {
	t.Helper()
	want, err := oracle.Check(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	v, ask := set.Decide(in), []string(nil)
	if c := set.Check(in); c.Ask == nil && (c.Allowed != v.Allowed || c.Details() != v.Details()) || c.Ask != nil && c.Allowed {
		t.Fatalf("checked %+v, decided %+v", c, v)
	}
	for q := set.Ask(in, nil); q != nil; q = set.Ask(in, q) {
		ask = append(ask, q.ID)
	}
	if len(want.Ask) == 0 {
		want.Ask = nil
	}
	refused := v.Policy != nil && v.Policy.Action == authz.Custom
	if refused { // and audited by nobody
		want.Audit, want.DryDeny, want.DryAllow = false, "", ""
	}
	got := Answer{Allowed: v.Allowed, Rule: ruleOf(v), Audit: v.Audit, Ask: ask}
	if v.DryRun.Deny.Result == authz.Denied {
		got.DryDeny = v.DryRun.Deny.ID
	}
	if v.DryRun.Allow.Result == authz.Allowed {
		got.DryAllow = v.DryRun.Allow.ID
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("native %+v, OPA %+v\non %s\nby %s", got, want, show(Document(in)), about())
	}
}

// ruleOf names the rule of a verdict as the oracle does.
func ruleOf(v authz.Verdict) string {
	const prefix = "rbac_access_denied_matched_policy["
	switch {
	case !v.Allowed:
		return v.Details()[len(prefix) : len(v.Details())-1]
	case v.Policy == nil:
		return ""
	}
	return ruleID(v.Policy, v.Rule)
}

func show(v any) string {
	b, _ := json.MarshalIndent(v, "", " ")
	return string(b)
}

func TestNativeVerdictsAreTheOracles(t *testing.T) {
	sets := 150
	if testing.Short() {
		sets = 40
	}
	rnd := rand.New(rand.NewPCG(7, 7))
	for range sets {
		agree(t, draw(rnd, 900).Bytes, 40)
	}
}

// So many that the native Set has an index.
func TestVerdictsOfManyAreTheOracles(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	for range 6 {
		var policies []*authz.Policy
		for len(policies) < 40 {
			for _, p := range draw(rnd, 400).Policies() {
				p.Name = fmt.Sprintf("p%d", len(policies))
				policies = append(policies, p)
			}
		}
		agreeOn(t, draw(rnd, 8).Options(), policies, 60, func() *authz.Input { return draw(rnd, 60).Input() })
	}
}

func FuzzOracle(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("a policy and a request are made of these bytes, whatever they are"))
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 8 {
		f.Add(draw(rnd, 300).Bytes)
	}
	f.Fuzz(func(t *testing.T, data []byte) { agree(t, data, 64) })
}
