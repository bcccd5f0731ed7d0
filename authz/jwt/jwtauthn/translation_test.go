package jwtauthn

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"

	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// Two key sets and their keys, by which rules and tokens are told apart.
var (
	signers = []ed25519.PrivateKey{newKey(1), newKey(2)}
	keySets = []string{keySetOf(signers[0]), keySetOf(signers[1])}
	noon    = time.Unix(1_800_000_000, 0)
)

func newKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func keySetOf(k ed25519.PrivateKey) string {
	return `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(k.Public().(ed25519.PublicKey)) + `"}]}`
}

// translate writes rules as istiod does: in the order of their issuers, whichever
// policy they are of.
func translate(rules []jwt.Rule) *jwtv3.JwtAuthentication {
	rules = slices.Clone(rules)
	slices.SortStableFunc(rules, func(a, b jwt.Rule) int { return strings.Compare(a.Issuer, b.Issuer) })
	f := &jwtv3.JwtAuthentication{BypassCorsPreflight: true, Providers: map[string]*jwtv3.JwtProvider{}}
	var names []string
	for i, r := range rules {
		words := append([]string{"permission", "scope"}, r.SpaceDelimitedClaims...)
		slices.Sort(words)
		p := &jwtv3.JwtProvider{
			Issuer: r.Issuer, Audiences: r.Audiences, Forward: r.ForwardOriginalToken, ForwardPayloadHeader: r.OutputPayloadToHeader,
			FromParams: r.FromParams, FromCookies: r.FromCookies, PayloadInMetadata: "payload", ClearRouteCache: true,
			NormalizePayloadInMetadata: &jwtv3.JwtProvider_NormalizePayload{SpaceDelimitedClaims: slices.Compact(words)},
			JwksSourceSpecifier: &jwtv3.JwtProvider_LocalJwks{LocalJwks: &corev3.DataSource{
				Specifier: &corev3.DataSource_InlineString{InlineString: r.JWKS}}},
		}
		for _, h := range r.FromHeaders {
			p.FromHeaders = append(p.FromHeaders, &jwtv3.JwtHeader{Name: h.Name, ValuePrefix: h.Prefix})
		}
		for _, c := range r.OutputClaimToHeaders {
			p.ClaimToHeaders = append(p.ClaimToHeaders, &jwtv3.JwtClaimToHeader{HeaderName: c.Header, ClaimName: c.Claim})
		}
		names = append(names, fmt.Sprintf("origins-%d", i))
		f.Providers[names[i]] = p
	}
	f.Rules = []*jwtv3.RequirementRule{requirement(names)}
	return f
}

// Rules and what istiod makes of them say the same about every request, and make
// the same of it.
func TestTranslationsSayTheSameAsTheirRules(t *testing.T) {
	sets := 200
	if testing.Short() {
		sets = 100
	}
	d := dice{rand.New(rand.NewPCG(4, 4))}
	seen := map[string]int{}
	for range sets {
		a, b := &jwt.RequestAuthentication{Name: "a", Namespace: "n"}, &jwt.RequestAuthentication{Name: "b", Namespace: "n"}
		for range 1 + d.IntN(12) { // more than ten are to be in order, too
			p := []*jwt.RequestAuthentication{a, b}[d.IntN(2)]
			p.Rules = append(p.Rules, d.rule())
		}
		want, err := jwt.Compile(jwt.Options{}, a, b)
		if err != nil {
			t.Fatal(err)
		}
		f := translate(append(slices.Clone(a.Rules), b.Rules...))
		got, err := Compile(f)
		if err != nil {
			t.Fatalf("%v: %v", f, err)
		}
		for range 40 {
			req := d.request(t)
			g, w := said(got, req), said(want, req)
			if g != w {
				t.Fatalf("on %+v by %v:\ngot  %s\nwant %s", req, f, g, w)
			}
			kind, _, _ := strings.Cut(w, ":")
			seen[kind]++
		}
	}
	t.Logf("%v", seen)
	for _, kind := range []string{"OK", jwt.Missing.String(), jwt.UnknownIssuer.String(), jwt.AudienceNotAllowed.String(), jwt.VerificationFails.String(), jwt.Expired.String()} {
		if seen[kind] < sets/10 {
			t.Errorf("of %d requests it was said that %q", seen[kind], kind)
		}
	}
}

