package manifest

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// buildService turns a Service into one of ours, without its waypoint. It
// returns nil for a Service that is only a DNS alias.
func (o *Options) buildService(s *corev1.Service) *mesh.Service {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	out := &mesh.Service{
		Name:      s.Name,
		Namespace: s.Namespace,
		Hostname:  o.host(s.Namespace, s.Name),
		Canonical: true,
		Balance:   balance(s),
		Families:  families(s),
	}
	for _, text := range clusterIPs(s) {
		if ip, err := netip.ParseAddr(text); err == nil {
			out.Addresses = append(out.Addresses, mesh.Prefix{Network: o.Network, Prefix: netip.PrefixFrom(ip, ip.BitLen())})
		}
	}
	for _, p := range s.Spec.Ports {
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
			continue // the mesh carries TCP
		}
		port := mesh.Port{Name: p.Name, Service: uint16(p.Port), Protocol: appProtocol(&p)}
		switch {
		case p.TargetPort.Type == intstr.String && p.TargetPort.StrVal != "": // per endpoint
		case p.TargetPort.IntVal != 0:
			port.Target = uint16(p.TargetPort.IntVal)
		default:
			port.Target = port.Service
		}
		out.Ports = append(out.Ports, port)
	}
	return out
}

// host returns a service's name in DNS.
func (o *Options) host(namespace, name string) string {
	return name + "." + namespace + ".svc." + o.ClusterDomain
}

func (o *Options) hostname(namespace, name string) mesh.Hostname {
	return mesh.Hostname{Namespace: namespace, Host: o.host(namespace, name)}
}

// protocols maps what a port declares. What is missing is not declared: it is
// carried as it comes.
var protocols = map[string]mesh.AppProtocol{
	"http":     mesh.HTTP1,
	"http2":    mesh.HTTP2,
	"grpc":     mesh.GRPC,
	"grpc-web": mesh.HTTP1, // gRPC's messages in ordinary exchanges
	"tcp":      mesh.TCP,
	"mongo":    mesh.TCP,
	"mysql":    mesh.TCP,
	"redis":    mesh.TCP,
	"tls":      mesh.TLS,
	"https":    mesh.TLS,

	"kubernetes.io/h2c": mesh.HTTP2,
	"kubernetes.io/ws":  mesh.HTTP1,
	"kubernetes.io/wss": mesh.TLS,
}

// appProtocol returns what a port declares to carry: by appProtocol, or else by
// its name up to the first hyphen, or else, as Istio has it, by its number.
func appProtocol(p *corev1.ServicePort) mesh.AppProtocol {
	if p.AppProtocol != nil {
		return protocols[strings.ToLower(*p.AppProtocol)]
	}
	name := strings.ToLower(p.Name)
	if name == "grpc-web" || strings.HasPrefix(name, "grpc-web-") {
		return protocols["grpc-web"]
	}
	prefix, _, _ := strings.Cut(name, "-")
	if protocol, ok := protocols[prefix]; ok {
		return protocol
	}
	return wellKnown[p.Port]
}

// wellKnown lists ports that carry a protocol where the server speaks first, so
// that waiting for the client to show what it speaks would only delay it.
var wellKnown = map[int32]mesh.AppProtocol{
	25:    mesh.TCP, // SMTP
	53:    mesh.TCP, // DNS
	3306:  mesh.TCP, // MySQL
	27017: mesh.TCP, // MongoDB
}

// balance reads how a service wants its traffic spread.
func balance(s *corev1.Service) mesh.Balance {
	b := mesh.Balance{AllowUnhealthy: s.Spec.PublishNotReadyAddresses}
	if p := s.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		b.Mode, b.Preference = mesh.Strict, []mesh.Scope{mesh.Node}
		return b
	}
	distribution := s.Annotations[annotationDistribution]
	if d := s.Spec.TrafficDistribution; d != nil {
		distribution = *d
	}
	switch distribution {
	case "PreferClose", "PreferSameZone":
		b.Mode, b.Preference = mesh.Failover, []mesh.Scope{mesh.Network, mesh.Region, mesh.Zone}
	case "PreferSameNode":
		b.Mode, b.Preference = mesh.Failover, []mesh.Scope{mesh.Network, mesh.Region, mesh.Zone, mesh.Subzone, mesh.Node}
	}
	return b
}

// families says which families a service is addressed by: as declared, or else
// as its addresses show.
func families(s *corev1.Service) mesh.IPFamilies {
	v4 := slices.Contains(s.Spec.IPFamilies, corev1.IPv4Protocol)
	v6 := slices.Contains(s.Spec.IPFamilies, corev1.IPv6Protocol)
	if !v4 && !v6 {
		for _, text := range clusterIPs(s) {
			if ip, err := netip.ParseAddr(text); err == nil {
				v4, v6 = v4 || ip.Is4(), v6 || ip.Is6()
			}
		}
	}
	switch {
	case v4 && v6:
		return mesh.DualStack
	case v4:
		return mesh.IPv4Only
	case v6:
		return mesh.IPv6Only
	}
	return mesh.AnyFamily
}
