package waypoint

import (
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// Node tunnels and waypoints learn of a change at different moments. A node
// tunnel that hears of a new waypoint first must not be turned away by it (see
// Options.Patience), and one that hears last of a waypoint's end must still be
// served (see Options.Linger).

// A detached destination was served here until a moment ago.
type detached struct {
	was   *config.Destination // with the policies that it had
	until time.Time
}

// noteDetached remembers what a change took away from us.
func (w *worker) noteDetached(changes config.Changes) {
	now := w.loop.Now()
	for was, is := range changes.Destinations {
		if d, ok := w.lingering[was]; ok && is != nil {
			w.lingering[is] = d // it is still not ours, but another Destination
		}
		if was.Attached && is != nil && !is.Attached {
			w.lingering[is] = detached{was, now.Add(w.options.Linger)}
		}
	}
}

// served returns what to serve for d: d itself if it is ours, what it was until
// a moment ago, or nil.
func (w *worker) served(d *config.Destination) *config.Destination {
	switch {
	case d == nil:
		return nil
	case d.Attached:
		if d.Service != nil && d.Port == nil {
			return nil // no such port
		}
		return d
	}
	l, ok := w.lingering[d]
	if !ok || w.loop.Now().After(l.until) || l.was.Service != nil && l.was.Port == nil {
		return nil
	}
	return l.was
}

func (w *worker) forgetDetached(now time.Time) {
	for d, l := range w.lingering {
		if now.After(l.until) {
			delete(w.lingering, d)
		}
	}
}

// A waiter is a CONNECT that hopes to be served.
type waiter struct {
	s     *session
	timer loop.Timer
}

// wait has s tried again when configuration changes, and refused in the end.
func (w *worker) wait(s *session) {
	h := &waiter{s: s}
	give := func() {
		h.timer.Stop()
		delete(w.waiters, h)
	}
	h.timer.F = func() {
		give()
		s.recordRefused(404)
		s.in.Refuse(404)
	}
	w.waiters[h] = struct{}{}
	s.in.OnCancel(give)
	w.loop.After(&h.timer, w.options.Patience)
}

// retryWaiters serves those whom a change made ours, and those that a change took
// from us before this loop had heard of it: for these the snapshot is the one
// they have seen, and only what lingers is new.
func (w *worker) retryWaiters() {
	for h := range w.waiters {
		h.s.snapshot = 0
		if h.s.destination() != nil {
			h.timer.Stop()
			delete(w.waiters, h)
			h.s.in.OnCancel(nil)
			h.s.serve()
		}
	}
}
