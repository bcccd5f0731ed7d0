package manifest

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// trafficNames are the values of istio.io/waypoint-for, numbered from 1 so that
// what is missing is 0.
var trafficNames = map[string]int{"service": 1, "workload": 2, "all": 3, "none": 4}

var traffic = [...]config.TrafficType{1: config.ForService, 2: config.ForWorkload, 3: config.ForAll, 4: config.ForNone}

// A waypoint is a Gateway that is one.
type waypoint struct {
	gateway *gatewayv1.Gateway
	config.Gateway
	listener *gatewayv1.Listener
}

// buildGateway returns the waypoint that a Gateway is, or nil: any class will
// do, it is the listener that makes it one.
func (x *Index) buildGateway(g *gatewayv1.Gateway) *waypoint {
	i := slices.IndexFunc(g.Spec.Listeners, func(l gatewayv1.Listener) bool {
		return l.Protocol == listenerHBONE || l.Protocol == listenerAll
	})
	if i < 0 {
		return nil
	}
	w := &waypoint{gateway: g, listener: &g.Spec.Listeners[i]}
	w.Namespace, w.Name = g.Namespace, g.Name
	w.Class = string(g.Spec.GatewayClassName)
	w.ServiceAccount = g.Annotations[annotationAccount]
	w.For = x.trafficOf(g)
	w.Addresses = x.addressesOf(g, uint16(w.listener.Port))
	return w
}

// trafficOf returns which traffic a Gateway takes: as it says, or its class
// does; the waypoint of a service account takes all, as it always did, and
// others that of services.
func (x *Index) trafficOf(g *gatewayv1.Gateway) config.TrafficType {
	n := trafficNames[g.Labels[labelWaypointFor]]
	if c := x.classes[string(g.Spec.GatewayClassName)]; n == 0 && c != nil {
		n = trafficNames[c.Labels[labelWaypointFor]]
	}
	switch {
	case n != 0:
		return traffic[n]
	case g.Annotations[annotationAccount] != "":
		return config.ForAll
	}
	return config.ForService
}

// addressesOf returns where a Gateway is reached, host names first: they
// outlive its pods. Without a status, what the Gateway asks for counts: nobody
// assigns addresses to a mesh made of files. None at all: it is not programmed.
func (x *Index) addressesOf(g *gatewayv1.Gateway, port uint16) []mesh.GatewayAddress {
	type address struct {
		kind  *gatewayv1.AddressType
		value string
	}
	var from []address
	for _, a := range g.Status.Addresses {
		from = append(from, address{a.Type, a.Value})
	}
	if len(from) == 0 {
		for _, a := range g.Spec.Addresses {
			from = append(from, address{a.Type, a.Value})
		}
	}
	var names, ips []mesh.GatewayAddress
	for _, a := range from {
		switch {
		case a.value == "":
		case a.kind != nil && *a.kind == gatewayv1.HostnameAddressType:
			names = append(names, mesh.GatewayAddress{Hostname: x.gatewayHost(g.Namespace, a.value), Port: port})
		default:
			if ip, err := netip.ParseAddr(a.value); err == nil {
				ips = append(ips, mesh.GatewayAddress{Address: mesh.Address{Network: x.o.Network, IP: ip.Unmap()}, Port: port})
			}
		}
	}
	return append(names, ips...)
}

// gatewayHost finds the namespace in a service's name, or takes the Gateway's.
func (x *Index) gatewayHost(namespace, host string) mesh.Hostname {
	host = strings.TrimSuffix(host, ".")
	if rest, ok := strings.CutSuffix(host, ".svc."+x.o.ClusterDomain); ok {
		if _, ns, ok := strings.Cut(rest, "."); ok {
			namespace = ns
		}
	}
	return mesh.Hostname{Namespace: namespace, Host: host}
}

// address returns how clients are told to reach the waypoint, or nil if it is
// not programmed.
func (w *waypoint) address() *mesh.GatewayAddress {
	if w == nil || len(w.Addresses) == 0 {
		return nil
	}
	a := w.Addresses[0]
	return &a
}

