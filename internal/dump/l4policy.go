package dump

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
)

// An L4Policy is an AuthorizationPolicy as ztunnel prints one: rules of which one
// must match, of clauses that must all match, of matches of which one must. A
// clause of which every match is empty never does.
type L4Policy struct {
	Name      string      `json:"name"`
	Namespace string      `json:"namespace"`
	Scope     string      `json:"scope"`
	Action    string      `json:"action"`
	DryRun    bool        `json:"dryRun"`
	Rules     [][][]Match `json:"rules"`
}

// A Match is fields of which all must hold: of each one of the values, or none of
// them if it is called not.
type Match struct {
	Namespaces          []Text           `json:"namespaces,omitempty"`
	NotNamespaces       []Text           `json:"notNamespaces,omitempty"`
	ServiceAccounts     []ServiceAccount `json:"serviceAccounts,omitempty"`
	NotServiceAccounts  []ServiceAccount `json:"notServiceAccounts,omitempty"`
	Principals          []Text           `json:"principals,omitempty"`
	NotPrincipals       []Text           `json:"notPrincipals,omitempty"`
	SourceIPs           []string         `json:"sourceIps,omitempty"`
	NotSourceIPs        []string         `json:"notSourceIps,omitempty"`
	DestinationIPs      []string         `json:"destinationIps,omitempty"`
	NotDestinationIPs   []string         `json:"notDestinationIps,omitempty"`
	DestinationPorts    []uint16         `json:"destinationPorts,omitempty"`
	NotDestinationPorts []uint16         `json:"notDestinationPorts,omitempty"`
}

// A ServiceAccount is one of a namespace, in any trust domain.
type ServiceAccount struct {
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
}

// A Text is a string to compare with as a policy has it: "*" is anything, and
// there may be one at either end.
type Text string

// MarshalJSON writes how the string is compared: {"Exact": "a"}, {"Prefix": "a"},
// {"Suffix": "a"} or {"Presence": []}.
func (t Text) MarshalJSON() ([]byte, error) {
	how, s := "Exact", string(t)
	switch {
	case s == "*":
		return []byte(`{"Presence":[]}`), nil
	case strings.HasSuffix(s, "*"):
		how, s = "Prefix", strings.TrimSuffix(s, "*")
	case strings.HasPrefix(s, "*"):
		how, s = "Suffix", strings.TrimPrefix(s, "*")
	}
	return json.Marshal(map[string]string{how: s})
}

// l4Policies tells the policies that a node tunnel enforces.
func l4Policies(snap *config.Snapshot) []L4Policy {
	out := []L4Policy{}
	for _, p := range snap.Policies() {
		if len(p.TargetRefs) == 0 && (p.Action == authz.Allow || p.Action == authz.Deny) {
			out = append(out, l4Policy(p, snap.Mesh().RootNamespace))
		}
	}
	return out
}

func l4Policy(p *authz.Policy, root string) L4Policy {
	out := L4Policy{Name: p.Name, Namespace: p.Namespace, Scope: "Namespace", Action: "Allow", DryRun: p.DryRun, Rules: [][][]Match{}}
	switch {
	case p.Selector != nil:
		out.Scope = "WorkloadSelector"
	case p.Namespace == root && !p.OwnNamespace:
		out.Scope = "Global"
	}
	if p.Action == authz.Deny {
		out.Action = "Deny"
	}
	dropped := droppedRules(p)
	for i := range p.Rules {
		if !dropped[i] {
			out.Rules = append(out.Rules, clauses(p.Namespace, &p.Rules[i]))
		}
	}
	return out
}

// droppedRules returns which rules are not there for a node tunnel: those of an
// ALLOW policy that ask for what it does not see. Of a DENY policy it enforces
// what it sees.
func droppedRules(p *authz.Policy) map[int]bool {
	dropped := map[int]bool{}
	for _, f := range p.Fields() {
		if p.Action == authz.Allow && !f.Node {
			dropped[f.Rule] = true
		}
	}
	return dropped
}

// clauses returns a rule of a policy as clauses: one for where from, one for where
// to, and one for each condition.
func clauses(namespace string, r *authz.Rule) [][]Match {
	out := [][]Match{}
	var from, to []Match
	for i := range r.From {
		s := &r.From[i]
		from = append(from, Match{
			Principals: texts(s.Principals), NotPrincipals: texts(s.NotPrincipals),
			Namespaces: texts(s.Namespaces), NotNamespaces: texts(s.NotNamespaces),
			ServiceAccounts: accounts(namespace, s.ServiceAccounts), NotServiceAccounts: accounts(namespace, s.NotServiceAccounts),
			SourceIPs: blocks(s.IPBlocks), NotSourceIPs: blocks(s.NotIPBlocks),
		})
	}
	for _, o := range r.To {
		to = append(to, Match{DestinationPorts: ports(o.Ports), NotDestinationPorts: ports(o.NotPorts)})
	}
	for _, c := range [][]Match{from, to} {
		if len(c) > 0 {
			out = append(out, c)
		}
	}
	for i := range r.When {
		out = append(out, []Match{condition(&r.When[i])})
	}
	return out
}

// condition is empty when a node tunnel does not see what it asks for.
func condition(c *authz.Condition) Match {
	switch c.Key {
	case "source.principal":
		return Match{Principals: texts(c.Values), NotPrincipals: texts(c.NotValues)}
	case "source.namespace":
		return Match{Namespaces: texts(c.Values), NotNamespaces: texts(c.NotValues)}
	case "source.ip":
		return Match{SourceIPs: blocks(c.Values), NotSourceIPs: blocks(c.NotValues)}
	case "destination.ip":
		return Match{DestinationIPs: blocks(c.Values), NotDestinationIPs: blocks(c.NotValues)}
	case "destination.port":
		return Match{DestinationPorts: ports(c.Values), NotDestinationPorts: ports(c.NotValues)}
	}
	return Match{}
}

func texts(list []string) (out []Text) {
	for _, s := range list {
		out = append(out, Text(s))
	}
	return out
}

// accounts reads what is an account of a namespace that it names, or else of the
// policy's own.
func accounts(namespace string, list []string) (out []ServiceAccount) {
	for _, s := range list {
		ns, account, ok := strings.Cut(s, "/")
		if !ok {
			ns, account = namespace, s
		}
		out = append(out, ServiceAccount{ns, account})
	}
	return out
}

// blocks writes a single address as a block of one.
func blocks(list []string) (out []string) {
	for _, s := range list {
		if ip, err := netip.ParseAddr(s); err == nil {
			s = netip.PrefixFrom(ip, ip.BitLen()).String()
		}
		out = append(out, s)
	}
	return out
}

func ports(list []string) (out []uint16) {
	for _, s := range list {
		if n, err := strconv.ParseUint(s, 10, 16); err == nil { // it was validated
			out = append(out, uint16(n))
		}
	}
	return out
}
