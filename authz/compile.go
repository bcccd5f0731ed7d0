package authz

import (
	"errors"
	"fmt"
	"strings"
)

// Options say whose view of the policies is compiled. The zero Options are a
// waypoint's in the trust domain cluster.local.
type Options struct {
	TrustDomain   string   // of this mesh; "" is cluster.local
	Aliases       []string // further trust domains that mean this one
	RootNamespace string   // "" is istio-system; only from there may a GatewayClass be targeted

	// Providers are the authorizers that can be asked, by name. If nil, nobody
	// will ask any: CUSTOM policies are not supported. If one names another, it
	// refuses what its rules match.
	Providers map[string]*Provider

	// L4 compiles for the node tunnel, which sees no HTTP: see the package
	// comment.
	L4 bool
}

// Compile returns the Set of policies, which are taken to be attached to the
// same destination. The error joins one error for each field of each policy
// that is not valid or not supported; the Set is then one that denies
// everything, for there is no telling what those policies were to protect.
func Compile(o Options, policies ...*Policy) (*Set, error) {
	var entries []Entry
	var errs []error
	for _, p := range policies {
		e, err := Entries(o, p)
		if err != nil {
			errs = append(errs, err)
		}
		entries = append(entries, e...)
	}
	if err := errors.Join(errs...); err != nil {
		var first *FieldError
		errors.As(err, &first)
		return Closed(first.Policy.String() + " rejected"), err
	}
	return NewSet(entries), nil
}

// Entries compiles one policy. Whoever has many destinations with policies in
// common keeps the entries and makes the sets of them by NewSet.
func Entries(o Options, p *Policy) ([]Entry, error) {
	c := compiler{o: &o, policy: p, trust: domains(o.TrustDomain, o.Aliases)}
	if err := c.check(); err != nil {
		return nil, err
	}
	entries := c.compile()
	if err := errors.Join(c.errs...); err != nil {
		return nil, err
	}
	return entries, nil
}

// A compiler compiles one policy.
type compiler struct {
	o      *Options
	policy *Policy
	trust  trust
	errs   []error
}

// A view is whose eyes a rule is compiled for.
type view uint8

const (
	requests    view = iota // a waypoint's, of HTTP
	connections             // a waypoint's, of what is not HTTP
	node                    // the node tunnel's
)

// sees reports whether a field is enforced in v. What the node enforces is what
// Istio's API between istiod and ztunnel can express, so that a policy has the
// same effect at either's node.
func (v view) sees(f field) bool {
	switch v {
	case connections:
		return !f.kind.http()
	case node:
		switch f.kind {
		case fieldPrincipal, fieldNamespace, fieldIP, fieldDestIP, fieldPort:
			return true
		case fieldAccount:
			return !f.condition
		}
		return false
	}
	return true
}

func (c *compiler) check() error {
	p := c.policy
	if err := Validate(p); err != nil {
		return err
	}
	root := c.root()
	for i, ref := range p.TargetRefs {
		if ref.Kind == "GatewayClass" && p.Namespace != root {
			return &FieldError{Policy: p.Key(), Field: fmt.Sprintf("spec.targetRefs[%d].kind", i),
				Reason: fmt.Sprintf("a GatewayClass may be targeted from the root namespace %q only", root)}
		}
	}
	if p.Action == Custom && !c.o.L4 && c.o.Providers == nil {
		return c.unsupported("spec.action", "the action CUSTOM is not supported yet")
	}
	return nil
}

func (c *compiler) root() string {
	if c.o.RootNamespace == "" {
		return defaultRootNS
	}
	return c.o.RootNamespace
}

func (c *compiler) unsupported(field, reason string) error {
	return &FieldError{Policy: c.policy.Key(), Field: field, Reason: reason, Unsupported: true}
}

// compile returns an entry for each rule; an ALLOW policy always has one, and a
// CUSTOM policy under dry run none: nobody is asked for a rehearsal.
func (c *compiler) compile() []Entry {
	p := c.policy
	if c.o.L4 && p.Action != Allow && p.Action != Deny {
		return nil // Istio does not send these to the node
	}
	if p.Action == Custom && p.DryRun {
		return nil
	}
	var out []Entry
	attached := c.attachment()
	for i := range p.Rules {
		e := Entry{Action: p.Action, DryRun: p.DryRun && p.Action != Audit, ID: p.ruleID(i), Policy: p, Rule: i, Attached: attached}
		if c.o.L4 {
			e.Opaque = c.rule(i, node)
			e.HTTP = e.Opaque
		} else {
			e.HTTP, e.Opaque = c.rule(i, requests), c.rule(i, connections)
		}
		if p.Action == Custom {
			c.custom(&e)
		}
		out = append(out, e)
	}
	if len(out) == 0 && p.Action == Allow {
		out = append(out, Entry{DryRun: p.DryRun, ID: p.ruleID(0), Policy: p, Rule: -1, Attached: attached})
	}
	return out
}

// custom completes the entry of a CUSTOM rule.
func (c *compiler) custom(e *Entry) {
	provider := c.o.Providers[c.policy.Provider]
	e.Provider, e.Unusable = c.policy.Provider, provider == nil
	e.ID = customPrefix + e.Provider + "-" + e.ID
	if e.Unusable {
		e.ID += unusable
	} else if provider.HTTPOnly() {
		e.Opaque = nil
	}
}

