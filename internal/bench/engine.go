package bench

import (
	"time"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/inner"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// An exchange is a place for one request at a time and its answer: a tunnel has
// as many as it carries at once.
type exchange struct {
	tunnel *tunnel
	at     time.Duration // when the request arrived; in a closed loop, was sent
	heard  time.Duration // when something last happened
	active bool          // a request is under way
	idle   bool          // it is in the engine's ring
	body   body          // what came of the answer's content
	owed   int           // content that a slow reader has not read
	whole  bool          // the answer has come, all of it
	state  any           // the client's
}

// An engine is what one loop owns of a run: its tunnels, the requests that wait
// for one of them, and what was measured.
type engine struct {
	// Immutable.
	run   *run
	load  *Load
	loop  *loop.Loop
	clock func() time.Duration // since the epoch
	batch func() time.Duration // when the batch began: cheap, and exact enough for timeouts

	// Owned by the loop.
	tunnels []*tunnel
	conns   []*connection // of HBONE
	inners  *inner.Set
	idle    ring[*exchange]
	queue   ring[time.Duration] // when those arrived that wait for a tunnel
	active  int
	phase   phase
	silent  bool  // ending, with nothing under way
	left    int64 // requests that may still be begun
	wanted  int64 // outcomes until the run is over, if it is to end by their number
	enough  bool  // there were so many
	timer   loop.Timer
	ticks   int

	// What was measured: recent since progress was last asked for, which is when
	// it is added to all.
	recent, all latencies
	counts
}

// counts are what an engine counts.
type counts struct {
	requests       int64
	errors         map[string]int64
	sent, received int64
	made           int64 // tunnels that were opened
	queuedMax      int
}

// A phase is what an engine does.
type phase uint8

const (
	opening phase = iota // tunnels are opened, and nothing is asked
	loading              // requests are made
	ending               // no more are, and those under way are not counted
)

// noLimit is how many requests a run without --requests may begin.
const noLimit = 1 << 62

// maxQueue is how many requests wait for a tunnel at most: 4 Mi, of 8 bytes. One
// that arrives then is counted as an error: it was never sent.
const maxQueue = 4 << 20

func newEngine(r *run, l *loop.Loop) *engine {
	e := &engine{
		run: r, load: &r.load, loop: l, left: noLimit,
		clock:  func() time.Duration { return time.Since(r.epoch) },
		recent: newLatencies(), all: newLatencies(),
		counts: counts{errors: map[string]int64{}},
	}
	e.inners = inner.NewSet(l, h2.Options{MaxStreams: maxConcurrency})
	e.batch = func() time.Duration { return l.Now().Sub(r.epoch) }
	e.timer.F = e.tick
	return e
}

// begin ends the phase in which tunnels are opened.
func (e *engine) begin() {
	e.phase = loading
	now := e.clock()
	for n := e.idle.len(); n > 0; n-- {
		x := e.idle.pop()
		x.idle = false
		switch {
		case !x.tunnel.ready:
		case e.load.Hold && e.left > 0:
			e.left--
			e.ask(x, now, now)
		default:
			e.rest(x, now)
		}
	}
}

// offer takes a request of an open loop that arrived at a time.
func (e *engine) offer(at time.Duration) {
	if e.phase != loading || e.left == 0 {
		return
	}
	e.left--
	if x := e.free(); x != nil {
		e.ask(x, at, e.batch())
		return
	}
	if e.queue.len() == maxQueue {
		if e.counting() {
			e.count(kindNotSent)
			e.outcome()
		}
		return
	}
	e.queue.push(at)
	e.queuedMax = max(e.queuedMax, e.queue.len())
}

// free returns an exchange that has nothing to do, or nil. They take turns, so
// that all tunnels are used alike.
func (e *engine) free() *exchange {
	for e.idle.len() > 0 {
		x := e.idle.pop()
		x.idle = false
		if x.tunnel.ready {
			return x
		}
	}
	return nil
}

// rest gives an exchange on a tunnel that is ready something to do.
func (e *engine) rest(x *exchange, now time.Duration) {
	switch {
	case !x.tunnel.ready || x.idle || x.active: // it comes back when it is
	case e.phase == loading && e.queue.len() > 0:
		e.ask(x, e.queue.pop(), now)
	case e.phase == loading && e.load.Rate == 0 && !e.load.Hold && e.left > 0:
		e.left--
		e.ask(x, now, now)
	default:
		x.idle = true
		e.idle.push(x)
	}
}

// ask makes a request, which arrived at a time.
func (e *engine) ask(x *exchange, at, now time.Duration) {
	x.at, x.heard = at, now
	x.active = true
	e.active++
	x.body, x.owed, x.whole = body{}, 0, false
	x.tunnel.ask(x)
}

// answered ends an exchange as it should.
func (e *engine) answered(x *exchange) {
	now := e.clock()
	e.active--
	x.active = false
	e.settled()
	x.tunnel.tries = 0
	if e.counting() {
		e.recent.record(now - x.at)
		e.requests++
		e.outcome()
	}
	e.rest(x, now)
}

// failed ends an exchange otherwise. Its tunnel is none the worse for it, or
// not ready any more.
func (e *engine) failed(x *exchange, kind string) {
	e.active--
	x.active = false
	e.settled()
	if e.counting() {
		e.count(kind)
		e.outcome()
	}
	e.rest(x, e.clock())
}

// counting reports whether what happens now counts.
func (e *engine) counting() bool { return e.phase == loading && !e.enough }

func (e *engine) count(kind string) {
	if e.counting() {
		e.errors[kind]++
	}
}

// outcome notes that a request has come to its end, whichever.
func (e *engine) outcome() {
	if e.wanted > 0 {
		e.wanted--
		e.enoughIf(e.wanted == 0)
	}
}

func (e *engine) enoughIf(yes bool) {
	if yes {
		e.enough = true
		e.run.satisfied()
	}
}

// measure begins the measured part. Requests under way count towards the limit;
// a negative one is none.
func (e *engine) measure(limit int64) {
	e.recent.h.Reset()
	e.all.h.Reset()
	e.counts = counts{errors: map[string]int64{}, queuedMax: e.queue.len()}
	if limit >= 0 {
		e.wanted = limit
		e.left = max(0, limit-int64(e.active+e.queue.len()))
		e.enoughIf(limit == 0)
	}
}

// unfinished is how long a request has to have gone without any sign of an
// answer for it to count at the end of the measured part: 1 s. Those that are
// merely under way then are nobody's fault.
const unfinished = time.Second

// finish ends the measured part. What has waited long by then is counted, with
// the latency that it has at least: a server that stalled until the end would
// otherwise look as if it had been asked nothing.
func (e *engine) finish() {
	now := e.clock()
	if e.counting() && e.load.ReadRate == 0 {
		for _, t := range e.tunnels {
			for i := range t.exchanges {
				if x := &t.exchanges[i]; x.active && now-x.heard > unfinished {
					e.late(now - x.at)
				}
			}
		}
		for i := range e.queue.len() {
			if waited := now - e.queue.get(i); waited > unfinished {
				e.late(waited)
			}
		}
	}
	e.all.take(e.recent)
}

func (e *engine) late(waited time.Duration) {
	e.recent.record(waited)
	e.count(kindUnfinished)
}

// openNow returns how many tunnels there are, and how many connections; when
// each request has one of its own, how many were made since measure.
func (e *engine) openNow() (tunnels, conns int64) {
	if e.load.Protocol == speakConnect {
		return e.made, e.made
	}
	for _, t := range e.tunnels {
		if t.client != nil {
			tunnels++
		}
	}
	if e.load.Transport != overHBONE {
		return tunnels, tunnels
	}
	for _, c := range e.conns {
		conns += int64(c.pool.Stats().Conns)
	}
	return tunnels, conns
}

// end has nothing more be asked.
func (e *engine) end() {
	e.phase = ending
	e.queue = ring[time.Duration]{}
	e.settled()
}

// settled notes that nothing is under way at the end.
func (e *engine) settled() {
	if e.phase == ending && e.active == 0 && !e.silent {
		e.silent = true
		e.run.silent()
	}
}
