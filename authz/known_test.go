package authz_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/authztest"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// lackable are the attributes that are taken away in TestJudgeIsRight.
var lackable = []authz.Attribute{authz.Principal, authz.SourceIP, authz.DestIP, authz.DestPort, authz.SNI, authz.Host, authz.Method,
	authz.Path, authz.Header, authz.RequestPrincipal, authz.Claim}

// What a Judge says for certain is what Decide says whatever the rest is: the
// input is completed at random again and again.
func TestJudgeIsRight(t *testing.T) {
	results := map[authz.Result]int{}
	missing := map[string]int{}
	for seed := range uint64(4000) {
		j := judged{seed: seed}
		j.run(t)
		results[j.out.Result]++
		for _, name := range j.names {
			missing[name]++
		}
	}
	if results[authz.Allowed] < 300 || results[authz.Denied] < 300 || results[authz.Unknown] < 300 || len(missing) < 15 {
		t.Errorf("results %v, missing %v: the test shows little", results, missing)
	}
}

func FuzzJudge(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		j := judged{seed: a ^ b<<32}
		j.run(t)
	})
}

// A judged is one random set, and what is said of a random input in part.
type judged struct {
	seed  uint64
	out   authz.Judgement
	names []string
}

func (j *judged) run(t *testing.T) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(j.seed, 7))
	draw := func() *authztest.Random {
		data := make([]byte, 400)
		for i := range data {
			data[i] = byte(rnd.UintN(256))
		}
		return &authztest.Random{Bytes: data}
	}
	o := draw().Options()
	var policies []*authz.Policy
	for _, p := range draw().Policies() {
		if p.Provider == "unknown" && rnd.UintN(2) == 0 {
			p.Provider = "grpc"
		}
		policies = append(policies, p)
	}
	set, err := authz.Compile(o, policies...)
	if err != nil {
		t.Fatal(err)
	}
	in := draw().Input()
	known := authz.Known{Fields: []string{"x-b"}}
	for _, a := range lackable {
		if rnd.UintN(5) == 0 {
			known.Lack |= authz.Lacking(a)
		}
	}
	if in.HTTP != nil && !in.HTTP.Fields.Has("x-a") && rnd.UintN(2) == 0 {
		known.Blank = []string{"x-a"}
	}
	if in.Token != nil && rnd.UintN(2) == 0 && in.Token.Issuer+in.Token.Subject != "" {
		known.Subject = in.Token.Issuer + "/" + in.Token.Subject
		if rnd.UintN(2) == 0 {
			known.Issuers = []string{"elsewhere", in.Token.Issuer}
		}
	}
	answers := map[string]authz.Result{"grpc": authz.Result(rnd.UintN(3)), "http": authz.Result(rnd.UintN(3))}
	known.Answered = func(provider string) authz.Result { return answers[provider] }

	judge := authz.NewJudge(set)
	j.out = judge.Judge(blanked(in, &known), &known)
	j.names = judge.Names(j.out.Missing)
	if (j.out.Result == authz.Unknown) != (len(j.names) > 0) {
		t.Fatalf("seed %d: %v for want of %q", j.seed, j.out.Result, j.names)
	}
	if j.out.Result == authz.Unknown {
		return
	}
	for range 30 {
		x := completed(in, draw().Input(), draw().Input(), &known)
		if got := decided(set, x, answers, rnd); got != (j.out.Result == authz.Allowed) {
			t.Fatalf("seed %d: judged %v, but allowed is %t of %+v", j.seed, j.out.Result, got, x)
		}
	}
}

// decided is what becomes of in, with answers: those that are not known are drawn.
func decided(set *authz.Set, in *authz.Input, answers map[string]authz.Result, rnd *rand.Rand) bool {
	for q := set.Ask(in, nil); q != nil; q = set.Ask(in, q) {
		a := answers[q.Provider]
		if a == authz.Denied || a == authz.Unknown && rnd.UintN(2) == 0 {
			return false
		}
	}
	return set.Decide(in).Allowed
}

// blanked is in without what is not known.
func blanked(in *authz.Input, k *authz.Known) *authz.Input {
	return completed(in, &authz.Input{HTTP: &l7.Request{}}, nil, k)
}

