package main

import (
	"context"
	"errors"
	"time"
)

// count is a round in which system calls are counted, and another in which it is
// seen what ours allocates. Both are beside what is measured: what goes wrong in
// them is told, and that is all.
func (t *tester) count(ctx context.Context, e *env, s *scenario, l *lane) {
	if len(l.running.pids) == 0 {
		return
	}
	calls, err := newTally(l.running.pids)
	if err == nil {
		var res *result
		var m *meter
		res, m, err = t.metered(ctx, e, s, l, calls)
		if err = errors.Join(err, calls.close(), forget(l.running)); err == nil {
			l.one.Calls = calls.perRequest(m.between(res.Start, res.end()), float64(res.Requests))
		}
	}
	if err != nil {
		l.one.NotCalled = err.Error()
	}
	if err := t.look(ctx, e, s, l); err != nil && ctx.Err() == nil {
		t.problem(s.name, "%s, looking at its counters: %v", l.name, err)
	}
}

// The names of what the counters of ours say.
const (
	allocatedObjects = "go_memstats_mallocs_total"
	servedRequests   = "istio_requests_total"
	loopReads        = "waystone_loop_reads_total"
	loopWrites       = "waystone_loop_writes_total"
)

// A look is what the counters of ours say at a moment.
type look map[string]float64

// look has a load, and looks at the counters of ours twice meanwhile, so that
// neither handshakes nor the opening of tunnels count. What a look itself costs is
// found out before, and taken off: the first is dearer than those after it.
func (t *tester) look(ctx context.Context, e *env, s *scenario, l *lane) error {
	if l.running.counters == nil {
		return nil
	}
	var looks [5]look
	for i := range 3 {
		var err error
		if looks[i], err = l.running.counters(); err != nil {
			return err
		}
	}
	if looks[0][allocatedObjects] == 0 {
		return nil // none of ours
	}
	done := make(chan error, 1)
	go func() {
		res, err := s.load(ctx, e, l.running, t.duration, t.warmup)
		if err == nil {
			err = res.check()
		}
		done <- err
	}()
	var errs []error
	for i, wait := range []time.Duration{t.warmup + t.duration/4, t.duration / 2} {
		errs = append(errs, pause(ctx, wait))
		var err error
		looks[3+i], err = l.running.counters()
		errs = append(errs, err)
	}
	if err := errors.Join(append(errs, <-done, forget(l.running))...); err != nil {
		return err
	}
	l.one.Allocs, l.one.Moves = perRequest(looks)
	return nil
}

// perRequest returns the objects, and the reads and writes, of each request between
// the last two looks, less those of a look; nil where there were no requests that
// are counted.
func perRequest(looks [5]look) (objects, moves *float64) {
	between := func(a, b int, name string) float64 { return looks[b][name] - looks[a][name] }
	requests := between(3, 4, servedRequests)
	if requests <= 0 {
		return nil, nil
	}
	per := func(names ...string) *float64 {
		sum := 0.0
		for _, name := range names {
			sum += between(3, 4, name) - between(1, 2, name)
		}
		sum = max(sum, 0) / requests
		return &sum
	}
	return per(allocatedObjects), per(loopReads, loopWrites)
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
