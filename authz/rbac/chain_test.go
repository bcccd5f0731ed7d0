package rbac

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	httpext "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	jwtauthnv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	netrbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/authz/jwt/jwtauthn"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// Whole chains: whatever a listener's filters say about a request, one after the
// other and with its token, the manifests say, too.
//
// The tokens are signed by a key of the test's. So the keys in the copies of
// filters and manifests are replaced by it: the private part of Istio's is not
// ours to have, and that of the key that istiod makes up when it cannot fetch any
// is nobody's.
func TestWholeChainsGiveTheVerdictsOfTheirManifests(t *testing.T) {
	total := 100_000
	if testing.Short() {
		total = 20_000
	}
	for _, g := range golden {
		t.Run(g.listener, func(t *testing.T) {
			chains := readChains(t, g.listener)
			policies, tokens := readPolicies(t, g.manifests), readTokenPolicies(t, g.manifests)
			seen := &coverage{rules: map[string]*[2]int{}, tokens: map[string]int{}, results: map[string]int{}}
			for i, c := range chains {
				a := attachedTo(c.Chain, g.gateway, policies)
				b := attachedTo(c.Chain, g.gateway, tokens)
				seen.add(b)
				w := wish{t: t, filters: filterSteps(t, c), manifests: newManifests(t, a, b), seen: seen}
				w.run(c.Chain, words(a), rand.New(rand.NewPCG(3, uint64(i))), (total+len(chains)-1)/len(chains))
			}
			seen.check(t, append(slices.Clone(g.impossible), g.untaken...))
		})
	}
}

// A visit is a request on its way, and what has become of it.
type visit struct {
	in       *authz.Input
	verifier *jwt.Verifier
	yes      bool // what authorizers say

	asked   []string
	refused string
	token   jwt.Reason
	matched *authz.Question // by the filter that has authorizers asked
	audit   bool
	dry     authz.DryRun
}

// String says everything that is to be the same on both sides.
func (v *visit) String() string {
	principal := ""
	if v.in.Token != nil {
		principal = v.in.Token.Issuer + "/" + v.in.Token.Subject
	}
	return fmt.Sprintf("asked %q, refused %q, as %q, audit %t, dry run %+v, passes on %+v", v.asked, v.refused, principal, v.audit, v.dry, v.in.HTTP)
}

// ask asks an authorizer, and reports whether it said yes.
func (v *visit) ask(q *authz.Question) bool {
	v.asked = append(v.asked, q.Provider+" "+q.ID)
	if !v.yes {
		v.refused = "ext_authz_denied"
	}
	return v.yes
}

// verify looks at tokens, and reports whether the request may go on.
func (v *visit) verify(s *jwt.Set, ring jwt.Ring) bool {
	r := s.Check(now, v.in.HTTP, ring, v.verifier)
	v.token = r.Reason
	if !r.Allowed {
		v.refused = fmt.Sprintf("%d %s %s %s", r.Reason.Status(), r.Reason, r.Challenge(v.in.HTTP), r.Details())
		return false
	}
	if r.Token == nil {
		v.token = jwt.Missing
	}
	r.Apply(v.in.HTTP)
	v.in.Token = r.Token
	return true
}

// decide notes a verdict, and reports whether the request may go on.
func (v *visit) decide(d authz.Verdict) bool {
	v.audit = v.audit || d.Audit
	if d.DryRun.Deny.Result != authz.Unknown {
		v.dry.Deny = d.DryRun.Deny
	}
	if d.DryRun.Allow.Result != authz.Unknown {
		v.dry.Allow = d.DryRun.Allow
	}
	v.refused = d.Details()
	return d.Allowed
}

// filterSteps compiles the filters of a chain; each reports whether a request may
// go on.
func filterSteps(t *testing.T, c filterChain) (steps []func(*visit) bool) {
	t.Helper()
	for i, raw := range c.Filters {
		var step func(*visit) bool
		var err error
		switch m := readMessage(t, raw).(type) {
		case *httprbac.RBAC:
			step, err = rbacStep(HTTP(m))
		case *netrbac.RBAC:
			step, err = rbacStep(Network(m))
		case *jwtauthnv3.JwtAuthentication:
			for _, p := range m.GetProviders() {
				p.JwksSourceSpecifier = localKeys(testKeys)
			}
			var s *jwt.Set
			s, err = jwtauthn.Compile(m)
			step = func(v *visit) bool { return v.verify(s, nil) }
		case *httpext.ExtAuthz:
			var p *authz.Provider
			p, err = extauthz.FromHTTPFilter(m)
			// As in Envoy: it asks if the name of the rule that matched begins so.
			step = func(v *visit) bool {
				return v.matched == nil || !strings.HasPrefix(v.matched.ID, customName+p.Name) || v.ask(v.matched)
			}
		default:
			t.Fatalf("filter %d is %T", i, m)
		}
		if err != nil {
			t.Fatalf("filter %d: %v", i, err)
		}
		steps = append(steps, step)
	}
	return steps
}

