package xds

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

// A converter turns what is on the wire into resources. It is used by one
// goroutine.
type converter struct {
	root     string // the root namespace
	shared   shared
	workload wireWorkload // to be used again
}

// address converts an istio.workload.Address. The update always has a key.
func (c *converter) address(name string, wire []byte) config.Update {
	u := config.Update{Key: aWorkload.key(name, "")}
	if strings.Count(name, "/") == 1 {
		u.Key = aService.key(name, "")
	}
	asWorkload, asService, err := readAddress(wire)
	switch {
	case err != nil:
		u.Err = err
	case asWorkload != nil:
		u.Key = aWorkload.key(name, "")
		if w, err := c.readWorkload(name, asWorkload); err != nil {
			u.Err = err
		} else {
			u.Value = w
		}
	default:
		u.Key = aService.key(name, "")
		if s, err := c.readService(name, asService); err != nil {
			u.Err = err
		} else {
			u.Value = s
		}
	}
	return u
}

// readWorkload converts a workload. Its error names a field.
func (c *converter) readWorkload(name string, wire []byte) (*mesh.Workload, error) {
	w, s := &c.workload, &c.shared
	if err := w.read(wire); err != nil {
		return nil, err
	}
	if len(w.uid) == 0 || string(w.uid) != name {
		return nil, fmt.Errorf("uid: %q is not the name of the resource", w.uid)
	}
	if !utf8.Valid(w.uid) || !utf8.Valid(w.name) {
		return nil, errUTF8
	}
	s.notText = false
	out := &mesh.Workload{
		UID:               name,
		Name:              within(name, w.name),
		Namespace:         s.bytes(w.namespace),
		ServiceAccount:    s.or(w.serviceAccount, "default"),
		TrustDomain:       s.or(w.trustDomain, "cluster.local"),
		ClusterID:         s.or(w.clusterID, "Kubernetes"),
		Network:           s.bytes(w.network),
		Node:              s.bytes(w.node),
		Hostname:          s.bytes(w.hostname),
		CanonicalName:     s.bytes(w.canonicalName),
		CanonicalRevision: s.bytes(w.canonicalRevision),
		OwnerKind:         ownerKind(w.kind),
		OwnerName:         s.bytes(w.workloadName),
		NativeTunnel:      w.nativeTunnel,
	}
	if s.notText {
		return nil, errUTF8
	}
	var err error
	if out.Addresses, err = addresses(w.addresses); err != nil {
		return nil, err
	}
	if err := modes(w, out); err != nil {
		return nil, err
	}
	if err := c.messages(w, out); err != nil {
		return nil, err
	}
	if out.Services, err = s.memberships(w.services); err != nil {
		return nil, err
	}
	if out.Policies, err = s.policyKeys(w.policies); err != nil {
		return nil, err
	}
	if out.Tunnel == mesh.HBONE && !s.isIdentity(out.Identity()) {
		return nil, fmt.Errorf("service_account: %q is not of a SPIFFE ID", out.Identity())
	}
	return out, nil
}

// within returns part, as a part of whole if it is the end of it: a pod's name
// is the end of its UID.
func within(whole string, part []byte) string {
	if at := len(whole) - len(part); at >= 0 && whole[at:] == string(part) {
		return whole[at:]
	}
	return string(part)
}

// messages converts those fields that are messages.
func (c *converter) messages(w *wireWorkload, out *mesh.Workload) (err error) {
	if out.Waypoint, err = c.readGateway("waypoint", w.waypoint); err != nil {
		return err
	}
	if out.Gateway, err = c.readGateway("network_gateway", w.gateway); err != nil {
		return err
	}
	if out.Locality, err = c.shared.locality(w.locality); err != nil {
		return err
	}
	if w.appTunnel != nil {
		var t workloadapi.ApplicationTunnel
		if err := proto.Unmarshal(w.appTunnel, &t); err != nil {
			return err
		}
		if out.AppTunnel, err = appTunnel(&t); err != nil {
			return err
		}
	}
	if w.capacity != nil {
		var n wrapperspb.UInt32Value
		if err := proto.Unmarshal(w.capacity, &n); err != nil {
			return err
		}
		out.Capacity = n.Value
	}
	return nil
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
func modes(w *wireWorkload, out *mesh.Workload) error {
	switch w.tunnel {
	case workloadapi.TunnelProtocol_NONE:
	case workloadapi.TunnelProtocol_HBONE:
		out.Tunnel = mesh.HBONE
	default:
		return fmt.Errorf("tunnel_protocol: %v is not supported", w.tunnel)
	}
	switch w.status {
	case workloadapi.WorkloadStatus_HEALTHY:
	case workloadapi.WorkloadStatus_UNHEALTHY:
		out.Unhealthy = true
	default:
		return fmt.Errorf("status: %v is not known", w.status)
	}
	switch w.networkMode {
	case workloadapi.NetworkMode_STANDARD:
	case workloadapi.NetworkMode_HOST_NETWORK:
		out.HostNetwork = true
	default:
		return fmt.Errorf("network_mode: %v is not known", w.networkMode)
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
	if t.Protocol != workloadapi.ApplicationTunnel_NONE && t.Protocol != workloadapi.ApplicationTunnel_PROXY {
		return nil, fmt.Errorf("application_tunnel.protocol: %v is not known", t.Protocol)
	}
	p, err := port("application_tunnel.port", t.Port)
	if err != nil {
		return nil, err
	}
	return &mesh.AppTunnel{Proxy: t.Protocol == workloadapi.ApplicationTunnel_PROXY, Port: p}, nil
}

// readGateway is gateway of what is on the wire; nil: there is none.
func (c *converter) readGateway(field string, wire []byte) (*mesh.GatewayAddress, error) {
	if wire == nil {
		return nil, nil
	}
	if known := c.shared.wireGateways[string(wire)]; known != nil {
		return known, nil
	}
	var g workloadapi.GatewayAddress
	if err := proto.Unmarshal(wire, &g); err != nil {
		return nil, err
	}
	out, err := c.gateway(field, &g)
	if err == nil {
		keep(&c.shared.wireGateways, string(wire), out)
	}
	return out, err
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
