package authz_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/authztest"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// FuzzCompile makes policies of arbitrary strings, mostly nonsense.
func FuzzCompile(f *testing.F) {
	f.Add([]byte("\x01\x00\x01"), "cluster.local/ns/foo/sa/a\n*\n/a/{*}\n/a/{**}/b\n10.0.0.0/8\n80")
	f.Add([]byte("\x00\x02\x03"), "request.headers[x]\nsource.ip\n::1\nconnection.sni")
	f.Add([]byte("\x03\x01\x05\x07"), "a*b*c\n{**}\n{*}/{*}\n/\n//\n%zz")
	names, _ := filepath.Glob("testdata/*.txt")
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil {
			f.Add(b[:min(len(b), 64)], strings.Join(strings.FieldsFunc(string(b), func(r rune) bool { return strings.ContainsRune(" {}[],\n\"", r) }), "\n"))
		}
	}
	f.Fuzz(func(t *testing.T, shape []byte, words string) {
		a := arbitrary{authztest.Random{Bytes: shape}, strings.Split(words, "\n")}
		p := a.policy()
		valid := authz.Validate(p)
		for _, l4 := range []bool{false, true} {
			set, err := authz.Compile(authz.Options{RootNamespace: p.Namespace, L4: l4}, p)
			if (valid == nil) != (err == nil) && !errors.Is(err, authz.ErrUnsupported) {
				t.Fatalf("Validate says %v, Compile says %v", valid, err)
			}
			entries, _ := authz.Entries(authz.Options{RootNamespace: p.Namespace, L4: l4}, p)
			plain, indexed := authz.NewSetForTest(entries, -1), authz.NewSetForTest(entries, 0)
			for _, in := range a.inputs() {
				sameVerdict(t, in, indexed, plain.Check(in))
				if v := set.Check(in); err != nil && v.Allowed {
					t.Fatalf("a rejected policy allows: %v", err)
				}
			}
		}
	})
}

// arbitrary makes policies of words.
type arbitrary struct {
	r     authztest.Random
	words []string
}

func (a *arbitrary) word() string { return a.words[a.r.N(len(a.words))] }

func (a *arbitrary) some() (out []string) {
	for range a.r.N(3) {
		out = append(out, a.word())
	}
	return out
}

func (a *arbitrary) policy() *authz.Policy {
	p := &authz.Policy{Name: a.word(), Namespace: "foo", Action: authz.Action(a.r.N(5)), DryRun: a.r.One(4)}
	if a.r.One(6) {
		p.Provider = a.word()
	}
	if a.r.One(6) {
		p.Selector = map[string]string{a.word(): a.word()}
	}
	if a.r.One(6) {
		p.TargetRefs = []authz.TargetRef{{Kind: a.word(), Name: a.word()}, {Kind: "GatewayClass", Group: "gateway.networking.k8s.io", Name: "x"}}
	}
	for range a.r.N(3) {
		r := authz.Rule{}
		for range a.r.N(2) {
			r.From = append(r.From, authz.Source{Principals: a.some(), NotPrincipals: a.some(), RequestPrincipals: a.some(),
				Namespaces: a.some(), ServiceAccounts: a.some(), TrustDomains: a.some(), IPBlocks: a.some(), NotRemoteIPBlocks: a.some()})
		}
		for range a.r.N(2) {
			r.To = append(r.To, authz.Operation{Hosts: a.some(), Ports: a.some(), Methods: a.some(), Paths: a.some(), NotPaths: a.some()})
		}
		for range a.r.N(3) {
			r.When = append(r.When, authz.Condition{Key: a.word(), Values: a.some(), NotValues: a.some()})
		}
		p.Rules = append(p.Rules, r)
	}
	return p
}

func (a *arbitrary) inputs() []*authz.Input {
	full := &authz.Input{
		Peer:   identity.ID{TrustDomain: a.word(), Namespace: a.word(), ServiceAccount: a.word()},
		Source: netip.MustParseAddr("fd00::1"), Dest: netip.MustParseAddrPort("10.0.0.1:80"), SNI: a.word(),
		HTTP: &l7.Request{Method: a.word(), Authority: a.word(), Path: "/" + a.word(), Fields: l7.Fields{{Name: a.word(), Value: a.word()}}},
	}
	opaque := *full
	opaque.HTTP = nil
	return []*authz.Input{{}, {HTTP: &l7.Request{}}, full, &opaque}
}
