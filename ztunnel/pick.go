package ztunnel

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// waypointOf returns the waypoint of a service: one of several by weight, the
// same one whenever this connection is decided again.
func (d *decider) waypointOf(s *mesh.Service) *mesh.GatewayAddress {
	var sum uint64
	for i := range s.Canary {
		sum += uint64(s.Canary[i].Weight)
	}
	if sum == 0 {
		return s.Waypoint
	}
	n := uint64(d.dice) * sum >> 32
	for i := range s.Canary {
		w := uint64(s.Canary[i].Weight)
		if n < w {
			return &s.Canary[i].Waypoint
		}
		n -= w
	}
	return s.Waypoint
}

const (
	few   = 16 // so many are looked at one after the other
	draws = 16 // most do with one; without a hit, all are looked at
)

// pickOf is pick of a destination's endpoints, of which there may be ten thousand:
// it draws one, and again if that will not do, rather than add up what all weigh.
// A draw that holds has the same odds.
func (d *decider) pickOf(dest *config.Destination, tried []*mesh.Workload, far bool) *mesh.Endpoint {
	eps := dest.Endpoints
	if len(eps) > few {
		for range draws {
			e := &eps[rand.IntN(len(eps))]
			if rand.Uint64N(uint64(max(1, dest.Heaviest))) < capacity(e.Workload) && d.chooses(e, tried, d.failed, far) {
				return e
			}
		}
	}
	return d.pick(eps, tried, far)
}

// chooses reports whether an endpoint will do.
func (d *decider) chooses(e *mesh.Endpoint, tried []*mesh.Workload, f *failed, far bool) bool {
	return d.reaches(e, far) && !contains(tried, e.Workload) && !f.has(e.Workload)
}

// pick chooses an endpoint at random by capacity (istio.workload.Workload), of
// those that are in reach: of those that were not tried and did not fail lately,
// or else that were not tried, or else of all. far is whether it may be in another
// network.
func (d *decider) pick(eps []mesh.Endpoint, tried []*mesh.Workload, far bool) *mesh.Endpoint {
	if d.failed.any() {
		if e := d.pickFrom(eps, tried, d.failed, far); e != nil {
			return e
		}
	}
	if e := d.pickFrom(eps, tried, nil, far); e != nil || len(tried) == 0 {
		return e
	}
	return d.pickFrom(eps, nil, nil, far)
}

func (d *decider) pickFrom(eps []mesh.Endpoint, tried []*mesh.Workload, f *failed, far bool) *mesh.Endpoint {
	choice := func(e *mesh.Endpoint) bool { return d.chooses(e, tried, f, far) }
	var sum uint64
	for i := range eps {
		if choice(&eps[i]) {
			sum += capacity(eps[i].Workload)
		}
	}
	if sum == 0 {
		return nil
	}
	n := rand.Uint64N(sum)
	for i := range eps {
		if !choice(&eps[i]) {
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

// reaches reports whether there is a way to an endpoint from here: to its
// address, or one that DNS has for its name; in another network, where that is of
// use, by a gateway.
func (d *decider) reaches(e *mesh.Endpoint, far bool) bool {
	w := e.Workload
	if w.Network == d.network {
		return e.Addr.Addr().IsValid() || w.Hostname != ""
	}
	return far && d.gatewayTo(w) != nil
}

// nowhere says why none of the endpoints was picked: none, if there is none.
func (d *decider) nowhere(eps []mesh.Endpoint, none error) error {
	lost := false // there is one behind a gateway that is not there
	for i := range eps {
		switch w := eps[i].Workload; {
		case w.Network == d.network:
			return errNoAddress
		case w.Gateway != nil:
			lost, none = true, errNoGateway
		case !lost:
			none = errOtherNetwork
		}
	}
	return none
}

// likeTarget is where an endpoint is dialled: at an address of the family that
// the client dialled, if it has one and the service allows both
// (istio.workload.IPFamilies).
func likeTarget(e *mesh.Endpoint, s *mesh.Service, target mesh.Authority) netip.AddrPort {
	free := s.Families == mesh.AnyFamily || s.Families == mesh.DualStack
	if !free || !target.IP.IsValid() || !e.Addr.Addr().IsValid() || e.Addr.Addr().Is4() == target.IP.Is4() {
		return e.Addr
	}
	for _, ip := range e.Workload.Addresses {
		if ip.Is4() == target.IP.Is4() {
			return netip.AddrPortFrom(ip, e.Addr.Port())
		}
	}
	return e.Addr
}

func capacity(w *mesh.Workload) uint64 { return max(1, uint64(w.Capacity)) }

// contains compares by UID: a workload that was replaced by a new version of
// itself is the same place.
func contains(list []*mesh.Workload, w *mesh.Workload) bool {
	return slices.ContainsFunc(list, func(x *mesh.Workload) bool { return x.UID == w.UID })
}

const (
	failedFor = 5 * time.Second // as long as a pod that is gone may still be in the endpoints, and a restart may take
	maxFailed = 1024            // 100 KiB; beyond, the next to fail is not remembered
)

// A failed is who could not be reached lately, by UID: the next connections take
// them last. It belongs to a loop. Nil is nobody.
type failed struct {
	now   func() time.Time
	until map[string]time.Time
}

func newFailed(now func() time.Time) *failed { return &failed{now: now, until: map[string]time.Time{}} }

func (f *failed) any() bool { return f != nil && len(f.until) > 0 }

func (f *failed) has(w *mesh.Workload) bool {
	if !f.any() {
		return false
	}
	until, ok := f.until[w.UID]
	if ok && !f.now().Before(until) {
		delete(f.until, w.UID)
		return false
	}
	return ok
}

// note remembers that a workload could not be reached.
func (f *failed) note(w *mesh.Workload) {
	if len(f.until) >= maxFailed {
		f.sweep()
	}
	if len(f.until) < maxFailed {
		f.until[w.UID] = f.now().Add(failedFor)
	}
}

// forget is told that a workload, if it is one, was reached.
func (f *failed) forget(w *mesh.Workload) {
	if f.any() && w != nil {
		delete(f.until, w.UID)
	}
}

// sweep forgets those whose time is over.
func (f *failed) sweep() {
	for uid, until := range f.until {
		if !f.now().Before(until) {
			delete(f.until, uid)
		}
	}
}
