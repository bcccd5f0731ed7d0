package dump

import (
	"maps"
	"net/url"
	"slices"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/config"
)

// A Mesh is what is in force of MeshConfig, and of the flags that go before it.
type Mesh struct {
	TrustDomain       string   `json:"trustDomain"`
	Aliases           []string `json:"trustDomainAliases,omitempty"`
	RootNamespace     string   `json:"rootNamespace"`
	PathNormalization string   `json:"pathNormalization"`
}

func meshOf(m *config.Mesh) Mesh {
	return Mesh{m.TrustDomain, m.Aliases, m.RootNamespace, m.Normalization.String()}
}

// A Provider is an authorizer as MeshConfig has it, without what may be secret: of
// headers that are sent to it, the names.
type Provider struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Service  string `json:"service,omitempty"`
	Port     uint32 `json:"port,omitempty"`
	Timeout  string `json:"timeout"`
	FailOpen bool   `json:"failOpen,omitempty"`
	Status   int    `json:"statusOnError"`
	Body     *Body  `json:"includeRequestBodyInCheck,omitempty"`

	PathPrefix         string   `json:"pathPrefix,omitempty"`
	IncludeHeaders     []string `json:"includeRequestHeadersInCheck,omitempty"`
	AdditionalHeaders  []string `json:"includeAdditionalHeadersInCheck,omitempty"`
	HeadersToUpstream  []string `json:"headersToUpstreamOnAllow,omitempty"`
	HeadersToClient    []string `json:"headersToDownstreamOnAllow,omitempty"`
	HeadersToClientNot []string `json:"headersToDownstreamOnDeny,omitempty"`

	OPA *OPAPolicy `json:"opa,omitempty"`
}

// A Body is how much of a request's content an authorizer sees.
type Body struct {
	MaxRequestBytes     int  `json:"maxRequestBytes"`
	AllowPartialMessage bool `json:"allowPartialMessage,omitempty"`
	PackAsBytes         bool `json:"packAsBytes,omitempty"`
}

// An OPAPolicy is where a policy in this process comes from. Of its modules, the
// names.
type OPAPolicy struct {
	Path        string   `json:"path,omitempty"`
	ConfigMap   string   `json:"configMap,omitempty"`
	Modules     []string `json:"modules,omitempty"`
	Decision    string   `json:"decision,omitempty"`
	DecisionLog string   `json:"decisionLog,omitempty"`
}

func providers(m *config.Mesh) []Provider {
	out := []Provider{}
	for _, name := range slices.Sorted(maps.Keys(m.Providers)) {
		out = append(out, provider(m.Providers[name]))
	}
	return out
}

func provider(p *authz.Provider) Provider {
	out := Provider{
		Name: p.Name, Kind: p.Kind.String(), Service: p.Service, Port: p.Port, Timeout: p.Patience().String(), FailOpen: p.FailOpen, Status: p.Refusal(),
		PathPrefix: p.PathPrefix, IncludeHeaders: p.IncludeHeaders,
		HeadersToUpstream: p.HeadersToUpstream, HeadersToClient: p.HeadersToClient, HeadersToClientNot: p.HeadersToClientNot,
	}
	if b := p.Body; b != nil {
		out.Body = &Body{b.Max, b.AllowPartial, b.AsBytes}
	}
	for _, f := range p.AdditionalHeaders {
		out.AdditionalHeaders = append(out.AdditionalHeaders, f.Name)
	}
	if o := p.OPA; o != nil {
		out.OPA = &OPAPolicy{o.Path, o.ConfigMap, slices.Sorted(maps.Keys(o.Modules)), o.Decision, o.DecisionLog}
	}
	return out
}

// A Tokens is a RequestAuthentication as it was understood.
type Tokens struct {
	Namespace  string            `json:"namespace"`
	Name       string            `json:"name"`
	Selector   map[string]string `json:"selector,omitempty"`
	TargetRefs []authz.TargetRef `json:"targetRefs,omitempty"`
	Rules      []TokenRule       `json:"jwtRules"`
}

// A TokenRule takes the tokens of an issuer. Keys in it may be secret, and so may
// the query of a URL: of the former it says that there are, of the latter nothing.
type TokenRule struct {
	Issuer               string            `json:"issuer,omitempty"`
	Audiences            []string          `json:"audiences,omitempty"`
	JWKSURI              string            `json:"jwksUri,omitempty"`
	Inline               bool              `json:"inlineJwks,omitempty"`
	FromHeaders          []jwt.Header      `json:"fromHeaders,omitempty"`
	FromParams           []string          `json:"fromParams,omitempty"`
	FromCookies          []string          `json:"fromCookies,omitempty"`
	ForwardOriginalToken bool              `json:"forwardOriginalToken,omitempty"`
	Payload              string            `json:"outputPayloadToHeader,omitempty"`
	Claims               []jwt.ClaimHeader `json:"outputClaimToHeaders,omitempty"`
	SpaceDelimitedClaims []string          `json:"spaceDelimitedClaims,omitempty"`
}

func tokens(snap *config.Snapshot) []Tokens {
	out := []Tokens{}
	for _, p := range snap.RequestAuthentications() {
		t := Tokens{p.Namespace, p.Name, p.Selector, p.TargetRefs, []TokenRule{}}
		for _, r := range p.Rules {
			t.Rules = append(t.Rules, TokenRule{
				r.Issuer, r.Audiences, bareURL(r.JWKSURI), r.JWKS != "", r.FromHeaders, r.FromParams, r.FromCookies,
				r.ForwardOriginalToken, r.OutputPayloadToHeader, r.OutputClaimToHeaders, r.SpaceDelimitedClaims,
			})
		}
		out = append(out, t)
	}
	return out
}

// bareURL returns a URL without what may be secret in it.
func bareURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
