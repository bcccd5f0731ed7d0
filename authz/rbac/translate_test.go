package rbac

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"

	"github.com/waystone-mesh/waystone/authz"
)

// A translator writes policies as istiod writes them for Envoy, as far as it is
// known: the listeners in testdata have only some of what there is.
type translator struct {
	t      *testing.T
	o      authz.Options
	opaque bool // for what is not HTTP
}

// filters returns the RBAC filters of a chain, in order.
func (x *translator) filters(policies []*authz.Policy) (out []*httprbac.RBAC) {
	x.t.Helper()
	var providers []string
	for _, p := range policies {
		if p.Action == authz.Custom && !p.DryRun && !slices.Contains(providers, p.Provider) {
			providers = append(providers, p.Provider)
		}
	}
	slices.Sort(providers)
	for _, provider := range providers {
		rules := x.rules(policies, rbacv3.RBAC_DENY, func(p *authz.Policy) bool {
			return p.Action == authz.Custom && !p.DryRun && p.Provider == provider
		})
		switch known := x.o.Providers[provider]; {
		case known == nil:
			bad := map[string]*rbacv3.Policy{}
			for name, p := range rules.Policies {
				bad[name+"-deny-due-to-bad-CUSTOM-action"] = p
			}
			rules.Policies = bad
			out = append(out, &httprbac.RBAC{Rules: rules})
		case !x.opaque || !known.HTTPOnly():
			out = append(out, &httprbac.RBAC{ShadowRules: rules, ShadowRulesStatPrefix: customPrefix})
		}
	}
	for _, a := range []struct {
		ours   authz.Action
		theirs rbacv3.RBAC_Action
	}{{authz.Audit, rbacv3.RBAC_LOG}, {authz.Deny, rbacv3.RBAC_DENY}, {authz.Allow, rbacv3.RBAC_ALLOW}} {
		of := func(dry bool) func(*authz.Policy) bool {
			return func(p *authz.Policy) bool { return p.Action == a.ours && (p.DryRun && p.Action != authz.Audit) == dry }
		}
		f := &httprbac.RBAC{}
		if slices.ContainsFunc(policies, of(false)) {
			f.Rules = x.rules(policies, a.theirs, of(false))
		}
		if slices.ContainsFunc(policies, of(true)) {
			f.ShadowRules, f.ShadowRulesStatPrefix = x.rules(policies, a.theirs, of(true)), "istio_dry_run_"
		}
		if f.Rules != nil || f.ShadowRules != nil {
			out = append(out, f)
		}
	}
	return out
}

func (x *translator) rules(policies []*authz.Policy, action rbacv3.RBAC_Action, of func(*authz.Policy) bool) *rbacv3.RBAC {
	out := &rbacv3.RBAC{Action: action, Policies: map[string]*rbacv3.Policy{}}
	for _, p := range policies {
		if !of(p) {
			continue
		}
		prefix := ""
		if p.Action == authz.Custom {
			prefix = customName + p.Provider + "-"
		}
		for i := range p.Rules {
			if r := x.rule(p, &p.Rules[i]); r != nil {
				out.Policies[fmt.Sprintf("%sns[%s]-policy[%s]-rule[%d]", prefix, p.Namespace, p.Name, i)] = r
			}
		}
		if len(p.Rules) == 0 {
			out.Policies[fmt.Sprintf("%sns[%s]-policy[%s]-rule[0]", prefix, p.Namespace, p.Name)] = &rbacv3.Policy{
				Permissions: []*rbacv3.Permission{notPermission(anyPermission)}, Principals: []*rbacv3.Principal{notPrincipal(anyPrincipal)}}
		}
	}
	return out
}

var (
	anyPermission = &rbacv3.Permission{Rule: &rbacv3.Permission_Any{Any: true}}
	anyPrincipal  = &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}}
)

func notPermission(p *rbacv3.Permission) *rbacv3.Permission {
	return &rbacv3.Permission{Rule: &rbacv3.Permission_NotRule{NotRule: p}}
}

func notPrincipal(p *rbacv3.Principal) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_NotId{NotId: p}}
}

func orPermissions(p []*rbacv3.Permission) *rbacv3.Permission {
	return &rbacv3.Permission{Rule: &rbacv3.Permission_OrRules{OrRules: &rbacv3.Permission_Set{Rules: p}}}
}

func orPrincipals(p []*rbacv3.Principal) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_OrIds{OrIds: &rbacv3.Principal_Set{Ids: p}}}
}

// A permissionOf or a principalOf writes the values of one field.
type (
	permissionOf func(values []string) []*rbacv3.Permission
	principalOf  func(values []string) []*rbacv3.Principal
)

// A pair of lists, and what is made of a value.
type listed struct {
	values, notValues []string
	http              bool
	permission        permissionOf
	principal         principalOf
}

