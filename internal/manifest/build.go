package manifest

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// build returns what an object makes as things stand: nothing if it is gone.
func (x *Index) build(key mesh.Key) []config.Resource {
	n := x.namespace(key.Namespace)
	switch key.Kind {
	case kindPod:
		if p := n.pods[key.Name]; p != nil {
			if w := x.workload(n, p); w != nil {
				return []config.Resource{w}
			}
		}
	case kindService:
		if s := n.services[key.Name]; s != nil {
			if out := x.service(n, s); out != nil {
				return []config.Resource{out}
			}
		}
	case kindEndpointSlice:
		return x.endpoints(n, key.Name)
	case kindGateway:
		if w := n.waypoints[key.Name]; w != nil {
			g := w.Gateway
			return []config.Resource{&g}
		}
	case kindPolicy:
		if p := n.policies[key.Name]; p != nil && !p.refused {
			return []config.Resource{p.Policy}
		}
	case kindTokens:
		if p := n.tokens[key.Name]; p != nil {
			return []config.Resource{p}
		}
	case kindPeer:
		if p := n.peers[key.Name]; p != nil {
			if out := x.convertPeer(p); out != nil {
				return []config.Resource{out}
			}
		}
	case kindHTTPRoute:
		if r := n.routes[key.Name]; r != nil {
			c := &converter{o: &x.o, route: r, service: x.hasService}
			if out := c.convert(); len(out.Parents) > 0 {
				return []config.Resource{out}
			}
		}
	}
	return nil
}

// workload joins a pod with its namespace, its node, the services and policies
// that select it, and its waypoint.
func (x *Index) workload(n *namespace, p *corev1.Pod) *mesh.Workload {
	w := x.o.buildWorkload(p)
	if w == nil {
		return nil
	}
	w.Locality = locality(x.nodes[p.Spec.NodeName])
	for _, s := range n.selecting(p.Labels) {
		if s.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		if w.Services == nil {
			w.Services = map[mesh.Hostname]mesh.Membership{}
		}
		w.Services[x.o.hostname(s.Namespace, s.Name)] = membership(s, p)
	}
	w.Policies = x.policiesOf(p)
	if own := n.serves(p.Labels); own != nil {
		key := gatewayKey(own.gateway)
		w.IsWaypointFor, w.NativeTunnel = &key, true
		x.handOver(w, own)
		return w
	}
	if x.o.captured(p, n.labels()) {
		w.Tunnel = mesh.HBONE
	}
	if p.Labels[labelManaged] != managedByMesh {
		w.Waypoint = x.attach(attachment{namespace: p.Namespace, labels: p.Labels, accounts: []string{w.ServiceAccount}, workload: true}).address()
	}
	return w
}

// handOver notes how a waypoint that does not speak HBONE wants its traffic.
func (x *Index) handOver(w *mesh.Workload, own *waypoint) {
	text := own.gateway.Annotations[annotationBinding]
	if c := x.classes[own.Class]; text == "" && c != nil {
		text = c.Annotations[annotationBinding]
	}
	if w.AppTunnel = binding(text); w.AppTunnel != nil {
		w.Tunnel, w.NativeTunnel = mesh.HBONE, false
	}
}

// policiesOf lists the policies that select a pod. Those of the root namespace
// select everywhere.
func (x *Index) policiesOf(p *corev1.Pod) []mesh.Key {
	var out []mesh.Key
	waypoint := x.namespace(p.Namespace).serves(p.Labels) != nil
	add := func(namespace string) {
		for _, q := range x.namespace(namespace).policies {
			if waypoint && gatewayOf(q.Selector) != "" {
				continue // it is about what the waypoint serves, not about itself
			}
			if listed(q) && (len(q.Selector) == 0 || selects(q.Selector, p.Labels)) {
				out = append(out, q.Policy.Key())
			}
		}
	}
	add(p.Namespace)
	if p.Namespace != x.o.RootNamespace {
		add(x.o.RootNamespace)
	}
	out = append(out, x.strictKeys(x.strictnessOf(p.Namespace, p.Labels))...)
	slices.SortFunc(out, func(a, b mesh.Key) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return out
}

// listed reports whether workloads list a policy: one with a selector, that can
// refuse. A policy without any takes effect by its namespace.
func listed(p *policy) bool { return p.Selector != nil && p.Action != authz.Audit }

// service joins a service with its waypoint, or with two.
func (x *Index) service(n *namespace, s *corev1.Service) *mesh.Service {
	out := x.o.buildService(s)
	if out == nil || n.ownService(s) {
		return out
	}
	a := attachment{namespace: s.Namespace, labels: s.Labels}
	if len(n.accountWaypoints()) > 0 {
		for _, p := range n.matching(s.Spec.Selector) {
			a.accounts = append(a.accounts, accountOf(p))
		}
	}
	w := x.attach(a)
	out.Waypoint, out.Canary = w.address(), x.canaryOf(s, w)
	return out
}

// endpoints returns the workloads of a slice whose service is there.
func (x *Index) endpoints(n *namespace, name string) []config.Resource {
	slice := n.slices[name]
	if slice == nil {
		return nil
	}
	s := n.services[slice.Labels[labelServiceName]]
	if s == nil || s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var out []config.Resource
	for _, w := range x.o.buildEndpoints(slice, s) {
		w.Locality = locality(x.nodes[w.Node])
		out = append(out, w)
	}
	return out
}

// hasService reports whether a route's backend is there.
func (x *Index) hasService(namespace, name string, port uint16) (found, hasPort bool) {
	s := x.namespace(namespace).services[name]
	if s == nil {
		return false, false
	}
	for _, p := range s.Spec.Ports {
		if p.Port == int32(port) && (p.Protocol == "" || p.Protocol == corev1.ProtocolTCP) {
			return true, true
		}
	}
	return true, false
}
