// Package rbac compiles Envoy's RBAC filters to the tree that
// AuthorizationPolicy compiles to, so that what a control plane has already
// translated for Envoy is enforced by the same matcher as what it was
// translated from.
//
// It covers what istiod writes: identities by certificate or by the filter
// state io.istio.peer_principal, addresses, ports, server names, paths,
// templates, header fields and the claims that the filter jwt_authn has left,
// under and, or and not. What it does not cover, such as other metadata and CEL,
// is an error, never ignored: part of a policy is another policy.
package rbac

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	netrbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/waystone-mesh/waystone/authz"
)

// By shadow rules with customPrefix istiod tells Envoy when to ask an external
// authorizer. Their names begin with customName and the authorizer.
const (
	customPrefix = "istio_ext_authz_"
	customName   = "istio-ext-authz-"
)

// A Chain is the RBAC filters of one filter chain, in order. Each must let a
// request pass.
type Chain []*authz.Set

// Check returns the verdict of the first filter that refuses or has to ask, or
// that of the last one. Whether it is audited, and what policies under dry run say,
// is of all filters up to that.
func (c Chain) Check(in *authz.Input) authz.Verdict { return c.each((*authz.Set).Check, in) }

// Decide is to Check what authz.Set's is.
func (c Chain) Decide(in *authz.Input) authz.Verdict { return c.each((*authz.Set).Decide, in) }

// Ask returns the question of the first authorizer, by name, that any filter has
// to ask, as authz.Set's does.
func (c Chain) Ask(in *authz.Input, after *authz.Question) (first *authz.Question) {
	for _, s := range c {
		if q := s.Ask(in, after); q != nil && (first == nil || q.Provider < first.Provider) {
			first = q
		}
	}
	return first
}

func (c Chain) each(check func(*authz.Set, *authz.Input) authz.Verdict, in *authz.Input) authz.Verdict {
	v := authz.Verdict{Allowed: true, Rule: -1}
	audit, dry := false, authz.DryRun{}
	for _, s := range c {
		v = check(s, in)
		audit = audit || v.Audit
		if v.DryRun.Deny.Result != authz.Unknown {
			dry.Deny = v.DryRun.Deny
		}
		if v.DryRun.Allow.Result != authz.Unknown {
			dry.Allow = v.DryRun.Allow
		}
		if !v.Allowed {
			break
		}
	}
	v.Audit, v.DryRun = audit, dry
	return v
}

// HTTP compiles an HTTP filter. Like authz.Compile, it returns with an error a
// Set that denies everything.
func HTTP(f *httprbac.RBAC) (*authz.Set, error) {
	if f.GetMatcher() != nil || f.GetShadowMatcher() != nil {
		return refuse(unsupported("matcher", "is not supported, only rules are"))
	}
	if newer(f.ProtoReflect()) {
		return refuse(errNewer)
	}
	return compile(f.GetRules(), f.GetShadowRules(), f.GetShadowRulesStatPrefix())
}

// Network compiles a network filter, as HTTP does.
func Network(f *netrbac.RBAC) (*authz.Set, error) {
	if f.GetMatcher() != nil || f.GetShadowMatcher() != nil {
		return refuse(unsupported("matcher", "is not supported, only rules are"))
	}
	if newer(f.ProtoReflect()) {
		return refuse(errNewer)
	}
	return compile(f.GetRules(), f.GetShadowRules(), f.GetShadowRulesStatPrefix())
}

func compile(rules, shadow *rbacv3.RBAC, prefix string) (*authz.Set, error) {
	entries, err := entries("rules", rules, false)
	if prefix == customPrefix {
		custom, customErr := customEntries(shadow)
		entries, err = append(entries, custom...), errors.Join(err, customErr)
	} else {
		dry, dryErr := dryEntries(shadow)
		entries, err = append(entries, dry...), errors.Join(err, dryErr)
	}
	if err != nil {
		return refuse(err)
	}
	return authz.NewSet(entries), nil
}

func dryEntries(shadow *rbacv3.RBAC) ([]authz.Entry, error) {
	return entries("shadow_rules", shadow, true)
}

// customEntries compiles the rules by which an authorizer is asked.
func customEntries(shadow *rbacv3.RBAC) ([]authz.Entry, error) {
	if a := shadow.GetAction(); a != rbacv3.RBAC_DENY {
		return nil, unsupported("shadow_rules", fmt.Sprintf("to ask an authorizer by the action %v", a))
	}
	out, err := entries("shadow_rules", shadow, false)
	for i := range out {
		e := &out[i]
		rest, ok := strings.CutPrefix(e.ID, customName)
		provider, id, found := strings.Cut(rest, "-ns[")
		if !ok || !found {
			err = errors.Join(err, unsupported("shadow_rules.policies["+e.ID+"]", "names no authorizer"))
			continue
		}
		p, rule := origin("ns[" + id)
		p.Action, p.Provider = authz.Custom, provider
		e.Action, e.Provider, e.Policy, e.Rule = authz.Custom, provider, p, rule
	}
	return out, err
}