// rule compiles rule i for v.
func (c *compiler) rule(i int, v view) *Expr {
	r := &c.policy.Rules[i]
	at := fmt.Sprintf("spec.rules[%d]", i)
	var from, to, all []*Expr
	for j := range r.To {
		x, ok := c.all(fmt.Sprintf("%s.to[%d].operation", at, j), r.To[j].fields(), v)
		if !ok {
			return nil
		}
		to = append(to, x)
	}
	for j := range r.From {
		x, ok := c.all(fmt.Sprintf("%s.from[%d].source", at, j), r.From[j].fields(), v)
		if !ok {
			return nil
		}
		from = append(from, x)
	}
	if r.From != nil {
		all = append(all, Or(c.origin(at+".from"), from...))
	}
	if r.To != nil {
		all = append(all, Or(c.origin(at+".to"), to...))
	}
	for j := range r.When {
		f, _ := r.When[j].field()
		x, ok := c.all(fmt.Sprintf("%s.when[%d]", at, j), []field{f}, v)
		if !ok {
			return nil
		}
		all = append(all, x)
	}
	return And(c.origin(at), all...)
}

// all compiles the fields of a Source, an Operation or a Condition. It returns
// false when v does not see one of them and the action is ALLOW: then the whole
// rule is dropped, and less is allowed.
//
// A rule of another action loses only the field, and more is denied. The node
// differs when nothing is left of the Source, Operation or Condition: as in
// Istio, that then matches nothing, and neither does the rule.
func (c *compiler) all(at string, fields []field, v view) (*Expr, bool) {
	var kept []*Expr
	seen := false
	for _, f := range fields {
		if len(f.values)+len(f.notValues) == 0 {
			continue
		}
		if !v.sees(f) {
			if c.policy.Action == Allow {
				return nil, false
			}
			continue
		}
		seen = true
		kept = append(kept, c.field(at, f, v)...)
	}
	if v == node && !seen {
		return Never(c.origin(at)), true
	}
	return And(c.origin(at), kept...), true
}

// field compiles one field: one of its values, and none of its notValues.
func (c *compiler) field(at string, f field, v view) (out []*Expr) {
	if f.kind == fieldMetadata {
		if v == requests { // of connections it would be said again
			c.errs = append(c.errs, c.unsupported(at+".key", "there are no Envoy filters here whose metadata could be asked for"))
		}
		return nil
	}
	if name := at + "." + f.name; len(f.values) > 0 {
		out = append(out, c.any(name, f, f.values, v))
	}
	if name := at + "." + f.notName(); len(f.notValues) > 0 {
		out = append(out, Not(c.origin(name), c.any(name, f, f.notValues, v)))
	}
	return out
}

// any compiles the values of a field.
func (c *compiler) any(at string, f field, values []string, v view) *Expr {
	var out []*Expr
	for i, value := range values {
		out = append(out, c.value(c.origin(fmt.Sprintf("%s[%d]", at, i)), f, value, v)...)
	}
	return Or(c.origin(at), out...)
}

func (c *compiler) origin(field string) string {
	return Kind + " " + c.policy.Namespace + "/" + c.policy.Name + ": " + field
}

// value compiles one value, which has been validated.
func (c *compiler) value(origin string, f field, value string, v view) (out []*Expr) {
	switch f.kind {
	case fieldPrincipal:
		for _, p := range c.trust.principals(value) {
			out = append(out, Match(origin, Principal, Wildcard(p)))
		}
		return out
	case fieldTrustDomain:
		for _, td := range c.trust.expand(value) {
			out = append(out, Match(origin, TrustDomain, Glob(td)))
		}
		return out
	}
	return []*Expr{c.one(origin, f, value, v)}
}

// one compiles a value that stands for one matcher.
func (c *compiler) one(origin string, f field, value string, v view) *Expr {
	switch f.kind {
	case fieldNamespace:
		if v == node {
			return Match(origin, Namespace, Wildcard(value))
		}
		return Match(origin, Namespace, Glob(value))
	case fieldAccount:
		return Match(origin, ServiceAccount, Exact(c.account(value)))
	case fieldIP, fieldRemoteIP:
		block, _ := parseBlock(value)
		return Match(origin, SourceIP, CIDR(block))
	case fieldDestIP:
		block, _ := parseBlock(value)
		return Match(origin, DestIP, CIDR(block))
	case fieldPort:
		port, _ := parsePort(value)
		return Match(origin, DestPort, Ports(port, port))
	case fieldSNI:
		return Match(origin, SNI, Wildcard(value))
	case fieldHost:
		return Match(origin, Host, Wildcard(value).Fold())
	case fieldMethod:
		return Match(origin, Method, Wildcard(value))
	case fieldPath:
		if isTemplate(value) {
			m, _ := Template(value)
			return Match(origin, Path, m)
		}
		return Match(origin, Path, Wildcard(value))
	}
	if f.kind.token() {
		return claimed(origin, f, value)
	}
	return MatchHeader(origin, f.header, Wildcard(value))
}

// claimed compiles a value of a field that asks for what a JWT says. Of its
// claims "*" matches those that are not empty.
func claimed(origin string, f field, value string) *Expr {
	if f.kind == fieldRequestPrincipal {
		return Match(origin, RequestPrincipal, requestPrincipal(value))
	}
	m := Wildcard(value)
	if value == "*" {
		m = NonEmpty()
	}
	x := MatchClaim(origin, f.claim, m)
	x.name = f.key
	return x
}

// account returns a service account with its namespace.
func (c *compiler) account(value string) string {
	if strings.Contains(value, "/") {
		return value
	}
	return c.policy.Namespace + "/" + value
}
