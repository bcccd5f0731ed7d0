package dump

import (
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
)

// A ZtunnelDump is a node tunnel's.
type ZtunnelDump struct {
	Workloads     []Workload     `json:"workloads"`
	Services      []Service      `json:"services"`
	Policies      []L4Policy     `json:"policies"`
	WorkloadState map[string]Pod `json:"workloadState"` // by UID: the node's own
	Certificates  []Certificate  `json:"certificates"`
	Rejected      []Rejection    `json:"rejected"`
	Problems      []string       `json:"problems"`
	Version       Version        `json:"version"`
}

// A Pod is one that the node tunnel serves.
type Pod struct {
	State string  `json:"state"`
	Info  PodInfo `json:"info"`
}

// A PodInfo names a pod.
type PodInfo struct {
	Name           string `json:"name"`
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
}

// Ztunnel dumps what the node tunnel of a node knows.
func Ztunnel(s Subject, node string) ZtunnelDump {
	d := ZtunnelDump{
		Workloads: workloads(s.Snapshot), Services: services(s.Snapshot), Policies: []L4Policy{},
		WorkloadState: map[string]Pod{}, Rejected: rejections(s.Rejected), Problems: append([]string{}, s.Problems...), Version: Build(),
	}
	for _, p := range s.Snapshot.Policies() {
		if len(p.TargetRefs) == 0 {
			d.Policies = append(d.Policies, l4Policy(p))
		}
	}
	var ids []identity.ID
	for _, w := range s.Snapshot.Local(node) {
		if w.NativeTunnel || w.HostNetwork {
			continue
		}
		id := w.Identity()
		d.WorkloadState[w.UID] = Pod{"Up", PodInfo{w.Name, w.Namespace, id.ServiceAccount}}
		ids = append(ids, id)
	}
	d.Certificates = certificates(s.Identity, ids)
	return d
}

// An L4Policy is an AuthorizationPolicy as ztunnel prints one: alternatives of
// clauses that must all hold, of matches of which one must.
type L4Policy struct {
	Name      string      `json:"name"`
	Namespace string      `json:"namespace"`
	Scope     string      `json:"scope"`
	Action    string      `json:"action"`
	DryRun    bool        `json:"dryRun,omitempty"`
	Rules     [][][]Match `json:"rules"`
}

// A Match is fields of which all must hold.
type Match map[string][]any

func l4Policy(p *authz.Policy) L4Policy {
	out := L4Policy{
		Name: p.Name, Namespace: p.Namespace, Scope: "Namespace", Action: "Allow",
		DryRun: p.DryRun, Rules: [][][]Match{},
	}
	if p.Selector != nil {
		out.Scope = "WorkloadSelector"
	}
	switch p.Action {
	case authz.Allow:
	case authz.Deny:
		out.Action = "Deny"
	default:
		out.Action = p.Action.String()
	}
	for i := range p.Rules {
		out.Rules = append(out.Rules, clauses(&p.Rules[i]))
	}
	return out
}

func clauses(r *authz.Rule) [][]Match {
	out := [][]Match{}
	var from, to []Match
	for _, s := range r.From {
		m := Match{}
		m.texts("principals", s.Principals)
		m.texts("notPrincipals", s.NotPrincipals)
		m.texts("namespaces", s.Namespaces)
		m.texts("notNamespaces", s.NotNamespaces)
		m.values("serviceAccounts", s.ServiceAccounts)
		m.values("notServiceAccounts", s.NotServiceAccounts)
		m.values("sourceIps", s.IPBlocks)
		m.values("notSourceIps", s.NotIPBlocks)
		from = append(from, m)
	}
	for _, o := range r.To {
		m := Match{}
		m.values("destinationPorts", o.Ports)
		m.values("notDestinationPorts", o.NotPorts)
		to = append(to, m)
	}
	for _, c := range [][]Match{from, to} {
		if len(c) > 0 {
			out = append(out, c)
		}
	}
	for _, c := range r.When {
		m := Match{}
		m.texts(c.Key, c.Values)
		m.texts("not "+c.Key, c.NotValues)
		out = append(out, []Match{m})
	}
	return out
}

func (m Match) values(name string, list []string) {
	for _, s := range list {
		m[name] = append(m[name], s)
	}
}

// texts adds strings in the way ztunnel prints how they are compared.
func (m Match) texts(name string, list []string) {
	for _, s := range list {
		how := "Exact"
		switch {
		case s == "*":
			m[name] = append(m[name], "Presence")
			continue
		case strings.HasSuffix(s, "*"):
			how, s = "Prefix", strings.TrimSuffix(s, "*")
		case strings.HasPrefix(s, "*"):
			how, s = "Suffix", strings.TrimPrefix(s, "*")
		}
		m[name] = append(m[name], map[string]string{how: s})
	}
}
