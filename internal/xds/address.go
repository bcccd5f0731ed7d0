package xds

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

// A converter turns what is on the wire into resources. It is used by one
// goroutine.
type converter struct {
	root   string // the root namespace
	shared shared
}

// address converts an istio.workload.Address. The update always has a key.
func (c *converter) address(name string, wire []byte) config.Update {
	u := config.Update{Key: aWorkload.key(name, "")}
	if strings.Count(name, "/") == 1 {
		u.Key = aService.key(name, "")
	}
	var a workloadapi.Address
	if err := proto.Unmarshal(wire, &a); err != nil {
		u.Err = err
		return u
	}
	switch t := a.Type.(type) {
	case *workloadapi.Address_Workload:
		u.Key = aWorkload.key(name, "")
		if w, err := c.workload(name, t.Workload); err != nil {
			u.Err = err
		} else {
			u.Value = w
		}
	case *workloadapi.Address_Service:
		u.Key = aService.key(name, "")
		if s, err := c.service(name, t.Service); err != nil {
			u.Err = err
		} else {
			u.Value = s
		}
	default:
		u.Err = errors.New("is neither a workload nor a service")
	}
	return u
}

// workload converts a workload. Its error names a field of w.
func (c *converter) workload(name string, w *workloadapi.Workload) (*mesh.Workload, error) {
	if w.Uid == "" || w.Uid != name {
		return nil, fmt.Errorf("uid: %q is not the name of the resource", w.Uid)
	}
	s := &c.shared
	out := &mesh.Workload{
		UID:               name,
		Name:              within(name, w.Name),
		Namespace:         s.text(w.Namespace),
		ServiceAccount:    s.or(w.ServiceAccount, "default"),
		TrustDomain:       s.or(w.TrustDomain, "cluster.local"),
		ClusterID:         s.or(w.ClusterId, "Kubernetes"),
		Network:           s.text(w.Network),
		Node:              s.text(w.Node),
		Hostname:          s.text(w.Hostname),
		CanonicalName:     s.text(w.CanonicalName),
		CanonicalRevision: s.text(w.CanonicalRevision),
		OwnerKind:         ownerKind(w.WorkloadType),
		OwnerName:         s.text(w.WorkloadName),
		NativeTunnel:      w.NativeTunnel,
		Locality:          mesh.Locality{Region: s.text(w.Locality.GetRegion()), Zone: s.text(w.Locality.GetZone()), Subzone: s.text(w.Locality.GetSubzone())},
		Capacity:          w.Capacity.GetValue(),
	}
	var err error
	if out.Addresses, err = addresses(w.Addresses); err != nil {
		return nil, err
	}
	if err := modes(w, out); err != nil {
		return nil, err
	}
	if out.Waypoint, err = c.gateway("waypoint", w.Waypoint); err != nil {
		return nil, err
	}
	if out.Gateway, err = c.gateway("network_gateway", w.NetworkGateway); err != nil {
		return nil, err
	}
	if out.AppTunnel, err = appTunnel(w.ApplicationTunnel); err != nil {
		return nil, err
	}
	if out.Services, err = s.memberships(w.Services); err != nil {
		return nil, err
	}
	if out.Policies, err = s.policyKeys(w.AuthorizationPolicies); err != nil {
		return nil, err
	}
	if out.Tunnel == mesh.HBONE && !s.isIdentity(out.Identity()) {
		return nil, fmt.Errorf("service_account: %q is not of a SPIFFE ID", out.Identity())
	}
	return out, nil
}

// within returns part, as a part of whole if it is the end of it: a pod's name
// is the end of its UID.
func within(whole, part string) string {
	if strings.HasSuffix(whole, part) {
		return whole[len(whole)-len(part):]
	}
	return part
}

// ownerKind returns the kind as baggage names it. One that is not known is a
// deployment, as Istio's node tunnel has it.
func ownerKind(t workloadapi.WorkloadType) string {
	switch t {
	case workloadapi.WorkloadType_CRONJOB:
		return "cronjob"
	case workloadapi.WorkloadType_POD:
		return "pod"
	case workloadapi.WorkloadType_JOB:
		return "job"
	}
	return "deployment"
}

// modes converts the fields that choose between ways of treating a workload: one
// that is not known would be treated in a wrong way.
func modes(w *workloadapi.Workload, out *mesh.Workload) error {
	switch w.TunnelProtocol {
	case workloadapi.TunnelProtocol_NONE:
	case workloadapi.TunnelProtocol_HBONE:
		out.Tunnel = mesh.HBONE
	default:
		return fmt.Errorf("tunnel_protocol: %v is not supported", w.TunnelProtocol)
	}
	switch w.Status {
	case workloadapi.WorkloadStatus_HEALTHY:
	case workloadapi.WorkloadStatus_UNHEALTHY:
		out.Unhealthy = true
	default:
		return fmt.Errorf("status: %v is not known", w.Status)
	}
	switch w.NetworkMode {
	case workloadapi.NetworkMode_STANDARD:
	case workloadapi.NetworkMode_HOST_NETWORK:
		out.HostNetwork = true
	default:
		return fmt.Errorf("network_mode: %v is not known", w.NetworkMode)
	}
	return nil
}

