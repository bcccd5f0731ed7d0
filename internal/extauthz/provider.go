// Package extauthz asks external authorizers whether a request may pass: services
// that speak Envoy's ext_authz protocol, over gRPC or plain HTTP.
//
//	Request ─ Client.Ask ─► CheckRequest, or an HTTP request ─► Answer
//
// A Client asks on goroutines of its own and never blocks its caller. What cannot
// be asked, or is not answered in time, or with an error, is a refusal unless the
// provider says failOpen; that is the provider's to say, not a default.
//
// The package decides nothing about which requests are asked about, and edits no
// request: an Answer says what to edit.
package extauthz

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// A Provider is an authorizer as MeshConfig's extensionProviders describe it:
// envoyExtAuthzHttp, or envoyExtAuthzGrpc with GRPC set.
type Provider struct {
	Name    string
	GRPC    bool
	Service string // [namespace/]host name
	Port    uint32

	Timeout       time.Duration // of a question; 0: 600 s, as in Istio
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
}

// A Body says how much of a request's content the authorizer sees.
type Body struct {
	Max          int  // bytes; more is refused with 413, unless AllowPartial
	AllowPartial bool // send the first Max bytes, and say so
	AsBytes      bool // as raw_body, over gRPC
}

// maxBody is the most content that an authorizer may ask to see: 64 KiB, what a
// waypoint holds of a request that waits.
const maxBody = 64 << 10

// A FieldError says what is wrong with one field of a provider.
type FieldError struct{ Provider, Field, Reason string }

func (e *FieldError) Error() string {
	return fmt.Sprintf("MeshConfig extensionProviders[name=%s].%s: %s", e.Provider, e.Field, e.Reason)
}

// Validate reports everything that is wrong with p: one *FieldError for each
// field.
func (p *Provider) Validate() error {
	var errs []error
	kind := "envoyExtAuthzHttp"
	if p.GRPC {
		kind = "envoyExtAuthzGrpc"
	}
	bad := func(wrong bool, field, reason string, args ...any) {
		if wrong {
			errs = append(errs, &FieldError{p.Name, kind + "." + field, fmt.Sprintf(reason, args...)})
		}
	}
	bad(p.Service == "", "service", "is required")
	bad(p.Port == 0 || p.Port > 65535, "port", "%d is not 1 to 65535", p.Port)
	bad(p.Timeout < 0, "timeout", "%v is negative", p.Timeout)
	bad(p.StatusOnError != 0 && (p.StatusOnError < 100 || p.StatusOnError > 599), "statusOnError", "%d is no HTTP status", p.StatusOnError)
	if p.Body != nil {
		bad(p.Body.Max <= 0 || p.Body.Max > maxBody, "includeRequestBodyInCheck.maxRequestBytes", "%d is not 1 to %d", p.Body.Max, maxBody)
	}
	bad(p.PathPrefix != "" && !strings.HasPrefix(p.PathPrefix, "/"), "pathPrefix", "%q does not begin with a slash", p.PathPrefix)
	for field, patterns := range map[string][]string{
		"includeRequestHeadersInCheck": p.IncludeHeaders, "headersToUpstreamOnAllow": p.HeadersToUpstream,
		"headersToDownstreamOnAllow": p.HeadersToClient, "headersToDownstreamOnDeny": p.HeadersToClientNot,
	} {
		for i, s := range patterns {
			bad(strings.Trim(s, "*") == "", fmt.Sprintf("%s[%d]", field, i), "%q matches everything: name the headers, or what they begin or end with", s)
		}
	}
	return errors.Join(errs...)
}

func (p *Provider) timeout() time.Duration {
	if p.Timeout > 0 {
		return p.Timeout
	}
	return 600 * time.Second
}

func (p *Provider) statusOnError() int {
	if p.StatusOnError > 0 {
		return p.StatusOnError
	}
	return http.StatusForbidden
}

// Content returns how many bytes of a request's content the provider wants to
// see; 0: none.
func (p *Provider) Content() int {
	if p.Body == nil {
		return 0
	}
	return p.Body.Max
}

// matches reports whether a header's name, in lower case, is in a list of
// patterns.
func matches(patterns []string, name string) bool {
	for _, s := range patterns {
		s = strings.ToLower(s)
		if prefix, ok := strings.CutSuffix(s, "*"); ok && strings.HasPrefix(name, prefix) {
			return true
		}
		if suffix, ok := strings.CutPrefix(s, "*"); ok && strings.HasSuffix(name, suffix) {
			return true
		}
		if s == name {
			return true
		}
	}
	return false
}
