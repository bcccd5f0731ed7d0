package routing

import "github.com/waystone-mesh/waystone/internal/mesh"

// PickBackend returns the backend that a random number falls on, each in
// proportion to its weight. It returns nil when nothing can be picked, because
// the rule has no backend or all its weights are zero: that is a 500, as is a
// backend that is Invalid.
func (r *Rule) PickBackend(rnd uint64) *Backend {
	if r.total == 0 {
		return nil
	}
	rnd %= r.total
	for i := range r.Backends {
		w := uint64(r.Backends[i].Weight)
		if rnd < w {
			return &r.Backends[i]
		}
		rnd -= w
	}
	return nil
}

// LeastLoaded returns the less loaded of two endpoints that a random number
// falls on, or nil when there is none. Load is measured against capacity: an
// endpoint of twice the capacity carries twice the exchanges.
//
// Two choices do nearly as well as looking at all, and unlike looking at all
// they do not send every loop to the same endpoint at once.
func LeastLoaded(eps []mesh.Endpoint, rnd uint64) *mesh.Endpoint {
	n := uint64(len(eps))
	if n < 2 {
		if n == 0 {
			return nil
		}
		return &eps[0]
	}
	i := (rnd & 0xffffffff) % n
	j := (rnd >> 32) % (n - 1)
	if j >= i {
		j++ // another one than i
	}
	a, b := &eps[i], &eps[j]
	if busy(b)*capacity(a) < busy(a)*capacity(b) {
		return b
	}
	return a
}

// busy counts the exchange that is being placed, so that capacity matters
// among idle endpoints too.
func busy(e *mesh.Endpoint) int64 {
	if e.Load == nil {
		return 1
	}
	return 1 + e.Load.Load()
}

func capacity(e *mesh.Endpoint) int64 { return max(1, int64(e.Workload.Capacity)) }
