package waypoint

import (
	"slices"
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// An h1Upstream is an HTTP/1.1 connection to an endpoint, which carries one
// exchange at a time and is kept for the next.
type h1Upstream struct {
	*h1.Client
	origin *origin
	x      *exchange // nil while idle
	since  time.Time // when it became idle

	flushing bool // Flush runs at the end of the batch
	over     bool // the codec has said its last word
}

// openHTTP1 makes a new connection for whoever holds t.
func (o *origin) openHTTP1(t ticket) (cancel func()) {
	return o.dial(func(leg flow.Stream, attach func(flow.Receiver), err error) {
		if err != nil {
			t.failed(err)
			return
		}
		u := &h1Upstream{origin: o, x: t.x}
		u.Client = h1.NewClient(leg, (*h1Answers)(u), o.worker.options.HTTP1)
		attach(u.Client)
		if t.stale() { // its exchange did not wait
			u.keep()
			return
		}
		t.connected(u)
	})
}

// keep stores an idle connection for later.
func (u *h1Upstream) keep() {
	u.x = nil
	o := u.origin.current()
	if o.worker.stopped {
		u.Close()
		return
	}
	u.origin, u.since = o, o.worker.loop.Now()
	o.idle = append(o.idle, u)
}

// Request holds the head back until the batch ends if there is content, so that
// it and the first of the content leave in one frame.
func (u *h1Upstream) Request(r *l7.Request, end bool) error {
	if !end {
		u.Hold()
		if !u.flushing {
			u.flushing = true
			u.origin.worker.loop.AtBatchEnd(u)
		}
	}
	return u.Client.Request(r, end)
}

// Flush is loop.Flusher.
func (u *h1Upstream) Flush() {
	u.flushing = false
	u.Client.Flush()
}

func (u *h1Upstream) Abort(err error) {
	u.x = nil
	delete(u.origin.worker.closing, u)
	u.Client.Abort(err)
}

// Close ends the connection in good order. The endpoint is given a while to end
// its direction too.
func (u *h1Upstream) Close() {
	u.x = nil
	if w := u.origin.worker; !u.over {
		w.closing[u] = w.loop.Now()
		u.Client.Close()
	}
}

func (u *h1Upstream) release(whole bool) {
	switch {
	case !whole:
		u.Abort(nil)
	case u.Reusable():
		u.keep()
	default:
		u.Close()
	}
}

// h1Answers is an h1Upstream as what its codec tells of the answer.
type h1Answers h1Upstream

func (u *h1Answers) Response(r *l7.Response, end bool) {
	if u.x != nil {
		u.x.upstreamHead(r, end)
	}
}

func (u *h1Answers) Content(p []byte) {
	if u.x != nil {
		u.x.upstreamContent(p)
	}
}

func (u *h1Answers) End(trailers l7.Fields) {
	if u.x != nil {
		u.x.upstreamEnd(trailers)
	}
}

func (u *h1Answers) Sent(n int) {
	if u.x != nil {
		u.x.upstreamSent(n)
	}
}

func (u *h1Answers) Reset(err error) {
	if x := u.x; x != nil {
		u.x = nil
		x.upstreamGone(err)
	}
}

func (u *h1Answers) Closed(error) {
	u.over = true
	o := u.origin
	delete(o.worker.closing, (*h1Upstream)(u))
	for i, idle := range o.idle {
		if idle == (*h1Upstream)(u) {
			o.idle = slices.Delete(o.idle, i, i+1)
			return
		}
	}
}
