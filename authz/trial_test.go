package authz_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/authztest"
)

// onTrial returns random policies, of which each one under dry run may be a
// candidate for another's place, which there may or may not be.
func onTrial(r *authztest.Random) []*authz.Policy {
	policies := r.Policies()
	policies = append(policies, r.Policies()...)
	for i, p := range policies {
		p.Name = fmt.Sprintf("p%d", i)
		if p.Action == authz.Allow || p.Action == authz.Deny {
			p.DryRun = r.One(2)
		}
		if p.DryRun && !r.One(4) {
			p.Replaces = fmt.Sprintf("p%d", r.N(len(policies)+1))
		}
	}
	return policies
}

// replaced returns policies with the candidate enforced in the place of what it is
// to replace.
func replaced(policies []*authz.Policy, candidate *authz.Policy) (out []*authz.Policy) {
	for _, p := range policies {
		switch {
		case p == candidate:
			enforced := *p
			enforced.DryRun = false
			out = append(out, &enforced)
		case p.Name != candidate.Replaces || p.DryRun:
			out = append(out, p)
		}
	}
	return out
}

// A trial says what a Set says that has the candidate in the other's place: it is
// so on random policies and requests, indexed or not.
func TestTrialIsTheVerdictOfTheOtherSet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	differ, same := 0, 0
	for range 1000 {
		bytes := make([]byte, 2000)
		for i := range bytes {
			bytes[i] = byte(random.Uint32())
		}
		r := authztest.Random{Bytes: bytes}
		o, policies := r.Options(), onTrial(&r)
		var entries []authz.Entry
		others := map[string]*authz.Set{}
		for _, p := range policies {
			e, err := authz.Entries(o, p)
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, e...)
			if p.Replaces != "" && p.Action <= authz.Deny {
				if others["foo/"+p.Name], err = authz.Compile(o, replaced(policies, p)...); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, set := range []*authz.Set{authz.NewSetForTest(entries, -1), authz.NewSetForTest(entries, 0)} {
			for range 20 {
				in := r.Input()
				v := set.Decide(in)
				if v.Reason() == authz.ReasonUnusable {
					if v.Trials.Len() != 0 {
						t.Fatal("what was refused for want of a provider is on trial")
					}
					continue
				}
				if v.Trials.Len() != len(others) {
					t.Fatalf("%d trials, want %d", v.Trials.Len(), len(others))
				}
				for i := range v.Trials.Len() {
					trial, got := v.Trials.At(i)
					if want := others[trial.Policy].Decide(in).Allowed; got != want {
						t.Fatalf("%s for %s: got %v, want %v", trial.Policy, trial.Replaces, got, want)
					}
					if got == v.Allowed {
						same++
					} else {
						differ++
					}
				}
				x := set.Explain(in)
				for i := range x.Trials {
					trial, allowed := v.Trials.At(i)
					want := "same"
					if allowed != v.Allowed {
						want = map[bool]string{true: "wouldAllow", false: "wouldDeny"}[allowed]
					}
					if got := x.Trials[i]; got.Policy != trial.Policy || got.Result != want || got.NotInForce == trial.InForce {
						t.Fatalf("explained as %+v, want %s", got, want)
					}
				}
			}
		}
	}
	if differ < 500 || same < 500 {
		t.Errorf("%d trials made a difference and %d none: that shows little", differ, same)
	}
}

func candidates(n int) (policies []*authz.Policy) {
	for i := range n {
		policies = append(policies, &authz.Policy{Namespace: "a", Name: fmt.Sprintf("new-%03d", i), DryRun: true, Replaces: "old",
			Rules: []authz.Rule{{To: []authz.Operation{{Methods: []string{fmt.Sprint("M", i)}}}}}})
	}
	return append(policies, &authz.Policy{Namespace: "a", Name: "old"})
}

func TestSoManyCandidatesAreTried(t *testing.T) {
	set, err := authz.Compile(authz.Options{}, candidates(70)...)
	if err != nil {
		t.Fatal(err)
	}
	in := request(1)
	in.HTTP.Method = "M63"
	v := set.Check(in)
	if v.Trials.Len() != 64 {
		t.Fatalf("%d trials, want 64", v.Trials.Len())
	}
	for i := range v.Trials.Len() {
		trial, allowed := v.Trials.At(i)
		if want := fmt.Sprintf("a/new-%03d", i); trial.Policy != want || allowed != (i == 63) {
			t.Errorf("trial %d is of %s, allowed %v; want of %s, %v", i, trial.Policy, allowed, want, i == 63)
		}
	}
}

