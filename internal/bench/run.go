package bench

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// openTimeout bounds how long all tunnels together take to open: 60 s, for ten
// thousand of them on a busy machine.
const openTimeout = 60 * time.Second

// endTimeout bounds each step of ending a run in good order: 1 s.
const endTimeout = time.Second

// A run is one Load being done.
type run struct {
	// Immutable.
	load      Load
	self      identity.ID
	peers     []identity.ID
	addr      netip.AddrPort
	authority mesh.Authority
	requests  requests
	speak     speaker
	want      want
	source    identity.Source
	epoch     time.Time // what the engines' clocks count from
	group     *loop.Group
	engines   []*engine
	progress  func(Progress)
	ctx       context.Context // of dials
	cancel    context.CancelFunc

	dials   sync.WaitGroup
	closed  atomic.Int64  // tunnels that are not open yet
	open    chan struct{} // closed when all are
	failure chan error    // the first that kept one from opening
	unmet   atomic.Int64  // engines that have not had all the outcomes that were asked for
	met     chan struct{} // closed when all have
	busy    atomic.Int64  // engines that have requests under way, at the end
	quiet   chan struct{} // closed when none has
}

// Run does l and returns what it measured. It calls progress, which may be nil,
// about once a second, from the caller's goroutine.
//
// It opens every tunnel first, and fails when one cannot be opened. After that
// no error ends it: a tunnel that is lost is opened again after a while, and
// what went wrong is counted by kind:
//
//	status 503       an answer with another status than 2xx
//	grpc-status 14   a call that ended with that
//	connect: 503     a tunnel was refused
//	dial: refused    a connection, likewise: refused, timeout, other
//	reset            a tunnel or its connection was given up by the peer
//	closed early     ... or ended before an answer was whole
//	crc              content arrived that is not what was sent, at either end
//	length           ... or not as much
//	malformed        an answer broke its protocol
//	timeout          nothing had come for 10 s
//	unfinished       nothing had come for a second when the measured part ended
//	not sent         four million requests were waiting for a tunnel already
//
// When ctx is done during the measured part, the Result is of what there was,
// and the error ctx's.
func Run(ctx context.Context, l Load, progress func(Progress)) (*Result, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	r, err := newRun(l.withDefaults(), progress)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.openAll(ctx); err != nil {
		return nil, err
	}
	return r.do(ctx)
}

func newRun(l Load, progress func(Progress)) (_ *run, err error) {
	r := &run{
		load: l, epoch: time.Now(), source: l.source, progress: progress, requests: newRequests(&l), speak: speakerOf(l.Protocol), want: newWant(l.Size),
		open: make(chan struct{}), failure: make(chan error, 1), met: make(chan struct{}), quiet: make(chan struct{}),
	}
	// Check has seen to it that these can be read.
	r.addr, _ = netip.ParseAddrPort(l.Connect)
	r.authority, _ = mesh.ParseAuthority(l.Authority)
	r.self, _ = l.id(l.As)
	for _, p := range l.Peers {
		id, _ := l.id(p)
		r.peers = append(r.peers, id)
	}
	if l.Transport == overHBONE && r.source == nil {
		if r.source, err = identity.Open(l.Identity, identity.Options{TrustDomain: l.TrustDomain}); err != nil {
			return nil, err
		}
	}
	if r.group, err = loop.NewGroup(l.Loops, loop.Options{Lead: -1}); err != nil {
		return nil, err
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.build()
	return r, nil
}

// build makes the engines and their tunnels, which are spread evenly over the
// connections, and those over the loops.
func (r *run) build() {
	l := &r.load
	for _, lp := range r.group.Loops() {
		r.engines = append(r.engines, newEngine(r, lp))
	}
	conns := l.Conns
	if l.Protocol == speakConnect {
		conns = l.Tunnels
	}
	var made []*connection
	for i := range l.Tunnels {
		e := r.engines[i%conns%len(r.engines)]
		var to link
		switch {
		case l.Transport != overHBONE:
			to = &plain{r, e.loop}
		case i < conns:
			c := e.newConnection(l.Tunnels)
			made, e.conns = append(made, c), append(e.conns, c)
			to = c
		default:
			to = made[i%conns]
		}
		e.tunnels = append(e.tunnels, newTunnel(e, to))
	}
}

// each runs f for every engine on its loop, one after the other.
func (r *run) each(f func(int, *engine)) {
	done := make(chan struct{})
	for i, e := range r.engines {
		e.loop.Do(func() {
			f(i, e)
			done <- struct{}{}
		})
		<-done
	}
}

// openAll opens the tunnels.
func (r *run) openAll(ctx context.Context) error {
	if r.source != nil && r.load.Transport == overHBONE {
		have, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		if _, err := r.source.Certificate(have, r.self); err != nil {
			return fmt.Errorf("certificate of %s: %w", r.load.As, err)
		}
	}
	r.closed.Store(int64(r.load.Tunnels))
	r.each(func(_ int, e *engine) {
		e.tick()
		for _, t := range e.tunnels {
			t.open()
		}
	})
	deadline := time.NewTimer(openTimeout)
	defer deadline.Stop()
	err := r.wait(ctx, Progress{Phase: "opening", Of: openTimeout}, r.open, deadline.C, r.failure)
	if err == nil && r.closed.Load() > 0 {
		err = fmt.Errorf("%d of %d tunnels did not open within %v", r.closed.Load(), r.load.Tunnels, openTimeout)
	}
	if err != nil {
		return fmt.Errorf("opening tunnels to %s: %w", r.load.Connect, err)
	}
	return r.checkConns()
}

// checkConns reports a peer that does not take a connection's share of tunnels,
// for which more connections were made than were asked for.
func (r *run) checkConns() error {
	if r.load.Protocol == speakConnect {
		return nil
	}
	most := 1
	r.each(func(_ int, e *engine) {
		for _, c := range e.conns {
			most = max(most, c.pool.Stats().Conns)
		}
	})
	if most == 1 {
		return nil
	}
	share := (r.load.Tunnels + r.load.Conns - 1) / r.load.Conns
	return fmt.Errorf("%s takes fewer than %d tunnels on a connection: raise --conns to %d, or its limit",
		r.load.Connect, share, most*r.load.Conns)
}

// opened is called, on any loop, for each tunnel that may be asked.
func (r *run) opened() {
	if r.closed.Add(-1) == 0 {
		close(r.open)
	}
}

// fail is called when a tunnel cannot be opened.
func (r *run) fail(err error) {
	select {
	case r.failure <- err:
	default: // the first is enough
	}
}

// satisfied is called when an engine has had the outcomes that were asked for.
func (r *run) satisfied() {
	if r.unmet.Add(-1) == 0 {
		close(r.met)
	}
}

// silent is called when an engine that is ending has nothing under way.
func (r *run) silent() {
	if r.busy.Add(-1) == 0 {
		close(r.quiet)
	}
}
