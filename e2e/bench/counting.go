package main

import (
	"context"
	"errors"
	"time"
)

// count is a round in which system calls are counted, and what ours allocates.
func (t *tester) count(ctx context.Context, e *env, s *scenario, l *lane) error {
	if len(l.running.pids) == 0 {
		return nil
	}
	calls, err := newTally(l.running.pids)
	if err != nil {
		l.one.NotCalled = err.Error()
	}
	allocs := make(chan error, 1)
	go func() { allocs <- t.allocations(ctx, l) }()
	res, m, err := t.metered(ctx, e, s, l, calls)
	if err == nil && calls != nil {
		l.one.Calls = calls.perRequest(m.between(res.Start, res.end()), float64(res.Requests))
	}
	if err = errors.Join(err, <-allocs, calls.close(), forget(l.running)); err != nil && ctx.Err() == nil {
		t.problem("%s, %s, counting calls: %v", s.name, l.name, err)
		l.out = true
	}
	return err
}

// The names of what the counters of ours say.
const (
	allocatedObjects = "go_memstats_mallocs_total"
	servedRequests   = "istio_requests_total"
)

// allocations looks at a waypoint of ours twice while it is under load, so that
// neither handshakes nor the opening of tunnels count. What it costs to look is
// found out before, and taken off.
func (t *tester) allocations(ctx context.Context, l *lane) error {
	if l.running.counters == nil {
		return nil
	}
	var looks [4]map[string]float64
	for i := range looks {
		if i == 2 {
			if err := pause(ctx, t.warmup+t.duration/4); err != nil {
				return err
			}
		}
		if i == 3 {
			if err := pause(ctx, t.duration/2); err != nil {
				return err
			}
		}
		var err error
		if looks[i], err = l.running.counters(); err != nil {
			return err
		}
	}
	if n, ok := allocationsOf(looks); ok {
		l.one.Allocs = &n
	}
	return nil
}

// allocationsOf returns the objects per request between the last two looks, less
// those of a look, which are what is between the first two; and whether the
// system counts both.
func allocationsOf(looks [4]map[string]float64) (float64, bool) {
	between := func(a, b int, name string) float64 { return looks[b][name] - looks[a][name] }
	requests := between(2, 3, servedRequests)
	if requests <= 0 || looks[3][allocatedObjects] == 0 {
		return 0, false
	}
	objects := between(2, 3, allocatedObjects) - between(0, 1, allocatedObjects)
	return max(objects, 0) / requests, true
}

// A plan says how long things will take.
type plan struct {
	began   time.Time
	planned time.Duration // of everything
	done    time.Duration // of what was planned, is over
}

// overhead is what a round takes besides its load: 300 ms, to start a generator
// and open its tunnels.
const overhead = 300 * time.Millisecond

// left estimates how long the rest takes: as much longer or shorter than planned
// as what is over took.
func (p *plan) left(now time.Time) time.Duration {
	rest := p.planned - p.done
	if p.done > 0 {
		rest = time.Duration(float64(rest) * float64(now.Sub(p.began)) / float64(p.done))
	}
	return rest
}
