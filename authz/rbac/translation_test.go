package rbac

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/authztest"
)

// Policies and what istiod makes of them give the same verdicts, whatever they ask.
func TestTranslationsGiveTheVerdictsOfTheirPolicies(t *testing.T) {
	sets := 1500
	if testing.Short() {
		sets = 300
	}
	rnd := rand.New(rand.NewPCG(9, 9))
	seen := map[string]int{}
	for range sets {
		o := draw(rnd, 8).Options()
		o.L4 = false
		policies := draw(rnd, 400).Policies()
		native, err := authz.Compile(o, policies...)
		if err != nil {
			t.Fatal(err)
		}
		chains := map[bool]Chain{}
		for _, opaque := range []bool{false, true} {
			x := translator{t, o, opaque}
			for _, f := range x.filters(policies) {
				s, err := HTTP(f)
				if err != nil {
					t.Fatalf("%v: %v", f, err)
				}
				chains[opaque] = append(chains[opaque], s)
			}
		}
		for range 60 {
			in := draw(rnd, 60).Input()
			got, want := judged(chains[in.HTTP == nil], in), judged(native, in)
			if got != want {
				t.Fatalf("on %s by %s and %+v:\ngot  %s\nwant %s", describe(in), show(policies), o, got, want)
			}
			kind, _, _ := strings.Cut(want, " ")
			seen[kind]++
		}
	}
	t.Logf("%v", seen)
	for _, kind := range []string{"asks", "allowed", "denied"} {
		if seen[kind] < sets {
			t.Errorf("%d verdicts were %s: the test shows little", seen[kind], kind)
		}
	}
}

// judged says all of what a set, or a chain, says about in.
func judged(s interface {
	Ask(*authz.Input, *authz.Question) *authz.Question
	Decide(*authz.Input) authz.Verdict
}, in *authz.Input) (out string) {
	for q := s.Ask(in, nil); q != nil; q = s.Ask(in, q) {
		out += "asks " + q.Provider + " by " + q.ID + ", "
	}
	v := s.Decide(in)
	if v.Allowed {
		out += "allowed"
		if v.Policy != nil {
			out += fmt.Sprintf(" by %s/%s rule %d", v.Policy.Namespace, v.Policy.Name, v.Rule)
		}
	} else {
		out += "denied " + v.Details()
	}
	if v.Allowed || v.Policy == nil { // else the filters after it are not asked
		out += fmt.Sprintf(" audit %t, dry run %+v", v.Audit, v.DryRun)
	}
	return out
}

func draw(rnd *rand.Rand, n int) *authztest.Random {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rnd.UintN(256))
	}
	return &authztest.Random{Bytes: data}
}

func show(policies []*authz.Policy) string {
	b, _ := json.MarshalIndent(policies, "", " ")
	return string(b)
}
