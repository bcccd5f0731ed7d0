package xds

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

// listed selects nothing: a policy for the workloads that istiod selected takes
// effect where one lists it, and nowhere else.
var listed = map[string]string{"waystone.dev/made-from": "WorkloadSelector"}

// maxRules is as many as authz takes in one policy.
const maxRules = 512

// authorization converts an istio.security.Authorization. The update always has
// a key; of a policy that is refused it has a value if it is known what the
// policy is for, so that no more than that is closed.
func (c *converter) authorization(name string, wire []byte) config.Update {
	u := config.Update{Key: aPolicy.key(name, c.root)}
	var a workloadapi.Authorization
	if err := proto.Unmarshal(wire, &a); err != nil {
		u.Err = err
		return u
	}
	if a.Namespace == "" || a.Name == "" || a.Namespace+"/"+a.Name != name || strings.Contains(a.Name, "/") {
		u.Err = fmt.Errorf("name: %q of namespace %q is not the name of the resource", a.Name, a.Namespace)
		return u
	}
	p := &authz.Policy{Name: a.Name, Namespace: a.Namespace, DryRun: a.DryRun}
	if err := c.scope(&a, p); err != nil {
		u.Err = err
		return u
	}
	u.Key, u.Value = p.Key(), p
	if u.Err = unknownField(a.ProtoReflect()); u.Err != nil {
		return u
	}
	switch a.Action {
	case workloadapi.Action_ALLOW:
	case workloadapi.Action_DENY:
		p.Action = authz.Deny
	default:
		u.Err = fmt.Errorf("action: %v is not known", a.Action)
		return u
	}
	for i, g := range a.Groups {
		rules, err := group(g)
		if err == nil && len(p.Rules)+len(rules) > maxRules {
			err = fmt.Errorf("its alternatives make more than %d rules", maxRules)
		}
		if err != nil {
			u.Err = fmt.Errorf("groups[%d]: %w", i, err)
			p.Rules = nil
			return u
		}
		p.Rules = append(p.Rules, rules...)
	}
	if p.Action == authz.Deny && len(p.Rules) == 0 {
		p.Rules = []authz.Rule{never} // it denies nothing; a policy must say something
	}
	return u
}

// never is a rule that no connection matches.
var never = authz.Rule{From: []authz.Source{{Principals: []string{"/"}}}}

// scope says what the policy is for as the Store has it: the root namespace's
// policies without a selector are for the whole mesh, any other's for the
// namespace.
func (c *converter) scope(a *workloadapi.Authorization, p *authz.Policy) error {
	switch a.Scope {
	case workloadapi.Scope_WORKLOAD_SELECTOR:
		p.Selector = listed
	case workloadapi.Scope_NAMESPACE:
		p.OwnNamespace = a.Namespace == c.root // istiod's root namespace is another than we were told
	case workloadapi.Scope_GLOBAL:
		if a.Namespace != c.root { // likewise
			p.Namespace, p.Name = c.root, a.Namespace+"/"+a.Name
		}
	default:
		return fmt.Errorf("scope: %v is not known", a.Scope)
	}
	return nil
}

// unknownField reports a field that we do not know, in m or in what it holds.
// It could be one more condition: without it an ALLOW policy would allow more
// than it says.
func unknownField(m protoreflect.Message) (err error) {
	if len(m.GetUnknown()) > 0 {
		return fmt.Errorf("%s: has a field that is not known: this release may be too old for the control plane", m.Descriptor().Name())
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.Name() == "extensions": // which are of no one's concern but their reader's
		case f.IsList():
			for i := range v.List().Len() {
				if err = unknownField(v.List().Get(i).Message()); err != nil {
					return false
				}
			}
		default:
			err = unknownField(v.Message())
		}
		return err == nil
	})
	return err
}

