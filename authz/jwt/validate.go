package jwt

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/authz"
)

// The limits of Istio's CRD.
const (
	maxRules          = 4096
	maxURILength      = 2048
	maxSpaceDelimited = 64
	minTimeout        = time.Millisecond
)

// framing are the fields that say how a request is delimited and carried. A
// token must not decide that.
var framing = []string{"connection", "content-length", "host", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer",
	"transfer-encoding", "upgrade"}

// Validate reports whether Istio would admit p: it checks what the CRD's schema
// and the webhook check. The error joins one *authz.FieldError for each field at
// fault. A valid policy may still be one that Compile does not support.
func Validate(p *RequestAuthentication) error { return validate(p, false) }

func validate(p *RequestAuthentication, inlined bool) error {
	c := checker{policy: p, inlined: inlined}
	c.attachment(authz.Validate(p.attached()))
	c.atMost("spec.jwtRules", len(p.Rules), maxRules)
	for i := range p.Rules {
		c.rule(ruleField(i), &p.Rules[i])
	}
	return errors.Join(c.errs...)
}

func ruleField(i int) string { return fmt.Sprintf("spec.jwtRules[%d]", i) }

// attached returns an AuthorizationPolicy that is attached to the same as p: the
// rules for that are the same.
func (p *RequestAuthentication) attached() *authz.Policy {
	return &authz.Policy{Name: p.Name, Namespace: p.Namespace, Selector: p.Selector, TargetRefs: p.TargetRefs}
}

// A checker gathers what is wrong with a policy.
type checker struct {
	policy  *RequestAuthentication
	inlined bool // as in Options
	errs    []error
}

func (c *checker) fail(field, format string, args ...any) {
	c.errs = append(c.errs, &authz.FieldError{Policy: c.policy.Key(), Field: field, Reason: fmt.Sprintf(format, args...)})
}

// unsupported is what Istio would admit and we do not do.
func (c *checker) unsupported(field, format string, args ...any) {
	c.errs = append(c.errs, &authz.FieldError{Policy: c.policy.Key(), Field: field, Reason: fmt.Sprintf(format, args...), Unsupported: true})
}

// attachment takes over what is wrong with p.attached().
func (c *checker) attachment(err error) {
	errs := []error{err}
	if all, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // what Join made, nothing in between
		errs = all.Unwrap()
	}
	for _, err := range errs {
		var field *authz.FieldError
		if errors.As(err, &field) {
			c.fail(field.Field, "%s", field.Reason)
		}
	}
}

func (c *checker) atMost(field string, n, limit int) {
	if n > limit {
		c.fail(field, "has %d entries, more than %d", n, limit)
	}
}

// filled checks that no value of a field is empty.
func (c *checker) filled(field string, values []string) {
	for i, v := range values {
		if v == "" {
			c.fail(fmt.Sprintf("%s[%d]", field, i), "an empty value is not allowed")
		}
	}
}

func (c *checker) rule(at string, r *Rule) {
	if r.Issuer == "" && r.JWKSURI == "" && !(c.inlined && r.JWKS != "") {
		c.fail(at+".issuer", "is required without jwksUri")
	}
	if r.JWKS != "" && r.JWKSURI != "" {
		c.fail(at+".jwksUri", "may not be combined with jwks")
	}
	c.uri(at+".jwksUri", r.JWKSURI)
	c.keys(at+".jwks", r.JWKS)
	c.filled(at+".audiences", r.Audiences)
	for i, h := range r.FromHeaders {
		if h.Name == "" {
			c.fail(fmt.Sprintf("%s.fromHeaders[%d].name", at, i), "is required")
		}
	}
	c.filled(at+".fromParams", r.FromParams)
	c.filled(at+".fromCookies", r.FromCookies)
	for i, o := range r.OutputClaimToHeaders {
		c.output(fmt.Sprintf("%s.outputClaimToHeaders[%d]", at, i), o)
	}
	c.filled(at+".spaceDelimitedClaims", r.SpaceDelimitedClaims)
	c.atMost(at+".spaceDelimitedClaims", len(r.SpaceDelimitedClaims), maxSpaceDelimited)
	if r.Timeout != 0 && r.Timeout < minTimeout {
		c.fail(at+".timeout", "%v is less than %v", r.Timeout, minTimeout)
	}
}

func (c *checker) uri(field, uri string) {
	if uri == "" {
		return
	}
	if len(uri) > maxURILength {
		c.fail(field, "has %d characters, more than %d", len(uri), maxURILength)
		return
	}
	u, err := url.Parse(uri)
	switch {
	case err != nil:
		c.fail(field, "is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		c.fail(field, "is not a URL that begins with http:// or https://")
	case u.Host == "":
		c.fail(field, "names no host")
	}
}

// keys checks keys that are in the policy. Those of a kind that is not supported
// are no fault: other readers may have use for them (RFC 7517, section 5).
func (c *checker) keys(field, jwks string) {
	if jwks == "" {
		return
	}
	_, err := ParseKeys([]byte(jwks))
	var content *ContentError
	if errors.As(err, &content) {
		for _, problem := range content.Problems {
			if !problem.Unsupported {
				c.fail(field, "%v", problem)
			}
		}
	}
}

func (c *checker) output(at string, o ClaimHeader) {
	switch {
	case o.Header == "":
		c.fail(at+".header", "is required")
	case strings.ContainsFunc(o.Header, func(r rune) bool { return !alphanumeric(r) && r != '-' && r != '_' }):
		c.fail(at+".header", "%q has other characters than letters, digits, - and _", o.Header)
	}
	if o.Claim == "" {
		c.fail(at+".claim", "is required")
	}
}

// safe checks what Istio admits and would let a token change more of a request
// than its meaning.
func (c *checker) safe(at string, r *Rule) {
	if name := r.OutputPayloadToHeader; name != "" && !isFieldName(name) {
		c.unsupported(at+".outputPayloadToHeader", "%q is not the name of a field", name)
	} else if slices.Contains(framing, strings.ToLower(name)) {
		c.unsupported(at+".outputPayloadToHeader", "%q says how a request is carried", name)
	}
	for i, o := range r.OutputClaimToHeaders {
		if slices.Contains(framing, strings.ToLower(o.Header)) {
			c.unsupported(fmt.Sprintf("%s.outputClaimToHeaders[%d].header", at, i), "%q says how a request is carried", o.Header)
		}
	}
}

func alphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

// isFieldName reports whether s is a token (RFC 9110, section 5.1).
func isFieldName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !alphanumeric(r) && !strings.ContainsRune("!#$%&'*+-.^_`|~", r) })
}
