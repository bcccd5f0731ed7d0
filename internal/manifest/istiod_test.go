package manifest

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// testdata/istiod holds manifests and what a real istiod told its ztunnels of
// them, less what is about kinds that we do not read. ours must say the same.

type wdsService struct {
	Name, Namespace, Hostname string
	Addresses                 []struct {
		Network string
		Address []byte
	}
	Ports []struct {
		ServicePort, TargetPort uint16
		AppProtocol             string
	}
	Waypoint      *wdsGateway
	LoadBalancing struct {
		RoutingPreference []string
		Mode              string
	}
	IPFamilies string
	Canonical  bool
}

type wdsGateway struct {
	Hostname      struct{ Namespace, Hostname string }
	HboneMtlsPort uint16
}

type wdsWorkload struct {
	UID, Name, Namespace, ServiceAccount, Node, ClusterID string
	Addresses                                             [][]byte
	TunnelProtocol                                        string
	CanonicalName, CanonicalRevision                      string
	WorkloadType, WorkloadName                            string
	Waypoint                                              *wdsGateway
	Services                                              map[string]struct {
		Ports []struct{ ServicePort, TargetPort uint16 }
	}
	AuthorizationPolicies []string
	Locality              mesh.Locality
	Status                string
}

func TestEqualsIstiod(t *testing.T) {
	x := NewIndex(Options{ByLabel: true})
	data := readFile(t, "testdata/istiod/manifests.yaml")
	f := Decode("manifests.yaml", data)
	for _, e := range f.Errors {
		t.Error(e)
	}
	for _, o := range f.Objects {
		if o.Err != nil {
			t.Error(o.Err)
		}
		x.Set(o)
	}
	var want []struct {
		Service  *wdsService
		Workload *wdsWorkload
	}
	if err := json.Unmarshal(readFile(t, "testdata/istiod/address.json"), &want); err != nil {
		t.Fatal(err)
	}
	services, workloads := 0, 0
	resources := x.Resources()
	for _, r := range want {
		if w := r.Service; w != nil {
			services++
			key := mesh.Key{Kind: "Service", Namespace: w.Namespace, Name: w.Hostname}
			got, _ := resources[key].(*mesh.Service)
			if got == nil {
				t.Errorf("no service %s", key)
				continue
			}
			equal(t, key.String(), *got, w.mesh(t))
		}
		if w := r.Workload; w != nil {
			workloads++
			key := mesh.Key{Kind: "Workload", Name: w.UID}
			got, _ := resources[key].(*mesh.Workload)
			if got == nil {
				t.Errorf("no workload %s", key)
				continue
			}
			is := *got
			if is.IsWaypointFor != nil { // our own, which istiod leaves to the proxies to find out
				is.IsWaypointFor, is.NativeTunnel = nil, false
			}
			equal(t, key.String(), is, w.mesh(t, is.Services))
			w.ports(t, got, x)
		}
	}
	if services < 14 || workloads < 17 {
		t.Errorf("compared %d services and %d workloads", services, workloads)
	}
	compareRest(t, resources, services+workloads)
}

// compareRest checks that there is nothing that istiod does not have, and that
// its policies for ztunnels are here.
func compareRest(t *testing.T, resources map[mesh.Key]config.Resource, addresses int) {
	t.Helper()
	for key := range resources {
		if key.Kind == "Service" || key.Kind == "Workload" {
			addresses--
		}
	}
	if addresses != 0 {
		t.Errorf("%d services and workloads more than istiod has", -addresses)
	}
	var want []struct{ Name, Namespace, Action string }
	if err := json.Unmarshal(readFile(t, "testdata/istiod/authorization.json"), &want); err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		p, _ := resources[mesh.Key{Kind: authz.Kind, Namespace: w.Namespace, Name: w.Name}].(*authz.Policy)
		switch {
		case p == nil:
			t.Errorf("no policy %s/%s", w.Namespace, w.Name)
		case p.Action.String() != cmp.Or(w.Action, "ALLOW") || p.Selector == nil:
			t.Errorf("got %s", render(p))
		}
	}
}

