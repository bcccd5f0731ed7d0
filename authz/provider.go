package authz

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// A Provider is an authorizer that CUSTOM policies name, as an entry of
// MeshConfig's extensionProviders describes it: envoyExtAuthzGrpc,
// envoyExtAuthzHttp or, ours, opa. It is immutable once it is in use.
type Provider struct {
	Name string
	Kind ProviderKind

	// Service and Port say who is asked over GRPC and HTTP.
	Service string // [namespace/]host name
	Port    uint32

	Timeout       time.Duration // of a question; 0: 600 s, as in Istio, and 1 s of OPA
	FailOpen      bool          // let the request pass when there is no answer, or a 5xx
	StatusOnError int           // else, the status of the refusal; 0: 403
	Body          *Body         // nil: the authorizer does not see content

	// Over HTTP only. The lists of headers are patterns: "name", "prefix*" or
	// "*suffix", whatever the case.
	PathPrefix         string
	IncludeHeaders     []string  // of the request, beside Host and Authorization
	AdditionalHeaders  l7.Fields // sent with every question
	HeadersToUpstream  []string  // of the answer: set in a request that is allowed
	HeadersToClient    []string  // of the answer: in the response to one that is allowed
	HeadersToClientNot []string  // of the answer: in a refusal; nil: all

	// OPA is the policy that decides, of the kind OPA.
	OPA *OPAPolicy
}

// A ProviderKind is how a Provider is asked.
type ProviderKind uint8

// The kinds.
const (
	GRPC ProviderKind = iota // Envoy's ext_authz over gRPC
	HTTP                     // and over HTTP
	OPA                      // a policy of Open Policy Agent's, in this process
)

func (k ProviderKind) String() string {
	return [...]string{"envoyExtAuthzGrpc", "envoyExtAuthzHttp", "opa"}[k]
}

// A Body says how much of a request's content the authorizer sees.
type Body struct {
	Max          int  // bytes; more is refused with 413, unless AllowPartial
	AllowPartial bool // send the first Max bytes, and say so
	AsBytes      bool // as raw_body, over GRPC and for OPA
}

// An OPAPolicy is Rego, and how it is asked. Path or Modules is set.
type OPAPolicy struct {
	// Path is a file or directory of Rego and data, or a bundle (.tar.gz).
	Path string

	// Modules are Rego, and data in JSON or YAML, by file name: what ConfigMap, its
	// namespace and name, holds.
	Modules   map[string]string
	ConfigMap string

	Decision    string // the rule that decides; "": envoy/authz/allow
	DecisionLog string // the file that takes a line of JSON for each decision; "": none
}

// A ProviderError says what is wrong with one field of a Provider.
type ProviderError struct{ Provider, Field, Reason string }

func (e *ProviderError) Error() string {
	return fmt.Sprintf("MeshConfig extensionProviders[name=%s].%s: %s", e.Provider, e.Field, e.Reason)
}

// Validate reports everything that is wrong with p: one *ProviderError for each
// field.
func (p *Provider) Validate() error {
	c := providerChecker{provider: p}
	c.bad(p.Name == "", "name", "is required")
	kind := p.Kind.String() + "."
	c.bad(p.Timeout < 0, kind+"timeout", "%v is negative", p.Timeout)
	c.bad(p.StatusOnError != 0 && (p.StatusOnError < 100 || p.StatusOnError > 599), kind+"statusOnError", "%d is no HTTP status", p.StatusOnError)
	if p.Body != nil {
		c.bad(p.Body.Max <= 0, kind+"includeRequestBodyInCheck.maxRequestBytes", "%d is not 1 or more", p.Body.Max)
	}
	if p.Kind == OPA {
		c.opa()
		return errors.Join(c.errs...)
	}
	c.bad(p.Service == "", kind+"service", "is required")
	c.bad(strings.Count(p.Service, "/") > 1 || strings.HasPrefix(p.Service, "/") || strings.HasSuffix(p.Service, "/"),
		kind+"service", "%q is not of the form [namespace/]host", p.Service)
	c.bad(p.Port == 0 || p.Port > 65535, kind+"port", "%d is not 1 to 65535", p.Port)
	c.bad(p.PathPrefix != "" && !strings.HasPrefix(p.PathPrefix, "/"), kind+"pathPrefix", "%q does not begin with a slash", p.PathPrefix)
	c.patterns(kind+"includeRequestHeadersInCheck", p.IncludeHeaders)
	c.patterns(kind+"headersToUpstreamOnAllow", p.HeadersToUpstream)
	c.patterns(kind+"headersToDownstreamOnAllow", p.HeadersToClient)
	c.patterns(kind+"headersToDownstreamOnDeny", p.HeadersToClientNot)
	return errors.Join(c.errs...)
}

// A providerChecker gathers what is wrong with a Provider.
type providerChecker struct {
	provider *Provider
	errs     []error
}

func (c *providerChecker) bad(wrong bool, field, reason string, args ...any) {
	if wrong {
		c.errs = append(c.errs, &ProviderError{c.provider.Name, field, fmt.Sprintf(reason, args...)})
	}
}

// patterns checks a list of headers.
func (c *providerChecker) patterns(field string, list []string) {
	for i, s := range list {
		c.bad(strings.Trim(s, "*") == "", fmt.Sprintf("%s[%d]", field, i), "%q matches everything: name the headers, or what they begin or end with", s)
	}
}

func (c *providerChecker) opa() {
	o := c.provider.OPA
	if o == nil || o.Path == "" && o.Modules == nil {
		c.bad(true, "opa", "needs path, bundle or configMap")
		return
	}
	for part := range strings.SplitSeq(strings.Trim(o.Decision, "/"), "/") {
		c.bad(part == "" && o.Decision != "", "opa.decision", "%q is not a path of names: write envoy/authz/allow", o.Decision)
	}
}

// HTTPOnly reports whether p cannot be asked about a connection that is not
// HTTP. As in Istio, the connection passes. Of nil, whom nobody can ask about
// anything, it is false.
func (p *Provider) HTTPOnly() bool { return p != nil && p.Kind == HTTP }

// Content returns how many bytes of a request's content p wants to see; 0: none.
func (p *Provider) Content() int {
	if p.Body == nil {
		return 0
	}
	return p.Body.Max
}

// Patience returns how long an answer may take.
func (p *Provider) Patience() time.Duration {
	switch {
	case p.Timeout > 0:
		return p.Timeout
	case p.Kind == OPA:
		return time.Second // it is in this process: what takes longer is in a loop
	}
	return 600 * time.Second
}

// Refusal returns the status of a request that is refused because there was no
// answer.
func (p *Provider) Refusal() int {
	if p.StatusOnError > 0 {
		return p.StatusOnError
	}
	return 403
}
