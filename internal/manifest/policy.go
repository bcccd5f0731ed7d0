package manifest

import (
	"errors"
	"maps"
	"strings"

	securityv1 "istio.io/api/security/v1"
	typev1beta1 "istio.io/api/type/v1beta1"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// validatePolicy refuses what Istio's webhook would, and what is valid but not
// supported: it could only ever fail closed.
func validatePolicy(p *policyObject, key mesh.Key) *fault {
	if v := p.Annotations[annotationDryRun]; v != "" && v != "true" && v != "false" {
		return faultf(`metadata.annotations["`+annotationDryRun+`"]`, "%q is neither true nor false", v)
	}
	if p.Spec.TargetRef != nil && len(p.Spec.TargetRefs) > 0 {
		return faultf("spec.targetRef", "may not be combined with targetRefs")
	}
	policy := p.policy(key)
	err := authz.Validate(policy)
	if err == nil {
		_, err = authz.Compile(authz.Options{NoTokens: true}, policy)
	}
	return policyFault(err)
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
		DryRun:    p.Annotations[annotationDryRun] == "true",
		Selector:  selector(spec.Selector),
	}
	switch spec.Action {
	case securityv1.AuthorizationPolicy_DENY:
		out.Action = authz.Deny
	case securityv1.AuthorizationPolicy_AUDIT:
		out.Action = authz.Audit
	case securityv1.AuthorizationPolicy_CUSTOM:
		out.Action = authz.Custom
	}
	refs := spec.TargetRefs
	if spec.TargetRef != nil {
		refs = append([]*typev1beta1.PolicyTargetReference{spec.TargetRef}, refs...)
	}
	for _, r := range refs {
		out.TargetRefs = append(out.TargetRefs, authz.TargetRef{Group: r.GetGroup(), Kind: r.GetKind(), Name: r.GetName(), Namespace: r.GetNamespace()})
	}
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
