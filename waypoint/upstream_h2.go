package waypoint

import (
	"slices"
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/inner"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// maxSharers is how many exchanges wait for one HTTP/2 connection that is being
// opened, before another is opened beside it: 100, the streams that a peer is
// assumed to allow until it says otherwise.
const maxSharers = 100

// An h2Origin is an HTTP/2 connection to an endpoint, shared by many exchanges.
type h2Origin struct {
	origin  *origin
	inner   *inner.Conn // nil while it is being opened
	waiting []ticket
	since   time.Time // when its last stream ended
}

// openHTTP2 has t wait for a connection that is being opened, if there is one
// with room, and opens one otherwise. Giving up waiting leaves it to the others.
func (o *origin) openHTTP2(t ticket) (cancel func()) {
	for _, c := range o.conns {
		if c.inner == nil && len(c.waiting) < maxSharers {
			c.waiting = append(c.waiting, t)
			return func() {}
		}
	}
	c := &h2Origin{origin: o, waiting: []ticket{t}}
	o.conns = append(o.conns, c)
	o.dial(c.opened)
	return func() {}
}

func (c *h2Origin) opened(leg flow.Stream, attach func(flow.Receiver), err error) {
	waiting := c.waiting
	c.waiting = nil
	if err != nil {
		c.gone()
		for _, t := range waiting {
			t.failed(err)
		}
		return
	}
	if c.origin.worker.stopped {
		leg.Reset(nil)
		c.gone()
		return
	}
	c.since = c.origin.worker.loop.Now()
	c.inner = c.origin.worker.inners.New(leg, h2.Client, c, c.gone)
	attach(c.inner)
	for _, t := range waiting {
		if t.stale() {
			continue
		}
		if up := c.stream(t.x); up != nil {
			t.connected(up)
		} else {
			c.origin.openHTTP2(t)
		}
	}
}

func (c *h2Origin) gone() {
	o := c.origin
	for i, other := range o.conns {
		if other == c {
			o.conns = slices.Delete(o.conns, i, i+1)
			return
		}
	}
}

// stream returns a stream for x, to be opened with its head, or nil when there
// is no room.
func (c *h2Origin) stream(x *exchange) upstream {
	if c.inner == nil || c.inner.Available() == 0 {
		return nil
	}
	return &h2Upstream{conn: c, x: x}
}

// Headers and what follows are h2.Handler.
func (c *h2Origin) Headers(s *h2.Stream, f l7.Fields, end bool) {
	u, x := of(s)
	if x == nil {
		return
	}
	if u.answered {
		x.upstreamEnd(f)
		return
	}
	w := c.origin.worker
	r := &w.response
	h2.ReadResponse(r, f, end)
	u.answered = r.Status >= 200
	x.upstreamHead(r, end)
}

func (c *h2Origin) Data(s *h2.Stream, p []byte, end bool) {
	_, x := of(s)
	if x == nil {
		s.Credit(len(p))
		return
	}
	if len(p) > 0 {
		x.upstreamContent(p)
	}
	if _, x = of(s); end && x != nil {
		x.upstreamEnd(nil)
	}
}

func (c *h2Origin) Sent(s *h2.Stream, n int) {
	if _, x := of(s); x != nil {
		x.upstreamSent(n)
	}
}

func (c *h2Origin) Reset(s *h2.Stream, err error) {
	if u, x := of(s); x != nil {
		u.x = nil
		x.upstreamGone(err)
	}
	c.since = c.origin.worker.loop.Now()
}

func (c *h2Origin) Changed() {
	c.since = c.origin.worker.loop.Now()
	c.inner.Settle()
}

func (c *h2Origin) Closed(error) {}

// An h2Upstream is one stream to an endpoint.
type h2Upstream struct {
	conn     *h2Origin
	stream   *h2.Stream // nil until Request
	x        *exchange  // nil once it was given back
	answered bool       // the final head has come
}

func of(s *h2.Stream) (*h2Upstream, *exchange) {
	u, _ := s.Value.(*h2Upstream)
	if u == nil {
		return nil, nil
	}
	return u, u.x
}

// Request and what follows are upstream.
func (u *h2Upstream) Request(r *l7.Request, end bool) error {
	w := u.conn.origin.worker
	f := h2.AppendRequest(w.outgoing[:0], r)
	w.outgoing = f
	s, err := u.conn.inner.Open(f, end)
	if err != nil {
		return err
	}
	u.stream, s.Value = s, u
	return nil
}

func (u *h2Upstream) Write(p []byte) int { return u.stream.Write(p) }

func (u *h2Upstream) End(trailers l7.Fields) {
	u.stream.Headers(trailers, true) // none: the end alone
}

func (u *h2Upstream) Credit(n int) { u.stream.Credit(n) }

func (u *h2Upstream) Abort(error) {
	u.x = nil
	if u.stream != nil {
		u.stream.Reset(&h2.StreamError{Code: h2.CodeCancel})
	}
}

// release leaves a stream that has ended both ways alone; one whose request is
// not whole is reset, with the code that says that nothing went wrong.
func (u *h2Upstream) release(whole bool) {
	u.x = nil
	if !whole && u.stream != nil {
		u.stream.Reset(&h2.StreamError{Code: h2.CodeNoError})
	}
}
