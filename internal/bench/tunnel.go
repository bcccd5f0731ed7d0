package bench

import (
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// A client speaks a protocol on one tunnel. It tells the tunnel when it may be
// asked (ready), and when it may be no more (lost, spent); and each exchange what
// comes of it (got, done, fail). Once the tunnel has let go of it, it is silent.
type client interface {
	// start is called once the client receives.
	start()

	// ask makes a request.
	ask(x *exchange)

	// credit says that n bytes of x's content have been read.
	credit(x *exchange, n int)

	// close ends the tunnel in good order, when nothing is under way.
	close()

	// abort gives the tunnel up. It may be called from within any call to the
	// client, and twice.
	abort()
}

// A tunnel is one stream that requests are made on: a CONNECT, or a connection.
// When it is lost another takes its place, so that a run goes on.
type tunnel struct {
	// Immutable.
	e         *engine
	link      link
	exchanges []exchange

	// Owned by the loop.
	client client // nil: there is none
	ready  bool   // it may be asked
	since  time.Duration
	tries  int // losses since the last answer
	timer  loop.Timer
	credit int64 // what a slow reader may read before the next tick
}

// A link opens a stream. ready is called once, later, on the loop; it installs
// a Receiver by attach before it returns.
type link interface {
	open(ready func(s flow.Stream, attach func(flow.Receiver), err error))

	// leave is called when what open gave is closed, if every request has a
	// connection of its own.
	leave()
}

// maxSilence is how long nothing may come of a request before its tunnel is
// given up: 10 s.
const maxSilence = 10 * time.Second

// The time between the loss of a tunnel and the attempt to open another: from
// 10 ms, doubled at every loss without an answer in between, to 1.28 s.
const (
	retryAfter   = 10 * time.Millisecond
	maxDoublings = 7
)

func newTunnel(e *engine, l link) *tunnel {
	t := &tunnel{e: e, link: l, exchanges: make([]exchange, e.load.Concurrency)}
	for i := range t.exchanges {
		t.exchanges[i].tunnel = t
	}
	t.timer.F = t.again
	return t
}

// single reports whether each request has a connection of its own.
func (t *tunnel) single() bool { return t.e.load.Protocol == speakConnect }

// open gets the tunnel to where it may be asked.
func (t *tunnel) open() {
	if t.single() {
		t.mayAsk()
		return
	}
	t.link.open(t.opened)
}

func (t *tunnel) opened(s flow.Stream, attach func(flow.Receiver), err error) {
	switch {
	case err != nil:
		t.lost(err)
		return
	case t.e.phase == ending && !(t.single() && t.exchanges[0].active):
		s.Reset(nil)
		attach(deaf{})
		return
	}
	t.e.made++
	t.since = t.e.batch()
	c, receiver := t.e.run.speak(t, s)
	t.client = c
	attach(receiver)
	c.start()
}

// mayAsk is called when the client may be asked.
func (t *tunnel) mayAsk() {
	if t.single() && t.client != nil {
		t.client.ask(&t.exchanges[0])
		return
	}
	t.ready = true
	if t.e.phase == opening {
		t.e.run.opened()
	}
	now := t.e.clock()
	for i := range t.exchanges {
		t.e.rest(&t.exchanges[i], now)
	}
}

// ask makes x's request.
func (t *tunnel) ask(x *exchange) {
	if t.single() {
		t.ready = false
		t.link.open(t.opened)
		return
	}
	t.client.ask(x)
}

// lost is called when the tunnel came to an end that nobody asked for. What was
// under way on it has failed for that reason.
func (t *tunnel) lost(err error) {
	t.let()
	if t.e.phase == opening {
		t.e.run.fail(err)
		return
	}
	kind, n := kindOf(err), 0
	for i := range t.exchanges {
		if x := &t.exchanges[i]; x.active {
			n++
			t.e.failed(x, kind)
		}
	}
	if n == 0 {
		t.e.count(kind)
	}
	t.e.loop.After(&t.timer, retryAfter<<min(t.tries, maxDoublings))
	t.tries++
}

// spent is called when the tunnel cannot be used any more though nothing went
// wrong: the server has closed it between two answers.
func (t *tunnel) spent() {
	t.let()
	t.e.loop.After(&t.timer, 0)
}

// let lets go of the client, if there is one.
func (t *tunnel) let() {
	c := t.client
	t.client, t.ready = nil, false
	if c != nil {
		c.abort()
	}
}

func (t *tunnel) again() {
	if t.e.phase != ending {
		t.open()
	}
}

// over ends the one exchange of a tunnel that had a connection of its own, and
// was closed in good order.
func (t *tunnel) over() {
	t.client, t.ready = nil, true
	t.link.leave()
	t.exchanges[0].settle()
}

// close ends the tunnel in good order.
func (t *tunnel) close() {
	t.timer.Stop()
	if t.client != nil {
		t.client.close()
	}
}

// overdue reports whether the tunnel is to be given up because nothing comes.
func (t *tunnel) overdue(now time.Duration) bool {
	if t.client != nil && !t.ready && !t.single() {
		return now-t.since > maxSilence
	}
	for i := range t.exchanges {
		if x := &t.exchanges[i]; x.active && now-x.heard > maxSilence {
			return true
		}
	}
	return false
}

// got takes content of x's answer.
func (x *exchange) got(p []byte) {
	x.body.add(p)
	x.arrived(len(p))
}

// arrived has n bytes of x's answer credited: now or, for a slow reader, later.
func (x *exchange) arrived(n int) {
	t := x.tunnel
	x.heard = t.e.batch()
	t.e.received += int64(n)
	if t.e.load.ReadRate == 0 {
		t.client.credit(x, n)
		return
	}
	x.owed += n
	t.read(x)
}

// sent counts content of x's request.
func (x *exchange) sent(n int) {
	e := x.tunnel.e
	x.heard = e.batch()
	e.sent += int64(n)
}

// done says that x's answer is whole, and as it should be but perhaps for its
// content. A slow reader has still to read it.
func (x *exchange) done() {
	x.whole = true
	if x.owed == 0 {
		x.settle()
	}
}

// settle ends an exchange that is done.
func (x *exchange) settle() {
	e := x.tunnel.e
	if err := x.body.check(e.run.want); err != nil {
		e.failed(x, kindOf(err))
		return
	}
	e.answered(x)
}

// fail ends x, on a tunnel that can be used again.
func (x *exchange) fail(err error) { x.tunnel.e.failed(x, kindOf(err)) }

// read has a slow reader read what it may of x's answer.
func (t *tunnel) read(x *exchange) {
	n := int(min(int64(x.owed), t.credit))
	t.credit -= int64(n)
	x.owed -= n
	if n > 0 && t.client != nil {
		t.client.credit(x, n)
	}
}

// readOn gives a slow reader what it may read in the next step. It saves up no
// more than two: one that has nothing to read is not to make up for it.
func (t *tunnel) readOn(step time.Duration) {
	more := max(1, t.e.load.ReadRate*int64(step)/int64(time.Second))
	t.credit = min(t.credit+more, 2*more)
	for i := range t.exchanges {
		x := &t.exchanges[i]
		if x.owed == 0 {
			continue
		}
		if t.read(x); x.whole && x.owed == 0 {
			x.settle()
		}
	}
}

// The steps of an engine's clock: for slow readers, and for all else.
const (
	readStep = 20 * time.Millisecond
	tickStep = time.Second
)

// tick looks after what has no clock of its own.
func (e *engine) tick() {
	step := tickStep
	if e.load.ReadRate > 0 {
		step = readStep
	}
	e.loop.After(&e.timer, step)
	for _, t := range e.tunnels {
		if e.load.ReadRate > 0 {
			t.readOn(step)
		}
	}
	if e.ticks++; e.ticks%int(tickStep/step) != 0 {
		return
	}
	e.inners.Tick(e.loop.Now())
	if e.load.ReadRate > 0 {
		return // there is no telling who is to blame for a silence
	}
	now := e.batch()
	for _, t := range e.tunnels {
		if t.overdue(now) {
			t.lost(fault(kindTimeout))
		}
	}
}

// deaf takes what nobody wants.
type deaf struct{}

func (deaf) Data([]byte) {}
func (deaf) EOF()        {}
func (deaf) Sent(int)    {}
func (deaf) Reset(error) {}