// group returns the rules that a group comes down to: none if it cannot match.
//
// All of its clauses have to match, and of each clause one of its alternatives.
// A rule has one place for alternatives about the source, another for
// alternatives about the port, and any number of conditions. That is how rules
// are written and how istiod sends them; what does not fit is multiplied out.
func group(g *workloadapi.Group) ([]authz.Rule, error) {
	rule := authz.Rule{}
	var rest [][]alternative
	for i, clause := range g.GetRules() {
		alternatives, err := readClause(clause)
		switch {
		case err != nil:
			return nil, fmt.Errorf("rules[%d]: %w", i, err)
		case len(clause.GetMatches()) == 0:
			continue // it always matches
		case len(alternatives) == 0:
			return nil, nil // it never does
		}
		if sources, ok := sources(alternatives); ok && rule.From == nil {
			rule.From = sources
		} else if operations, ok := operations(alternatives); ok && rule.To == nil {
			rule.To = operations
		} else if len(alternatives) == 1 {
			rule.When = append(rule.When, alternatives[0].conditions()...)
		} else {
			rest = append(rest, alternatives)
		}
	}
	return multiply(rule, rest)
}

// multiply returns the rules of which one holds if rule does and of each clause
// one alternative.
func multiply(rule authz.Rule, clauses [][]alternative) ([]authz.Rule, error) {
	rules := []authz.Rule{rule}
	for _, clause := range clauses {
		if len(rules)*len(clause) > maxRules {
			return nil, fmt.Errorf("its alternatives make more than %d rules", maxRules)
		}
		var next []authz.Rule
		for _, r := range rules {
			for _, a := range clause {
				more := r
				more.When = append(append([]authz.Condition(nil), r.When...), a.conditions()...)
				next = append(next, more)
			}
		}
		rules = next
	}
	return rules, nil
}

// An alternative is a Match: kinds of attributes that all have to match.
type alternative []term

// A term is one kind of attribute: one of the values, if there are any, and none
// of the notValues.
type term struct {
	attribute         attribute
	values, notValues []string
}

// An attribute is one that a Match asks for.
type attribute uint8

const (
	principal attribute = iota
	namespace
	account
	sourceIP
	destinationIP
	destinationPort
)

// sources returns the alternatives as sources of a rule, if they ask for nothing
// else.
func sources(alternatives []alternative) (out []authz.Source, ok bool) {
	for _, a := range alternatives {
		var s authz.Source
		accounts := false
		for _, t := range a {
			switch t.attribute {
			case principal:
				s.Principals, s.NotPrincipals = t.values, t.notValues
			case namespace:
				s.Namespaces, s.NotNamespaces = t.values, t.notValues
			case account:
				s.ServiceAccounts, s.NotServiceAccounts = t.values, t.notValues
				accounts = true
			case sourceIP:
				s.IPBlocks, s.NotIPBlocks = t.values, t.notValues
			default:
				return nil, false
			}
		}
		// A source may not have accounts beside principals or namespaces, or many.
		if accounts && (len(s.Principals)+len(s.NotPrincipals)+len(s.Namespaces)+len(s.NotNamespaces) > 0 ||
			max(len(s.ServiceAccounts), len(s.NotServiceAccounts)) > maxAccounts) {
			return nil, false
		}
		out = append(out, s)
	}
	return out, true
}

// maxAccounts is how many service accounts a source may have.
const maxAccounts = 16

// operations returns the alternatives as operations of a rule, if they ask for
// ports alone.
func operations(alternatives []alternative) (out []authz.Operation, ok bool) {
	for _, a := range alternatives {
		if len(a) != 1 || a[0].attribute != destinationPort {
			return nil, false
		}
		out = append(out, authz.Operation{Ports: a[0].values, NotPorts: a[0].notValues})
	}
	return out, true
}

// conditions returns a as conditions of a rule.
func (a alternative) conditions() (out []authz.Condition) {
	for _, t := range a {
		c := authz.Condition{Values: t.values, NotValues: t.notValues}
		switch t.attribute {
		case principal:
			c.Key = "source.principal"
		case namespace:
			c.Key = "source.namespace"
		case account:
			c.Key, c.Values, c.NotValues = "source.principal", principalsOf(t.values), principalsOf(t.notValues)
		case sourceIP:
			c.Key = "source.ip"
		case destinationIP:
			c.Key = "destination.ip"
		case destinationPort:
			c.Key = "destination.port"
		}
		out = append(out, c)
	}
	return out
}

// principalsOf returns what the principals of accounts, namespace/account, match:
// in any trust domain.
func principalsOf(accounts []string) (out []string) {
	for _, a := range accounts {
		ns, sa, _ := strings.Cut(a, "/")
		out = append(out, "*/ns/"+ns+"/sa/"+sa)
	}
	return out
}

var errEmpty = errors.New("is empty")
