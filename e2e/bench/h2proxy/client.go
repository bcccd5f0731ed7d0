package main

import (
	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// An h2Client is a client's HTTP/2 connection.
type h2Client struct {
	w    *worker
	sock *loop.Socket
	conn *h2.Conn
}

func (w *worker) acceptHTTP2(sock *loop.Socket) {
	c := &h2Client{w: w, sock: sock}
	c.conn = h2.New(h2.Server, limits(sock), c, w.loop.Now())
	w.clients[c] = struct{}{}
	w.loop.Adopt(sock, c.conn)
}

// Headers and what follows are h2.Handler. A stream's Value is its exchange, until
// that is over.
func (c *h2Client) Headers(s *h2.Stream, f l7.Fields, end bool) {
	if x, ok := s.Value.(*exchange); ok {
		x.clientEnd(f)
		return
	}
	x := c.w.newExchange()
	x.from, x.stream, x.client, s.Value = c, s, (*h2Answer)(x), x
	h2.ReadRequest(&c.w.request, f, end)
	x.begin(&c.w.request, end, c.sock.RemoteAddr())
}

func (c *h2Client) Data(s *h2.Stream, p []byte, end bool) {
	x, ok := s.Value.(*exchange)
	if !ok {
		s.Credit(len(p))
		return
	}
	if len(p) > 0 {
		x.clientContent(p)
	}
	if x, ok = s.Value.(*exchange); ok && end {
		x.clientEnd(nil)
	}
}

func (c *h2Client) Sent(s *h2.Stream, n int) {
	if x, ok := s.Value.(*exchange); ok {
		x.clientSent(n)
	}
}

func (c *h2Client) Reset(s *h2.Stream, _ error) {
	if x, ok := s.Value.(*exchange); ok {
		x.clientGone()
	}
}

func (c *h2Client) Changed() {
	if c.conn.Draining() && c.conn.Drained() {
		c.sock.Close()
	}
}

func (c *h2Client) Closed(error) { delete(c.w.clients, c) }

// An h2Answer is an exchange as the answer to an HTTP/2 client.
type h2Answer exchange

// Respond and what follows are client.
func (x *h2Answer) Respond(r *l7.Response, end bool) error {
	w := x.w
	f := h2.AppendResponse(w.outgoing[:0], r, end)
	w.outgoing = f
	x.stream.Headers(f, end)
	x.stop(end)
	return nil
}

// stop asks for no more of a request that is answered before its end.
func (x *h2Answer) stop(end bool) {
	if end && !x.requestEnded && x.stream.Queued() == 0 {
		x.stream.Reset(&h2.StreamError{Code: h2.CodeNoError})
	}
}

func (x *h2Answer) Write(p []byte) int { return x.stream.Write(p) }
func (x *h2Answer) Credit(n int)       { x.stream.Credit(n) }

func (x *h2Answer) End(trailers l7.Fields) {
	x.stream.Headers(trailers, true) // none: the end alone
	x.stop(true)
}

func (x *h2Answer) Abort(err error) {
	x.stream.Reset(&h2.StreamError{Code: h2.CodeInternal, Cause: err})
}

// An h1Client is a client's HTTP/1.1 connection.
type h1Client struct {
	*h1.Server
	w        *worker
	leg      *loop.TCP
	x        *exchange // nil between exchanges
	flushing bool
}

func (w *worker) acceptHTTP1(sock *loop.Socket) {
	c := &h1Client{w: w}
	c.leg = loop.NewTCP(w.loop, sock, 0, nil)
	c.Server = h1.NewServer(c.leg, (*h1Asks)(c), h1.Limits{})
	c.leg.SetReceiver(c.Server)
}

// Respond holds the head back until the batch ends, so that it and the first of
// the content leave together.
func (c *h1Client) Respond(r *l7.Response, end bool) error {
	if !end {
		c.Hold()
		if !c.flushing {
			c.flushing = true
			c.w.loop.AtBatchEnd(c)
		}
	}
	return c.Server.Respond(r, end)
}

// Flush is loop.Flusher.
func (c *h1Client) Flush() {
	c.flushing = false
	c.Server.Flush()
}

// h1Asks is an h1Client as what its codec tells of the request.
type h1Asks h1Client

func (c *h1Asks) Request(r *l7.Request, end bool) {
	x := c.w.newExchange()
	c.x = x
	x.http1, x.client = (*h1Client)(c), (*h1Client)(c)
	x.begin(r, end, c.leg.Socket().RemoteAddr())
}

func (c *h1Asks) Content(p []byte) {
	if c.x != nil {
		c.x.clientContent(p)
	}
}

func (c *h1Asks) End(trailers l7.Fields) {
	if c.x != nil {
		c.x.clientEnd(trailers)
	}
}

func (c *h1Asks) Sent(n int) {
	if c.x != nil {
		c.x.clientSent(n)
	}
}

func (c *h1Asks) EOF() {
	c.Server.Abort(nil)
	c.Reset(nil)
}

func (c *h1Asks) Reset(error) {
	if x := c.x; x != nil {
		c.x = nil
		x.clientGone()
	}
}

func (c *h1Asks) Malformed(int, error) {}
func (c *h1Asks) Closed(error)         { c.Reset(nil) }
