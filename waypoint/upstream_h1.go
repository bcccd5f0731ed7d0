package waypoint

import (
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
}

// openHTTP1 makes a new connection for whoever holds t.
func (o *origin) openHTTP1(t ticket) (cancel func()) {
	return o.dial(func(leg flow.Stream, attach func(flow.Receiver), err error) {
		if err != nil {
			t.failed(err)
			return
		}
		u := &h1Upstream{origin: o}
		u.Client = h1.NewClient(leg, (*h1Answers)(u), o.worker.options.HTTP1)
		attach(u.Client)
		if t.stale() { // its exchange did not wait
			o.keep(u)
			return
		}
		u.x = t.x
		t.connected(u)
	})
}

// keep stores an idle connection for later.
func (o *origin) keep(u *h1Upstream) {
	u.x, u.since = nil, o.worker.loop.Now()
	o.idle = append(o.idle, u)
}

func (u *h1Upstream) Abort(err error) {
	u.x = nil
	u.Client.Abort(err)
}

func (u *h1Upstream) release(whole bool) {
	switch {
	case !whole || u.origin.worker.draining:
		u.Abort(nil)
	case u.Reusable():
		u.origin.keep(u)
	default:
		u.x = nil
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
	o := u.origin
	for i, idle := range o.idle {
		if idle == (*h1Upstream)(u) {
			o.idle = append(o.idle[:i], o.idle[i+1:]...)
			return
		}
	}
}
