package ztunnel

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

// What a connection may be refused for before anything is dialled.
var (
	errSelfCall      = errors.New("ztunnel: the connection is for the node tunnel itself")
	errNoEndpoint    = errors.New("ztunnel: no healthy upstream")
	errNoPort        = errors.New("ztunnel: the service has no such port")
	errUnknownName   = errors.New("ztunnel: the name is not known in the mesh")
	errOtherNetwork  = errors.New("ztunnel: the destination is in another network, and there is no gateway to it")
	errNoGateway     = errors.New("ztunnel: the gateway of the other network is not known, or has no healthy endpoint")
	errNoIdentity    = errors.New("ztunnel: the service names no identity (subject_alt_names) to expect in the other network")
	errNotInRegistry = errors.New("ztunnel: the destination is not in the registry, and the outbound policy is REGISTRY_ONLY")
	errNoWaypoint    = errors.New("ztunnel: the waypoint is not known")
	errWaypointEmpty = errors.New("ztunnel: the waypoint has no healthy endpoint")
	errNoAddress     = errors.New("ztunnel: the destination has no address")
)

// A route is what was decided about a connection: where to dial, how, and what
// to say there.
type route struct {
	hop       telemetry.Hop
	tunnel    bool           // HBONE; else plain TCP
	addr      netip.AddrPort // what is dialled: port 15008 over HBONE
	name      string         // what the address is to be asked of DNS for; addr then has a port only
	authority mesh.Authority // of the CONNECT
	wants     string         // the identities accepted, as hbone.Key spells them
	service   *mesh.Service  // what was addressed, if a service was
	dest      *mesh.Workload // who answers: the endpoint, or the waypoint's
	ids       []identity.ID  // wants, read

	// Through a network gateway there are two tunnels, one in the other. What is
	// above is about the outer one, whose other end is the gateway.
	double bool
	inner  string         // the identities accepted at the other end of the inner one
	beyond *mesh.Workload // what stands here for the other network's endpoints
}

// A decider decides where connections go. It reads one snapshot.
type decider struct {
	snap    *config.Snapshot
	network string
	domain  string // of the cluster's names: cluster.local
	port    uint16 // where node tunnels and waypoints take HBONE: 15008

	registryOnly bool    // what is not known is refused
	dice         uint32  // of this connection: which of several waypoints it takes
	failed       *failed // who did not answer lately; nil: nobody
	hosts        *hosts
	wanted       *wanted // what is missing in the snapshot and may exist
}

// illegal are the ports that capture uses inside a pod: a connection to one of
// them would come straight back.
var illegal = [...]uint16{15001, 15006, 15008, 15053, 15080}

// IllegalPorts returns the ports that no connection is carried to.
func IllegalPorts() []uint16 { return slices.Clone(illegal[:]) }

func isIllegal(port uint16) bool { return slices.Contains(illegal[:], port) }

