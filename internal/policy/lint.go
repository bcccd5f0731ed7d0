package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/authz/lint"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A Finding is one thing that is wrong with a policy, and where that is written.
type Finding struct {
	lint.Finding
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

func (f Finding) String() string {
	if f.File == "" {
		return f.Finding.String()
	}
	return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Finding)
}

// Lint returns what is wrong with the policies, the refused ones among them. If
// there is nothing but policies, nothing is said to be missing.
func (m *Mesh) Lint() []Finding {
	var policies []*authz.Policy
	var w *lint.World
	if !m.bare {
		w = m.world()
	}
	for _, u := range m.updates {
		p, ok := u.Value.(*authz.Policy)
		if ok && u.Err == nil && !generated(p) {
			policies = append(policies, p)
		}
	}
	said := m.said()
	o := authz.Options{TrustDomain: m.o.TrustDomain, Aliases: said.Aliases, RootNamespace: m.o.RootNamespace, Providers: said.Providers}
	var out []Finding
	told := map[mesh.Key]bool{}
	for _, f := range lint.Lint(o, policies, w) {
		key := mesh.Key{Kind: f.Kind}
		key.Namespace, key.Name, _ = strings.Cut(f.Policy, "/")
		told[key] = told[key] || f.Check == lint.Invalid
		file, line := m.place(key, f.Field)
		out = append(out, Finding{f, file, line})
	}
	out = append(out, m.refused(told)...)
	slices.SortStableFunc(out, func(a, b Finding) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
	return out
}

// generated reports whether nobody wrote p: it is what a PeerAuthentication comes
// to.
func generated(p *authz.Policy) bool {
	return strings.HasPrefix(p.Name, "converted_") || p.Name == "istio_converted_static_strict"
}

// refused returns the problems as findings, but for those of told.
func (m *Mesh) refused(told map[mesh.Key]bool) (out []Finding) {
	for _, e := range m.refusals() {
		if told[e.Object] {
			continue
		}
		f := Finding{lint.Refused(e.Object.Kind, strings.TrimPrefix(e.Object.Namespace+"/"+e.Object.Name, "/"), e.Field, e.Reason), e.File, e.Line}
		if f.Kind == "" {
			f.Kind, f.Policy = "document", ""
		}
		out = append(out, f)
	}
	return out
}

// world says what exists.
func (m *Mesh) world() *lint.World {
	v, w := m.view(node), &lint.World{}
	for s := range v.Services() {
		svc := lint.Service{Kind: "ServiceEntry", Namespace: s.Namespace, Name: s.Name, Waypoint: m.waypointRef(s)}
		if s.Canonical {
			svc.Kind = "Service"
		}
		for i := range s.Canary {
			if k, ok := m.gatewayAt(&s.Canary[i].Waypoint); ok && (lint.Ref{Namespace: k.Namespace, Name: k.Name}) != svc.Waypoint {
				svc.Canary = lint.Ref{Namespace: k.Namespace, Name: k.Name}
			}
		}
		for _, p := range s.Ports {
			port := lint.Port{Number: p.Service, Target: p.Target}
			switch {
			case p.Protocol.IsHTTP():
				port.Protocol = lint.HTTP
			case p.Protocol != mesh.Undeclared:
				port.Protocol = lint.TCP
			}
			svc.Ports = append(svc.Ports, port)
		}
		w.Services = append(w.Services, svc)
	}
	for k := range m.labels { // no source of ours reads these yet
		if k.Kind == "ServiceEntry" {
			w.Services = append(w.Services, lint.Service{Kind: k.Kind, Namespace: k.Namespace, Name: k.Name, Waypoint: m.labelled(k)})
		}
	}
	for _, g := range v.Gateways() {
		id, _, _ := m.identityOf(g.Key())
		w.Waypoints = append(w.Waypoints, lint.Waypoint{Namespace: g.Namespace, Name: g.Name, Class: g.Class, ServiceAccount: id.ServiceAccount})
	}
	for k := range v.Workloads() {
		if k.IsWaypointFor != nil {
			continue
		}
		w.Workloads = append(w.Workloads, lint.Workload{Namespace: k.Namespace, Name: k.Name, Waypoint: m.waypointOf(v, k),
			Labels: m.labels[mesh.Key{Kind: "Pod", Namespace: k.Namespace, Name: k.Name}]})
	}
	for _, u := range m.updates {
		if a, ok := u.Value.(*jwt.RequestAuthentication); ok && u.Err == nil {
			w.Authentications = append(w.Authentications, lint.Authentication{Namespace: a.Namespace, Name: a.Name, Selector: a.Selector, TargetRefs: a.TargetRefs})
		}
	}
	slices.SortFunc(w.Services, func(a, b lint.Service) int { return cmp.Compare(a.String(), b.String()) })
	slices.SortFunc(w.Workloads, func(a, b lint.Workload) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return w
}

// waypointRef returns the waypoint of a service, or the one that it names and that
// is not there.
func (m *Mesh) waypointRef(s *mesh.Service) lint.Ref {
	if k, ok := m.gatewayAt(s.Waypoint); ok {
		return lint.Ref{Namespace: k.Namespace, Name: k.Name}
	}
	return m.labelled(mesh.Key{Kind: "Service", Namespace: s.Namespace, Name: s.Name})
}

// labelled returns the waypoint that the labels of an object name, or else those of
// its namespace.
func (m *Mesh) labelled(k mesh.Key) lint.Ref {
	own := k.Namespace
	for _, k := range []mesh.Key{k, {Kind: "Namespace", Name: k.Namespace}} {
		name := m.labels[k]["istio.io/use-waypoint"]
		switch name {
		case "":
			continue
		case "none":
			return lint.Ref{}
		}
		return lint.Ref{Namespace: cmp.Or(m.labels[k]["istio.io/use-waypoint-namespace"], own), Name: name}
	}
	return lint.Ref{}
}

// waypointOf returns the waypoint before a workload, or before a service that it
// is a member of.
func (m *Mesh) waypointOf(v *view, w *mesh.Workload) lint.Ref {
	addresses := []*mesh.GatewayAddress{w.Waypoint}
	hosts := []mesh.Hostname{}
	for h := range w.Services {
		hosts = append(hosts, h)
	}
	slices.SortFunc(hosts, func(a, b mesh.Hostname) int { return cmp.Compare(a.String(), b.String()) })
	for _, h := range hosts {
		if s := v.Service(h); s != nil {
			addresses = append(addresses, s.Waypoints()...)
		}
	}
	for _, a := range addresses {
		if k, ok := m.gatewayAt(a); ok {
			return lint.Ref{Namespace: k.Namespace, Name: k.Name}
		}
	}
	return lint.Ref{}
}

// Worst reports whether findings have errors, and warnings.
func Worst(findings []Finding) (errors, warnings bool) {
	for _, f := range findings {
		errors = errors || f.Level == lint.Error
		warnings = warnings || f.Level == lint.Warning
	}
	return errors, warnings
}

// Findings returns findings for people: a line for each, and how many there are.
func Findings(list []Finding) string {
	var b strings.Builder
	errs, warnings := 0, 0
	for _, f := range list {
		b.WriteString(f.String() + "\n")
		if f.Level == "error" {
			errs++
		} else {
			warnings++
		}
	}
	if len(list) == 0 {
		return "nothing to find fault with\n"
	}
	fmt.Fprintf(&b, "%d errors, %d warnings\n", errs, warnings)
	return b.String()
}
