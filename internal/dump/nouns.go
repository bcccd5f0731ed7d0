package dump

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A Workload has the fields of ztunnel's.
type Workload struct {
	UID                   string          `json:"uid"`
	WorkloadIPs           []string        `json:"workloadIps"`
	Hostname              string          `json:"hostname,omitempty"`
	Waypoint              *GatewayAddress `json:"waypoint,omitempty"`
	NetworkGateway        *GatewayAddress `json:"networkGateway,omitempty"`
	Protocol              string          `json:"protocol"`
	NetworkMode           string          `json:"networkMode"`
	Name                  string          `json:"name"`
	Namespace             string          `json:"namespace"`
	ServiceAccount        string          `json:"serviceAccount"`
	WorkloadName          string          `json:"workloadName"`
	WorkloadType          string          `json:"workloadType"`
	CanonicalName         string          `json:"canonicalName"`
	CanonicalRevision     string          `json:"canonicalRevision"`
	ClusterID             string          `json:"clusterId"`
	TrustDomain           string          `json:"trustDomain,omitempty"`
	Locality              *Locality       `json:"locality,omitempty"`
	Node                  string          `json:"node"`
	Network               string          `json:"network,omitempty"`
	NativeTunnel          bool            `json:"nativeTunnel,omitempty"`
	ApplicationTunnel     *AppTunnel      `json:"applicationTunnel,omitempty"`
	Status                string          `json:"status"`
	Services              []string        `json:"services"`
	AuthorizationPolicies []string        `json:"authorizationPolicies"`
	Capacity              uint32          `json:"capacity"`
}

// A GatewayAddress says where a waypoint is: "network/ip" or "namespace/host".
type GatewayAddress struct {
	Destination   string `json:"destination"`
	HBONEMTLSPort uint16 `json:"hboneMtlsPort"`
}

// A Locality is where a workload runs.
type Locality struct {
	Region  string `json:"region,omitempty"`
	Zone    string `json:"zone,omitempty"`
	Subzone string `json:"subzone,omitempty"`
}

// An AppTunnel is how a workload wants its traffic handed over.
type AppTunnel struct {
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port,omitempty"`
}

func gatewayAddress(g *mesh.GatewayAddress) *GatewayAddress {
	if g == nil {
		return nil
	}
	d := g.Hostname.String()
	if g.Address.IP.IsValid() {
		d = g.Address.Network + "/" + g.Address.IP.String()
	}
	return &GatewayAddress{d, g.Port}
}

func workload(w *mesh.Workload) Workload {
	out := Workload{
		UID: w.UID, WorkloadIPs: []string{}, Hostname: w.Hostname,
		Waypoint: gatewayAddress(w.Waypoint), NetworkGateway: gatewayAddress(w.Gateway),
		Protocol: w.Tunnel.String(), NetworkMode: "Standard", Name: w.Name, Namespace: w.Namespace, ServiceAccount: w.Identity().ServiceAccount,
		WorkloadName: w.OwnerName, WorkloadType: w.OwnerKind,
		CanonicalName: w.CanonicalName, CanonicalRevision: w.CanonicalRevision,
		ClusterID: w.ClusterID, TrustDomain: w.TrustDomain, Node: w.Node, Network: w.Network, NativeTunnel: w.NativeTunnel,
		Status: "Healthy", Services: []string{}, AuthorizationPolicies: []string{}, Capacity: max(1, w.Capacity),
	}
	if w.Unhealthy {
		out.Status = "Unhealthy"
	}
	if w.HostNetwork {
		out.NetworkMode = "HostNetwork"
	}
	if l := w.Locality; l != (mesh.Locality{}) {
		out.Locality = &Locality{l.Region, l.Zone, l.Subzone}
	}
	if a := w.AppTunnel; a != nil {
		out.ApplicationTunnel = &AppTunnel{"NONE", a.Port}
		if a.Proxy {
			out.ApplicationTunnel.Protocol = "PROXY"
		}
	}
	for _, ip := range w.Addresses {
		out.WorkloadIPs = append(out.WorkloadIPs, ip.String())
	}
	for host := range w.Services {
		out.Services = append(out.Services, host.String())
	}
	slices.Sort(out.Services)
	for _, k := range w.Policies {
		out.AuthorizationPolicies = append(out.AuthorizationPolicies, k.Namespace+"/"+k.Name)
	}
	return out
}

func workloads(snap *config.Snapshot) []Workload {
	out := []Workload{}
	for w := range snap.Workloads() {
		out = append(out, workload(w))
	}
	slices.SortFunc(out, func(a, b Workload) int { return cmp.Compare(a.UID, b.UID) })
	return out
}

// A Service has the fields of ztunnel's.
type Service struct {
	Name              string               `json:"name"`
	Namespace         string               `json:"namespace"`
	Hostname          string               `json:"hostname"`
	VIPs              []string             `json:"vips"`               // network/address
	CIDRVIPs          []string             `json:"cidrVips,omitempty"` // network/block
	Ports             map[string]uint16    `json:"ports"`
	Endpoints         map[string]*Endpoint `json:"endpoints"` // by UID
	SubjectAltNames   []string             `json:"subjectAltNames"`
	Waypoint          *GatewayAddress      `json:"waypoint,omitempty"`
	WeightedWaypoints []WeightedWaypoint   `json:"weightedWaypoints,omitempty"`
	LoadBalancer      *LoadBalancer        `json:"loadBalancer,omitempty"`
	IPFamilies        string               `json:"ipFamilies,omitempty"` // IPv4, IPv6, Dual
	Canonical         bool                 `json:"canonical"`
	Visibility        string               `json:"visibility"` // Public, Namespace
}

