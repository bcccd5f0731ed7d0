package xds

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

// checkWorkload checks that an update is what w says, which protobuf has read;
// or an error, if it says what cannot be.
func checkWorkload(t *testing.T, u config.Update, name string, w *workloadapi.Workload) {
	t.Helper()
	want, why := asPlain(name, w)
	if (why != "") != (u.Err != nil) {
		t.Fatalf("got %+v, %v, want an error: %q: %v", u.Value, u.Err, why, w)
	}
	if u.Err == nil && !reflect.DeepEqual(u.Value, want) {
		t.Fatalf("got %+v, want %+v", u.Value, want)
	}
}

// asPlain says slowly and plainly what the converter says, or why it says nothing.
func asPlain(name string, w *workloadapi.Workload) (out *mesh.Workload, why string) {
	or := func(s, otherwise string) string {
		if s == "" {
			return otherwise
		}
		return s
	}
	kinds := map[workloadapi.WorkloadType]string{workloadapi.WorkloadType_CRONJOB: "cronjob", workloadapi.WorkloadType_POD: "pod", workloadapi.WorkloadType_JOB: "job"}
	out = &mesh.Workload{
		UID: w.Uid, Name: w.Name, Namespace: w.Namespace, ServiceAccount: or(w.ServiceAccount, "default"), TrustDomain: or(w.TrustDomain, "cluster.local"),
		ClusterID: or(w.ClusterId, "Kubernetes"), Network: w.Network, Node: w.Node, Hostname: w.Hostname,
		CanonicalName: w.CanonicalName, CanonicalRevision: w.CanonicalRevision, OwnerKind: or(kinds[w.WorkloadType], "deployment"), OwnerName: w.WorkloadName,
		Tunnel: mesh.TunnelProtocol(w.TunnelProtocol), NativeTunnel: w.NativeTunnel, HostNetwork: w.NetworkMode == 1, Unhealthy: w.Status == 1,
		Locality: mesh.Locality{Region: w.Locality.GetRegion(), Zone: w.Locality.GetZone(), Subzone: w.Locality.GetSubzone()},
		Capacity: w.Capacity.GetValue(),
	}
	if w.Uid == "" || w.Uid != name || w.TunnelProtocol&^1 != 0 || w.NetworkMode&^1 != 0 || w.Status&^1 != 0 {
		return nil, "uid or modes"
	}
	for _, b := range w.Addresses {
		ip, ok := netip.AddrFromSlice(b)
		if !ok {
			return nil, "addresses"
		}
		out.Addresses = append(out.Addresses, ip.Unmap())
	}
	var c converter
	var err error
	if w.Waypoint != nil {
		if out.Waypoint, err = c.gateway("", w.Waypoint); err != nil {
			return nil, err.Error()
		}
	}
	if w.NetworkGateway != nil {
		if out.Gateway, err = c.gateway("", w.NetworkGateway); err != nil {
			return nil, err.Error()
		}
	}
	if w.ApplicationTunnel != nil {
		if out.AppTunnel, err = appTunnel(w.ApplicationTunnel); err != nil {
			return nil, err.Error()
		}
	}
	for key, list := range w.Services {
		ns, host, ok := strings.Cut(key, "/")
		m, err := membership("", list)
		if !ok || ns == "" || host == "" || err != nil {
			return nil, "services"
		}
		if out.Services == nil {
			out.Services = map[mesh.Hostname]mesh.Membership{}
		}
		out.Services[mesh.Hostname{Namespace: ns, Host: host}] = m
	}
	for _, p := range w.AuthorizationPolicies {
		ns, n, ok := strings.Cut(p, "/")
		if !ok || ns == "" || n == "" {
			return nil, "policies"
		}
		out.Policies = append(out.Policies, mesh.Key{Kind: authz.Kind, Namespace: ns, Name: n})
	}
	if _, err := identity.Parse(out.Identity().String()); out.Tunnel == mesh.HBONE && err != nil {
		return nil, err.Error()
	}
	return out, ""
}