func rbacStep(s *authz.Set, err error) (func(*visit) bool, error) {
	return func(v *visit) bool {
		if q := s.Ask(v.in, nil); q != nil {
			v.matched = q
		}
		return v.decide(s.Decide(v.in))
	}, err
}

// manifests is what they compile to.
type manifests struct {
	set     *authz.Set
	tokens  *jwt.Set
	ring    jwt.Ring
	entries []authz.Entry
}

func newManifests(t *testing.T, policies []*authz.Policy, tokens []*jwt.RequestAuthentication) manifests {
	t.Helper()
	m := manifests{ring: jwt.Ring{}}
	var err error
	if m.tokens, err = jwt.Compile(jwt.Options{}, tokens...); err != nil {
		t.Fatal(err)
	}
	keys, err := jwt.ParseKeys([]byte(testKeys))
	if err != nil {
		t.Fatal(err)
	}
	for source := range m.tokens.Sources() {
		m.ring[source] = keys
	}
	for _, p := range policies {
		e, err := authz.Entries(options, p)
		if err != nil {
			t.Fatal(err)
		}
		m.entries = append(m.entries, e...)
	}
	m.set = authz.NewSet(m.entries)
	return m
}

func (m *manifests) pass(v *visit, seen *coverage) {
	seen.count(m.entries, v.in, true)
	for q := m.set.Ask(v.in, nil); q != nil; q = m.set.Ask(v.in, q) {
		if !v.ask(q) {
			return
		}
	}
	if v.in.HTTP == nil || v.verify(m.tokens, m.ring) {
		seen.count(m.entries, v.in, false)
		v.decide(m.set.Decide(v.in))
	}
}

// A wish is to see filters and manifests agree.
type wish struct {
	t         *testing.T
	filters   []func(*visit) bool
	manifests manifests
	seen      *coverage
}

func (w *wish) run(chain string, words []string, rnd *rand.Rand, n int) {
	w.t.Helper()
	v := vocabulary{rnd: rnd, words: words}
	tokens := someTokens(w.t, v, 300)
	opaque := strings.Contains(chain, "|tcp|") || strings.HasSuffix(chain, "tcp")
	one, other := jwt.NewVerifier(jwt.Limits{}), jwt.NewVerifier(jwt.Limits{})
	for range n {
		in := v.input(opaque)
		in.Token = nil
		if !opaque {
			v.carry(in.HTTP, tokens)
		}
		yes := rnd.IntN(2) == 0
		got, want := visit{in: in, yes: yes, verifier: one}, visit{in: clone(in), yes: yes, verifier: other}
		for _, step := range w.filters {
			if !step(&got) {
				break
			}
		}
		w.manifests.pass(&want, w.seen)
		if got.String() != want.String() {
			w.t.Fatalf("%s: on %s:\ngot  %s\nwant %s", chain, describe(in), got.String(), want.String())
		}
		w.seen.result(&want)
	}
}

func clone(in *authz.Input) *authz.Input {
	c := *in
	if in.HTTP != nil {
		h := *in.HTTP
		h.Fields = slices.Clone(h.Fields)
		c.HTTP = &h
	}
	return &c
}

// coverage counts what the requests came upon.
type coverage struct {
	rules   map[string]*[2]int // how often a rule did not match, and did
	tokens  map[string]int
	results map[string]int

	verifies, audiences bool // some rules take tokens, and for some audiences only
}

func (c *coverage) add(policies []*jwt.RequestAuthentication) {
	for _, p := range policies {
		c.verifies = true
		c.audiences = c.audiences || slices.ContainsFunc(p.Rules, func(r jwt.Rule) bool { return r.Audiences != nil })
	}
}

// count has every rule evaluated, or only those that ask.
func (c *coverage) count(entries []authz.Entry, in *authz.Input, custom bool) {
	for i := range entries {
		e := &entries[i]
		if (e.Action == authz.Custom) != custom {
			continue
		}
		x := e.HTTP
		if in.HTTP == nil {
			x = e.Opaque
		}
		if value, constant := x.Constant(); constant && !value {
			continue // dropped from what is not HTTP
		}
		n := c.rules[e.ID]
		if n == nil {
			n = new([2]int)
			c.rules[e.ID] = n
		}
		if x.Match(in) {
			n[1]++
		} else {
			n[0]++
		}
	}
}

func (c *coverage) result(v *visit) {
	kind := "allowed"
	if v.refused != "" {
		kind = strings.FieldsFunc(v.refused, func(r rune) bool { return r == '[' || r == ' ' })[0]
	}
	c.results[kind]++
	if v.in.HTTP != nil {
		c.tokens[v.token.String()]++
	}
}

