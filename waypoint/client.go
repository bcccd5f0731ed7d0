package waypoint

import (
	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// A client is the side of an exchange that asked: an HTTP/1.1 connection
// ([h1.Server]) or a stream of an HTTP/2 one ([h2Client]).
type client interface {
	Respond(r *l7.Response, end bool) error
	Write(p []byte) (queued int)
	End(trailers l7.Fields)
	Credit(n int)
	Abort(err error)
}

// An h1Session is HTTP/1.1 in a tunnel: one exchange at a time.
type h1Session struct {
	*session
	codec *h1.Server
	x     *exchange // nil between exchanges
}

// serveHTTP1 makes HTTP/1.1 of the session's tunnel.
func (s *session) serveHTTP1() receiver {
	c := &h1Session{session: s}
	c.codec = h1.NewServer(s.tunnel, c, s.worker.options.HTTP1)
	s.drain = c.codec.CloseAfter
	if s.worker.draining {
		c.codec.CloseAfter()
	}
	return c.codec
}

// Request and what follows are h1.ServerHandler.
func (c *h1Session) Request(r *l7.Request, end bool) {
	x := c.worker.newExchange(c.session, c.codec, &c.x)
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
