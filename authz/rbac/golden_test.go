package rbac

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	netrbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/authztest"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// The files of testdata are what a real istiod sent to waypoints, cut down to
// the filters rbac, jwt_authn and ext_authz, and the policies it was given. The
// bring-your-own waypoint has none.
var golden = []struct {
	listener  string
	manifests []string
	gateway   authz.TargetRef // in which namespace the waypoint is

	// impossible are rules that no request satisfies at a waypoint, where the
	// direct and the remote address are one; and untaken those that no token does,
	// for nothing takes tokens of its issuer where they are attached.
	impossible, untaken []string
}{
	{"waypoint.json", []string{"mesh-policy.yaml"}, authz.TargetRef{Namespace: "bookinfo", Name: "waypoint"}, nil, nil},
	{"kitchensink.json", []string{"mesh-policy.yaml", "kitchensink.yaml"}, authz.TargetRef{Namespace: "bookinfo", Name: "waypoint"},
		[]string{"ns[bookinfo]-policy[dry]-rule[0]"}, []string{"ns[bookinfo]-policy[jwtclaims]-rule[0]"}},
	{"thirdparty.json", []string{"thirdparty.yaml"}, authz.TargetRef{Namespace: "tp", Name: "go-wp"}, nil, nil},
	{"byo.json", nil, authz.TargetRef{Namespace: "byo", Name: "go-wp"}, nil, nil},
}

// A filterChain is one filter chain of a listener.
type filterChain struct {
	Chain   string // "inbound-vip|9080|http|reviews.bookinfo.svc.cluster.local"
	Filters []json.RawMessage
}

func TestListenersGiveTheVerdictsOfTheirManifests(t *testing.T) {
	for _, g := range golden {
		policies := readPolicies(t, g.manifests)
		for _, c := range readChains(t, g.listener) {
			t.Run(g.listener+"/"+c.Chain, func(t *testing.T) {
				attached := attachedTo(c.Chain, g.gateway, policies)
				for i, f := range readFilters(t, c) {
					sameVerdicts(t, i, c.Chain, f, attached, g.impossible)
				}
				wholeChain(t, c, attached)
			})
		}
	}
}

// sameVerdicts compares one filter with the policies of its action.
func sameVerdicts(t *testing.T, i int, chain string, f filter, attached []*authz.Policy, impossible []string) {
	t.Helper()
	got, err := f.compile()
	if err != nil {
		t.Fatalf("filter %d: %v", i, err)
	}
	var mine []*authz.Policy
	for _, p := range attached {
		if p.Action == f.action() {
			mine = append(mine, p)
		}
	}
	if len(mine) == 0 {
		t.Fatalf("filter %d has the action %v, which no policy has", i, f.action())
	}
	want, err := authz.Compile(options, mine...)
	if err != nil {
		t.Fatal(err)
	}
	counts, hits := map[bool]int{}, &coverage{rules: map[string]*[2]int{}}
	var entries []authz.Entry
	for _, p := range mine {
		e, err := authz.Entries(options, p)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e...)
	}
	for in := range inputs(t, chain, mine, 4000) {
		g, w := got.Check(in), want.Check(in)
		if g.Allowed != w.Allowed || g.Audit != w.Audit || g.Details() != w.Details() || g.Rule != w.Rule || g.DryRun != w.DryRun || !sameQuestion(g.Ask, w.Ask) {
			t.Fatalf("filter %d: %s: got %+v want %+v", i, describe(in), g, w)
		}
		counts[g.Allowed]++
		hits.count(entries, in, f.asks)
	}
	t.Logf("filter %d: %v: %d allowed, %d denied", i, f.action(), counts[true], counts[false])
	hits.checkRules(t, impossible)
}

