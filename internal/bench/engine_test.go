package bench

import (
	"maps"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// A rig is an engine whose clock stands still, and tunnels whose requests are
// answered when the test says so.
type rig struct {
	*testing.T
	*engine
	now   time.Duration
	asked []*exchange // under way, in order
	total int         // asked so far
}

func newRig(t *testing.T, l Load, tunnels int) *rig {
	r := &rig{T: t}
	l = l.withDefaults()
	rn := &run{load: l, open: make(chan struct{}), met: make(chan struct{}), quiet: make(chan struct{}), failure: make(chan error, 1)}
	rn.speak = func(tn *tunnel, _ flow.Stream) (client, flow.Receiver) {
		return &fakeClient{t: tn, rig: r}, deaf{}
	}
	rn.want = newWant(l.Size)
	rn.closed.Store(int64(tunnels))
	rn.unmet.Store(1)
	rn.busy.Store(1)
	r.engine = newEngine(rn, &loop.Loop{})
	r.clock = func() time.Duration { return r.now }
	r.batch = r.clock
	for range tunnels {
		tn := newTunnel(r.engine, r)
		r.tunnels = append(r.tunnels, tn)
		tn.open()
	}
	if n := rn.closed.Load(); n != 0 {
		t.Fatalf("%d tunnels are not open", n)
	}
	return r
}

// open is link: a tunnel opens at once.
func (r *rig) open(ready func(flow.Stream, func(flow.Receiver), error)) {
	ready(sink{}, func(flow.Receiver) {}, nil)
}
func (r *rig) leave() {}

// advance moves the clock. At every step the requests that by then have been
// arriving by s are offered, and serve is called.
func (r *rig) advance(d, step time.Duration, s *schedule, serve func()) {
	end, due := r.now+d, time.Duration(1<<62)
	if s != nil {
		due = s.next()
	}
	for ; r.now < end; r.now += step {
		for due <= r.now {
			r.offer(due)
			due = s.next()
		}
		serve()
	}
}

// answer ends the requests that are under way.
func (r *rig) answer() {
	asked := r.asked
	r.asked = nil
	for _, x := range asked {
		if x.active {
			x.done()
		}
	}
}

func (r *rig) result() (Latency, map[string]int64) {
	r.finish()
	return r.all.summary(), r.errors
}

// TestStalledServerShows is what an open loop is for: a second in which a server
// does nothing is felt by the thousand requests that arrived meanwhile. The
// closed loop sees it once.
func TestStalledServerShows(t *testing.T) {
	const ms = time.Millisecond
	stall := func(r *rig) func() {
		return func() {
			if r.now < time.Second || r.now >= 2*time.Second {
				r.answer()
			}
		}
	}
	l := Load{Rate: 1000}
	open := newRig(t, l, 10)
	open.begin()
	open.advance(4*time.Second, ms, newSchedule(&open.run.load), stall(open))
	got, errs := open.result()
	// A quarter of the requests arrived during the stall, evenly, and waited
	// from a second to nothing.
	if len(errs) > 0 || got.P50 > 2000 || got.P90 < 500e3 || got.P90 > 700e3 || got.P99 < 900e3 || got.Max < 990e3 {
		t.Errorf("open loop: %+v, errors %v", got, errs)
	}
	if open.queuedMax < 950 || open.queuedMax > 1000 {
		t.Errorf("%d requests waited at a time, want about 990", open.queuedMax)
	}

	closed := newRig(t, Load{}, 1)
	closed.begin()
	closed.advance(4*time.Second, ms, nil, stall(closed))
	if got, errs = closed.result(); len(errs) > 0 || got.P99 > 2000 || got.Max < 990e3 {
		t.Errorf("closed loop: %+v, errors %v", got, errs)
	}
}

// TestStallAtTheEndShows covers what has no answer when the run is over.
func TestStallAtTheEndShows(t *testing.T) {
	const ms = time.Millisecond
	r := newRig(t, Load{Rate: 1000}, 10)
	r.begin()
	r.advance(4*time.Second, ms, newSchedule(&r.run.load), func() {
		if r.now < time.Second {
			r.answer()
		}
	})
	got, errs := r.result()
	// The stall was three seconds, of which those that arrived in the first two
	// have waited for more than one.
	if n := errs[kindUnfinished]; n < 1990 || n > 2000 || len(errs) != 1 {
		t.Errorf("errors %v, want about 2000 unfinished", errs)
	}
	if got.P50 < 1e6 || got.Max < 2.99e6 {
		t.Errorf("%+v", got)
	}
}

func TestRequestsUnderWayAtTheEndAreNotUnfinished(t *testing.T) {
	r := newRig(t, Load{}, 10)
	r.begin()
	r.now = unfinished
	if _, errs := r.result(); len(errs) > 0 {
		t.Errorf("errors %v, want none", errs)
	}
}

func TestExchangesTakeTurns(t *testing.T) {
	r := newRig(t, Load{Rate: 1}, 3)
	r.begin()
	for i := range 7 {
		r.offer(0)
		if x := r.asked[0]; x.tunnel != r.tunnels[i%3] {
			t.Errorf("request %d did not go to tunnel %d", i, i%3)
		}
		r.answer()
	}
}

// TestLimitIsExact counts failures too, and what was under way when the measured
// part began.
func TestLimitIsExact(t *testing.T) {
	for _, rate := range []float64{0, 1000} {
		r := newRig(t, Load{Rate: rate}, 4)
		r.begin()
		if rate > 0 {
			r.offer(0)
			r.offer(0)
		}
		before := r.total
		r.measure(10)
		r.asked[0].fail(statusFault(500))
		r.asked = r.asked[1:]
		for range 20 {
			if rate > 0 {
				r.offer(0)
			}
			r.answer()
		}
		select {
		case <-r.run.met:
		default:
			t.Errorf("rate %v: not met", rate)
		}
		if r.requests != 9 || r.errors["status 500"] != 1 {
			t.Errorf("rate %v: %d requests and errors %v, want 9 and one", rate, r.requests, r.errors)
		}
		if r.total != 10 {
			t.Errorf("rate %v: %d requests were made, %d of them before; want 10", rate, r.total, before)
		}
	}
}

func TestLostTunnelIsNotAsked(t *testing.T) {
	r := newRig(t, Load{Rate: 1}, 2)
	r.begin()
	r.tunnels[0].lost(fault(kindReset)) // it was the next
	r.offer(0)
	if len(r.asked) != 1 || r.asked[0].tunnel != r.tunnels[1] {
		t.Errorf("asked %v", r.asked)
	}
}

func TestLostTunnelFailsWhatIsUnderWay(t *testing.T) {
	r := newRig(t, Load{Rate: 1, Protocol: speakGRPC, Concurrency: 2}, 2)
	r.begin()
	for range 3 {
		r.offer(0)
	}
	lost, other := r.tunnels[0], r.tunnels[1]
	lost.lost(fault(kindReset)) // two of the three were on it
	if want := map[string]int64{kindReset: 2}; !maps.Equal(r.errors, want) {
		t.Errorf("errors %v, want %v", r.errors, want)
	}
	if !lost.timer.Armed() {
		t.Error("the tunnel is not opened again")
	}
	r.offer(0)
	r.offer(0)
	if r.queue.len() != 1 {
		t.Errorf("%d requests wait, want 1: the other tunnel has room for one more", r.queue.len())
	}
	r.asked = nil
	lost.again()
	if len(r.asked) != 1 || r.asked[0].tunnel != lost {
		t.Errorf("the request that waited was not sent on the tunnel that is back: %v", r.asked)
	}
	// An idle tunnel that is lost is an error too; and nothing is offered twice.
	for i := range other.exchanges {
		other.exchanges[i].done()
	}
	other.lost(fault(kindClosed))
	other.again()
	if r.errors[kindClosed] != 1 {
		t.Errorf("errors %v, want one of an idle tunnel", r.errors)
	}
	if n := r.idle.len(); n != 3 {
		t.Errorf("%d exchanges are idle, want 3", n)
	}
}

func TestNothingIsAskedAtTheEnd(t *testing.T) {
	r := newRig(t, Load{}, 2)
	r.begin()
	r.end()
	select {
	case <-r.run.quiet:
		t.Error("quiet with requests under way")
	default:
	}
	r.answer()
	select {
	case <-r.run.quiet:
	default:
		t.Error("not quiet")
	}
	if len(r.asked) > 0 || r.requests > 0 {
		t.Errorf("%d requests were made and %d counted after the end", len(r.asked), r.requests)
	}
}

func TestSilentTunnelIsGivenUp(t *testing.T) {
	r := newRig(t, Load{}, 2)
	r.begin()
	r.now = maxSilence
	r.asked[1].got(nil)
	r.now += 1
	r.ticks = -1
	r.tick()
	if want := map[string]int64{kindTimeout: 1}; !maps.Equal(r.errors, want) {
		t.Errorf("errors %v, want %v", r.errors, want)
	}
}

func TestSlowReaderIsCreditedByTheClock(t *testing.T) {
	r := newRig(t, Load{ReadRate: 5000, Size: 350}, 1)
	r.begin()
	x := r.asked[0]
	c := r.tunnels[0].client.(*fakeClient)
	x.got(make([]byte, 100))
	if c.credited != 0 {
		t.Errorf("%d bytes are credited at once", c.credited)
	}
	for range 5 { // of which two are saved up
		r.tick()
	}
	x.got(make([]byte, 250))
	if c.credited != 300 {
		t.Errorf("%d bytes are credited after a while, want 300", c.credited)
	}
	x.done()
	for i, want := range []int{350} {
		if !x.active {
			t.Errorf("answered after %d steps", i)
		}
		r.tick()
		if c.credited != want {
			t.Errorf("%d bytes are credited after %d steps, want %d", c.credited, i+1, want)
		}
	}
	if r.errors[kindCRC] != 1 { // the content was zeros
		t.Errorf("errors %v, want a checksum", r.errors)
	}
}

// A fakeClient notes what it is asked.
type fakeClient struct {
	t        *tunnel
	rig      *rig
	credited int
}

func (c *fakeClient) start() { c.t.mayAsk() }
func (c *fakeClient) ask(x *exchange) {
	c.rig.asked = append(c.rig.asked, x)
	c.rig.total++
}
func (c *fakeClient) credit(_ *exchange, n int) { c.credited += n }
func (c *fakeClient) close()                    {}
func (c *fakeClient) abort()                    {}

// TestServerMayCloseAnIdleConnection is no error; the tunnel is opened again.
func TestServerMayCloseAnIdleConnection(t *testing.T) {
	r := newRig(t, Load{Rate: 1}, 0)
	r.run.requests = newRequests(&r.run.load)
	r.run.speak = newHTTPClient
	tn := newTunnel(r.engine, r)
	r.tunnels = append(r.tunnels, tn)
	r.begin()
	tn.open()
	tn.client.(*httpClient).codec.EOF()
	if len(r.errors) > 0 || tn.ready || !tn.timer.Armed() {
		t.Errorf("errors %v, ready %v", r.errors, tn.ready)
	}
	tn.again()
	r.offer(0)
	tn.client.(*httpClient).codec.EOF()
	if r.errors[kindClosed] != 1 {
		t.Errorf("errors %v, want that one was closed early", r.errors)
	}
}

// A sink is a stream that takes everything.
type sink struct{}

func (sink) Write([]byte) int { return 0 }
func (sink) CloseWrite()      {}
func (sink) Credit(int)       {}
func (sink) Reset(error)      {}
func (sink) Queued() int      { return 0 }