// A WeightedWaypoint is one of several that share a service's traffic.
type WeightedWaypoint struct {
	Destination *GatewayAddress `json:"destination"`
	Weight      uint32          `json:"weight"`
}

// Staged are the endpoints, by UID, of services that are not known yet, by
// namespace/hostname.
type Staged map[string]map[string]*Endpoint

// An Endpoint is a workload of a service, and where it listens.
type Endpoint struct {
	WorkloadUID string            `json:"workloadUid"`
	Service     string            `json:"service"`
	Port        map[string]uint16 `json:"port"`
	Status      string            `json:"status"`
}

// A LoadBalancer is how a service spreads its traffic.
type LoadBalancer struct {
	Mode               string   `json:"mode"`
	RoutingPreferences []string `json:"routingPreferences"`
	HealthPolicy       string   `json:"healthPolicy"`
}

// services tells the services, and what there is of those that are not known.
func services(snap *config.Snapshot) ([]Service, Staged) {
	out, staged := []Service{}, Staged{}
	index := map[mesh.Hostname]*mesh.Service{}
	for s := range snap.Services() {
		index[s.Host()] = s
		out = append(out, service(s))
	}
	slices.SortFunc(out, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Hostname, b.Hostname))
	})
	at := map[string]int{}
	for i := range out {
		at[out[i].Namespace+"/"+out[i].Hostname] = i
	}
	for w := range snap.Workloads() {
		for host := range w.Services {
			if s := index[host]; s != nil {
				out[at[host.String()]].Endpoints[w.UID] = endpoint(s, w)
				continue
			}
			name := host.String()
			if staged[name] == nil {
				staged[name] = map[string]*Endpoint{}
			}
			staged[name][w.UID] = endpoint(&mesh.Service{Namespace: host.Namespace, Hostname: host.Host}, w)
		}
	}
	return out, staged
}

func service(s *mesh.Service) Service {
	out := Service{
		Name: s.Name, Namespace: s.Namespace, Hostname: s.Hostname, VIPs: []string{}, Ports: map[string]uint16{},
		Endpoints: map[string]*Endpoint{}, SubjectAltNames: append([]string{}, s.SANs...), Waypoint: gatewayAddress(s.Waypoint),
		IPFamilies: families[s.Families], Canonical: s.Canonical, Visibility: "Public",
	}
	if s.Private {
		out.Visibility = "Namespace"
	}
	for i := range s.Canary {
		out.WeightedWaypoints = append(out.WeightedWaypoints, WeightedWaypoint{gatewayAddress(&s.Canary[i].Waypoint), s.Canary[i].Weight})
	}
	for _, a := range s.Addresses {
		if a.Prefix.IsSingleIP() {
			out.VIPs = append(out.VIPs, a.Network+"/"+a.Prefix.Addr().String())
		} else {
			out.CIDRVIPs = append(out.CIDRVIPs, a.Network+"/"+a.Prefix.String())
		}
	}
	for _, p := range s.Ports {
		out.Ports[strconv.Itoa(int(p.Service))] = p.Target
	}
	if b := s.Balance; b.Mode != mesh.Standard || b.AllowUnhealthy {
		out.LoadBalancer = loadBalancer(b)
	}
	return out
}

func endpoint(s *mesh.Service, w *mesh.Workload) *Endpoint {
	e := &Endpoint{WorkloadUID: w.UID, Service: s.Host().String(), Port: map[string]uint16{}, Status: "Healthy"}
	for p, t := range w.Services[s.Host()].Ports {
		e.Port[strconv.Itoa(int(p))] = t
	}
	for _, p := range s.Ports {
		if t := s.TargetPort(w, p.Service); t != 0 {
			e.Port[strconv.Itoa(int(p.Service))] = t
		}
	}
	if w.Unhealthy {
		e.Status = "Unhealthy"
	}
	return e
}

var (
	modes    = map[mesh.BalanceMode]string{mesh.Standard: "Standard", mesh.Strict: "Strict", mesh.Failover: "Failover", mesh.Passthrough: "Passthrough"}
	families = map[mesh.IPFamilies]string{mesh.IPv4Only: "IPv4", mesh.IPv6Only: "IPv6", mesh.DualStack: "Dual"}
	scopes   = map[mesh.Scope]string{mesh.Region: "Region", mesh.Zone: "Zone", mesh.Subzone: "Subzone", mesh.Node: "Node", mesh.Cluster: "Cluster", mesh.Network: "Network"}
)

func loadBalancer(b mesh.Balance) *LoadBalancer {
	l := &LoadBalancer{Mode: modes[b.Mode], RoutingPreferences: []string{}, HealthPolicy: "OnlyHealthy"}
	for _, s := range b.Preference {
		l.RoutingPreferences = append(l.RoutingPreferences, scopes[s])
	}
	if b.AllowUnhealthy {
		l.HealthPolicy = "AllowAll"
	}
	return l
}

func sortedServices(snap *config.Snapshot) []*mesh.Service {
	return slices.SortedFunc(snap.Services(), func(a, b *mesh.Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Hostname, b.Hostname))
	})
}