func TestNothingIsOnTrial(t *testing.T) {
	var none *authz.Set
	for _, s := range []*authz.Set{none, authz.NewSet(nil), authz.Closed("x")} {
		if v := s.Check(request(1)); v.Trials.Len() != 0 {
			t.Errorf("got %d trials", v.Trials.Len())
		}
	}
}

func TestTrialDoesNotAllocate(t *testing.T) {
	set, err := authz.Compile(authz.Options{}, candidates(20)...)
	if err != nil {
		t.Fatal(err)
	}
	in, allowed := request(1), 0
	if got := testing.AllocsPerRun(100, func() {
		v := set.Check(in)
		for i := range v.Trials.Len() {
			if trial, ok := v.Trials.At(i); ok && trial.InForce {
				allowed++
			}
		}
		_, _, _ = v.ID(), v.Name(), v.Reason()
	}); got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

// What a verdict comes to is what its explanation does.
func TestVerdictNamesItsReason(t *testing.T) {
	policies := []*authz.Policy{
		{Namespace: "a", Name: "no", Action: authz.Deny, Rules: []authz.Rule{{To: []authz.Operation{{Methods: []string{"PUT"}}}}}},
		{Namespace: "a", Name: "yes", Rules: []authz.Rule{{To: []authz.Operation{{Methods: []string{"PUT", "GET"}}}}}},
		{Namespace: "a", Name: "ask", Action: authz.Custom, Provider: "x", Rules: []authz.Rule{{To: []authz.Operation{{Methods: []string{"ASK"}}}}}},
		{Namespace: "a", Name: "who", Action: authz.Custom, Provider: "y", Rules: []authz.Rule{{To: []authz.Operation{{Methods: []string{"WHO"}}}}}},
	}
	set, err := authz.Compile(authz.Options{Providers: map[string]*authz.Provider{"x": {Name: "x"}}}, policies...)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		set              *authz.Set
		method, id, name string
		want             authz.Reason
	}{
		{set, "PUT", "ns[a]-policy[no]-rule[0]", "a/no", authz.ReasonDeny},
		{set, "GET", "ns[a]-policy[yes]-rule[0]", "a/yes", authz.ReasonAllow},
		{set, "POST", "", "", authz.ReasonNoAllow},
		{set, "ASK", "istio-ext-authz-x-ns[a]-policy[ask]-rule[0]", "a/ask", ""},
		{set, "WHO", "istio-ext-authz-y-ns[a]-policy[who]-rule[0]-deny-due-to-bad-CUSTOM-action", "a/who", authz.ReasonUnusable},
		{authz.NewSet(nil), "GET", "", "", authz.ReasonNoPolicy},
		{authz.Closed("x"), "GET", "", "", authz.ReasonClosed},
	} {
		in := request(1)
		in.HTTP.Method = c.method
		v := c.set.Check(in)
		if v.ID() != c.id || v.Name() != c.name || v.Reason() != c.want {
			t.Errorf("%s: got %q of %q, %q; want %q of %q, %q", c.method, v.ID(), v.Name(), v.Reason(), c.id, c.name, c.want)
		}
		if v.Allowed && !strings.Contains("noAllowPolicy allowRule", string(v.Reason())) {
			t.Errorf("%s: allowed by %s", c.method, v.Reason())
		}
		if x := c.set.Brief(in); v.Ask == nil && x.Reason != c.want {
			t.Errorf("%s: explained as %s, want %s", c.method, x.Reason, c.want)
		}
	}
}

// What a candidate costs that is compared with the policy it is to replace, beside
// as many others.
func BenchmarkCheckTrial(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		for _, trials := range []int{0, 1, 4} {
			b.Run(fmt.Sprintf("policies=%d/trials=%d", n, trials), func(b *testing.B) {
				policies, in := teams(n, "all")
				for i := range trials {
					p := *policies[n-1]
					p.Name, p.DryRun, p.Replaces = fmt.Sprint("new-", i), true, p.Name
					policies = append(policies, &p)
				}
				set, err := authz.Compile(authz.Options{}, policies...)
				if err != nil {
					b.Fatal(err)
				}
				if v := set.Check(in); !v.Allowed || v.Trials.Len() != trials {
					b.Fatalf("got %+v, want allowed, and %d trials", v, trials)
				}
				b.ReportAllocs()
				for b.Loop() {
					set.Check(in)
				}
			})
		}
	}
}
