package telemetry

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// An index finds by a key what is counted in, of which P is the pointer. Finding
// what is known takes no lock.
type index[K comparable, E any, P counted[E]] struct {
	// view is a copy of entries, perhaps an older one. It is replaced when it
	// has been missed as often as it is long, so that copying costs a constant
	// for each entry, as in the first sync.Map. (sync.Map itself would allocate
	// to look up a key.)
	view atomic.Pointer[map[K]*E]

	// Guarded by a lock of the owner's.
	entries map[K]*E
	misses  int
}

func (x *index[K, E, P]) init() {
	x.entries = map[K]*E{}
	x.view.Store(&map[K]*E{})
}

// known returns what the view has for k, or nil.
func (x *index[K, E, P]) known(k *K) *E { return (*x.view.Load())[*k] }

// missedLocked notes that the view was of no use.
func (x *index[K, E, P]) missedLocked() {
	if x.misses++; x.misses >= len(x.entries) {
		x.publishLocked()
	}
}

func (x *index[K, E, P]) publishLocked() {
	view := maps.Clone(x.entries)
	x.view.Store(&view)
	x.misses = 0
}

// sweepLocked removes what nothing has counted in for as long as is retained. It
// tells fresh of what something has since the last sweep, and removed of what is
// no more; nil is nobody to tell.
func (x *index[K, E, P]) sweepLocked(now time.Time, retain time.Duration, fresh, removed func(*E)) {
	before := len(x.entries)
	for k, e := range x.entries {
		since, spent := P(e).usage().sweep(now, retain)
		if since && fresh != nil {
			fresh(e)
		}
		if spent {
			delete(x.entries, k)
			if removed != nil {
				removed(e)
			}
		}
	}
	if len(x.entries) < before {
		x.publishLocked()
	}
}

// A ledger is an index whose entries are series: there are so many at most, and
// one that nothing counts in is removed.
type ledger[K ledgerKey[K], E any, P counted[E]] struct {
	// Immutable.
	limit  int
	retain time.Duration

	index[K, E, P] // guarded by mu, but for its view

	mu         sync.Mutex
	overflowed atomic.Uint64 // counted in an overflow entry, for want of room
}

// A ledgerKey is what a ledger knows its entries by.
type ledgerKey[K any] interface {
	comparable
	clone() K    // owns its strings
	overflow() K // stands for those that there is no room for; of these there are few
}

// A counted is what has a use in it.
type counted[E any] interface {
	*E
	usage() *use
}

func (l *ledger[K, E, P]) open(limit int, retain time.Duration) {
	l.limit, l.retain = limit, retain
	l.init()
}

// at returns what to count in under k.
func (l *ledger[K, E, P]) at(k *K) *E {
	if e := l.known(k); e != nil && P(e).usage().touch() {
		return e
	}
	return l.miss(*k) // a copy: k stays where it is, on the stack
}

func (l *ledger[K, E, P]) miss(k K) *E {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[k]
	if e == nil && len(l.entries) >= l.limit {
		l.overflowed.Add(1)
		k = k.overflow()
		e = l.entries[k]
	}
	if e == nil {
		e = new(E)
		l.entries[k.clone()] = e
	}
	P(e).usage().state.Store(used)
	l.missedLocked()
	return e
}

// sweep removes what has not been counted in for as long as is retained.
func (l *ledger[K, E, P]) sweep(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweepLocked(now, l.retain, nil, nil)
}

func (l *ledger[K, E, P]) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

// A use says whether an entry of an index is in use. One whose state is gone has
// been removed; who still finds it, in a view of before, looks again.
type use struct {
	state atomic.Uint32
	since time.Time // when it was found idle; guarded by the lock of the index
}

const (
	idle uint32 = iota
	used        // since the last sweep
	gone
)

func (u *use) usage() *use { return u }

// touch marks what u is of as used, and reports whether it is still in the index.
// The sweeper takes an entry away only when it was idle for two sweeps, and then
// only from state idle, so nobody counts in one that has been removed.
func (u *use) touch() bool {
	s := u.state.Load()
	return s == used || s == idle && u.state.CompareAndSwap(idle, used)
}

// sweep reports whether it was used since the last sweep, and if not, whether it
// has been idle for as long as is retained and so is to be removed.
func (u *use) sweep(now time.Time, retain time.Duration) (fresh, spent bool) {
	if u.state.CompareAndSwap(used, idle) || u.since.IsZero() {
		u.since = now
		return true, false
	}
	return false, now.Sub(u.since) >= retain && u.state.CompareAndSwap(idle, gone)
}