func addresses(in [][]byte) ([]netip.Addr, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]netip.Addr, len(in))
	for i, b := range in {
		ip, err := address(b)
		if err != nil {
			return nil, fmt.Errorf("addresses[%d]: %w", i, err)
		}
		out[i] = ip
	}
	return out, nil
}

func address(b []byte) (netip.Addr, error) {
	ip, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}, fmt.Errorf("an address of %d bytes", len(b))
	}
	return ip.Unmap(), nil
}

func port(field string, p uint32) (uint16, error) {
	if p > 65535 {
		return 0, fmt.Errorf("%s: %d is not a port", field, p)
	}
	return uint16(p), nil
}

func appTunnel(t *workloadapi.ApplicationTunnel) (*mesh.AppTunnel, error) {
	if t == nil {
		return nil, nil
	}
	if t.Protocol != workloadapi.ApplicationTunnel_NONE && t.Protocol != workloadapi.ApplicationTunnel_PROXY {
		return nil, fmt.Errorf("application_tunnel.protocol: %v is not known", t.Protocol)
	}
	p, err := port("application_tunnel.port", t.Port)
	if err != nil {
		return nil, err
	}
	return &mesh.AppTunnel{Proxy: t.Protocol == workloadapi.ApplicationTunnel_PROXY, Port: p}, nil
}

// gateway converts the address of a waypoint or a network gateway.
func (c *converter) gateway(field string, g *workloadapi.GatewayAddress) (*mesh.GatewayAddress, error) {
	if g == nil {
		return nil, nil
	}
	p, err := port(field+".hbone_mtls_port", g.HboneMtlsPort)
	if err != nil {
		return nil, err
	}
	out := mesh.GatewayAddress{Port: p}
	switch d := g.Destination.(type) {
	case *workloadapi.GatewayAddress_Hostname:
		out.Hostname = mesh.Hostname{Namespace: c.shared.text(d.Hostname.GetNamespace()), Host: c.shared.text(d.Hostname.GetHostname())}
		if out.Hostname.Host == "" {
			return nil, fmt.Errorf("%s.hostname: is empty", field)
		}
	case *workloadapi.GatewayAddress_Address:
		ip, err := address(d.Address.GetAddress())
		if err != nil {
			return nil, fmt.Errorf("%s.address: %w", field, err)
		}
		out.Address = mesh.Address{Network: c.shared.text(d.Address.GetNetwork()), IP: ip}
	default:
		return nil, fmt.Errorf("%s: has neither a hostname nor an address", field)
	}
	return c.shared.gateway(out), nil
}

// memberships converts what services a workload is of, and where it listens for
// each. Workloads of the same services share the map.
func (s *shared) memberships(in map[string]*workloadapi.PortList) (map[mesh.Hostname]mesh.Membership, error) {
	if len(in) == 0 {
		return nil, nil
	}
	key := s.membershipKey(in)
	if m, ok := s.members[string(key)]; ok {
		return m, nil
	}
	out := make(map[mesh.Hostname]mesh.Membership, len(in))
	for name, list := range in {
		ns, host, ok := strings.Cut(name, "/")
		if !ok || ns == "" || host == "" {
			return nil, fmt.Errorf("services[%q]: is not of the form namespace/hostname", name)
		}
		var m mesh.Membership
		for _, p := range list.GetPorts() {
			from, err := port("services["+name+"].service_port", p.GetServicePort())
			if err != nil {
				return nil, err
			}
			to, err := port("services["+name+"].target_port", p.GetTargetPort())
			if err != nil {
				return nil, err
			}
			if m.Ports == nil {
				m.Ports = make(map[uint16]uint16, len(list.Ports))
			}
			m.Ports[from] = to
		}
		out[mesh.Hostname{Namespace: s.text(ns), Host: s.text(host)}] = m
	}
	s.keepMembers(string(key), out)
	return out, nil
}

// policyKeys converts the names of policies that select a workload.
func (s *shared) policyKeys(in []string) ([]mesh.Key, error) {
	if len(in) == 0 {
		return nil, nil
	}
	list := strings.Join(in, "\n") // which no name has in it
	if keys, ok := s.policies[list]; ok {
		return keys, nil
	}
	out := make([]mesh.Key, len(in))
	for i, name := range in {
		ns, n, ok := strings.Cut(name, "/")
		if !ok || ns == "" || n == "" {
			return nil, fmt.Errorf("authorization_policies[%d]: %q is not of the form namespace/name", i, name)
		}
		out[i] = mesh.Key{Kind: authz.Kind, Namespace: s.text(ns), Name: s.text(n)}
	}
	s.keepPolicies(list, out)
	return out, nil
}

// isIdentity reports whether an identity is one that a certificate can have.
func (s *shared) isIdentity(id identity.ID) bool {
	ok, seen := s.identities[id]
	if !seen {
		got, err := identity.Parse(id.String())
		ok = err == nil && got == id
		s.keepIdentity(id, ok)
	}
	return ok
}
