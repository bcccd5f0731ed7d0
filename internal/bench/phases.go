package bench

import (
	"context"
	"sync"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// do makes the load and measures it.
func (r *run) do(ctx context.Context) (*Result, error) {
	l := &r.load
	var pace *pacer
	if l.Rate > 0 {
		pace = &pacer{arrive: newSchedule(l)}
		for _, e := range r.engines {
			pace.inboxes = append(pace.inboxes, newInbox(e.loop.Do, e.offer))
		}
		defer pace.stop()
	}
	if l.Warmup == 0 || l.Hold {
		r.measure()
	}
	from := time.Since(r.epoch)
	r.each(func(_ int, e *engine) { e.begin() })
	if pace != nil {
		pace.start(r.epoch, from)
	}
	switch {
	case l.Hold:
		if err := r.hold(ctx); err != nil {
			return nil, err
		}
	case l.Warmup > 0:
		if err := r.waitFor(ctx, "warmup", l.Warmup, nil); err != nil {
			return nil, err
		}
		r.measure()
	}
	return r.measured(ctx)
}

// measure begins to count.
func (r *run) measure() {
	limits := r.limits()
	r.unmet.Store(int64(len(r.engines)))
	r.each(func(i int, e *engine) { e.measure(limits[i]) })
}

// limits returns how many requests each engine is to make; negative: any number.
func (r *run) limits() []int64 {
	limits := make([]int64, len(r.engines))
	for i, e := range r.engines {
		n := int64(len(r.engines))
		switch {
		case r.load.Hold:
			limits[i] = int64(len(e.tunnels))
		case r.load.Requests > 0:
			limits[i] = (r.load.Requests + n - 1 - int64(i)) / n
		default:
			limits[i] = -1
		}
	}
	return limits
}

// hold waits for the one exchange on each tunnel.
func (r *run) hold(ctx context.Context) error {
	deadline := time.NewTimer(openTimeout)
	defer deadline.Stop()
	err := r.wait(ctx, Progress{Phase: "asking", Of: openTimeout}, r.met, deadline.C, nil)
	r.each(func(_ int, e *engine) { e.enough = false }) // what is lost from now on counts
	return err
}

// measured waits until the measured part is over and says what it was.
func (r *run) measured(ctx context.Context) (*Result, error) {
	met := r.met
	if r.load.Hold {
		met = nil // they were before
	}
	start, spent := time.Now(), cpuTime()
	err := r.waitFor(ctx, "measuring", r.load.Duration, met)
	seconds := time.Since(start).Seconds()
	spent = cpuTime() - spent
	return r.result(start, seconds, spent), err
}

// result ends the measured part.
func (r *run) result(start time.Time, seconds float64, spent time.Duration) *Result {
	res := &Result{Load: r.load, Start: start, Seconds: seconds, Errors: map[string]int64{}, CPUSeconds: spent.Seconds()}
	all := newLatencies()
	r.each(func(_ int, e *engine) {
		e.finish()
		all.take(e.all)
		res.Requests += e.requests
		res.BytesSent += e.counts.sent
		res.BytesReceived += e.counts.received
		res.QueuedMax = max(res.QueuedMax, e.queuedMax)
		for kind, n := range e.errors {
			res.Errors[kind] += n
		}
		tunnels, conns := e.openNow()
		res.Tunnels += tunnels
		res.Connections += conns
	})
	if !r.load.Hold {
		res.Rate = float64(res.Requests) / seconds
	}
	res.Latency, res.Histogram = all.summary(), all.buckets()
	return res
}

// close ends the run: what is under way may end, then tunnels are closed, then
// connections. None of it is waited for long.
func (r *run) close() {
	r.busy.Store(int64(len(r.engines)))
	r.each(func(_ int, e *engine) { e.end() })
	select {
	case <-r.quiet:
	case <-time.After(endTimeout):
	}
	r.cancel()
	r.dials.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	var pools sync.WaitGroup
	r.each(func(_ int, e *engine) {
		for _, t := range e.tunnels {
			t.close()
		}
		for _, c := range e.conns {
			pools.Go(func() { _ = c.pool.Shutdown(ctx) })
		}
	})
	pools.Wait()
	r.disconnect(ctx)
	r.group.Close()
	if r.load.source == nil && r.source != nil {
		_ = identity.Close(r.source)
	}
}

// disconnect waits until peers have closed what we have.
func (r *run) disconnect(ctx context.Context) {
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for _, e := range r.engines {
		for e.loop.Stats().Sockets > 0 && ctx.Err() == nil {
			<-look.C
		}
	}
}
