package jwt

import (
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A RequestAuthentication is one as written. It is immutable once it has been
// compiled.
type RequestAuthentication struct {
	Name, Namespace string

	// Rules are the issuers whose tokens are taken.
	Rules []Rule

	// Selector and TargetRefs say what the policy is attached to, as in
	// authz.Policy.
	Selector   map[string]string
	TargetRefs []authz.TargetRef
}

// Key returns the key a source stores p under.
func (p *RequestAuthentication) Key() mesh.Key {
	return mesh.Key{Kind: Kind, Namespace: p.Namespace, Name: p.Name}
}

// Kind is the Kubernetes kind of a RequestAuthentication.
const Kind = "RequestAuthentication"

// A Rule takes the tokens of one issuer.
type Rule struct {
	Issuer    string   // iss; "": any, then JWKSURI says whose
	Audiences []string // one of which must be in aud; none: any

	// JWKSURI and JWKS are where the keys are and the keys themselves; at most
	// one of them is set. With neither, the issuer is asked by OpenID Connect
	// Discovery.
	JWKSURI, JWKS string

	// Where a token may be. With none of these it is in "authorization: Bearer"
	// or in the parameter access_token.
	FromHeaders []Header
	FromParams  []string
	FromCookies []string

	ForwardOriginalToken  bool          // else it is taken out of the request
	OutputPayloadToHeader string        // the field that is set to the payload, in base64url
	OutputClaimToHeaders  []ClaimHeader // fields that are set to claims
	SpaceDelimitedClaims  []string      // lists of words, as scope and permission always are

	Timeout time.Duration // for fetching the keys; 0: 5 s
}

// A Header is a field that may hold a token, after Prefix.
type Header struct{ Name, Prefix string }

// A ClaimHeader has the field Header set to a claim. In its name a dot leads
// into an object.
type ClaimHeader struct{ Header, Claim string }

// DefaultTimeout is that of fetching keys.
const DefaultTimeout = 5 * time.Second

// A Source is where the keys of a rule are: at URI or, if that is "", where
// Issuer's discovery document says.
type Source struct{ URI, Issuer string }

// source returns where the keys of r are; the zero Source says that they are in
// r itself.
func (r *Rule) source() Source {
	switch {
	case r.JWKS != "":
		return Source{}
	case r.JWKSURI != "":
		return Source{URI: r.JWKSURI}
	}
	return Source{Issuer: r.Issuer}
}

// A Ring holds the keys that have been fetched. It is immutable. A source that
// is not in it has none that may be relied on.
type Ring map[Source]*Keys