// rule translates a rule, or returns nil if it is left out.
func (x *translator) rule(p *authz.Policy, r *authz.Rule) *rbacv3.Policy {
	var when []listed
	for _, w := range r.When {
		when = append(when, x.condition(p, w))
	}
	out := &rbacv3.Policy{}
	for _, s := range append(slices.Clone(r.From), authz.Source{})[:max(len(r.From), 1)] {
		ids, ok := []*rbacv3.Principal{}, true
		for _, l := range append(x.source(p, s), when...) {
			if l.principal == nil {
				continue
			}
			kept := x.kept(p, l, &ok)
			if kept && len(l.values) > 0 {
				ids = append(ids, orPrincipals(l.principal(l.values)))
			}
			if kept && len(l.notValues) > 0 {
				ids = append(ids, notPrincipal(orPrincipals(l.principal(l.notValues))))
			}
		}
		if !ok {
			return nil
		}
		if len(ids) == 0 {
			ids = append(ids, anyPrincipal)
		}
		out.Principals = append(out.Principals, &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: &rbacv3.Principal_Set{Ids: ids}}})
	}
	for _, o := range append(slices.Clone(r.To), authz.Operation{})[:max(len(r.To), 1)] {
		rules, ok := []*rbacv3.Permission{}, true
		for _, l := range append(x.operation(o), when...) {
			if l.permission == nil {
				continue
			}
			kept := x.kept(p, l, &ok)
			if kept && len(l.values) > 0 {
				rules = append(rules, orPermissions(l.permission(l.values)))
			}
			if kept && len(l.notValues) > 0 {
				rules = append(rules, notPermission(orPermissions(l.permission(l.notValues))))
			}
		}
		if !ok {
			return nil
		}
		if len(rules) == 0 {
			rules = append(rules, anyPermission)
		}
		out.Permissions = append(out.Permissions, &rbacv3.Permission{Rule: &rbacv3.Permission_AndRules{AndRules: &rbacv3.Permission_Set{Rules: rules}}})
	}
	return out
}

// kept reports whether a field is written; for what it must not be left out of, ok
// becomes false.
func (x *translator) kept(p *authz.Policy, l listed, ok *bool) bool {
	if !x.opaque || !l.http || len(l.values)+len(l.notValues) == 0 {
		return true
	}
	*ok = *ok && p.Action != authz.Allow
	return false
}

func (x *translator) source(p *authz.Policy, s authz.Source) []listed {
	return []listed{
		{s.Principals, s.NotPrincipals, false, nil, x.principals},
		{s.RequestPrincipals, s.NotRequestPrincipals, true, nil, requestPrincipals},
		{s.ServiceAccounts, s.NotServiceAccounts, false, nil, accounts(p.Namespace)},
		{s.TrustDomains, s.NotTrustDomains, false, nil, x.trustDomains},
		{s.Namespaces, s.NotNamespaces, false, nil, namespaces},
		{s.RemoteIPBlocks, s.NotRemoteIPBlocks, false, nil, remoteIPs},
		{s.IPBlocks, s.NotIPBlocks, false, nil, sourceIPs},
	}
}

func (x *translator) operation(o authz.Operation) []listed {
	return []listed{
		{o.Hosts, o.NotHosts, true, headerPermissions(":authority", true), nil},
		{o.Methods, o.NotMethods, true, headerPermissions(":method", false), nil},
		{o.Paths, o.NotPaths, true, x.paths, nil},
		{o.Ports, o.NotPorts, false, destinationPorts, nil},
	}
}

func (x *translator) condition(p *authz.Policy, w authz.Condition) listed {
	l := listed{values: w.Values, notValues: w.NotValues}
	switch w.Key {
	case "destination.ip":
		l.permission = destinationIPs
	case "destination.port":
		l.permission = destinationPorts
	case "connection.sni":
		l.permission = serverNames
	case "source.ip":
		l.principal = sourceIPs
	case "remote.ip":
		l.principal = remoteIPs
	case "source.namespace":
		l.principal = namespaces
	case "source.principal":
		l.principal = x.principals
	case "source.serviceAccount":
		l.principal = accounts(p.Namespace)
	case "source.trustDomain":
		l.principal = x.trustDomains
	case "request.auth.principal":
		l.http, l.principal = true, requestPrincipals
	case "request.auth.audiences":
		l.http, l.principal = true, claims("aud")
	case "request.auth.presenter":
		l.http, l.principal = true, claims("azp")
	default:
		l.http = true
		if name, ok := strings.CutPrefix(w.Key, "request.headers["); ok {
			l.principal = headerPrincipals(strings.TrimSuffix(name, "]"))
		} else {
			l.principal = claims(strings.Split(strings.TrimSuffix(strings.TrimPrefix(w.Key, "request.auth.claims["), "]"), "][")...)
		}
	}
	return l
}