// wholeChain compares all filters of a chain with all policies attached to it.
func wholeChain(t *testing.T, c filterChain, attached []*authz.Policy) {
	t.Helper()
	want, err := authz.Compile(options, attached...)
	if err != nil {
		t.Fatal(err)
	}
	var got Chain
	for _, f := range readFilters(t, c) {
		s, err := f.compile()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, s)
	}
	for in := range inputs(t, c.Chain, attached, 4000) {
		if g, w := got.Ask(in, nil), want.Ask(in, nil); !sameQuestion(g, w) {
			t.Fatalf("%s: got %+v want %+v", describe(in), g, w)
		}
		g, w := got.Decide(in), want.Decide(in)
		if g.Allowed != w.Allowed || g.Audit != w.Audit || g.Details() != w.Details() || w.Allowed && g.DryRun != w.DryRun {
			t.Fatalf("%s: got %+v want %+v", describe(in), g, w)
		}
	}
}

// options are those of the mesh that the listeners are from.
var options = authz.Options{Providers: map[string]*authz.Provider{"my-ext-authz": {}}}

func sameQuestion(a, b *authz.Question) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Provider == b.Provider && a.ID == b.ID && a.Rule == b.Rule && a.Policy.Key() == b.Policy.Key()
}

// A filter is either kind of RBAC filter.
type filter struct {
	rules, shadow *rbacv3.RBAC
	asks          bool // its shadow rules say when to ask an authorizer
	compile       func() (*authz.Set, error)
}

func (f filter) action() authz.Action {
	r := f.rules
	switch {
	case f.asks:
		return authz.Custom
	case r == nil:
		r = f.shadow
	}
	return map[rbacv3.RBAC_Action]authz.Action{rbacv3.RBAC_ALLOW: authz.Allow, rbacv3.RBAC_DENY: authz.Deny, rbacv3.RBAC_LOG: authz.Audit}[r.GetAction()]
}

// readFilters returns the RBAC filters of a chain.
func readFilters(t *testing.T, c filterChain) (out []filter) {
	t.Helper()
	for _, raw := range c.Filters {
		switch m := readMessage(t, raw).(type) {
		case *httprbac.RBAC:
			out = append(out, filter{m.Rules, m.ShadowRules, m.ShadowRulesStatPrefix == customPrefix, func() (*authz.Set, error) { return HTTP(m) }})
		case *netrbac.RBAC:
			out = append(out, filter{m.Rules, m.ShadowRules, m.ShadowRulesStatPrefix == customPrefix, func() (*authz.Set, error) { return Network(m) }})
		}
	}
	return out
}