// decide returns where a connection from src to target goes. tried holds the
// workloads that could not be reached: as long as there are others, it is one of
// these.
//
//	addressed by   destination     waypoint of    result
//	               speaks          service  pod
//	VIP            any             yes      -      HBONE to the waypoint, authority VIP:port
//	VIP            HBONE           no       -      HBONE to podIP:15008, authority podIP:targetPort
//	VIP            TCP             no       -      TCP to podIP:targetPort
//	VIP, no endpoint or no port    no       -      refused
//	VIP, PASSTHROUGH               no       -      TCP to the VIP
//	VIP, in another network        any      -      double HBONE to its gateway, authority host:port
//	VIP, there, without a gateway  no       -      refused
//	pod IP         any             -        yes    HBONE to the waypoint, authority podIP:port
//	pod IP         HBONE           -        no     HBONE to podIP:15008, authority podIP:port
//	pod IP         TCP             -        no     TCP to podIP:port
//	pod IP, caller is its waypoint -        yes    as if it had none
//	unknown IP                                     TCP to it; with REGISTRY_ONLY refused
//
// A waypoint of the service counts only for who addressed the service, one of
// the pod only for who addressed the pod; they are never chained. A name stands
// for the VIP of its service, even where that has none. Who is not in the mesh
// himself goes plainly, waypoint or not.
func (d *decider) decide(src *mesh.Workload, target mesh.Authority, tried []*mesh.Workload) (route, error) {
	if target.IP.IsLoopback() && isIllegal(target.Port) && d.snap.Workload(d.network, target.IP) == nil {
		return route{}, errSelfCall
	}
	dest := d.lookup(src.Namespace, target)
	if d.wanted != nil {
		d.want(src.Namespace, target, dest)
	}
	switch {
	case dest == nil && !target.IP.IsValid():
		return route{}, fmt.Errorf("%w: %s", errUnknownName, target.Host)
	case dest == nil:
		return d.toUnknown(target)
	case dest.Service != nil:
		return d.toService(src, dest, target, tried)
	}
	w := dest.Workload
	if gw := w.Waypoint; gw != nil && !d.isWaypoint(src, gw) && d.inMesh(src) {
		return d.toWaypoint(gw, target, nil, tried)
	}
	return d.toWorkload(src, w, target.AddrPort(), nil), nil
}

// toUnknown lets a connection pass to an address that nothing in the mesh has,
// unless only what is in the registry may be reached. Loopback never leaves the
// pod.
func (d *decider) toUnknown(target mesh.Authority) (route, error) {
	r := route{hop: telemetry.Passthrough, addr: target.AddrPort()}
	if d.registryOnly && !target.IP.IsLoopback() {
		return r, errNotInRegistry
	}
	return r, nil
}

// lookup finds what a client of a namespace means by target. A name may be short,
// as its resolver's search list would have it: web, web.ns, web.ns.svc.
func (d *decider) lookup(namespace string, target mesh.Authority) *config.Destination {
	dest := d.snap.Lookup(d.network, namespace, target)
	if dest != nil || target.IP.IsValid() {
		return dest
	}
	for _, suffix := range [...]string{"." + namespace + ".svc." + d.domain, ".svc." + d.domain, "." + d.domain} {
		long := target
		long.Host += suffix
		if dest = d.snap.Lookup(d.network, namespace, long); dest != nil {
			return dest
		}
	}
	return nil
}

func (d *decider) toService(src *mesh.Workload, dest *config.Destination, target mesh.Authority, tried []*mesh.Workload) (route, error) {
	s := dest.Service
	if gw := d.waypointOf(s); gw != nil && d.inMesh(src) && !d.isWaypointOf(src, s) {
		return d.toWaypoint(gw, vip(s, target, d.network), s, tried)
	}
	if s.Balance.Mode == mesh.Passthrough {
		if target.IP.IsValid() {
			return route{hop: telemetry.Passthrough, addr: target.AddrPort(), service: s}, nil
		}
		return route{}, fmt.Errorf("%w: %s is a PASSTHROUGH service and was not addressed by IP", errNoEndpoint, s.Hostname)
	}
	if dest.Port == nil {
		return route{service: s}, fmt.Errorf("%w: %s has no port %d", errNoPort, s.Hostname, target.Port)
	}
	e := d.pickOf(dest, tried, d.inMesh(src))
	switch {
	case e == nil:
		return route{service: s}, fmt.Errorf("%w: %s:%d", d.nowhere(dest.Endpoints, errNoEndpoint), s.Hostname, target.Port)
	case e.Workload.Network != d.network:
		return d.throughGateway(e.Workload, s, s, target.Port, tried)
	}
	return d.toWorkload(src, e.Workload, likeTarget(e, s, target), s), nil
}