var errNewer = unsupported("filter", "has a field that is not known")

// newer reports whether m, or a message in it, has a field of a later protocol
// than ours. It may be part of a condition, and without it that is another.
func newer(m protoreflect.Message) (found bool) {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				found = f.MapValue().Message() != nil && newer(v.Message())
				return !found
			})
		case f.Message() == nil:
		case f.IsList():
			for i := 0; i < v.List().Len() && !found; i++ {
				found = newer(v.List().Get(i).Message())
			}
		default:
			found = newer(v.Message())
		}
		return !found
	})
	return found
}

func refuse(err error) (*authz.Set, error) { return authz.Closed("RBAC filter rejected"), err }

func unsupported(at, reason string) error {
	return fmt.Errorf("rbac: %s: %s: %w", at, reason, authz.ErrUnsupported)
}

// entries compiles the policies of rules, of which nil are none.
func entries(at string, rules *rbacv3.RBAC, dry bool) (out []authz.Entry, err error) {
	if rules == nil {
		return nil, nil
	}
	var action authz.Action
	switch rules.GetAction() {
	case rbacv3.RBAC_ALLOW:
		// No policy has to match for there to be a restriction.
		out = append(out, authz.Entry{DryRun: dry, Rule: -1})
	case rbacv3.RBAC_DENY:
		action = authz.Deny
	case rbacv3.RBAC_LOG:
		action, dry = authz.Audit, false
	default:
		return nil, unsupported(at, fmt.Sprintf("action %v", rules.GetAction()))
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(rules.GetPolicies())) {
		x, err := policy(at+".policies["+name+"]", rules.GetPolicies()[name])
		errs = append(errs, err)
		p, rule := origin(name)
		p.Action, p.DryRun = action, dry
		out = append(out, authz.Entry{Action: action, DryRun: dry, ID: name, Policy: p, Rule: rule, HTTP: x, Opaque: x})
	}
	return out, errors.Join(errs...)
}

// origin reads the name that istiod gives to the translation of a rule. Other
// names are those of policies of one rule.
func origin(name string) (p *authz.Policy, rule int) {
	p = &authz.Policy{}
	rest, ok := strings.CutPrefix(name, "ns[")
	ns, rest, ok1 := strings.Cut(rest, "]-policy[")
	pol, rest, ok2 := strings.Cut(rest, "]-rule[")
	if n, err := fmt.Sscanf(rest, "%d]", &rule); !ok || !ok1 || !ok2 || n != 1 || err != nil || rule < 0 {
		p.Name = name
		return p, 0
	}
	p.Namespace, p.Name = ns, pol
	return p, rule
}

// policy compiles one policy: one of its permissions and one of its principals.
func policy(at string, p *rbacv3.Policy) (*authz.Expr, error) {
	if p.GetCondition() != nil || p.GetCheckedCondition() != nil {
		return nil, unsupported(at+".condition", "CEL is not supported")
	}
	permissions, err1 := list(at+".permissions", p.GetPermissions(), permission)
	principals, err2 := list(at+".principals", p.GetPrincipals(), principal)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return authz.And(at, authz.Or(at+".permissions", permissions...), authz.Or(at+".principals", principals...)), nil
}

// list compiles the elements of a list by f.
func list[T proto.Message](at string, in []T, f func(string, T) (*authz.Expr, error)) (out []*authz.Expr, err error) {
	for i, m := range in {
		x, e := f(fmt.Sprintf("%s[%d]", at, i), m)
		out, err = append(out, x), errors.Join(err, e)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

func and(at string, kids []*authz.Expr, err error) (*authz.Expr, error) {
	if err != nil {
		return nil, err
	}
	return authz.And(at, kids...), nil
}

func or(at string, kids []*authz.Expr, err error) (*authz.Expr, error) {
	if err != nil {
		return nil, err
	}
	return authz.Or(at, kids...), nil
}

func not(at string, kid *authz.Expr, err error) (*authz.Expr, error) {
	if err != nil {
		return nil, err
	}
	return authz.Not(at, kid), nil
}

func anything(at string, yes bool) (*authz.Expr, error) {
	if !yes {
		return authz.Never(at), nil
	}
	return authz.Always(at), nil
}
