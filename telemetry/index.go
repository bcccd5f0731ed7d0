package telemetry

import (
	"maps"
	"sync/atomic"
	"time"
)

// An index finds by a key what is counted in. Finding what is known takes no lock.
type index[K comparable, E any] struct {
	// view is a copy of entries, perhaps an older one. It is replaced when it
	// has been missed as often as it is long, so that copying costs a constant
	// for each entry, as in the first sync.Map. (sync.Map itself would allocate
	// to look up a key.)
	view atomic.Pointer[map[K]*E]

	// Guarded by a lock of the owner's.
	entries map[K]*E
	misses  int
}

func (x *index[K, E]) init() {
	x.entries = map[K]*E{}
	x.view.Store(&map[K]*E{})
}

// known returns what the view has for k, or nil.
func (x *index[K, E]) known(k *K) *E { return (*x.view.Load())[*k] }

// missedLocked notes that the view was of no use.
func (x *index[K, E]) missedLocked() {
	if x.misses++; x.misses >= len(x.entries) {
		x.publishLocked()
	}
}

func (x *index[K, E]) publishLocked() {
	view := maps.Clone(x.entries)
	x.view.Store(&view)
	x.misses = 0
}

// A usage says whether an entry of an index is in use. One whose state is gone has
// been removed; who still finds it, in a view of before, looks again.
type usage struct {
	state atomic.Uint32
	since time.Time // when it was found idle; guarded by the lock of the index
}

const (
	idle uint32 = iota
	used        // since the last sweep
	gone
)

// touch marks what u is of as used, and reports whether it is still in the index.
// The sweeper takes an entry away only when it was idle for two sweeps, and then
// only from state idle, so nobody counts in one that has been removed.
func (u *usage) touch() bool {
	s := u.state.Load()
	return s == used || s == idle && u.state.CompareAndSwap(idle, used)
}

// sweep reports whether it was used since the last sweep, and if not, whether it
// has been idle for as long as is retained and so is to be removed.
func (u *usage) sweep(now time.Time, retain time.Duration) (fresh, spent bool) {
	if u.state.CompareAndSwap(used, idle) || u.since.IsZero() {
		u.since = now
		return true, false
	}
	return false, now.Sub(u.since) >= retain && u.state.CompareAndSwap(idle, gone)
}