func readMessage(t *testing.T, raw json.RawMessage) proto.Message {
	t.Helper()
	var a anypb.Any
	if err := protojson.Unmarshal(raw, &a); err != nil {
		t.Fatal(err)
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func readChains(t *testing.T, name string) (out []filterChain) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// documents returns the objects of a kind in manifests.
func documents(t *testing.T, names []string, kind string) (out []map[string]any) {
	t.Helper()
	for _, name := range names {
		b, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range strings.Split(string(b), "\n---\n") {
			var doc map[string]any
			if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if doc["kind"] == kind {
				out = append(out, doc)
			}
		}
	}
	return out
}

func readPolicies(t *testing.T, names []string) (out []*authz.Policy) {
	t.Helper()
	for _, doc := range documents(t, names, authz.Kind) {
		text, err := yaml.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		p, err := authztest.Read(text, yaml.UnmarshalStrict)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p...)
	}
	return out
}

// attachedTo returns the policies that istiod attaches to a chain: those that
// target the gateway, and for a service's chain those that target the service.
func attachedTo[P attachable](chain string, gateway authz.TargetRef, policies []P) (out []P) {
	_, host, _ := strings.Cut(chain, "|")
	for _, p := range policies {
		refs, ns := attachment(p)
		if slices.ContainsFunc(refs, func(r authz.TargetRef) bool {
			switch r.Kind {
			case "Gateway":
				return ns == gateway.Namespace && r.Name == gateway.Name
			case "Service":
				return strings.HasSuffix(host, "|"+r.Name+"."+ns+".svc.cluster.local")
			}
			return false // a GatewayClass that is not Istio's
		}) {
			out = append(out, p)
		}
	}
	return out
}

type attachable interface {
	*authz.Policy | *jwt.RequestAuthentication
}

func attachment(p any) (refs []authz.TargetRef, namespace string) {
	switch p := p.(type) {
	case *authz.Policy:
		return p.TargetRefs, p.Namespace
	case *jwt.RequestAuthentication:
		return p.TargetRefs, p.Namespace
	}
	return nil, ""
}

// inputs yields n random inputs for a chain: HTTP or not as the chain is, from
// the vocabulary of the policies and what is nearly that.
func inputs(t *testing.T, chain string, policies []*authz.Policy, n int) func(yield func(*authz.Input) bool) {
	t.Helper()
	opaque := strings.Contains(chain, "|tcp|") || strings.HasSuffix(chain, "tcp")
	v := vocabulary{rnd: rand.New(rand.NewPCG(1, 2)), words: words(policies)}
	return func(yield func(*authz.Input) bool) {
		for range n {
			if !yield(v.input(opaque)) {
				return
			}
		}
	}
}

// words returns every value that policies mention, without its wildcard.
func words(policies []*authz.Policy) (out []string) {
	out = []string{"", "other"}
	for _, p := range policies {
		for _, f := range p.Fields() {
			for _, w := range f.Values {
				if w = strings.Trim(w, "*"); !slices.Contains(out, w) {
					out = append(out, w)
				}
			}
		}
	}
	return out
}

type vocabulary struct {
	rnd   *rand.Rand
	words []string
}

func (v vocabulary) word() string {
	w := v.words[v.rnd.IntN(len(v.words))]
	switch v.rnd.IntN(6) {
	case 0:
		return w + "/x"
	case 1:
		return "x" + w
	case 2:
		return strings.ToUpper(w)
	}
	return w
}

func (v vocabulary) of(words ...string) string { return words[v.rnd.IntN(len(words))] }

func (v vocabulary) input(opaque bool) *authz.Input {
	in := &authz.Input{
		Source: netip.MustParseAddr(v.of("10.0.0.1", "1.2.3.4", "1.2.4.4", "fd00::1")),
		Dest:   netip.AddrPortFrom(netip.MustParseAddr("10.96.0.1"), uint16([]int{80, 9080, 9091}[v.rnd.IntN(3)])),
		SNI:    v.of("", "x", "y"),
	}
	if v.rnd.IntN(8) > 0 {
		in.Peer = identity.ID{TrustDomain: v.of("cluster.local", "cluster.local", "other"),
			Namespace: v.of("default", "bookinfo", "clients"), ServiceAccount: v.of("sleep", "waypoint")}
	}
	if opaque {
		return in
	}
	in.HTTP = &l7.Request{
		Method: v.of("GET", "POST", v.word()), Authority: v.of("a"+v.word(), v.word()),
		Path: v.of(v.word(), "/admin?x", "/admin/users", "/audit", "/"),
	}
	if v.rnd.IntN(4) > 0 {
		in.Token = v.token()
	}
	for _, name := range []string{"x-debug", "x-other"} {
		for range v.rnd.IntN(3) {
			in.HTTP.Fields = append(in.HTTP.Fields, l7.Field{Name: name, Value: v.of("1", v.word())})
		}
	}
	return in
}

// token returns one whose claims the policies ask for.
func (v vocabulary) token() *authz.Token {
	return authz.NewToken(map[string]any{
		"iss": v.of("testing@secure.istio.io", "testing@secure.istio.io", v.word()), "sub": v.of("ann", ""),
		"groups": []any{v.of("g1", "g2"), v.word()}, "nested": map[string]any{"k": v.of("v1", "v", "w", "")},
	})
}

func describe(in *authz.Input) string {
	b, _ := json.Marshal(in)
	return string(b)
}
