package ztunnel

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/waystone-mesh/waystone/internal/hbone"
)

// lastWords is how long connections have to say that their tunnels were cut.
const lastWords = time.Second

// Shutdown takes nothing new, tells the other nodes to stop using our
// connections (GOAWAY), and waits until everything open has ended. When ctx is
// done first, what is left is cut and its cause is returned.
func (z *Ztunnel) Shutdown(ctx context.Context) error {
	pods := z.stopListening()
	// HBONE connections must outlive their tunnels, and so have a deadline of
	// their own: tunnels are cut by us, who know why.
	rest, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan struct{}, len(pods)+len(z.workers))
	for _, p := range pods {
		go func() { _ = p.server.Shutdown(rest); ended <- struct{}{} }()
	}
	for _, p := range pods {
		p.capturing.Wait() // then every connection is known to its loop
	}
	for _, w := range z.workers {
		idle := w.drain()
		go func() { <-idle; w.shutPools(rest); ended <- struct{}{} }()
	}
	var err error
	done := ctx.Done()
	for n := cap(ended); n > 0; {
		select {
		case <-ended:
			n--
		case <-done:
			done, err = nil, context.Cause(ctx)
			z.cut()
			defer time.AfterFunc(lastWords, stop).Stop()
		}
	}
	z.cut()
	z.serving.Wait()
	for _, p := range pods {
		p.leave()
	}
	return err
}

// stopListening returns what has to be shut down.
func (z *Ztunnel) stopListening() map[string]*pod {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.draining = true
	pods := z.pods
	z.pods = nil
	for _, p := range pods {
		p.handOver()
		z.options.Telemetry.ProxyStopped()
	}
	if p := z.self; p != nil {
		z.self = nil
		p.handOver()
		pods[p.uid] = p
	}
	for uid, w := range z.pending {
		_ = w.about.Netns.Close() // nothing was opened in it
		delete(z.pending, uid)
	}
	return pods
}

// shutPools closes the connections that carried tunnels of ours, and returns when
// they are closed.
func (w *worker) shutPools(ctx context.Context) {
	list := make(chan []*hbone.Pool, 1)
	w.loop.Do(func() {
		pools := slices.Collect(maps.Values(w.pools))
		for _, pool := range pools {
			pool.Retire(func(hbone.Key) bool { return true }) // all at once
		}
		list <- pools
	})
	for _, pool := range <-list {
		_ = pool.Shutdown(ctx)
	}
}

// drain returns what is closed once nothing is open on the loop. It may be
// called again.
func (w *worker) drain() <-chan struct{} {
	idle := make(chan chan struct{}, 1)
	w.loop.Do(func() {
		if w.idle == nil {
			w.idle = make(chan struct{})
			w.timer.Stop()
		}
		w.left()
		idle <- w.idle
	})
	return <-idle
}

// left notes that something is open no more.
func (w *worker) left() {
	if w.idle == nil || len(w.greeters)+len(w.inbound)+len(w.outbound) > 0 {
		return
	}
	select {
	case <-w.idle:
	default:
		close(w.idle)
	}
}

// cut ends what is open everywhere, and refuses what may still come.
func (z *Ztunnel) cut() {
	for l, w := range z.workers {
		done := make(chan struct{})
		l.Do(func() { w.cut(); close(done) })
		<-done
	}
}

func (w *worker) cut() {
	w.cutting = true
	for g := range w.greeters {
		g.fail(errDrained)
	}
	for in := range w.inbound {
		in.reset(errDrained)
	}
	for out := range w.outbound {
		out.reset(errDrained)
	}
}