// check fails if the test shows little: if of a rule, a kind of token or a
// verdict nothing was seen.
func (c *coverage) check(t *testing.T, unreachable []string) {
	t.Helper()
	c.checkRules(t, unreachable)
	t.Logf("tokens: %v; verdicts: %v", c.tokens, c.results)
	if c.results["allowed"] < 1000 {
		t.Errorf("%d requests were allowed", c.results["allowed"])
	}
	if len(c.rules) > 0 && c.results["rbac_access_denied_matched_policy"] < 1000 {
		t.Errorf("%d requests were denied", c.results["rbac_access_denied_matched_policy"])
	}
	if !c.verifies {
		return
	}
	reasons := []jwt.Reason{jwt.OK, jwt.Missing, jwt.Expired, jwt.NotYetValid, jwt.UnknownIssuer, jwt.VerificationFails, jwt.BadFormat}
	if c.audiences {
		reasons = append(reasons, jwt.AudienceNotAllowed)
	}
	for _, reason := range reasons {
		if c.tokens[reason.String()] < 5 {
			t.Errorf("of %d requests the tokens were %q", c.tokens[reason.String()], reason)
		}
	}
}

// checkRules wants every rule to have matched something, but those that cannot.
func (c *coverage) checkRules(t *testing.T, unreachable []string) {
	t.Helper()
	for _, id := range slices.Sorted(maps.Keys(c.rules)) {
		n := c.rules[id]
		t.Logf("%s: %d matched, %d did not", id, n[1], n[0])
		if (n[1] > 0) == slices.Contains(unreachable, id) {
			t.Errorf("%s matched %d requests", id, n[1])
		}
	}
}

// now is the time of the tokens.
var now = time.Unix(1_800_000_000, 0)

// carry gives a request none, one or two tokens, in places that rules look in.
func (v vocabulary) carry(r *l7.Request, tokens []string) {
	for range v.rnd.IntN(3) * v.rnd.IntN(2) {
		token := tokens[v.rnd.IntN(len(tokens))]
		switch v.rnd.IntN(6) {
		case 0, 1:
			r.Fields = append(r.Fields, l7.Field{Name: "authorization", Value: v.of("Bearer ", "Bearer ", "Bearer ", "Basic ") + token})
		case 2:
			r.Path += "?access_token=" + token
		case 3:
			r.Fields = append(r.Fields, l7.Field{Name: "x-jwt", Value: v.of("B ", "B ", "") + token})
		case 4:
			r.Path += "?a=b&tok=" + token
		case 5:
			r.Fields = append(r.Fields, l7.Field{Name: "cookie", Value: "a=b; ck=" + token})
		}
	}
	if v.rnd.IntN(4) == 0 { // what a client must not write
		r.Fields = append(r.Fields, l7.Field{Name: v.of("x-payload", "x-sub"), Value: "forged"})
	}
}

// someTokens returns tokens, of which most are valid somewhere.
func someTokens(t *testing.T, v vocabulary, n int) (out []string) {
	t.Helper()
	for range n {
		claims := map[string]any{
			"iss": v.of("other", "other", "testing@secure.istio.io", "testing@secure.istio.io", "nobody"),
			"sub": v.of("ann", "bob", "x y"), "groups": []any{v.of("g1", "g2"), v.word()}, "nested": map[string]any{"k": v.of("v1", "w")},
			"scope": "read write",
		}
		switch v.rnd.IntN(5) {
		case 0:
			claims["aud"] = "a2"
		case 1:
		default:
			claims["aud"] = []any{"a2", v.of("a1", "https://a1/")}
		}
		key := signing
		switch v.rnd.IntN(12) {
		case 0:
			claims["exp"] = now.Unix() - 61
		case 1:
			claims["nbf"] = now.Unix() + 61
		case 2:
			key = forging
		case 3:
			claims["exp"], claims["nbf"] = now.Unix()-59, now.Unix()-3600
		}
		token := sign(t, key, claims)
		if v.rnd.IntN(15) == 0 {
			token = strings.Replace(token, ".", "", 1)
		}
		out = append(out, token)
	}
	return out
}

// readTokenPolicies reads the RequestAuthentications of manifests, with the
// test's keys in the place of theirs.
func readTokenPolicies(t *testing.T, names []string) (out []*jwt.RequestAuthentication) {
	t.Helper()
	for _, doc := range documents(t, names, jwt.Kind) {
		var o struct {
			Metadata struct{ Name, Namespace string }
			Spec     struct {
				TargetRefs []authz.TargetRef
				JwtRules   []jwt.Rule
			}
		}
		b, _ := json.Marshal(doc)
		if err := json.Unmarshal(b, &o); err != nil {
			t.Fatal(err)
		}
		p := &jwt.RequestAuthentication{Name: o.Metadata.Name, Namespace: o.Metadata.Namespace, TargetRefs: o.Spec.TargetRefs, Rules: o.Spec.JwtRules}
		for i := range p.Rules {
			if p.Rules[i].JWKS != "" {
				p.Rules[i].JWKS = testKeys
			}
		}
		out = append(out, p)
	}
	return out
}
