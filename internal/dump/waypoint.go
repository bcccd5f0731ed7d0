package dump

import (
	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// A WaypointDump is a waypoint's.
type WaypointDump struct {
	Gateway      *Gateway      `json:"gateway"` // null while it is not known
	Listeners    []Listener    `json:"listeners"`
	Attached     []Attached    `json:"attached"`
	Workloads    []Workload    `json:"workloads"`
	Services     []Service     `json:"services"`
	Mesh         Mesh          `json:"mesh"`
	Providers    []Provider    `json:"providers"`
	Policies     []Policy      `json:"policies"`
	Tokens       []Tokens      `json:"requestAuthentications"`
	Routes       []Route       `json:"routes"`
	Certificates []Certificate `json:"certificates"`
	Rejected     []Rejection   `json:"rejected"`
	Problems     []string      `json:"problems"`
	Version      Version       `json:"version"`
}

// A Gateway is the one that the waypoint serves, as declared.
type Gateway struct {
	Namespace      string            `json:"namespace"`
	Name           string            `json:"name"`
	Class          string            `json:"class"`
	ServiceAccount string            `json:"forServiceAccount,omitempty"`
	For            string            `json:"waypointFor"`
	Addresses      []*GatewayAddress `json:"addresses"`
}

// A Listener is where the waypoint takes tunnels.
type Listener struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

// An Attached is something that the waypoint serves: a port of a service, or a
// workload.
type Attached struct {
	Service   string   `json:"service,omitempty"`
	Workload  string   `json:"workload,omitempty"`
	Port      uint16   `json:"port,omitempty"`
	Protocol  string   `json:"protocol,omitempty"`
	Endpoints []string `json:"endpoints"`
	Policies  bool     `json:"hasPolicies"`
	Tokens    bool     `json:"hasRequestAuthentications"`
	Routes    bool     `json:"hasRoutes"`
}

// A Policy is an AuthorizationPolicy as it was understood.
type Policy struct {
	Namespace  string            `json:"namespace"`
	Name       string            `json:"name"`
	Action     string            `json:"action"`
	Provider   string            `json:"provider,omitempty"`
	DryRun     bool              `json:"dryRun,omitempty"`
	Replaces   string            `json:"replaces,omitempty"`
	Selector   map[string]string `json:"selector,omitempty"`
	TargetRefs []authz.TargetRef `json:"targetRefs,omitempty"`
	Rules      []authz.Rule      `json:"rules"`
}

// A Route is an HTTPRoute as it was understood.
type Route struct {
	Namespace string              `json:"namespace"`
	Name      string              `json:"name"`
	Parents   []routing.Parent    `json:"parents"`
	Rules     []routing.RouteRule `json:"rules"`
}

// Waypoint dumps what the waypoint of a Gateway knows, which takes tunnels at an
// address.
func Waypoint(s Subject, gateway mesh.Key, address string) WaypointDump {
	d := WaypointDump{
		Listeners: []Listener{{"hbone", address, "HBONE"}},
		Attached:  attached(s.Snapshot), Workloads: workloads(s.Snapshot),
		Mesh: meshOf(s.Snapshot.Mesh()), Providers: providers(s.Snapshot.Mesh()), Policies: []Policy{}, Tokens: tokens(s.Snapshot),
		Routes: []Route{}, Rejected: rejections(s.Rejected), Problems: append([]string{}, s.Problems...), Version: Build(),
	}
	d.Services, _ = services(s.Snapshot)
	for _, g := range s.Snapshot.Gateways() {
		if g.Namespace == gateway.Namespace && g.Name == gateway.Name {
			d.Gateway = describe(g)
		}
	}
	for _, p := range s.Snapshot.Policies() {
		d.Policies = append(d.Policies, Policy{p.Namespace, p.Name, p.Action.String(), p.Provider, p.DryRun, p.Replaces, p.Selector, p.TargetRefs, p.Rules})
	}
	for _, r := range s.Snapshot.Routes() {
		d.Routes = append(d.Routes, Route{r.Namespace, r.Name, r.Parents, r.Rules})
	}
	d.Certificates = certificates(s.Identity, ours(s.Snapshot, gateway))
	return d
}

func describe(g *config.Gateway) *Gateway {
	out := &Gateway{g.Namespace, g.Name, g.Class, g.ServiceAccount, g.For.String(), []*GatewayAddress{}}
	for i := range g.Addresses {
		out.Addresses = append(out.Addresses, gatewayAddress(&g.Addresses[i]))
	}
	return out
}

// ours returns the identities of a Gateway's own pods, one for each.
func ours(snap *config.Snapshot, gateway mesh.Key) []identity.ID {
	var ids []identity.ID
	for w := range snap.Workloads() {
		if k := w.IsWaypointFor; k != nil && k.Namespace == gateway.Namespace && k.Name == gateway.Name {
			ids = append(ids, w.Identity())
		}
	}
	return ids
}

func attached(snap *config.Snapshot) []Attached {
	out := []Attached{}
	for _, s := range sortedServices(snap) {
		for _, p := range s.Ports {
			d := snap.Backend(s.Host(), p.Service)
			if len(s.Addresses) > 0 {
				d = snap.Lookup(s.Addresses[0].Network, s.Namespace, mesh.Authority{IP: s.Addresses[0].Prefix.Addr(), Port: p.Service})
			}
			if d == nil || !d.Attached || d.Service != s {
				continue
			}
			a := Attached{Service: s.Host().String(), Port: p.Service, Protocol: p.Protocol.String(), Endpoints: []string{}, Policies: d.Policies != nil, Tokens: d.Tokens != nil, Routes: d.Routes != nil}
			for _, e := range d.Endpoints {
				a.Endpoints = append(a.Endpoints, e.Addr.String())
			}
			out = append(out, a)
		}
	}
	for _, w := range workloads(snap) {
		if d := snap.Destination(w.UID); d != nil && d.Attached {
			out = append(out, Attached{Workload: w.UID, Endpoints: w.WorkloadIPs, Policies: d.Policies != nil, Tokens: d.Tokens != nil, Routes: d.Routes != nil})
		}
	}
	return out
}
