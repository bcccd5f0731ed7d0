package manifest

import (
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// What an API server would have refused before we saw it, as far as we rely on
// it. Fields that nothing here reads are not looked at.

// validName refuses names that an API server would.
func validName(key mesh.Key) *fault {
	check := validation.IsDNS1123Subdomain
	switch key.Kind {
	case kindNamespace:
		check = validation.IsDNS1123Label
	case kindService:
		check = validation.IsDNS1035Label
	}
	if e := check(key.Name); len(e) > 0 {
		return faultf("metadata.name", "%q: %s", key.Name, e[0])
	}
	if key.Namespace != "" {
		if e := validation.IsDNS1123Label(key.Namespace); len(e) > 0 {
			return faultf("metadata.namespace", "%q: %s", key.Namespace, e[0])
		}
	}
	return nil
}

// validLabels looks at the values that mean something to us.
func validLabels(m metav1.ObjectMeta) *fault {
	if v, ok := m.Labels[labelDataplane]; ok && v != "ambient" && v != "none" {
		return faultf("metadata.labels["+strconv.Quote(labelDataplane)+"]", "%q is neither ambient nor none", v)
	}
	return nil
}

func validateNamespace(n *corev1.Namespace) *fault {
	if f := validLabels(n.ObjectMeta); f != nil {
		return f
	}
	_, f := canaryShare(n.ObjectMeta)
	return f
}

func validateNode(*corev1.Node) *fault { return nil }

func validatePod(p *corev1.Pod) *fault {
	if f := validLabels(p.ObjectMeta); f != nil {
		return f
	}
	if ip := p.Status.PodIP; ip != "" {
		if _, err := netip.ParseAddr(ip); err != nil {
			return faultf("status.podIP", "%q is not an IP address", ip)
		}
	}
	for i, ip := range p.Status.PodIPs {
		if _, err := netip.ParseAddr(ip.IP); err != nil {
			return faultf("status.podIPs["+strconv.Itoa(i)+"].ip", "%q is not an IP address", ip.IP)
		}
	}
	for i, c := range p.Spec.Containers {
		for j, port := range c.Ports {
			if port.ContainerPort < 1 || port.ContainerPort > 65535 {
				return faultf("spec.containers["+strconv.Itoa(i)+"].ports["+strconv.Itoa(j)+"].containerPort", "%d is not 1 to 65535", port.ContainerPort)
			}
		}
	}
	return nil
}

func validateService(s *corev1.Service) *fault {
	if _, f := canaryShare(s.ObjectMeta); f != nil {
		return f
	}
	for i, ip := range clusterIPs(s) {
		if _, err := netip.ParseAddr(ip); err != nil && ip != corev1.ClusterIPNone {
			return faultf("spec.clusterIPs["+strconv.Itoa(i)+"]", "%q is not an IP address", ip)
		}
	}
	type port struct {
		protocol corev1.Protocol
		port     int32
	}
	seen := map[port]bool{}
	names := map[string]bool{}
	for i, p := range s.Spec.Ports {
		at := "spec.ports[" + strconv.Itoa(i) + "]"
		if p.Port < 1 || p.Port > 65535 {
			return faultf(at+".port", "%d is not 1 to 65535", p.Port)
		}
		if p.Name == "" && len(s.Spec.Ports) > 1 {
			return faultf(at+".name", "is required when there are several ports")
		}
		if names[p.Name] {
			return faultf(at+".name", "%q is used twice", p.Name)
		}
		names[p.Name] = true
		k := port{p.Protocol, p.Port}
		if k.protocol == "" {
			k.protocol = corev1.ProtocolTCP
		}
		if seen[k] {
			return faultf(at+".port", "%d is used twice", p.Port)
		}
		seen[k] = true
		switch t := p.TargetPort; {
		case t.Type == intstr.Int && (t.IntVal < 0 || t.IntVal > 65535):
			return faultf(at+".targetPort", "%d is not 1 to 65535", t.IntVal)
		case t.Type == intstr.String && len(validation.IsValidPortName(t.StrVal)) > 0:
			return faultf(at+".targetPort", "%q is neither a port nor the name of one", t.StrVal)
		}
	}
	return nil
}

func validateSlice(s *discoveryv1.EndpointSlice) *fault {
	switch s.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
	case discoveryv1.AddressTypeFQDN:
		return faultf("addressType", "FQDN is not supported")
	default:
		return faultf("addressType", "%q is neither IPv4 nor IPv6", s.AddressType)
	}
	for i, e := range s.Endpoints {
		if len(e.Addresses) == 0 {
			return faultf("endpoints["+strconv.Itoa(i)+"].addresses", "is required")
		}
		for j, a := range e.Addresses {
			ip, err := netip.ParseAddr(a)
			if err != nil || ip.Is4() != (s.AddressType == discoveryv1.AddressTypeIPv4) {
				return faultf("endpoints["+strconv.Itoa(i)+"].addresses["+strconv.Itoa(j)+"]", "%q is not an %s address", a, s.AddressType)
			}
		}
	}
	for i, p := range s.Ports {
		if p.Port != nil && (*p.Port < 1 || *p.Port > 65535) {
			return faultf("ports["+strconv.Itoa(i)+"].port", "%d is not 1 to 65535", *p.Port)
		}
	}
	return nil
}

