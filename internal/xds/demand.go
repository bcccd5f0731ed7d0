package xds

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// maxDemands bounds the names that are subscribed to. Names come from what
	// pods dial: one that scans a network must not fill our memory or istiod's.
	maxDemands = 1 << 16

	// maxAbsent bounds those of them that there is nothing of. The oldest is given
	// up, and asked for again when it is wanted.
	maxAbsent = 1 << 12

	// answerHolds is how long an answer is good for: 5 s. istiod tells of changes
	// to what it has sent, by its own name, and not when there comes to be
	// something at an address that it was asked for in vain.
	answerHolds = 5 * time.Second

	// nowhere is a name that there is nothing of. It is subscribed to where others
	// are given up: who subscribes to nothing is taken for one who has nothing, and
	// istiod removes all that it has.
	nowhere = "/0.0.0.0"
)

var errTooMany = fmt.Errorf("more than %d names have been asked for", maxDemands)

// demands are the names that have been asked for. It is safe for concurrent use.
type demands struct {
	*demandState
	wake chan struct{} // has one if there is something to send
}

type demandState struct {
	mu        sync.Mutex
	names     map[string]*demand
	absent    []string // in the order in which they were found to be; some may be there by now
	add, drop []string // to be sent
	again     []string // to be asked for once more
	holds     time.Duration
}

// A demand is a name that is subscribed to.
type demand struct {
	answered chan struct{} // closed when there was an answer
	at       time.Time     // when there was one last; zero is never
	absent   bool          // it was that there is no such thing
	resumed  bool          // it was subscribed to as its stream began
}

func newDemands() demands {
	return demands{&demandState{names: map[string]*demand{}, holds: answerHolds}, make(chan struct{}, 1)}
}

// Demand asks for a workload or service that the store has not, by one of its
// names: network/IP, namespace/hostname, or a workload's UID. It returns once the
// store has what istiod has of it, which may be nothing; or with ctx's error. What
// has been sent is kept up to date from then on.
//
// An answer holds for 5 s, after which Demand asks again. While istiod is away, the
// last one does.
//
// It is for a Source with OnDemand set; and must not be called on a loop, for it
// waits.
func (s *Source) Demand(ctx context.Context, name string) error {
	if !s.o.OnDemand {
		return errors.New("xds: not on demand: all there is has been subscribed to")
	}
	answered, before, err := s.demands.want(name, s.counts.connected.Load())
	if err != nil {
		return fmt.Errorf("xds: %s: %w", name, err)
	}
	if answered == nil {
		return nil
	}
	select {
	case <-answered:
		return nil
	case <-ctx.Done():
		if before && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil
		}
		return fmt.Errorf("xds: %s: istiod has not answered: %w", name, ctx.Err())
	}
}

// want has a name asked for, unless there is an answer that holds. It returns what
// is closed when there is an answer, nil if one holds, and whether there was one
// before.
func (ds *demands) want(name string, connected bool) (answered <-chan struct{}, before bool, err error) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	d := ds.names[name]
	if d == nil {
		if len(ds.names) >= maxDemands && !ds.forgetLocked() {
			return nil, false, errTooMany
		}
		d = &demand{answered: make(chan struct{})}
		ds.names[name] = d
		ds.add = append(ds.add, name)
		ds.wakeLocked()
		return d.answered, false, nil
	}
	before = !d.at.IsZero()
	switch {
	case before && (!connected || time.Since(d.at) < ds.holds):
		return nil, before, nil
	case before && !d.pending():
		d.answered = make(chan struct{})
		if d.absent {
			d.absent = false
			ds.absent = slices.DeleteFunc(ds.absent, func(s string) bool { return s == name })
		}
		ds.again = append(ds.again, name)
		ds.wakeLocked()
	}
	return d.answered, before, nil
}

func (ds *demands) wakeLocked() {
	select {
	case ds.wake <- struct{}{}:
	default: // it is awake
	}
}

// forgetLocked gives up the name that has been absent for longest, and reports
// whether there was one.
func (ds *demands) forgetLocked() bool {
	for len(ds.absent) > 0 {
		name := ds.absent[0]
		ds.absent = ds.absent[1:]
		if d := ds.names[name]; d != nil && d.absent {
			delete(ds.names, name)
			ds.drop = append(ds.drop, name)
			ds.wakeLocked()
			return true
		}
	}
	return false
}

// take returns what is not to be subscribed to any more, and what is then to be. What
// is asked for again is in both: of what it is subscribed to already, istiod sends
// nothing.
func (ds *demands) take() (drop, add []string) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	drop, add = append(ds.drop, ds.again...), append(ds.add, ds.again...)
	ds.again, ds.add, ds.drop = nil, nil, nil
	return drop, add
}

// all returns everything that a new stream is to subscribe to, as it begins.
func (ds *demands) all() []string {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.again, ds.add, ds.drop = nil, nil, nil
	out := make([]string, 0, len(ds.names))
	for name, d := range ds.names {
		d.resumed = true
		out = append(out, name)
	}
	return out
}

// resumed answers what a stream began with, after its first response: of what has
// not changed since the last stream there is nothing in it.
func (ds *demands) resumed() {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, d := range ds.names {
		if d.resumed {
			d.resumed = false
			d.answer()
		}
	}
}

// answered tells those who wait for what is in a response: names of what is
// there, and of what is not.
func (ds *demands) answered(names, removed []string) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, name := range names {
		ds.answerLocked(name, false)
	}
	for _, name := range removed {
		ds.answerLocked(name, true)
	}
}

func (ds *demands) answerLocked(name string, absent bool) {
	d := ds.names[name]
	if d == nil {
		return
	}
	if absent && !d.absent {
		ds.absent = append(ds.absent, name)
		if len(ds.absent) > maxAbsent {
			defer ds.forgetLocked()
		}
	}
	d.absent = absent
	d.answer()
}

// answer tells those who wait.
func (d *demand) answer() {
	d.at = time.Now()
	if d.pending() {
		close(d.answered)
	}
}

func (d *demand) pending() bool {
	select {
	case <-d.answered:
		return false
	default:
		return true
	}
}
