package ztunnel

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
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
	errOtherNetwork  = errors.New("ztunnel: the destination is in another network, and its service names no gateway there")
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
	authority mesh.Authority // of the CONNECT
	wants     string         // the identities accepted, as hbone.Key spells them
	service   *mesh.Service  // what was addressed, if a service was
	dest      *mesh.Workload // who answers: the endpoint, or the waypoint's
	ids       []identity.ID  // wants, read
}

// A decider decides where connections go. It reads one snapshot.
type decider struct {
	snap    *config.Snapshot
	network string
	domain  string // of the cluster's names: cluster.local
	port    uint16 // where node tunnels and waypoints take HBONE: 15008
}

// illegal are the ports that capture uses inside a pod: a connection to one of
// them would come straight back.
var illegal = [...]uint16{15001, 15006, 15008, 15080}

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
//	VIP, none but in another network        -      refused
//	pod IP         any             -        yes    HBONE to the waypoint, authority podIP:port
//	pod IP         HBONE           -        no     HBONE to podIP:15008, authority podIP:port
//	pod IP         TCP             -        no     TCP to podIP:port
//	pod IP, caller is its waypoint -        yes    as if it had none
//	unknown IP                                     TCP to it
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
	switch {
	case dest == nil && !target.IP.IsValid():
		return route{}, fmt.Errorf("%w: %s", errUnknownName, target.Host)
	case dest == nil:
		return route{hop: telemetry.Passthrough, addr: target.AddrPort()}, nil
	case dest.Service != nil:
		return d.toService(src, dest, target, tried)
	}
	w := dest.Workload
	if gw := w.Waypoint; gw != nil && !d.isWaypoint(src, gw) && d.inMesh(src) {
		return d.toWaypoint(gw, target, nil, tried)
	}
	return d.toWorkload(src, w, target.AddrPort(), nil), nil
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
	if gw := waypointOf(s); gw != nil && d.inMesh(src) {
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
	e := d.pick(dest.Endpoints, tried)
	if e == nil {
		return route{service: s}, fmt.Errorf("%w: %s:%d", d.nowhere(dest.Endpoints, errNoEndpoint), s.Hostname, target.Port)
	}
	return d.toWorkload(src, e.Workload, e.Addr, s), nil
}

// toWorkload goes straight to a workload: over HBONE if both are in the mesh.
func (d *decider) toWorkload(src, w *mesh.Workload, addr netip.AddrPort, s *mesh.Service) route {
	r := route{hop: telemetry.Direct, addr: addr, service: s, dest: w}
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
	dest := d.snap.Gateway(gw)
	if dest == nil {
		return route{service: s}, fmt.Errorf("%w: %s", errNoWaypoint, describe(gw))
	}
	e := d.pick(dest.Endpoints, tried)
	if e == nil {
		return route{service: s}, fmt.Errorf("%w: %s", d.nowhere(dest.Endpoints, errWaypointEmpty), describe(gw))
	}
	r := route{
		hop: telemetry.ToWaypoint, tunnel: true, service: s, dest: e.Workload,
		// The port of a waypoint's service leads to where its pods listen.
		addr: netip.AddrPortFrom(e.Addr.Addr(), cmp.Or(e.Addr.Port(), gw.Port, d.port)), authority: authority,
	}
	r.accept(e.Workload, dest.Service)
	return r, nil
}

// accept pins who may answer: the workload that was chosen, and whoever its
// service says.
func (r *route) accept(w *mesh.Workload, s *mesh.Service) {
	r.ids = append(r.ids[:0], w.Identity())
	if s != nil {
		for _, san := range s.SANs {
			if id, err := identity.Parse(san); err == nil {
				r.ids = append(r.ids, id)
			}
		}
	}
	r.wants = identity.JoinIDs(r.ids...)
}

// inMesh reports whether src's traffic is ours to carry. Another's goes plainly,
// as it would without us.
func (d *decider) inMesh(src *mesh.Workload) bool { return src.Tunnel == mesh.HBONE }

// isWaypoint reports whether src is the waypoint that gw names: its traffic to
// the workloads behind it goes straight there.
func (d *decider) isWaypoint(src *mesh.Workload, gw *mesh.GatewayAddress) bool {
	dest := d.snap.Gateway(gw)
	if dest == nil {
		return false
	}
	for i := range dest.Endpoints {
		if dest.Endpoints[i].Workload.UID == src.UID { // src may be an older version
			return true
		}
	}
	return false
}

// waypointOf returns the waypoint of a service: one of several by weight, for
// this connection.
func waypointOf(s *mesh.Service) *mesh.GatewayAddress {
	var sum uint32
	for i := range s.Canary {
		sum += s.Canary[i].Weight
	}
	if sum == 0 {
		return s.Waypoint
	}
	n := rand.Uint32N(sum)
	for i := range s.Canary {
		w := s.Canary[i].Weight
		if n < w {
			return &s.Canary[i].Waypoint
		}
		n -= w
	}
	return s.Waypoint
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

// pick chooses an endpoint at random by capacity (istio.workload.Workload), of
// those that are in reach, and if possible one that was not tried.
func (d *decider) pick(eps []mesh.Endpoint, tried []*mesh.Workload) *mesh.Endpoint {
	if e := d.pickFrom(eps, tried); e != nil || len(tried) == 0 {
		return e
	}
	return d.pickFrom(eps, nil)
}

func (d *decider) pickFrom(eps []mesh.Endpoint, tried []*mesh.Workload) *mesh.Endpoint {
	var sum uint64
	for i := range eps {
		if d.reaches(&eps[i]) && !contains(tried, eps[i].Workload) {
			sum += capacity(eps[i].Workload)
		}
	}
	if sum == 0 {
		return nil
	}
	n := rand.Uint64N(sum)
	for i := range eps {
		if !d.reaches(&eps[i]) || contains(tried, eps[i].Workload) {
			continue
		}
		c := capacity(eps[i].Workload)
		if n < c {
			return &eps[i]
		}
		n -= c
	}
	return nil
}

// reaches reports whether an endpoint can be dialled from here.
func (d *decider) reaches(e *mesh.Endpoint) bool {
	return e.Workload.Network == d.network && e.Addr.Addr().IsValid()
}

// nowhere says why none of the endpoints was picked: none, if there is none.
func (d *decider) nowhere(eps []mesh.Endpoint, none error) error {
	for i := range eps {
		if eps[i].Workload.Network == d.network {
			return errNoAddress
		}
		none = errOtherNetwork
	}
	return none
}

func capacity(w *mesh.Workload) uint64 { return max(1, uint64(w.Capacity)) }

// contains compares by UID: a workload that was replaced by a new version of
// itself is the same place.
func contains(list []*mesh.Workload, w *mesh.Workload) bool {
	return slices.ContainsFunc(list, func(x *mesh.Workload) bool { return x.UID == w.UID })
}

func describe(gw *mesh.GatewayAddress) string {
	if gw.Address.IP.IsValid() {
		return gw.Address.IP.String()
	}
	return gw.Hostname.String()
}