// validateGateway checks what Gateway API's own validation says of the fields
// that make a waypoint or an ingress.
func validateGateway(g *gatewayv1.Gateway) *fault {
	if g.Spec.GatewayClassName == "" {
		return faultf("spec.gatewayClassName", "is required")
	}
	if len(g.Spec.Listeners) == 0 {
		return faultf("spec.listeners", "needs at least one")
	}
	names := map[gatewayv1.SectionName]bool{}
	for i, l := range g.Spec.Listeners {
		at := "spec.listeners[" + strconv.Itoa(i) + "]"
		switch {
		case l.Name == "":
			return faultf(at+".name", "is required")
		case names[l.Name]:
			return faultf(at+".name", "%q is used twice", l.Name)
		case l.Protocol == "":
			return faultf(at+".protocol", "is required")
		case l.Port < 1 || l.Port > 65535:
			return faultf(at+".port", "%d is not 1 to 65535", l.Port)
		}
		names[l.Name] = true
		if l.AllowedRoutes != nil && l.AllowedRoutes.Namespaces != nil {
			if f := validFrom(l.AllowedRoutes.Namespaces, at+".allowedRoutes.namespaces"); f != nil {
				return f
			}
		}
	}
	switch v, ok := g.Labels[labelWaypointFor]; {
	case ok && trafficNames[v] == 0:
		return faultf("metadata.labels["+strconv.Quote(labelWaypointFor)+"]", "%q is not one of service, workload, all, none", v)
	}
	for i, a := range g.Spec.Addresses {
		if f := validAddress(a.Type, a.Value, "spec.addresses["+strconv.Itoa(i)+"]"); f != nil {
			return f
		}
	}
	for i, a := range g.Status.Addresses {
		if f := validAddress(a.Type, a.Value, "status.addresses["+strconv.Itoa(i)+"]"); f != nil {
			return f
		}
	}
	return nil
}

func validFrom(n *gatewayv1.RouteNamespaces, at string) *fault {
	if n.From == nil {
		return nil
	}
	switch *n.From {
	case gatewayv1.NamespacesFromSame, gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromNone:
	case gatewayv1.NamespacesFromSelector:
		if n.Selector == nil {
			return faultf(at+".selector", "is required when from is Selector")
		}
		if _, err := metav1.LabelSelectorAsSelector(n.Selector); err != nil {
			return faultf(at+".selector", "%s", err)
		}
	default:
		return faultf(at+".from", "%q is not one of All, Selector, Same, None", *n.From)
	}
	return nil
}

func validAddress(t *gatewayv1.AddressType, value, at string) *fault {
	switch {
	case value == "":
		return nil // "any address": not programmed
	case t == nil || *t == gatewayv1.IPAddressType:
		if _, err := netip.ParseAddr(value); err != nil {
			return faultf(at+".value", "%q is not an IP address", value)
		}
	case *t == gatewayv1.HostnameAddressType:
		if len(validation.IsDNS1123Subdomain(strings.TrimPrefix(value, "*."))) > 0 {
			return faultf(at+".value", "%q is not a host name", value)
		}
	default:
		return faultf(at+".type", "%q is neither IPAddress nor Hostname", *t)
	}
	return nil
}
