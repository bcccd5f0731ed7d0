package rego

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/authztest"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/script"
)

// The module is for people, too: this is what it looks like.
func TestModuleReadsWell(t *testing.T) {
	text, err := os.ReadFile("testdata/policies.yaml")
	if err != nil {
		t.Fatal(err)
	}
	policies, err := authztest.Read(text, yaml.UnmarshalStrict)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Module(authz.Options{}, policies...)
	if err != nil {
		t.Fatal(err)
	}
	script.Golden(t, "testdata/policies.rego", got)
	oracle, err := New(t.Context(), authz.Options{}, policies...)
	if err != nil {
		t.Fatal(err)
	}
	in := &authz.Input{Peer: identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "sleep"},
		HTTP: &l7.Request{Method: "GET", Path: "/reviews/1"}}
	if a, err := oracle.Check(t.Context(), in); err != nil || !a.Allowed || a.Rule != "ns[default]-policy[viewers]-rule[0]" {
		t.Errorf("got %+v, %v, want allowed by viewers", a, err)
	}
	in.HTTP.Path = "/admin"
	if a, err := oracle.Check(t.Context(), in); err != nil || a.Allowed || a.Rule != "ns[default]-policy[no-admin]-rule[0]" {
		t.Errorf("got %+v, %v, want denied by no-admin", a, err)
	}
}

func TestModuleRefusesWhatItCannotSay(t *testing.T) {
	metadata := []authz.Rule{{When: []authz.Condition{{Key: "experimental.envoy.filters.x[y]", Values: []string{"x"}}}}}
	for _, tt := range []struct {
		p           authz.Policy
		unsupported bool
	}{
		{authz.Policy{Action: authz.Custom, Provider: "x", Rules: []authz.Rule{{}}}, true},
		{authz.Policy{Rules: metadata}, true},
		{authz.Policy{Action: authz.Deny, Rules: metadata}, true},
		{authz.Policy{Action: authz.Deny}, false},
	} {
		_, err := New(t.Context(), authz.Options{}, &tt.p)
		if err == nil || errors.Is(err, authz.ErrUnsupported) != tt.unsupported {
			t.Errorf("%+v: got %v, want an error, unsupported %t", tt.p, err, tt.unsupported)
		}
	}
}

// The module must say so for each rule even if both its forms are left out.
func TestModuleOfARuleThatCanNeverMatch(t *testing.T) {
	p := &authz.Policy{Namespace: "a", Name: "b", Rules: []authz.Rule{{To: []authz.Operation{{Methods: []string{"GET"}}}}}}
	oracle, err := New(t.Context(), authz.Options{L4: true}, p)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := oracle.Check(t.Context(), &authz.Input{}); err != nil || a.Allowed || a.Rule != "none" {
		t.Errorf("got %+v, %v, want denied by none", a, err)
	}
}

func TestDocumentHasOnlyWhatTheInputHas(t *testing.T) {
	if got := show(Document(&authz.Input{})); got != "{}" {
		t.Errorf("got %s, want {}", got)
	}
	got := show(Document(&authz.Input{
		Peer: identity.ID{TrustDomain: "td", Namespace: "ns", ServiceAccount: "sa"}, Source: netip.MustParseAddr("::ffff:10.0.0.1"),
		Dest: netip.MustParseAddrPort("10.0.0.2:80"), SNI: "s",
		HTTP: &l7.Request{Method: "GET", Scheme: "http", Authority: "h", Path: "/p?q", Fields: l7.Fields{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}}},
	}))
	for _, want := range []string{`"source_ip": "10.0.0.1"`, `"a": "1,2"`, `"path": "/p"`, `":path": "/p?q"`, `"uri": "spiffe://td/ns/ns/sa/sa"`, `"port": 80`, `"sni": "s"`} {
		if !strings.Contains(got, want) {
			t.Errorf("got %s, which lacks %s", got, want)
		}
	}
}