// allows reports whether a listener takes routes, or clients of a waypoint, of a
// namespace.
func allows(l *gatewayv1.Listener, own, namespace string, namespaceLabels map[string]string) bool {
	from := gatewayv1.NamespacesFromSame
	var selector *metav1.LabelSelector
	if r := l.AllowedRoutes; r != nil && r.Namespaces != nil && r.Namespaces.From != nil {
		from, selector = *r.Namespaces.From, r.Namespaces.Selector
	}
	switch from {
	case gatewayv1.NamespacesFromAll:
		return true
	case gatewayv1.NamespacesFromSelector:
		s, err := metav1.LabelSelectorAsSelector(selector)
		return err == nil && s.Matches(labels.Set(namespaceLabels))
	case gatewayv1.NamespacesFromSame:
		return namespace == own
	}
	return false
}

// An attachment is what decides which waypoint an object uses.
type attachment struct {
	namespace string
	labels    map[string]string
	accounts  []string // of the workload, or of the service's workloads
	workload  bool     // else a service
}

// attach returns the waypoint of an object, or nil. In order: what the object
// says, the waypoint of its service account, what its namespace says. An object
// that names a waypoint has that one or none: a waypoint that is not there must
// not give way to one with other policies.
func (x *Index) attach(a attachment) *waypoint {
	ns := x.namespace(a.namespace)
	if ref, ok := waypointRef(a.labels, a.namespace); ok {
		return x.usable(ref, a)
	}
	for _, w := range ns.accountWaypoints() {
		if slices.Contains(a.accounts, w.ServiceAccount) && w.takes(a.workload) && w.address() != nil {
			return w
		}
	}
	if ref, ok := waypointRef(ns.labels(), a.namespace); ok {
		return x.usable(ref, a)
	}
	return nil
}

// waypointRef reads istio.io/use-waypoint. The zero key is "none".
func waypointRef(labels map[string]string, namespace string) (ref mesh.Key, ok bool) {
	return gatewayRef(labels[labelUseWaypoint], labels[labelUseWaypointNS], namespace)
}

// gatewayRef makes a reference of two labels: a name, or "none", and a namespace
// that is not the object's own.
func gatewayRef(name, namespace, own string) (ref mesh.Key, ok bool) {
	switch name {
	case "":
		return mesh.Key{}, false
	case "none":
		return mesh.Key{}, true
	}
	return mesh.Key{Kind: kindGateway, Namespace: cmp.Or(namespace, own), Name: name}, true
}

// usable returns the waypoint of that name, if it serves what is to be attached.
func (x *Index) usable(ref mesh.Key, a attachment) *waypoint {
	w := x.namespace(ref.Namespace).waypoints[ref.Name]
	if w == nil || !w.takes(a.workload) || !allows(w.listener, w.Namespace, a.namespace, x.namespace(a.namespace).labels()) {
		return nil
	}
	return w
}

// takes reports whether w takes traffic to workloads, or to services.
func (w *waypoint) takes(workload bool) bool {
	switch w.For {
	case config.ForAll:
		return true
	case config.ForWorkload:
		return workload
	case config.ForService:
		return !workload
	}
	return false
}

// accountWaypoints returns the waypoints of service accounts, the oldest first.
func (n *namespace) accountWaypoints() []*waypoint {
	var out []*waypoint
	for _, w := range n.waypoints {
		if w.ServiceAccount != "" {
			out = append(out, w)
		}
	}
	slices.SortFunc(out, func(a, b *waypoint) int {
		return cmp.Or(a.gateway.CreationTimestamp.Compare(b.gateway.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// gatewayOf returns the Gateway that a waypoint's own pods and services name
// in their labels or selector.
func gatewayOf(labels map[string]string) string {
	return firstLabel(labels, labelGatewayName, labelOldGatewayName)
}

// serves returns the waypoint that a pod is part of, or nil.
func (n *namespace) serves(labels map[string]string) *waypoint {
	return n.waypoints[gatewayOf(labels)]
}

// ownService reports whether a service leads to a waypoint itself: attached to
// it, every connection would turn in a circle.
func (n *namespace) ownService(s *corev1.Service) bool {
	return s.Labels[labelManaged] == managedByMesh || n.serves(s.Labels) != nil || n.serves(s.Spec.Selector) != nil
}

// binding reads how a waypoint's pods want traffic handed over when they do
// not speak HBONE: "PROXY/15088", or "NONE" with or without a port.
func binding(text string) *mesh.AppTunnel {
	kind, port, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(port, 10, 16)
	if port != "" && err != nil || kind != "PROXY" && kind != "NONE" {
		return nil
	}
	return &mesh.AppTunnel{Proxy: kind == "PROXY", Port: uint16(n)}
}
