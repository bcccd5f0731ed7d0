// Package mesh holds the nouns of the mesh: workloads, services, and what
// names them. They are Istio's workload API in plain Go, whichever source they
// came from. A value is immutable once it is published; the same pointer means
// that nothing changed.
package mesh

import (
	"net/netip"
	"strings"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// A Key names a resource: for a workload, Kind "Workload" and Name its UID; for
// a service, Kind "Service", its namespace and its hostname; for a policy or
// route, its Kubernetes kind, namespace and name.
type Key struct{ Kind, Namespace, Name string }

func (k Key) String() string { return k.Kind + "/" + k.Namespace + "/" + k.Name }

// An Address is an IP address in a network. Two networks may use the same IP.
type Address struct {
	Network string
	IP      netip.Addr
}

// A Hostname names a service: Kubernetes namespaces may share a host name.
type Hostname struct{ Namespace, Host string }

func (h Hostname) String() string { return h.Namespace + "/" + h.Host }

// A TunnelProtocol says how a workload is reached.
type TunnelProtocol uint8

// The ways to reach a workload (istio.workload.TunnelProtocol).
const (
	Plain TunnelProtocol = iota // NONE: plain TCP
	HBONE                       // CONNECT over mTLS on port 15008
)

func (p TunnelProtocol) String() string {
	if p == HBONE {
		return "HBONE"
	}
	return "TCP"
}

// An AppProtocol is what a service port declares to carry.
type AppProtocol uint8

// The application protocols (spec of istio.workload.AppProtocol, and
// Undeclared for a port that says nothing: it is sniffed).
const (
	Undeclared AppProtocol = iota
	HTTP1
	HTTP2
	GRPC
	TCP
	TLS
)

func (p AppProtocol) String() string {
	return [...]string{"undeclared", "http", "http2", "grpc", "tcp", "tls"}[p]
}

// IsHTTP reports whether the port declares a kind of HTTP.
func (p AppProtocol) IsHTTP() bool { return p == HTTP1 || p == HTTP2 || p == GRPC }

// A Port is one port of a service.
type Port struct {
	Name     string
	Service  uint16 // what clients dial
	Target   uint16 // where endpoints listen; 0: see Membership.Ports
	Protocol AppProtocol
}

// A GatewayAddress says where a waypoint or network gateway is: by the
// hostname of a service, or by address.
type GatewayAddress struct {
	Hostname Hostname // zero when Address is set
	Address  Address
	Port     uint16 // HBONE port, normally 15008
}

// A Workload is what runs at an address: a pod, or a workload entry.
type Workload struct {
	UID            string // "Kubernetes//Pod/default/web-1"
	Name           string
	Namespace      string
	ServiceAccount string // "" is "default"
	TrustDomain    string // "" is the mesh's
	ClusterID      string
	Network        string
	Node           string
	Addresses      []netip.Addr
	Hostname       string // a workload known by DNS only

	CanonicalName     string
	CanonicalRevision string
	OwnerKind         string // "deployment", "pod", "job", "cronjob": names the baggage key
	OwnerName         string // istio's workload_name

	Tunnel        TunnelProtocol
	NativeTunnel  bool // the application speaks HBONE itself (a waypoint)
	HostNetwork   bool // its address is the node's; not found by address
	Unhealthy     bool
	Waypoint      *GatewayAddress // for workload-addressed traffic
	Gateway       *GatewayAddress // network gateway
	AppTunnel     *AppTunnel
	Services      map[Hostname]Membership
	Policies      []Key // L4 policies that select it; GLOBAL and NAMESPACE ones are not listed
	Locality      Locality
	Capacity      uint32 // weight; 0 is 1
	IsWaypointFor *Key   // the Gateway this workload serves, if it is a waypoint of ours

	// Resolv is what its own resolv.conf says; nil: what is usual in the cluster,
	// or not known.
	Resolv *Resolv
}

// A Resolv is how a workload's stub resolver makes names whole, as its pod's
// dnsPolicy and dnsConfig have it.
type Resolv struct {
	Search []string // domains, lower case, without the last dot
	Ndots  int      // a name with as many dots is asked for as it is first
}

// Membership is a workload's part in a service: its port map.
type Membership struct {
	Ports map[uint16]uint16 // service port → target port, where it differs by endpoint
}

// A Locality is where a workload runs.
type Locality struct{ Region, Zone, Subzone string }

// An AppTunnel is how a workload wants its traffic handed over
// (istio.workload.ApplicationTunnel).
type AppTunnel struct {
	Proxy bool // with a PROXY protocol v2 header
	Port  uint16
}

// Identity returns the workload's SPIFFE ID. TrustDomain must be set; sources
// fill in the mesh's.
func (w *Workload) Identity() identity.ID {
	sa := w.ServiceAccount
	if sa == "" {
		sa = "default"
	}
	return identity.ID{TrustDomain: w.TrustDomain, Namespace: w.Namespace, ServiceAccount: sa}
}

// A Service is a set of workloads behind a name and, mostly, addresses.
type Service struct {
	Name      string
	Namespace string
	Hostname  string // "reviews.default.svc.cluster.local"
	Addresses []Prefix
	Ports     []Port
	SANs      []string // further identities accepted from its endpoints, as SPIFFE IDs
	Waypoint  *GatewayAddress
	Canary    []WeightedWaypoint
	Canonical bool // the Kubernetes Service rather than a ServiceEntry of that name
	Private   bool // visibility NAMESPACE
	Balance   Balance
	Families  IPFamilies
}

// A Prefix is a VIP, or a block of them, in a network.
type Prefix struct {
	Network string
	Prefix  netip.Prefix
}

// Waypoints returns all waypoints that the service may be reached by.
func (s *Service) Waypoints() []*GatewayAddress {
	var out []*GatewayAddress
	if s.Waypoint != nil {
		out = append(out, s.Waypoint)
	}
	for i := range s.Canary {
		out = append(out, &s.Canary[i].Waypoint)
	}
	return out
}

// A WeightedWaypoint is one of several waypoints that share a service's traffic.
type WeightedWaypoint struct {
	Waypoint GatewayAddress
	Weight   uint32
}

// IPFamilies says which families a service's endpoints are addressed by.
type IPFamilies uint8

// The IP families (istio.workload.IPFamilies).
const (
	AnyFamily IPFamilies = iota
	IPv4Only
	IPv6Only
	DualStack
)

// Balance is how a service spreads its traffic (istio.workload.LoadBalancing).
type Balance struct {
	Mode           BalanceMode
	Preference     []Scope
	AllowUnhealthy bool
}

// A BalanceMode says what Preference means.
type BalanceMode uint8

// The balance modes.
const (
	Standard    BalanceMode = iota // any endpoint
	Strict                         // only endpoints that match every Preference
	Failover                       // those that match the most
	Passthrough                    // the address the client dialled
)

// A Scope is one step of locality.
type Scope uint8

// The scopes (istio.workload.LoadBalancing.Scope).
const (
	Region Scope = iota + 1
	Zone
	Subzone
	Node
	Cluster
	Network
)

// Key returns the key a source stores s under.
func (s *Service) Key() Key { return Key{"Service", s.Namespace, s.Hostname} }

// Key returns the key a source stores w under.
func (w *Workload) Key() Key { return Key{"Workload", "", w.UID} }

// Host returns the service's name as workloads list it.
func (s *Service) Host() Hostname { return Hostname{s.Namespace, s.Hostname} }

// Port returns the service port p, or nil.
func (s *Service) Port(p uint16) *Port {
	for i := range s.Ports {
		if s.Ports[i].Service == p {
			return &s.Ports[i]
		}
	}
	return nil
}

// TargetPort returns where w listens for port p of the service, or 0 when it
// does not.
func (s *Service) TargetPort(w *Workload, p uint16) uint16 {
	m, ok := w.Services[s.Host()]
	if !ok {
		return 0
	}
	if t := m.Ports[p]; t != 0 {
		return t
	}
	if port := s.Port(p); port != nil {
		return port.Target
	}
	return 0
}

// ShortName returns the first label of the hostname.
func (s *Service) ShortName() string {
	name, _, _ := strings.Cut(s.Hostname, ".")
	return name
}
