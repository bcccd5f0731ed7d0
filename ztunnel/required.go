package ztunnel

import (
	"slices"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// throughWaypoint reports whether a client that comes to a port of a workload is
// the waypoint that the workload has, or that a service of it with such a port
// has; or whether there is none. Of a service with several waypoints any will do:
// each takes a share of its traffic.
//
// A waypoint that is named and not there lets nobody through. One that is not
// named cannot be required: where the label of a service names a Gateway that is
// not there, or not programmed, istiod says nothing of it.
//
// A client of another network that came by a gateway is taken as any other:
// gateways hand what is for a service with a waypoint to the waypoint. An ingress
// gateway does so only for services that have it use their waypoint.
//
// source is who is at the client's address, if that is known: a waypoint's pod may
// be there that takes no new traffic any more.
func throughWaypoint(snap *config.Snapshot, w *mesh.Workload, port uint16, client identity.ID, source *mesh.Workload) bool {
	required := false
	through := func(gw *mesh.GatewayAddress) bool {
		required = true
		return isOf(snap, gw, client, source)
	}
	if w.Waypoint != nil && through(w.Waypoint) {
		return true
	}
	for host := range w.Services {
		s := snap.Service(host)
		if s == nil {
			continue
		}
		here := func(p mesh.Port) bool { return s.TargetPort(w, p.Service) == port }
		if slices.ContainsFunc(s.Ports, here) && slices.ContainsFunc(s.Waypoints(), through) {
			return true
		}
	}
	return !required
}

// isOf reports whether id is the identity of a waypoint's pods: of those that are
// ready, or that of source, if it is a pod of the waypoint's at all. One that is
// about to end is not ready, and finishes what it has begun.
func isOf(snap *config.Snapshot, gw *mesh.GatewayAddress, id identity.ID, source *mesh.Workload) bool {
	g := snap.Gateway(gw)
	if g == nil {
		return source != nil && isNamed(source, gw.Hostname) && source.Identity() == id
	}
	if hasEndpoint(g, func(w *mesh.Workload) bool { return w.Identity() == id }) {
		return true
	}
	if source == nil || g.Service == nil || source.Identity() != id {
		return false
	}
	_, member := source.Services[g.Service.Host()]
	return member
}

// serves reports whether w is a pod of a waypoint's.
func serves(snap *config.Snapshot, gw *mesh.GatewayAddress, w *mesh.Workload) bool {
	g := snap.Gateway(gw)
	if g == nil {
		return isNamed(w, gw.Hostname)
	}
	return hasEndpoint(g, func(x *mesh.Workload) bool { return x.UID == w.UID }) // either may be an older version
}

func hasEndpoint(d *config.Destination, is func(*mesh.Workload) bool) bool {
	return slices.ContainsFunc(d.Endpoints, func(e mesh.Endpoint) bool { return is(e.Workload) })
}