// everything returns a workload that has all there is.
func everything() *workloadapi.Workload {
	host := &workloadapi.GatewayAddress_Hostname{Hostname: &workloadapi.NamespacedHostname{Namespace: "ns", Hostname: "wp.ns"}}
	ip := &workloadapi.GatewayAddress_Address{Address: &workloadapi.NetworkAddress{Network: "n2", Address: []byte{10, 0, 0, 1}}}
	return &workloadapi.Workload{
		Uid: uid("a"), Name: "a", Namespace: "ns", Addresses: [][]byte{{10, 0, 0, 2}, netip.MustParseAddr("fd00::1").AsSlice()}, Network: "n1",
		TunnelProtocol: 1, TrustDomain: "td", ServiceAccount: "sa", Waypoint: &workloadapi.GatewayAddress{Destination: host, HboneMtlsPort: 15008},
		Node: "node", CanonicalName: "c", CanonicalRevision: "v1", WorkloadType: workloadapi.WorkloadType_JOB, WorkloadName: "w", NativeTunnel: true,
		AuthorizationPolicies: []string{"ns/p", "ns/q"}, Status: 1, ClusterId: "cl", NetworkGateway: &workloadapi.GatewayAddress{Destination: ip}, Hostname: "h",
		Services:          map[string]*workloadapi.PortList{"ns/a.ns": {Ports: []*workloadapi.Port{{ServicePort: 80, TargetPort: 81}}}, "ns/b.ns": {}, "ns/c.ns": nil},
		ApplicationTunnel: &workloadapi.ApplicationTunnel{Protocol: 1, Port: 15088}, Locality: &workloadapi.Locality{Region: "r", Zone: "z", Subzone: "s"},
		NetworkMode: 1, Capacity: wrapperspb.UInt32(7), Extensions: []*workloadapi.Extension{{Name: "x"}},
	}
}

func TestWorkloadIsReadAsProtobufDoes(t *testing.T) {
	one, err := proto.Marshal(&workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: everything()}})
	if err != nil {
		t.Fatal(err)
	}
	other, err := proto.Marshal(&workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: &workloadapi.Workload{
		Uid: uid("a"), Locality: &workloadapi.Locality{Zone: "z2"}, Addresses: [][]byte{{10, 0, 0, 3}}, Capacity: wrapperspb.UInt32(0),
		Waypoint: &workloadapi.GatewayAddress{HboneMtlsPort: 1}, Services: map[string]*workloadapi.PortList{"ns/a.ns": {}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	service := []byte{0x12, 0x00}
	for i, wire := range [][]byte{one, other, concat(one, other), concat(one, one), concat(one, service, other), concat(other, service), concat(service, one)} {
		var a workloadapi.Address
		if err := proto.Unmarshal(wire, &a); err != nil {
			t.Fatal(err)
		}
		var c converter
		for range 2 { // as new, and as known
			u := c.address(uid("a"), wire)
			if w := a.GetWorkload(); w != nil {
				checkWorkload(t, u, uid("a"), w)
			} else if u.Err == nil || u.Key.Kind != "Service" {
				t.Errorf("%d: got %+v", i, u)
			}
		}
	}
}

func concat(all ...[]byte) (out []byte) {
	for _, b := range all {
		out = append(out, b...)
	}
	return out
}

// What protobuf has nothing to do with, for one wrong byte, is an error here too.
func TestWorkloadIsReadAsStrictly(t *testing.T) {
	w := everything()
	w.Extensions = nil // which nobody reads
	whole, err := proto.Marshal(&workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: w}})
	if err != nil {
		t.Fatal(err)
	}
	wrong := 0
	for i := range whole {
		for _, b := range []byte{0xff, 0x7f, 0x00} {
			wire := slices.Clone(whole)
			wire[i] = b
			if proto.Unmarshal(wire, new(workloadapi.Address)) == nil {
				continue
			}
			wrong++
			var c converter
			if u := c.address(uid("a"), wire); u.Err == nil {
				t.Errorf("byte %d is %#x: got %+v", i, b, u.Value)
			}
		}
	}
	if wrong < len(whole) {
		t.Errorf("only %d of %d bytes were wrong", wrong, len(whole))
	}
}
