package manifest

import (
	"errors"
	"maps"
	"strconv"
	"strings"

	securityv1 "istio.io/api/security/v1"
	typev1beta1 "istio.io/api/type/v1beta1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// validatePolicy refuses what Istio's webhook would, and what is valid but not
// supported: it could only ever fail closed.
func validatePolicy(p *policyObject, key mesh.Key) *fault {
	if _, err := p.dryRun(); err != nil {
		return faultf(`metadata.annotations["`+annotationDryRun+`"]`, "%q is neither true nor false", p.Annotations[annotationDryRun])
	}
	if f := validateReplaces(p, key); f != nil {
		return f
	}
	if p.Spec.TargetRef != nil && len(p.Spec.TargetRefs) > 0 {
		return faultf("spec.targetRef", "may not be combined with targetRefs")
	}
	policy := p.policy(key)
	err := authz.Validate(policy)
	if err == nil {
		_, err = authz.Compile(authz.Options{RootNamespace: key.Namespace, Providers: noProviders}, policy)
	}
	return policyFault(err)
}

// noProviders are those that a policy is compiled with here: which there are is
// for the Store to know.
var noProviders = map[string]*authz.Provider{}

// validateReplaces checks the name of the policy that a candidate is for.
func validateReplaces(p *policyObject, key mesh.Key) *fault {
	name, ok := p.Annotations[annotationReplaces]
	if !ok {
		return nil
	}
	at := `metadata.annotations["` + annotationReplaces + `"]`
	dry, _ := p.dryRun()
	switch {
	case !dry:
		return faultf(at, `is for a policy under dry run: annotate it with %s: "true", too`, annotationDryRun)
	case len(validation.IsDNS1123Subdomain(name)) > 0:
		return faultf(at, "%q is not the name of a policy of this namespace", name)
	case name == key.Name:
		return faultf(at, "%q is this policy itself", name)
	}
	return nil
}

// dryRun reads the annotation for it, of which Istio takes what ParseBool does.
func (p *policyObject) dryRun() (bool, error) {
	v := p.Annotations[annotationDryRun]
	if v == "" {
		return false, nil
	}
	return strconv.ParseBool(v)
}

// policyFault takes the first of the errors that authz has joined.
func policyFault(err error) *fault {
	if err == nil {
		return nil
	}
	var field *authz.FieldError
	if errors.As(err, &field) {
		return &fault{field.Field, field.Reason}
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	return &fault{"", text}
}

// policy returns p in plain Go.
func (p *policyObject) policy(key mesh.Key) *authz.Policy {
	spec := &p.Spec
	out := &authz.Policy{
		Name:      key.Name,
		Namespace: key.Namespace,
		Provider:  spec.GetProvider().GetName(),
		Selector:  selector(spec.Selector),
	}
	out.DryRun, _ = p.dryRun()
	if out.DryRun {
		out.Replaces = p.Annotations[annotationReplaces]
	}
	switch spec.Action {
	case securityv1.AuthorizationPolicy_DENY:
		out.Action = authz.Deny
	case securityv1.AuthorizationPolicy_AUDIT:
		out.Action = authz.Audit
	case securityv1.AuthorizationPolicy_CUSTOM:
		out.Action = authz.Custom
	}
	out.TargetRefs = targetRefs(spec.TargetRef, spec.TargetRefs)
	for i, r := range spec.Rules {
		rule := authz.Rule{}
		for j, f := range r.GetFrom() {
			s := source(f.GetSource())
			d := p.domains[sourceAt{i, j}]
			s.TrustDomains, s.NotTrustDomains = d.Is, d.Not
			rule.From = append(rule.From, s)
		}
		for _, t := range r.GetTo() {
			rule.To = append(rule.To, operation(t.GetOperation()))
		}
		for _, c := range r.GetWhen() {
			rule.When = append(rule.When, authz.Condition{Key: c.GetKey(), Values: c.GetValues(), NotValues: c.GetNotValues()})
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}

// targetRefs returns what a policy is attached to, in the old form and the new.
func targetRefs(one *typev1beta1.PolicyTargetReference, more []*typev1beta1.PolicyTargetReference) (out []authz.TargetRef) {
	if one != nil {
		more = append([]*typev1beta1.PolicyTargetReference{one}, more...)
	}
	for _, r := range more {
		out = append(out, authz.TargetRef{Group: r.GetGroup(), Kind: r.GetKind(), Name: r.GetName(), Namespace: r.GetNamespace()})
	}
	return out
}

// selector returns a selector's labels: nil when there is no selector, and an
// empty map for one that was written but names nothing.
func selector(s *typev1beta1.WorkloadSelector) map[string]string {
	if s == nil {
		return nil
	}
	out := map[string]string{}
	maps.Copy(out, s.MatchLabels)
	return out
}

func source(s *securityv1.Source) authz.Source {
	return authz.Source{
		Principals: s.GetPrincipals(), NotPrincipals: s.GetNotPrincipals(),
		RequestPrincipals: s.GetRequestPrincipals(), NotRequestPrincipals: s.GetNotRequestPrincipals(),
		Namespaces: s.GetNamespaces(), NotNamespaces: s.GetNotNamespaces(),
		ServiceAccounts: s.GetServiceAccounts(), NotServiceAccounts: s.GetNotServiceAccounts(),
		IPBlocks: s.GetIpBlocks(), NotIPBlocks: s.GetNotIpBlocks(),
		RemoteIPBlocks: s.GetRemoteIpBlocks(), NotRemoteIPBlocks: s.GetNotRemoteIpBlocks(),
	}
}

func operation(o *securityv1.Operation) authz.Operation {
	return authz.Operation{
		Hosts: o.GetHosts(), NotHosts: o.GetNotHosts(),
		Ports: o.GetPorts(), NotPorts: o.GetNotPorts(),
		Methods: o.GetMethods(), NotMethods: o.GetNotMethods(),
		Paths: o.GetPaths(), NotPaths: o.GetNotPaths(),
	}
}
