package rbac

import (
	"fmt"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/authz"
)

// The filter that verifies JWTs, and where istiod has it leave their claims.
const (
	jwtFilter  = "envoy.filters.http.jwt_authn"
	jwtPayload = "payload"
)

// metadata matches what other filters have found out: the claims of a JWT, and
// nothing else.
func metadata(at string, m *matcherv3.MetadataMatcher) (*authz.Expr, error) {
	path := m.GetPath()
	if m.GetFilter() != jwtFilter || len(path) < 2 || path[0].GetKey() != jwtPayload {
		return nil, unsupported(at, fmt.Sprintf("there is no metadata of %q here but the claims of a JWT", m.GetFilter()))
	}
	var claim []string
	for _, segment := range path[1:] {
		claim = append(claim, segment.GetKey())
	}
	x, err := claimed(at+".value", claim, m.GetValue())
	if err != nil || !m.GetInvert() {
		return x, err
	}
	return authz.Not(at, x), nil
}

// claimed matches the value of a claim. istiod writes one matcher for a string
// twice, bare and for the items of a list, and of iss and sub only the former.
// Nothing else is read: a matcher of ours does both, and neither alone.
func claimed(at string, claim []string, v *matcherv3.ValueMatcher) (*authz.Expr, error) {
	if len(claim) == 1 && (claim[0] == "iss" || claim[0] == "sub") {
		return texts(at, claim, v)
	}
	or := v.GetOrMatch().GetValueMatchers()
	if len(or) != 2 || !proto.Equal(or[0].GetListMatch().GetOneOf(), or[1]) {
		return nil, unsupported(at, "of a claim only the same string can be asked for, bare and as any item of a list")
	}
	return texts(at+".or_match.value_matchers[1]", claim, or[1])
}

// texts compiles a string matcher, or alternatives of them.
func texts(at string, claim []string, v *matcherv3.ValueMatcher) (*authz.Expr, error) {
	if v.GetOrMatch() != nil {
		kids, err := list(at+".or_match.value_matchers", v.GetOrMatch().GetValueMatchers(), func(at string, v *matcherv3.ValueMatcher) (*authz.Expr, error) {
			return texts(at, claim, v)
		})
		return or(at, kids, err)
	}
	if v.GetStringMatch() == nil {
		return nil, unsupported(at, fmt.Sprintf("value matcher %T is not supported", v.GetMatchPattern()))
	}
	m, err := stringMatcher(at+".string_match", v.GetStringMatch())
	if err != nil {
		return nil, err
	}
	return authz.MatchClaim(at, claim, m), nil
}