func (w *wdsService) mesh(t *testing.T) mesh.Service {
	out := mesh.Service{
		Name: w.Name, Namespace: w.Namespace, Hostname: w.Hostname, Canonical: w.Canonical, Waypoint: w.Waypoint.mesh(),
		Families: map[string]mesh.IPFamilies{"": mesh.AnyFamily, "IPV4_ONLY": mesh.IPv4Only}[w.IPFamilies],
	}
	for _, a := range w.Addresses {
		ip, ok := netip.AddrFromSlice(a.Address)
		if !ok {
			t.Fatalf("%s: address %v", w.Hostname, a.Address)
		}
		out.Addresses = append(out.Addresses, mesh.Prefix{Network: a.Network, Prefix: netip.PrefixFrom(ip, ip.BitLen())})
	}
	protocols := map[string]mesh.AppProtocol{"": mesh.Undeclared, "HTTP11": mesh.HTTP1, "HTTP2": mesh.HTTP2, "GRPC": mesh.GRPC, "TCP": mesh.TCP, "TLS": mesh.TLS}
	for _, p := range w.Ports {
		out.Ports = append(out.Ports, mesh.Port{Service: p.ServicePort, Target: p.TargetPort, Protocol: protocols[p.AppProtocol]})
	}
	out.Balance.Mode = map[string]mesh.BalanceMode{"": mesh.Standard, "STRICT": mesh.Strict, "FAILOVER": mesh.Failover}[w.LoadBalancing.Mode]
	scopes := []string{"", "REGION", "ZONE", "SUBZONE", "NODE", "CLUSTER", "NETWORK"}
	for _, p := range w.LoadBalancing.RoutingPreference {
		out.Balance.Preference = append(out.Balance.Preference, mesh.Scope(slices.Index(scopes, p)))
	}
	return out
}

func (g *wdsGateway) mesh() *mesh.GatewayAddress {
	if g == nil {
		return nil
	}
	return &mesh.GatewayAddress{Hostname: mesh.Hostname{Namespace: g.Hostname.Namespace, Host: g.Hostname.Hostname}, Port: g.HboneMtlsPort}
}

func (w *wdsWorkload) mesh(t *testing.T, services map[mesh.Hostname]mesh.Membership) mesh.Workload {
	out := mesh.Workload{
		UID: w.UID, Name: w.Name, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount, Node: w.Node, ClusterID: w.ClusterID,
		TrustDomain:   "cluster.local",
		CanonicalName: w.CanonicalName, CanonicalRevision: w.CanonicalRevision,
		OwnerKind: strings.ToLower(cmp.Or(w.WorkloadType, "DEPLOYMENT")), OwnerName: w.WorkloadName,
		Waypoint: w.Waypoint.mesh(), Locality: w.Locality, Unhealthy: w.Status == "UNHEALTHY",
	}
	if w.TunnelProtocol == "HBONE" {
		out.Tunnel = mesh.HBONE
	}
	for _, a := range w.Addresses {
		ip, ok := netip.AddrFromSlice(a)
		if !ok {
			t.Fatalf("%s: address %v", w.UID, a)
		}
		out.Addresses = append(out.Addresses, ip)
	}
	for _, p := range w.AuthorizationPolicies {
		ns, name, _ := strings.Cut(p, "/")
		out.Policies = append(out.Policies, mesh.Key{Kind: authz.Kind, Namespace: ns, Name: name})
	}
	for name := range w.Services {
		ns, host, _ := strings.Cut(name, "/")
		if out.Services == nil {
			out.Services = map[mesh.Hostname]mesh.Membership{}
		}
		out.Services[mesh.Hostname{Namespace: ns, Host: host}] = services[mesh.Hostname{Namespace: ns, Host: host}]
	}
	return out
}

// ports compares where the workload listens: istiod says it for every port, we
// only where it is not the same for all endpoints.
func (w *wdsWorkload) ports(t *testing.T, got *mesh.Workload, x *Index) {
	for name, in := range w.Services {
		ns, host, _ := strings.Cut(name, "/")
		s, _ := x.resources[mesh.Key{Kind: "Service", Namespace: ns, Name: host}].(*mesh.Service)
		if s == nil {
			t.Errorf("%s: no service %s", w.UID, name)
			continue
		}
		for _, p := range in.Ports {
			if is := s.TargetPort(got, p.ServicePort); is != p.TargetPort {
				t.Errorf("%s: %s:%d is %d, want %d", w.UID, name, p.ServicePort, is, p.TargetPort)
			}
		}
	}
}

func equal(t *testing.T, name string, got, want any) {
	t.Helper()
	if s, ok := got.(mesh.Service); ok { // istiod does not tell names of ports
		s.Ports = slices.Clone(s.Ports)
		for i := range s.Ports {
			s.Ports[i].Name = ""
		}
		got = s
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\ngot  %s\nwant %s", name, render(got), render(want))
	}
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
