package config

import (
	"iter"
	"net/netip"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// A Snapshot is everything that is known, at one moment. It is immutable and
// safe for concurrent use; looking something up allocates nothing. The zero
// Snapshot is that of an empty mesh.
//
// Load it once per request and let it go; across requests hold a *Destination.
type Snapshot struct {
	version   uint64
	services  cow[mesh.Hostname, *serviceView]
	hosts     cow[string, []*serviceView]       // wildcards under what follows their "*"
	vips      cow[mesh.Address, []*serviceView] // single addresses
	blocks    cow[mesh.Prefix, []*serviceView]  // CIDRs
	lengths   []prefixLength                    // the lengths in blocks, longest first
	workloads table[uidKey, Destination]
	addresses table[addressKey, Destination] // of workloads: the one that is preferred there
	nodes     cow[string, []*mesh.Workload]

	mesh     *Mesh
	policies []*authz.Policy
	tokens   []*jwt.RequestAuthentication
	sources  map[jwt.Source]time.Duration
	routes   []*routing.Route
	gateways []*Gateway
}

// Version returns a number that no other snapshot of the Store has: whoever
// looked something up keeps it to know when to look again, without keeping the
// snapshot.
func (s *Snapshot) Version() uint64 { return s.version }

// A serviceView is a service with its destinations. Lists of views are in
// order of preference: canonical first, then by name.
type serviceView struct {
	service *mesh.Service
	ports   []*Destination // in the order of service.Ports
	other   *Destination   // for any other port
}

// A prefixLength is one length of CIDR VIPs of one family.
type prefixLength struct {
	bits int
	is4  bool
}

// some returns one of v's destinations, or nil if v is nil. They all have the same
// policies.
func (v *serviceView) some() *Destination {
	if v == nil {
		return nil
	}
	return v.other
}

func (v *serviceView) port(p uint16) *Destination {
	for _, d := range v.ports {
		if d.Port.Service == p {
			return d
		}
	}
	return v.other
}

// visible reports whether clients of a namespace may see the service.
func (v *serviceView) visible(clientNamespace string) bool {
	return !v.service.Private || v.service.Namespace == clientNamespace
}

// Lookup returns what a client in a namespace means by an authority that it
// dialled in a network, or nil when nothing is known by it.
//
// An address is a service's VIP before it is a workload's. Of several services
// the client's own namespace's is preferred, then, among CIDR VIPs, the longest
// prefix, then the canonical one. A service that is private to another
// namespace is not there. A port that the service does not have gives a
// Destination whose Port is nil.
func (s *Snapshot) Lookup(network, clientNamespace string, a mesh.Authority) *Destination {
	if !a.IP.IsValid() {
		if v := s.byHost(clientNamespace, a.Host); v != nil {
			return v.port(a.Port)
		}
		return nil
	}
	addr := mesh.Address{Network: network, IP: a.IP}
	v := prefer(s.vips.get(addr), clientNamespace)
	if v == nil {
		v = s.byBlock(addr, clientNamespace)
	}
	if v != nil {
		return v.port(a.Port)
	}
	return s.addresses.get(addressKey(addr))
}

// prefer returns the view of the client's own namespace, or else the first
// that it may see.
func prefer(views []*serviceView, clientNamespace string) *serviceView {
	var best *serviceView
	for _, v := range views {
		if v.service.Namespace == clientNamespace {
			return v
		}
		if best == nil && v.visible(clientNamespace) {
			best = v
		}
	}
	return best
}

// byBlock looks addr up among the CIDR VIPs.
func (s *Snapshot) byBlock(addr mesh.Address, clientNamespace string) *serviceView {
	var best *serviceView
	for _, l := range s.lengths {
		if l.is4 != addr.IP.Is4() {
			continue
		}
		p, err := addr.IP.Prefix(l.bits)
		if err != nil {
			continue
		}
		v := prefer(s.blocks.get(mesh.Prefix{Network: addr.Network, Prefix: p}), clientNamespace)
		if v == nil {
			continue
		}
		if v.service.Namespace == clientNamespace {
			return v
		}
		if best == nil {
			best = v
		}
	}
	return best
}

// byHost looks a host name up; then, from the longest, the wildcards that it
// falls under.
func (s *Snapshot) byHost(clientNamespace, host string) *serviceView {
	if v := prefer(s.hosts.get(host), clientNamespace); v != nil {
		return v
	}
	for {
		i := strings.IndexByte(host, '.')
		if i < 0 {
			return nil
		}
		if v := prefer(s.hosts.get(host[i:]), clientNamespace); v != nil {
			return v
		}
		host = host[i+1:]
	}
}

// Workload returns the workload at an address of a network, or nil. Of several
// it is a pod, and one that speaks HBONE, if there is one.
func (s *Snapshot) Workload(network string, ip netip.Addr) *mesh.Workload {
	if d := s.addresses.get(addressKey{Network: network, IP: ip}); d != nil {
		return d.Workload
	}
	return nil
}

// WorkloadAt returns the Destination of the workload that Workload returns, or
// nil. Services are not looked at.
func (s *Snapshot) WorkloadAt(network string, ip netip.Addr) *Destination {
	return s.addresses.get(addressKey{Network: network, IP: ip})
}

// Destination returns the Destination of the workload with a UID, or nil.
func (s *Snapshot) Destination(uid string) *Destination { return s.workloads.get(uidKey(uid)) }

// Service returns the service of that name, or nil.
func (s *Snapshot) Service(h mesh.Hostname) *mesh.Service {
	if v := s.services.get(h); v != nil {
		return v.service
	}
	return nil
}

// Backend returns a port of a service as the backend of a route: whether it is
// attached, and what its own policies and routes are, is of no concern. It
// returns nil when there is no such port.
func (s *Snapshot) Backend(h mesh.Hostname, port uint16) *Destination {
	v := s.services.get(h)
	if v == nil {
		return nil
	}
	if d := v.port(port); d.Port != nil {
		return d
	}
	return nil
}

// hbonePort is where a waypoint listens unless its address says otherwise.
const hbonePort = 15008

// Gateway returns where a waypoint or network gateway is: a service's port or a
// workload. Each endpoint's Wants says which identities it may present. It
// returns nil when the address leads nowhere: traffic that must go there is
// then refused.
func (s *Snapshot) Gateway(g *mesh.GatewayAddress) *Destination {
	port := g.Port
	if port == 0 {
		port = hbonePort
	}
	if g.Hostname != (mesh.Hostname{}) {
		return s.Backend(g.Hostname, port)
	}
	for _, v := range s.vips.get(g.Address) {
		if d := v.port(port); d.Port != nil {
			return d
		}
	}
	return s.addresses.get(addressKey(g.Address))
}

// Local returns the workloads of a node in the order of their UIDs. The slice
// is not the caller's to change.
func (s *Snapshot) Local(node string) []*mesh.Workload { return s.nodes.get(node) }

// Workloads iterates over all workloads in no particular order.
func (s *Snapshot) Workloads() iter.Seq[*mesh.Workload] {
	return func(yield func(*mesh.Workload) bool) {
		for d := range s.workloads.all() {
			if !yield(d.Workload) {
				return
			}
		}
	}
}

// Services iterates over all services in no particular order.
func (s *Snapshot) Services() iter.Seq[*mesh.Service] {
	return func(yield func(*mesh.Service) bool) {
		for _, v := range s.services.all() {
			if !yield(v.service) {
				return
			}
		}
	}
}

// Policies returns the policies that were accepted, in the order of their keys.
// The slice is not the caller's to change.
func (s *Snapshot) Policies() []*authz.Policy { return s.policies }

// Routes returns the routes that were accepted, in the order of their keys. The
// slice is not the caller's to change.
func (s *Snapshot) Routes() []*routing.Route { return s.routes }

// Gateways returns the waypoints that were declared, in the order of their
// keys. The slice is not the caller's to change.
func (s *Snapshot) Gateways() []*Gateway { return s.gateways }
