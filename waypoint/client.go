package waypoint

import (
	"time"

	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// A client is the side of an exchange that asked: an HTTP/1.1 connection
// ([h1Client]) or a stream of an HTTP/2 one ([h2Client]).
//
// Once the response is complete it says nothing more to the exchange: what is
// left of the request is its own affair.
type client interface {
	Respond(r *l7.Response, end bool) error
	Write(p []byte) (queued int)
	End(trailers l7.Fields)
	Credit(n int)
	Abort(err error)
}

// drainIdle is how long an idle connection is kept open when we drain: 1 s.
// Closing it at once would lose the request that is on its way; a client in the
// middle of its work sends one, and is told to close in the answer.
const drainIdle = time.Second

// An h1Session is HTTP/1.1 in a tunnel: one exchange at a time.
type h1Session struct {
	*session
	codec    *h1.Server
	x        *exchange // nil between exchanges
	requests uint32    // that have begun
	flushing bool      // Flush runs at the end of the batch
	draining bool      // the next response is the last

	waits h1.Wait // since the tick at since, in which it was the seen-th request
	seen  uint32
	since time.Time
}

// serveHTTP1 makes HTTP/1.1 of the session's tunnel.
func (s *session) serveHTTP1() receiver {
	c := &h1Session{session: s, since: s.worker.loop.Now()}
	c.codec = h1.NewServer(s.tunnel, c, s.worker.options.HTTP1)
	s.serving = c
	if s.worker.draining {
		c.drain()
	}
	return c.codec
}

// drain has the connection close after the exchange that is open, or else after
// the next one.
func (c *h1Session) drain() {
	c.draining = true
	if !c.codec.Idle() {
		c.codec.CloseAfter()
	}
}

// tick closes a connection that waits for its client for too long.
func (c *h1Session) tick(now time.Time) {
	wait := c.codec.Waiting()
	if wait != c.waits || c.seen != c.requests {
		c.waits, c.seen, c.since = wait, c.requests, now
		return
	}
	o, waited := &c.worker.options, now.Sub(c.since)
	switch {
	case wait == h1.ForRequest && (waited >= o.IdleTimeout || c.draining && waited >= drainIdle):
		c.codec.CloseAfter()
	case wait == h1.ForHead && waited >= o.HeadTimeout, wait == h1.ForClose && waited >= closeTimeout:
		c.codec.Abort(nil)
		c.session.close()
	}
}

// Request and what follows are h1.ServerHandler.
func (c *h1Session) Request(r *l7.Request, end bool) {
	c.requests++
	if c.draining {
		c.codec.CloseAfter()
	}
	x := c.worker.newExchange(c.session, (*h1Client)(c), &c.x)
	x.begin(r, end)
}

func (c *h1Session) Content(p []byte) {
	if c.x != nil {
		c.x.clientContent(p)
	}
}

func (c *h1Session) End(trailers l7.Fields) {
	if c.x != nil {
		c.x.clientEnd(trailers)
	}
}

func (c *h1Session) Sent(n int) {
	if c.x != nil {
		c.x.clientSent(n)
	}
}

// EOF means that the client has gone: node tunnels turn both a closed and a
// half-closed socket into this, and an HTTP/1.1 client that waits for its answer
// keeps its side open.
func (c *h1Session) EOF() {
	if x := c.x; x != nil && !x.upgraded {
		x.clientGone(errClientClosed)
		c.codec.Abort(nil)
		c.session.close()
	}
}

func (c *h1Session) Reset(err error) {
	if c.x != nil {
		c.x.clientGone(err)
	}
}

func (c *h1Session) Malformed(status int, err error) {
	c.session.recordMalformed(status, err)
}

func (c *h1Session) Closed(err error) {
	if c.x != nil {
		c.x.clientGone(err)
	}
	c.session.close()
}

// An h1Client is an h1Session as the client of its exchange.
type h1Client h1Session

// Respond holds the head back until the batch ends, so that it and the first of
// the content leave in one frame.
func (c *h1Client) Respond(r *l7.Response, end bool) error {
	if !end && r.Status >= 200 {
		c.codec.Hold()
		if !c.flushing {
			c.flushing = true
			c.worker.loop.AtBatchEnd(c)
		}
	}
	return c.codec.Respond(r, end)
}

// Flush is loop.Flusher.
func (c *h1Client) Flush() {
	c.flushing = false
	c.codec.Flush()
}

func (c *h1Client) Write(p []byte) int     { return c.codec.Write(p) }
func (c *h1Client) End(trailers l7.Fields) { c.codec.End(trailers) }
func (c *h1Client) Credit(n int)           { c.codec.Credit(n) }

func (c *h1Client) Abort(err error) {
	c.codec.Abort(err)
	c.session.close()
}