// said is all that a set says about a request, and what it makes of it.
func said(s *jwt.Set, req *l7.Request) string {
	r := *req
	r.Fields = slices.Clone(req.Fields)
	res := s.Check(noon, &r, nil, nil)
	if !res.Allowed {
		return fmt.Sprintf("%v: %s", res.Reason, res.Challenge(&r))
	}
	res.Apply(&r)
	if res.Token == nil {
		return fmt.Sprintf("%v: %+v", jwt.Missing, r)
	}
	return fmt.Sprintf("%v: %+v goes on as %+v", res.Reason, *res.Token, r)
}

// dice make rules and requests of a few words.
type dice struct{ *rand.Rand }

func (d dice) of(words ...string) string { return words[d.IntN(len(words))] }

func (d dice) some(words ...string) (out []string) {
	for _, w := range words {
		if d.IntN(3) == 0 {
			out = append(out, w)
		}
	}
	return out
}

func (d dice) rule() jwt.Rule {
	r := jwt.Rule{
		Issuer: d.of("i", "j", "k"), JWKS: keySets[d.IntN(8)/7], Audiences: d.some("x", "y"), FromParams: d.some("p", "q"), FromCookies: d.some("c"),
		ForwardOriginalToken: d.IntN(2) == 0, OutputPayloadToHeader: d.of("", "x-payload"), SpaceDelimitedClaims: d.some("roles", "scope"),
	}
	for _, name := range d.some("x-jwt", "X-Other") {
		r.FromHeaders = append(r.FromHeaders, jwt.Header{Name: name, Prefix: d.of("", "B ")})
	}
	for _, claim := range d.some("sub", "nested.k") {
		r.OutputClaimToHeaders = append(r.OutputClaimToHeaders, jwt.ClaimHeader{Header: d.of("x-claim", "x-sub"), Claim: claim})
	}
	return r
}

func (d dice) request(t *testing.T) *l7.Request {
	t.Helper()
	r := &l7.Request{Method: d.of("GET", "OPTIONS"), Scheme: "http", Authority: "items", Path: d.of("/", "/a?b=c")}
	for range d.IntN(3) {
		switch token := d.token(t); d.IntN(6) {
		case 0, 1:
			r.Fields = append(r.Fields, l7.Field{Name: "authorization", Value: "Bearer " + token})
		case 2:
			r.Fields = append(r.Fields, l7.Field{Name: d.of("x-jwt", "x-other"), Value: d.of("", "B ") + token})
		case 3:
			r.Fields = append(r.Fields, l7.Field{Name: "cookie", Value: "a=b; c=" + token})
		case 4:
			r.Path = "/?" + d.of("p", "q") + "=" + token
		case 5:
			r.Path = "/?access_token=" + token
		}
	}
	if d.IntN(3) == 0 {
		r.Fields = append(r.Fields, l7.Field{Name: d.of("x-payload", "x-claim", "x-sub"), Value: "forged"})
	}
	return r
}

func (d dice) token(t *testing.T) string {
	t.Helper()
	claims := map[string]any{"iss": d.of("i", "j", "k", "nobody"), "sub": d.of("ann", "bob"), "scope": "a b", "roles": "c d", "nested": map[string]any{"k": "v"}}
	if d.IntN(3) > 0 {
		claims["aud"] = append(d.some("x", "y"), "z")
	}
	if d.IntN(8) == 0 {
		claims["exp"] = noon.Unix() - 100
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"EdDSA"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(signers[d.IntN(8)/7], []byte(text)))
}
