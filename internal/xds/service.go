package xds

import (
	"errors"
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

// readService converts a service. Its error names a field.
func (c *converter) readService(name string, wire []byte) (*mesh.Service, error) {
	s := new(workloadapi.Service)
	if err := proto.Unmarshal(wire, s); err != nil {
		return nil, err
	}
	if s.Namespace == "" || s.Hostname == "" || s.Namespace+"/"+s.Hostname != name {
		return nil, fmt.Errorf("hostname: %q of namespace %q is not the name of the resource", s.Hostname, s.Namespace)
	}
	out := &mesh.Service{
		Name:      s.Name,
		Namespace: c.shared.text(s.Namespace),
		Hostname:  c.shared.text(s.Hostname),
		SANs:      s.SubjectAltNames,
		Canonical: s.Canonical,
		// What is not known is visible, as for Istio's node tunnel: the field hides
		// names, it does not protect.
		Private: s.Visibility == workloadapi.Service_NAMESPACE,
	}
	var err error
	if out.Addresses, err = c.prefixes(s.Addresses); err != nil {
		return nil, err
	}
	if out.Ports, err = ports(s.Ports); err != nil {
		return nil, err
	}
	if out.Waypoint, err = c.gateway("waypoint", s.Waypoint); err != nil {
		return nil, err
	}
	for i, w := range s.WeightedWaypoints {
		field := fmt.Sprintf("weighted_waypoints[%d].destination", i)
		g, err := c.gateway(field, w.GetDestination())
		if err == nil && g == nil {
			err = errors.New(field + ": is missing")
		}
		if err != nil {
			return nil, err
		}
		out.Canary = append(out.Canary, mesh.WeightedWaypoint{Waypoint: *g, Weight: w.Weight})
	}
	if out.Balance, err = balance(s.LoadBalancing); err != nil {
		return nil, err
	}
	out.Families, err = families(s.IpFamilies)
	return out, err
}

// prefixes converts VIPs: addresses, or blocks of them.
func (c *converter) prefixes(in []*workloadapi.NetworkAddress) (out []mesh.Prefix, err error) {
	for i, a := range in {
		ip, err := address(a.GetAddress())
		if err != nil {
			return nil, fmt.Errorf("addresses[%d]: %w", i, err)
		}
		bits := ip.BitLen()
		if a.Length != nil {
			// Of an IPv4 address that came as IPv6 the length counts what was cut off.
			bits = int(min(*a.Length, 1<<10)) - (8*len(a.Address) - ip.BitLen())
		}
		p := netip.PrefixFrom(ip, bits)
		if !p.IsValid() {
			return nil, fmt.Errorf("addresses[%d].length: %d is not one of an address of %d bits", i, a.GetLength(), ip.BitLen())
		}
		out = append(out, mesh.Prefix{Network: c.shared.text(a.GetNetwork()), Prefix: p})
	}
	return out, nil
}

func ports(in []*workloadapi.Port) (out []mesh.Port, err error) {
	for i, p := range in {
		from, err := port(fmt.Sprintf("ports[%d].service_port", i), p.GetServicePort())
		if err != nil {
			return nil, err
		}
		to, err := port(fmt.Sprintf("ports[%d].target_port", i), p.GetTargetPort())
		if err != nil {
			return nil, err
		}
		out = append(out, mesh.Port{Service: from, Target: to, Protocol: appProtocol(p.GetAppProtocol())})
	}
	return out, nil
}

// appProtocol converts what a port declares. What is not known is sniffed.
func appProtocol(p workloadapi.AppProtocol) mesh.AppProtocol {
	switch p {
	case workloadapi.AppProtocol_HTTP11:
		return mesh.HTTP1
	case workloadapi.AppProtocol_HTTP2:
		return mesh.HTTP2
	case workloadapi.AppProtocol_GRPC:
		return mesh.GRPC
	case workloadapi.AppProtocol_TCP:
		return mesh.TCP
	case workloadapi.AppProtocol_TLS:
		return mesh.TLS
	}
	return mesh.Undeclared
}

func balance(b *workloadapi.LoadBalancing) (out mesh.Balance, err error) {
	switch m := b.GetMode(); m {
	case workloadapi.LoadBalancing_UNSPECIFIED_MODE:
	case workloadapi.LoadBalancing_STRICT:
		out.Mode = mesh.Strict
	case workloadapi.LoadBalancing_FAILOVER:
		out.Mode = mesh.Failover
	case workloadapi.LoadBalancing_PASSTHROUGH:
		out.Mode = mesh.Passthrough
	default:
		return out, fmt.Errorf("load_balancing.mode: %v is not known", m)
	}
	switch h := b.GetHealthPolicy(); h {
	case workloadapi.LoadBalancing_ONLY_HEALTHY:
	case workloadapi.LoadBalancing_ALLOW_ALL:
		out.AllowUnhealthy = true
	default:
		return out, fmt.Errorf("load_balancing.health_policy: %v is not known", h)
	}
	for i, s := range b.GetRoutingPreference() {
		if s < workloadapi.LoadBalancing_REGION || s > workloadapi.LoadBalancing_NETWORK {
			return out, fmt.Errorf("load_balancing.routing_preference[%d]: %v is not known", i, s)
		}
		out.Preference = append(out.Preference, mesh.Scope(s)) // the numbers are the same
	}
	return out, nil
}

func families(f workloadapi.IPFamilies) (mesh.IPFamilies, error) {
	switch f {
	case workloadapi.IPFamilies_AUTOMATIC:
		return mesh.AnyFamily, nil
	case workloadapi.IPFamilies_IPV4_ONLY:
		return mesh.IPv4Only, nil
	case workloadapi.IPFamilies_IPV6_ONLY:
		return mesh.IPv6Only, nil
	case workloadapi.IPFamilies_DUAL:
		return mesh.DualStack, nil
	}
	return 0, fmt.Errorf("ip_families: %v is not known", f)
}
