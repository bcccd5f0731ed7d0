package authz

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// The limits of Istio's CRD.
const (
	maxRules         = 512 // also of from and to
	maxTargetRefs    = 16
	maxAccounts      = 16
	maxAccountLength = 320
	defaultRootNS    = "istio-system"
	defaultTrust     = "cluster.local" // also the name for whatever the local trust domain is
	notTogether      = "may not be combined"
)

// ErrUnsupported is wrapped by the errors about policies that are valid but ask
// for what is not there to be enforced.
var ErrUnsupported = errors.New("not supported")

// A FieldError says what is wrong with one field of a policy.
type FieldError struct {
	Policy      mesh.Key
	Field       string // spec.rules[0].from[1].source.principals[2]
	Reason      string
	Unsupported bool // then it wraps ErrUnsupported
}

func (e *FieldError) Error() string {
	return fmt.Sprintf("%s %s/%s: %s: %s", e.Policy.Kind, e.Policy.Namespace, e.Policy.Name, e.Field, e.Reason)
}

// Unwrap returns ErrUnsupported if that is the reason.
func (e *FieldError) Unwrap() error {
	if e.Unsupported {
		return ErrUnsupported
	}
	return nil
}

// Validate reports whether Istio would admit p: it checks what the CRD's schema
// and the webhook check. It admits more of CUSTOM policies, which may ask for the
// peer's identity here: a waypoint knows it before anything else. The error joins
// one *FieldError for each field at fault. A valid policy may still be one that
// Compile does not support.
func Validate(p *Policy) error {
	c := checker{policy: p}
	c.policyFields()
	for i := range p.Rules {
		c.rule(fmt.Sprintf("spec.rules[%d]", i), &p.Rules[i])
	}
	return errors.Join(c.errs...)
}

// A checker gathers what is wrong with a policy.
type checker struct {
	policy *Policy
	errs   []error
}

func (c *checker) fail(field, format string, args ...any) {
	c.errs = append(c.errs, &FieldError{Policy: c.policy.Key(), Field: field, Reason: fmt.Sprintf(format, args...)})
}

// each checks every value of a field by f; none may be empty.
func (c *checker) each(field string, values []string, f func(string) error) {
	for i, v := range values {
		err := error(nil)
		if v == "" {
			err = errors.New("an empty value is not allowed")
		} else if f != nil {
			err = f(v)
		}
		if err != nil {
			c.fail(fmt.Sprintf("%s[%d]", field, i), "%v", err)
		}
	}
}

func (c *checker) atMost(field string, n, limit int) {
	if n > limit {
		c.fail(field, "has %d entries, more than %d", n, limit)
	}
}

func (c *checker) policyFields() {
	p := c.policy
	switch p.Action {
	case Allow, Audit:
	case Deny:
		if len(p.Rules) == 0 {
			c.fail("spec.rules", "a DENY policy without rules does nothing; write [{}] to deny everything")
		}
	case Custom:
		if p.Provider == "" {
			c.fail("spec.provider.name", "a CUSTOM policy needs one")
		}
		if len(p.Rules) == 0 {
			c.fail("spec.rules", "a CUSTOM policy without rules does nothing; write [{}] to ask about everything")
		}
	default:
		c.fail("spec.action", "%v is not an action", p.Action)
	}
	if p.Provider != "" && p.Action != Custom {
		c.fail("spec.provider", "may be set for the action CUSTOM only, not %v", p.Action)
	}
	c.atMost("spec.rules", len(p.Rules), maxRules)
	c.attachment()
}

func (c *checker) attachment() {
	p := c.policy
	if p.Selector != nil && len(p.TargetRefs) > 0 {
		c.fail("spec.targetRefs", "%s with selector", notTogether)
	}
	keys := make([]string, 0, len(p.Selector))
	for k := range p.Selector {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		field := "spec.selector.matchLabels[" + k + "]"
		if k == "" {
			c.fail(field, "an empty key is not allowed")
		}
		if strings.Contains(k, "*") || strings.Contains(p.Selector[k], "*") {
			c.fail(field, "wildcards are not allowed")
		}
	}
	c.atMost("spec.targetRefs", len(p.TargetRefs), maxTargetRefs)
	for i, ref := range p.TargetRefs {
		c.targetRef(fmt.Sprintf("spec.targetRefs[%d]", i), ref)
	}
}

func (c *checker) targetRef(field string, ref TargetRef) {
	if ref.Name == "" {
		c.fail(field+".name", "is required")
	}
	if ref.Namespace != "" && ref.Namespace != c.policy.Namespace {
		c.fail(field+".namespace", "%q is not the policy's own", ref.Namespace)
	}
	switch (TargetRef{Group: ref.Group, Kind: ref.Kind}) {
	case TargetRef{Kind: "Service"}, TargetRef{Group: "core", Kind: "Service"},
		TargetRef{Group: "networking.istio.io", Kind: "ServiceEntry"},
		TargetRef{Group: "gateway.networking.k8s.io", Kind: "Gateway"},
		TargetRef{Group: "gateway.networking.k8s.io", Kind: "GatewayClass"}:
	default:
		c.fail(field+".kind", "%q of group %q is not Service, ServiceEntry, Gateway or GatewayClass", ref.Kind, ref.Group)
	}
}