// completed is in with what is not known from others.
func completed(in, other, fields *authz.Input, k *authz.Known) *authz.Input {
	out := *in
	lacks := func(a authz.Attribute) bool { return k.Lack&authz.Lacking(a) != 0 }
	if lacks(authz.Principal) {
		out.Peer = identity.ID{}
		if fields != nil {
			out.Peer = fields.Peer
		}
	}
	if lacks(authz.SourceIP) {
		out.Source = other.Source
	}
	ip, port := in.Dest.Addr(), in.Dest.Port()
	if lacks(authz.DestIP) {
		ip = other.Dest.Addr()
	}
	if lacks(authz.DestPort) {
		port = other.Dest.Port()
	}
	out.Dest = netip.AddrPortFrom(ip, port)
	if lacks(authz.SNI) {
		out.SNI = other.SNI
	}
	if in.HTTP == nil {
		return &out
	}
	r := *in.HTTP
	out.HTTP = &r
	if other.HTTP == nil {
		other.HTTP = &l7.Request{Method: "PUT", Path: "/z"}
	}
	if lacks(authz.Host) {
		r.Authority = other.HTTP.Authority
	}
	if lacks(authz.Method) {
		r.Method = other.HTTP.Method
	}
	if lacks(authz.Path) {
		r.Path = other.HTTP.Path
	}
	out.HTTP.Fields = completedFields(in.HTTP.Fields, fields, k, lacks(authz.Header))
	completeToken(&out, other, k)
	return &out
}

func completedFields(have l7.Fields, other *authz.Input, k *authz.Known, lacking bool) (out l7.Fields) {
	if !lacking {
		return have
	}
	for _, f := range have {
		if slices.Contains(k.Fields, f.Name) {
			out = append(out, f)
		}
	}
	if other == nil || other.HTTP == nil {
		return out
	}
	for _, f := range other.HTTP.Fields {
		switch {
		case slices.Contains(k.Fields, f.Name):
			continue
		case slices.Contains(k.Blank, f.Name):
			f.Value = ""
		}
		if f.Value != "" || !out.Has(f.Name) {
			out = append(out, f)
		}
	}
	return out
}

// completeToken gives out another token: of the same issuer and subject if they
// are known, cut at any slash.
func completeToken(out, other *authz.Input, k *authz.Known) {
	subject, claims := k.Lack&authz.Lacking(authz.RequestPrincipal) != 0, k.Lack&authz.Lacking(authz.Claim) != 0
	switch {
	case !subject && !claims:
	case subject && k.Subject == "" && claims:
		out.Token = other.Token
	case out.Token == nil && !subject:
	default:
		var t authz.Token
		if out.Token != nil {
			t = *out.Token
		}
		if claims {
			t.Claims = nil
			if other.Token != nil {
				t.Claims = other.Token.Claims
			}
		}
		if subject && k.Subject == "" {
			t.Issuer, t.Subject = "", ""
			if other.Token != nil {
				t.Issuer, t.Subject = other.Token.Issuer, other.Token.Subject
			}
		} else if subject {
			n := len(other.SNI) % 3
			for i := len(k.Subject) - 1; i >= 0; i-- {
				if k.Subject[i] != '/' || k.Issuers != nil && !slices.Contains(k.Issuers, k.Subject[:i]) {
					continue
				}
				t.Issuer, t.Subject = k.Subject[:i], k.Subject[i+1:]
				if n--; n < 0 {
					break
				}
			}
		}
		out.Token = &t
	}
}

// BenchmarkJudge measures a judgement for which the identity is not known, of as
// many rules.
func BenchmarkJudge(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			p := &authz.Policy{Name: "p", Namespace: "n"}
			for i := range n {
				p.Rules = append(p.Rules, authz.Rule{
					From: []authz.Source{{ServiceAccounts: []string{fmt.Sprintf("sa-%d", i)}}},
					To:   []authz.Operation{{Methods: []string{"GET"}, Paths: []string{fmt.Sprintf("/%d/*", i)}}},
				})
			}
			set, err := authz.Compile(authz.Options{}, p)
			if err != nil {
				b.Fatal(err)
			}
			j := authz.NewJudge(set)
			in := &authz.Input{HTTP: &l7.Request{Method: "GET", Path: "/0/x"}}
			k := &authz.Known{Lack: authz.Lacking(authz.Principal)}
			b.ReportAllocs()
			for b.Loop() {
				if j.Judge(in, k).Result != authz.Unknown {
					b.Fatal("it is known")
				}
			}
		})
	}
}
