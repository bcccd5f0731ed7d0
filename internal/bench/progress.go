package bench

import (
	"context"
	"time"
)

// A Progress is how far a run has come.
type Progress struct {
	Phase       string        // opening, asking (with Hold), warmup, measuring
	Elapsed, Of time.Duration // of the phase
	Tunnels     int           // that may be asked, out of Load.Tunnels

	// Since the phase began, or for warmup and measuring together when there is
	// no warmup.
	Requests, Errors int64

	// Since the last Progress.
	Rate     float64
	P50, P99 time.Duration

	Queued int // requests that wait for a tunnel
}

// waitFor waits for a duration, or until done is closed.
func (r *run) waitFor(ctx context.Context, phase string, d time.Duration, done <-chan struct{}) error {
	over := time.NewTimer(d)
	defer over.Stop()
	return r.wait(ctx, Progress{Phase: phase, Of: d}, done, over.C, nil)
}

// wait reports progress until done is closed, the phase is over, or it fails.
func (r *run) wait(ctx context.Context, p Progress, done <-chan struct{}, over <-chan time.Time, failure <-chan error) error {
	began := time.Now()
	last, at := int64(0), began
	beat := time.NewTicker(time.Second)
	defer beat.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-over:
			return nil
		case err := <-failure:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-beat.C:
		}
		if r.progress == nil {
			continue
		}
		now := time.Now()
		p.Elapsed = now.Sub(began)
		r.look(&p)
		p.Rate = float64(p.Requests-last) / now.Sub(at).Seconds()
		last, at = p.Requests, now
		r.progress(p)
	}
}

// look fills in what the engines know.
func (r *run) look(p *Progress) {
	recent := newLatencies()
	p.Requests, p.Errors, p.Queued, p.Tunnels = 0, 0, 0, 0
	r.each(func(_ int, e *engine) {
		recent.h.Merge(e.recent.h)
		e.all.take(e.recent)
		p.Requests += e.requests
		p.Errors += total(e.errors)
		p.Queued += e.queue.len()
		for _, t := range e.tunnels {
			if t.ready {
				p.Tunnels++
			}
		}
	})
	p.P50, p.P99 = recent.at(50), recent.at(99)
}