// toWorkload goes straight to a workload: over HBONE if both are in the mesh.
func (d *decider) toWorkload(src, w *mesh.Workload, addr netip.AddrPort, s *mesh.Service) route {
	r := route{hop: telemetry.Direct, addr: addr, service: s, dest: w}
	if !addr.Addr().IsValid() {
		r.name = w.Hostname
	}
	if w.Tunnel != mesh.HBONE || !d.inMesh(src) {
		return r
	}
	r.tunnel = true
	r.addr = netip.AddrPortFrom(addr.Addr(), d.port)
	r.authority = mesh.Authority{IP: addr.Addr(), Port: addr.Port()}
	r.accept(w, s)
	return r
}

// toWaypoint hands the connection, addressed as it was, to a waypoint.
func (d *decider) toWaypoint(gw *mesh.GatewayAddress, authority mesh.Authority, s *mesh.Service, tried []*mesh.Workload) (route, error) {
	dest := d.gateway(gw)
	if dest == nil {
		return route{service: s}, fmt.Errorf("%w: %s", errNoWaypoint, describe(gw))
	}
	// Only who asked for a service can be taken to another network.
	e := d.pickOf(dest, tried, s != nil)
	switch {
	case e == nil:
		return route{service: s}, fmt.Errorf("%w: %s", d.nowhere(dest.Endpoints, errWaypointEmpty), describe(gw))
	case e.Workload.Network != d.network:
		return d.throughGateway(e.Workload, s, dest.Service, authority.Port, tried)
	}
	r := route{
		hop: telemetry.ToWaypoint, tunnel: true, service: s, dest: e.Workload,
		// The port of a waypoint's service leads to where its pods listen.
		addr: netip.AddrPortFrom(e.Addr.Addr(), cmp.Or(e.Addr.Port(), gw.Port, d.port)), authority: authority,
	}
	if !r.addr.Addr().IsValid() {
		r.name = e.Workload.Hostname
	}
	r.accept(e.Workload, dest.Service)
	return r, nil
}

// accept pins who may answer: the workload that was chosen, and whoever its
// service says.
func (r *route) accept(w *mesh.Workload, s *mesh.Service) {
	r.ids = append(r.ids[:0], w.Identity())
	if s != nil {
		r.ids = identities(r.ids, s)
	}
	r.wants = identity.JoinIDs(r.ids...)
}

// identities appends those that a service lists. One that cannot be read accepts
// nobody.
func identities(ids []identity.ID, s *mesh.Service) []identity.ID {
	for _, san := range s.SANs {
		if id, err := identity.Parse(san); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// inMesh reports whether src's traffic is ours to carry. Another's goes plainly,
// as it would without us.
func (d *decider) inMesh(src *mesh.Workload) bool { return src.Tunnel == mesh.HBONE }

// isWaypoint reports whether src is of the waypoint that gw names: its traffic to
// what is behind it goes straight there, and never in a circle.
func (d *decider) isWaypoint(src *mesh.Workload, gw *mesh.GatewayAddress) bool {
	if d.wanted != nil {
		d.gateway(gw) // so that it is asked for
	}
	return serves(d.snap, gw, src)
}

// isWaypointOf reports whether src is of any of a service's waypoints.
func (d *decider) isWaypointOf(src *mesh.Workload, s *mesh.Service) bool {
	if s.Waypoint != nil && d.isWaypoint(src, s.Waypoint) {
		return true
	}
	for i := range s.Canary {
		if d.isWaypoint(src, &s.Canary[i].Waypoint) {
			return true
		}
	}
	return false
}

// vip is target by address, where the service has one in the network: waypoints
// know their services by it.
func vip(s *mesh.Service, target mesh.Authority, network string) mesh.Authority {
	if target.IP.IsValid() {
		return target
	}
	for _, a := range s.Addresses {
		if a.Network == network && a.Prefix.IsSingleIP() {
			return mesh.Authority{IP: a.Prefix.Addr(), Port: target.Port}
		}
	}
	return target
}

func describe(gw *mesh.GatewayAddress) string {
	if gw.Address.IP.IsValid() {
		return gw.Address.IP.String()
	}
	return gw.Hostname.String()
}
