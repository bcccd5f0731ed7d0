package manifest

import (
	clientv1 "istio.io/client-go/pkg/apis/security/v1"

	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A tokensObject is a RequestAuthentication.
type tokensObject struct {
	*clientv1.RequestAuthentication
	lost bool // of a refused one: it cannot be told what it is attached to
}

// decodeTokens reads a RequestAuthentication. A refused one still has the
// selector and targets that could be read.
func decodeTokens(raw []byte, key mesh.Key) (any, *fault) {
	p := &tokensObject{RequestAuthentication: &clientv1.RequestAuthentication{}}
	spec, f := open(raw, key, &p.ObjectMeta)
	if f == nil {
		f = decodeSpec(spec, &p.Spec)
	}
	if f == nil {
		f = validateTokens(p, key)
	}
	if f != nil {
		p.lost = salvage(spec, &p.Spec)
	}
	return p, f
}

// validateTokens refuses what Istio's webhook would, and what is valid but not
// supported.
func validateTokens(p *tokensObject, key mesh.Key) *fault {
	if p.Spec.TargetRef != nil && len(p.Spec.TargetRefs) > 0 {
		return faultf("spec.targetRef", "may not be combined with targetRefs")
	}
	tokens := p.tokens(key)
	err := jwt.Validate(tokens)
	if err == nil {
		_, err = jwt.Compile(jwt.Options{RootNamespace: key.Namespace}, tokens) // which namespace is the root is for the Store to know
	}
	return policyFault(err)
}

// tokens returns p in plain Go.
func (p *tokensObject) tokens(key mesh.Key) *jwt.RequestAuthentication {
	out := &jwt.RequestAuthentication{
		Name: key.Name, Namespace: key.Namespace,
		Selector: selector(p.Spec.Selector), TargetRefs: targetRefs(p.Spec.TargetRef, p.Spec.TargetRefs),
	}
	for _, r := range p.Spec.JwtRules {
		rule := jwt.Rule{
			Issuer: r.GetIssuer(), Audiences: r.GetAudiences(), JWKSURI: r.GetJwksUri(), JWKS: r.GetJwks(),
			FromParams: r.GetFromParams(), FromCookies: r.GetFromCookies(),
			ForwardOriginalToken: r.GetForwardOriginalToken(), OutputPayloadToHeader: r.GetOutputPayloadToHeader(),
			SpaceDelimitedClaims: r.GetSpaceDelimitedClaims(), Timeout: r.GetTimeout().AsDuration(),
		}
		for _, h := range r.GetFromHeaders() {
			rule.FromHeaders = append(rule.FromHeaders, jwt.Header{Name: h.GetName(), Prefix: h.GetPrefix()})
		}
		for _, o := range r.GetOutputClaimToHeaders() {
			rule.OutputClaimToHeaders = append(rule.OutputClaimToHeaders, jwt.ClaimHeader{Header: o.GetHeader(), Claim: o.GetClaim()})
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}
