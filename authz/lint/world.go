package lint

import (
	"maps"
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
)

// A World says what exists. It is complete: what is not in it is not there.
type World struct {
	Services        []Service
	Waypoints       []Waypoint
	Workloads       []Workload
	Authentications []Authentication
}

// A Ref names an object in a namespace. The zero Ref names none.
type Ref struct{ Namespace, Name string }

func (r Ref) String() string { return r.Namespace + "/" + r.Name }

// A Service is a Service or a ServiceEntry.
type Service struct {
	Kind, Namespace, Name string
	Waypoint              Ref // that serves it
	Canary                Ref // that serves a part of its connections
	Ports                 []Port
}

func (s *Service) String() string { return s.Kind + " " + s.Namespace + "/" + s.Name }

// A Port is a port of a service.
type Port struct {
	Number, Target uint16 // the service's, and its workloads'
	Protocol       Protocol
}

// A Protocol is what is known of what is spoken on a port.
type Protocol uint8

// The protocols. Of a port that declares none the first bytes tell.
const (
	Undeclared Protocol = iota
	HTTP
	TCP // or anything else that is not HTTP
)

// A Waypoint is a Gateway that is one.
type Waypoint struct {
	Namespace, Name string
	Class           string
	ServiceAccount  string // that it runs as
}

// A Workload is a pod or a WorkloadEntry of the mesh.
type Workload struct {
	Namespace, Name string
	Labels          map[string]string
	Waypoint        Ref // that is before it, or before a service that it is a member of
}

// An Authentication is a RequestAuthentication: it says whose JWTs are verified,
// and where.
type Authentication struct {
	Namespace  string
	Name       string
	Selector   map[string]string
	TargetRefs []authz.TargetRef
}

// A reach is what a policy is attached to.
type reach struct {
	services  map[*Service]bool
	waypoints map[*Waypoint]bool
	workloads map[*Workload]bool
}

func (r reach) empty() bool { return len(r.services)+len(r.waypoints)+len(r.workloads) == 0 }

// within reports whether other has all that r has.
func (r reach) within(other reach) bool {
	return subset(r.services, other.services) && subset(r.waypoints, other.waypoints) && subset(r.workloads, other.workloads)
}

func subset[K comparable](a, b map[K]bool) bool {
	for k := range a {
		if !b[k] {
			return false
		}
	}
	return true
}

// meets reports whether r and other have something in common.
func (r reach) meets(other reach) bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(r.services)), func(s *Service) bool { return other.services[s] }) ||
		slices.ContainsFunc(slices.Collect(maps.Keys(r.waypoints)), func(w *Waypoint) bool { return other.waypoints[w] }) ||
		slices.ContainsFunc(slices.Collect(maps.Keys(r.workloads)), func(w *Workload) bool { return other.workloads[w] })
}

// reach returns what something of a namespace is attached to.
func (w *World) reach(o authz.Options, namespace string, selector map[string]string, refs []authz.TargetRef) reach {
	r := reach{map[*Service]bool{}, map[*Waypoint]bool{}, map[*Workload]bool{}}
	if w == nil {
		return r
	}
	for _, ref := range refs {
		switch ref.Kind {
		case "Service", "ServiceEntry":
			if s := w.service(ref.Kind, namespace, ref.Name); s != nil && w.waypoint(s.Waypoint) != nil {
				r.services[s] = true
			}
		default:
			for _, g := range w.gateways(o, ref, namespace) {
				w.behind(g, r)
			}
		}
	}
	if len(refs) > 0 {
		return r
	}
	if name := selector["istio.io/gateway-name"]; name != "" && len(selector) == 1 {
		if g := w.waypoint(Ref{namespace, name}); g != nil {
			w.behind(g, r)
		}
		return r
	}
	for i := range w.Workloads {
		if k := &w.Workloads[i]; (k.Namespace == namespace || namespace == root(o)) && selects(selector, k.Labels) {
			r.workloads[k] = true
		}
	}
	return r
}

// behind adds to r a waypoint and what it serves.
func (w *World) behind(g *Waypoint, r reach) {
	r.waypoints[g] = true
	for i := range w.Services {
		if s, ref := &w.Services[i], (Ref{g.Namespace, g.Name}); s.Waypoint == ref || s.Canary == ref {
			r.services[s] = true
		}
	}
}

func (w *World) service(kind, namespace, name string) *Service {
	for i := range w.Services {
		if s := &w.Services[i]; s.Kind == kind && s.Namespace == namespace && s.Name == name {
			return s
		}
	}
	return nil
}

func (w *World) waypoint(ref Ref) *Waypoint {
	for i := range w.Waypoints {
		if g := &w.Waypoints[i]; g.Namespace == ref.Namespace && g.Name == ref.Name {
			return g
		}
	}
	return nil
}

// gateways returns the waypoints that a reference to a Gateway or a GatewayClass
// leads to. The class istio-waypoint stands for every waypoint.
func (w *World) gateways(o authz.Options, ref authz.TargetRef, namespace string) (out []*Waypoint) {
	for i := range w.Waypoints {
		g := &w.Waypoints[i]
		if ref.Kind == "Gateway" && g.Namespace == namespace && g.Name == ref.Name ||
			ref.Kind == "GatewayClass" && namespace == root(o) && (ref.Name == "istio-waypoint" || ref.Name == g.Class) {
			out = append(out, g)
		}
	}
	return out
}

func root(o authz.Options) string {
	if o.RootNamespace == "" {
		return "istio-system"
	}
	return o.RootNamespace
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// list joins words for people: a, b and c.
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
