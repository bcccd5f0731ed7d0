package authz

import (
	"fmt"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A Policy is an AuthorizationPolicy as written. It is immutable once it has
// been compiled.
type Policy struct {
	Name, Namespace string

	Action   Action
	Provider string // of a CUSTOM policy: the name of its authorizer
	DryRun   bool   // istio.io/dry-run: "true"; evaluated, not enforced

	// Replaces names, of a policy under dry run, the one of its namespace whose
	// place it is to take: what the verdict would be if it had is told beside the
	// verdict.
	Replaces string

	// Rules are the alternatives. None at all: an ALLOW policy lets nothing
	// through; a DENY policy is refused by Validate, for it would do nothing.
	Rules []Rule

	// Selector and TargetRefs say what the policy is attached to; at most one
	// of them is set. With neither it applies to its namespace. A Selector that
	// was written but is empty is not nil.
	Selector   map[string]string
	TargetRefs []TargetRef

	// OwnNamespace says that a policy with neither applies to its namespace even if
	// that is the root namespace: istiod has said so, to which another is.
	OwnNamespace bool
}

// Key returns the key a source stores p under.
func (p *Policy) Key() mesh.Key { return mesh.Key{Kind: Kind, Namespace: p.Namespace, Name: p.Name} }

// Kind is the Kubernetes kind of a Policy.
const Kind = "AuthorizationPolicy"

// ruleID names a rule of p as Istio's log does.
func (p *Policy) ruleID(rule int) string {
	return fmt.Sprintf("ns[%s]-policy[%s]-rule[%d]", p.Namespace, p.Name, rule)
}

// An Action is what a policy does with the requests that it matches.
type Action uint8

// The actions. The zero Action is that of a policy that names none.
const (
	Allow Action = iota
	Deny
	Audit
	Custom
)

func (a Action) String() string {
	switch a {
	case Allow:
		return "ALLOW"
	case Deny:
		return "DENY"
	case Audit:
		return "AUDIT"
	case Custom:
		return "CUSTOM"
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// ParseAction reads an action as written in a manifest; "" is ALLOW.
func ParseAction(s string) (Action, error) {
	switch s {
	case "", "ALLOW":
		return Allow, nil
	case "DENY":
		return Deny, nil
	case "AUDIT":
		return Audit, nil
	case "CUSTOM":
		return Custom, nil
	}
	return 0, fmt.Errorf("spec.action: %q is not ALLOW, DENY, AUDIT or CUSTOM", s)
}

// A TargetRef names an object that a policy is attached to. Group is "" or
// "core" for a Service. Namespace, if set, must be the policy's own.
type TargetRef struct{ Group, Kind, Name, Namespace string }

// A Rule matches a request that comes from one of From, asks for one of To and
// meets every condition of When. A part that is nil does not restrict; one that
// was written but is empty is not nil, and is refused by Validate.
type Rule struct {
	From []Source
	To   []Operation
	When []Condition
}

// A Source says who asks. All fields that are set must hold; of the values of
// one field, one must match, and of a Not field, none.
type Source struct {
	Principals, NotPrincipals               []string // trust-domain/ns/namespace/sa/account
	RequestPrincipals, NotRequestPrincipals []string // issuer/subject of a JWT
	Namespaces, NotNamespaces               []string
	ServiceAccounts, NotServiceAccounts     []string // namespace/account, or account in the policy's namespace
	TrustDomains, NotTrustDomains           []string
	IPBlocks, NotIPBlocks                   []string // addresses or CIDRs of the direct peer
	RemoteIPBlocks, NotRemoteIPBlocks       []string // the same here: a waypoint trusts no forwarding header
}

// An Operation says what is asked for, with the same logic as a Source.
type Operation struct {
	Hosts, NotHosts     []string // the authority, with its port if it has one
	Ports, NotPorts     []string // the port the client dialled
	Methods, NotMethods []string
	Paths, NotPaths     []string // without the query; may hold templates
}

// A Condition compares an attribute, which Key names, with values: one of
// Values must match, if there are any, and none of NotValues.
type Condition struct {
	Key               string
	Values, NotValues []string
}