func (c *checker) rule(field string, r *Rule) {
	if r.From != nil && len(r.From) == 0 {
		c.fail(field+".from", "must not be empty")
	}
	if r.To != nil && len(r.To) == 0 {
		c.fail(field+".to", "must not be empty")
	}
	c.atMost(field+".from", len(r.From), maxRules)
	c.atMost(field+".to", len(r.To), maxRules)
	for i := range r.From {
		c.source(fmt.Sprintf("%s.from[%d].source", field, i), &r.From[i])
	}
	for i := range r.To {
		c.fields(fmt.Sprintf("%s.to[%d].operation", field, i), r.To[i].fields())
	}
	for i := range r.When {
		c.condition(fmt.Sprintf("%s.when[%d]", field, i), &r.When[i])
	}
}

func (c *checker) source(field string, s *Source) {
	c.fields(field, s.fields())
	if len(s.ServiceAccounts)+len(s.NotServiceAccounts) > 0 &&
		len(s.Principals)+len(s.NotPrincipals)+len(s.Namespaces)+len(s.NotNamespaces) > 0 {
		c.fail(field+".serviceAccounts", "%s with principals or namespaces", notTogether)
	}
	if c.policy.Action == Custom && len(s.RequestPrincipals)+len(s.NotRequestPrincipals) > 0 {
		c.fail(field+".requestPrincipals", "%s with the action CUSTOM", notTogether)
	}
}

// fields checks the fields of a source or an operation.
func (c *checker) fields(field string, fields []field) {
	any := false
	for _, f := range fields {
		any = any || len(f.values)+len(f.notValues) > 0
		c.values(field+"."+f.name, field+"."+f.notName(), f)
	}
	if !any {
		c.fail(field, "must not be empty")
	}
}

func (c *checker) condition(field string, w *Condition) {
	if w.Key == "" {
		c.fail(field+".key", "is required")
		return
	}
	f, err := w.field()
	if err != nil {
		c.fail(field+".key", "%v", err)
		return
	}
	if len(w.Values)+len(w.NotValues) == 0 {
		c.fail(field+".values", "at least one of values and notValues is required")
	}
	if c.policy.Action == Custom && f.kind.token() {
		c.fail(field+".key", "%s %s with the action CUSTOM", w.Key, notTogether)
	}
	c.values(field+".values", field+".notValues", f)
}

// values checks the two lists of a field.
func (c *checker) values(field, notField string, f field) {
	check := valueChecks[f.kind]
	c.each(field, f.values, check)
	c.each(notField, f.notValues, check)
	if f.kind == fieldAccount {
		c.atMost(field, len(f.values), maxAccounts)
		c.atMost(notField, len(f.notValues), maxAccounts)
	}
}

// valueChecks say what is wrong with a value of a kind of field; those that are
// not here take any value but the empty one.
var valueChecks = map[fieldKind]func(string) error{
	fieldAccount:     checkAccount,
	fieldTrustDomain: checkTrustDomain,
	fieldIP:          func(v string) error { _, err := parseBlock(v); return err },
	fieldDestIP:      func(v string) error { _, err := parseBlock(v); return err },
	fieldRemoteIP:    func(v string) error { _, err := parseBlock(v); return err },
	fieldPort:        func(v string) error { _, err := parsePort(v); return err },
	fieldPath:        checkPath,
}

func checkAccount(v string) error {
	ns, sa, two := strings.Cut(v, "/")
	switch {
	case len(v) > maxAccountLength:
		return fmt.Errorf("has %d characters, more than %d", len(v), maxAccountLength)
	case strings.Contains(v, "*"):
		return fmt.Errorf("%q: wildcards are not allowed", v)
	case strings.Contains(sa, "/"), two && (ns == "" || sa == ""):
		return fmt.Errorf("%q is not of the form serviceAccount or namespace/serviceAccount", v)
	}
	return nil
}

func checkTrustDomain(v string) error {
	switch {
	case strings.Count(v, "*") > 1:
		return fmt.Errorf("%q has more than one wildcard", v)
	case strings.Contains(strings.TrimSuffix(strings.TrimPrefix(v, "*"), "*"), "*"):
		return fmt.Errorf("%q has a wildcard that is neither its beginning nor its end", v)
	case strings.Contains(v, "/"):
		return fmt.Errorf("%q has a slash, which a trust domain has not", v)
	}
	return nil
}

// parseBlock reads an address or a CIDR.
func parseBlock(v string) (netip.Prefix, error) {
	if strings.Contains(v, "/") {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is not a CIDR", v)
		}
		return p, nil
	}
	a, err := netip.ParseAddr(v)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not an IP address", v)
	}
	a = a.WithZone("")
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func parsePort(v string) (uint16, error) {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is not a port from 0 to 65535", v)
	}
	return uint16(n), nil
}
