// Package jwtauthn compiles Envoy's filter jwt_authn to the Set that
// RequestAuthentication compiles to, so that what a control plane has already
// translated for Envoy is decided by the same code as what it was translated
// from.
//
// It covers what istiod writes: a provider for each rule, of which a request may
// have a token, and a requirement over all of them that comes down to "any of
// them, or else for each: it or nothing". Filters are asked for things by
// leaving fields out, too, so the fields are a closed list: whatever else is
// set is an error, never ignored.
package jwtauthn

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
)

// payload is where istiod has the filter leave the claims, and where its RBAC
// filters look for them.
const payload = "payload"

// wordClaims are the claims that istiod has split into words whatever a rule says,
// as package jwt does.
var wordClaims = []string{"permission", "scope"}

// Compile compiles a filter. Like jwt.Compile, it returns with an error a Set
// that refuses everything.
func Compile(f *jwtv3.JwtAuthentication) (*jwt.Set, error) {
	p, err := Read(f)
	if err == nil {
		var s *jwt.Set
		if s, err = jwt.Compile(jwt.Options{Inlined: true}, p); err == nil {
			return s, nil
		}
		err = fmt.Errorf("jwt_authn: %w", err)
	}
	return jwt.Closed("jwt_authn filter rejected"), err
}

// Read returns the rules that a filter is the translation of, as one policy. Keys
// that istiod has fetched are in the rules. What the filter does not tell is to
// whom the rules were attached, and which of them were one policy.
func Read(f *jwtv3.JwtAuthentication) (*jwt.RequestAuthentication, error) {
	if err := only("filter", f, "providers", "rules", "bypass_cors_preflight"); err != nil {
		return nil, err
	}
	if !f.GetBypassCorsPreflight() {
		return nil, unsupported("bypass_cors_preflight", "a preflight of CORS, which cannot have a token, always passes")
	}
	names, err := required(f)
	if err != nil {
		return nil, err
	}
	p := &jwt.RequestAuthentication{Name: "jwt_authn"}
	var errs []error
	for _, name := range names {
		r, err := rule("providers["+name+"]", f.GetProviders()[name])
		p.Rules, errs = append(p.Rules, r), append(errs, err)
	}
	if !slices.IsSortedFunc(p.Rules, func(a, b jwt.Rule) int { return cmp.Compare(a.Issuer, b.Issuer) }) {
		errs = append(errs, unsupported("rules", "providers are asked in the order of their issuers only"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// required returns the providers in the order in which they are asked.
func required(f *jwtv3.JwtAuthentication) (names []string, err error) {
	bad := unsupported("rules", "only one rule is supported, by which a request has a token of any of the providers, or for each of them has one or none")
	if len(f.GetRules()) != 1 {
		return nil, bad
	}
	for _, r := range f.GetRules()[0].GetRequires().GetRequiresAny().GetRequirements() {
		if name := r.GetProviderName(); name != "" {
			names = append(names, name)
		}
	}
	if len(names) == 0 || !proto.Equal(f.GetRules()[0], requirement(names)) {
		return nil, bad
	}
	for i, name := range names {
		if f.GetProviders()[name] == nil || slices.Contains(names[:i], name) {
			return nil, unsupported("rules", fmt.Sprintf("%q is not one provider", name))
		}
	}
	if len(names) != len(f.GetProviders()) {
		return nil, unsupported("providers", "there is one that no rule asks")
	}
	return names, nil
}

// requirement is what istiod writes for providers: of one, it or nothing; of
// several, any of them, or all of what it would write of each alone.
func requirement(names []string) *jwtv3.RequirementRule {
	var each, anyOf []*jwtv3.JwtRequirement
	for _, name := range names {
		provider := &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_ProviderName{ProviderName: name}}
		nothing := &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_AllowMissing{AllowMissing: &emptypb.Empty{}}}
		anyOf, each = append(anyOf, provider), append(each, or(provider, nothing))
	}
	requires := each[0]
	if len(names) > 1 {
		all := &jwtv3.JwtRequirement_RequiresAll{RequiresAll: &jwtv3.JwtRequirementAndList{Requirements: each}}
		requires = or(append(anyOf, &jwtv3.JwtRequirement{RequiresType: all})...)
	}
	return &jwtv3.RequirementRule{
		Match:           &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		RequirementType: &jwtv3.RequirementRule_Requires{Requires: requires},
	}
}

func or(requirements ...*jwtv3.JwtRequirement) *jwtv3.JwtRequirement {
	list := &jwtv3.JwtRequirementOrList{Requirements: requirements}
	return &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_RequiresAny{RequiresAny: list}}
}

// rule reads a provider.
func rule(at string, p *jwtv3.JwtProvider) (r jwt.Rule, err error) {
	if err := only(at, p, "issuer", "audiences", "remote_jwks", "local_jwks", "forward", "from_headers", "from_params", "from_cookies",
		"forward_payload_header", "payload_in_metadata", "normalize_payload_in_metadata", "claim_to_headers", "clear_route_cache"); err != nil {
		return r, err
	}
	words := p.GetNormalizePayloadInMetadata().GetSpaceDelimitedClaims()
	switch {
	case p.GetPayloadInMetadata() != payload:
		return r, unsupported(at+".payload_in_metadata", fmt.Sprintf("policies look for claims in %q only", payload))
	case !p.GetClearRouteCache():
		return r, unsupported(at+".clear_route_cache", "a route is always chosen after tokens are looked at")
	case !slices.Contains(words, wordClaims[0]) || !slices.Contains(words, wordClaims[1]):
		return r, unsupported(at+".normalize_payload_in_metadata", "the claims permission and scope are always lists of words")
	}
	r = jwt.Rule{
		Issuer: p.GetIssuer(), Audiences: p.GetAudiences(), FromParams: p.GetFromParams(), FromCookies: p.GetFromCookies(),
		ForwardOriginalToken: p.GetForward(), OutputPayloadToHeader: p.GetForwardPayloadHeader(),
	}
	for _, w := range words {
		if !slices.Contains(wordClaims, w) {
			r.SpaceDelimitedClaims = append(r.SpaceDelimitedClaims, w)
		}
	}
	for _, h := range p.GetFromHeaders() {
		r.FromHeaders = append(r.FromHeaders, jwt.Header{Name: h.GetName(), Prefix: h.GetValuePrefix()})
	}
	for _, c := range p.GetClaimToHeaders() {
		r.OutputClaimToHeaders = append(r.OutputClaimToHeaders, jwt.ClaimHeader{Header: c.GetHeaderName(), Claim: c.GetClaimName()})
	}
	return r, keys(at, p, &r)
}

// keys reads where the keys of a provider are. By which cluster Envoy would get
// them is nothing to whoever fetches them by their URI.
func keys(at string, p *jwtv3.JwtProvider, r *jwt.Rule) error {
	switch source := p.GetJwksSourceSpecifier().(type) {
	case *jwtv3.JwtProvider_LocalJwks:
		switch data := source.LocalJwks.GetSpecifier().(type) {
		case *corev3.DataSource_InlineString:
			r.JWKS = data.InlineString
		case *corev3.DataSource_InlineBytes:
			r.JWKS = string(data.InlineBytes)
		}
		if r.JWKS == "" {
			return unsupported(at+".local_jwks", "only keys that are in the filter are supported")
		}
		return nil
	case *jwtv3.JwtProvider_RemoteJwks:
		at += ".remote_jwks"
		if err := only(at, source.RemoteJwks, "http_uri", "cache_duration"); err != nil {
			return err
		}
		r.JWKSURI, r.Timeout = source.RemoteJwks.GetHttpUri().GetUri(), source.RemoteJwks.GetHttpUri().GetTimeout().AsDuration()
		if r.JWKSURI == "" {
			return unsupported(at+".http_uri.uri", "is missing")
		}
		return nil
	}
	return unsupported(at, "has no keys")
}

// only reports a field of m that is set and not one of names, or that is of a
// newer protocol than ours.
func only(at string, m proto.Message, names ...protoreflect.Name) (err error) {
	r := m.ProtoReflect()
	if len(r.GetUnknown()) > 0 {
		err = unsupported(at, "has a field that is not known")
	}
	r.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !slices.Contains(names, f.Name()) {
			err = errors.Join(err, unsupported(at+"."+string(f.Name()), "is not supported"))
		}
		return true
	})
	return err
}

func unsupported(at, reason string) error {
	return fmt.Errorf("jwt_authn: %s: %s: %w", at, reason, authz.ErrUnsupported)
}
