package rego

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/authztest"
)

// agree compares the native verdict and the oracle's on several inputs, all
// drawn from data.
func agree(t *testing.T, data []byte, inputs int) {
	t.Helper()
	r := &authztest.Random{Bytes: data}
	agreeOn(t, r, r.Options(), r.Policies(), inputs)
}

func agreeOn(t *testing.T, r *authztest.Random, o authz.Options, policies []*authz.Policy, inputs int) {
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
		same(t, oracle, set, r.Input(), func() string {
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
		data := make([]byte, 900)
		for i := range data {
			data[i] = byte(rnd.UintN(256))
		}
		agree(t, data, 20)
	}
}

// So many that the native Set has an index.
func TestVerdictsOfManyAreTheOracles(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	draw := func(n int) *authztest.Random {
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(rnd.UintN(256))
		}
		return &authztest.Random{Bytes: data}
	}
	for range 6 {
		var policies []*authz.Policy
		for len(policies) < 40 {
			for _, p := range draw(400).Policies() {
				p.Name = fmt.Sprintf("p%d", len(policies))
				policies = append(policies, p)
			}
		}
		agreeOn(t, draw(4000), draw(8).Options(), policies, 60)
	}
}

func FuzzOracle(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("a policy and a request are made of these bytes, whatever they are"))
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 8 {
		data := make([]byte, 300)
		for i := range data {
			data[i] = byte(rnd.UintN(256))
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { agree(t, data, 4) })
}
