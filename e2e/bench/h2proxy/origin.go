package main

import (
	"slices"

	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// An h2Origin is an HTTP/2 connection to the server.
type h2Origin struct {
	w    *worker
	sock *loop.Socket
	conn *h2.Conn
}

func (w *worker) openHTTP2(sock *loop.Socket) {
	o := &h2Origin{w: w, sock: sock}
	o.conn = h2.New(h2.Client, limits(sock), o, w.loop.Now())
	w.shared = append(w.shared, o)
	w.loop.Adopt(sock, o.conn)
}

// Headers and what follows are h2.Handler. A stream's Value is its exchange, until
// that is over.
func (o *h2Origin) Headers(s *h2.Stream, f l7.Fields, end bool) {
	x, ok := s.Value.(*exchange)
	switch {
	case !ok:
	case x.responded:
		x.upstreamEnd(f)
	default:
		h2.ReadResponse(&o.w.response, f, end)
		x.upstreamHead(&o.w.response, end)
	}
}

func (o *h2Origin) Data(s *h2.Stream, p []byte, end bool) {
	x, ok := s.Value.(*exchange)
	if !ok {
		s.Credit(len(p))
		return
	}
	if len(p) > 0 {
		x.upstreamContent(p)
	}
	if x, ok = s.Value.(*exchange); ok && end {
		x.upstreamEnd(nil)
	}
}

func (o *h2Origin) Sent(s *h2.Stream, n int) {
	if x, ok := s.Value.(*exchange); ok {
		x.upstreamSent(n)
	}
}

func (o *h2Origin) Reset(s *h2.Stream, err error) {
	if x, ok := s.Value.(*exchange); ok {
		x.up = nil
		x.upstreamGone(err)
	}
}

func (o *h2Origin) Changed() {
	if o.conn.Draining() && o.conn.Drained() {
		o.sock.Close()
	}
}

func (o *h2Origin) Closed(error) {
	if i := slices.Index(o.w.shared, o); i >= 0 {
		o.w.shared = slices.Delete(o.w.shared, i, i+1)
	}
}

// An h2Ask is an exchange as a request to an HTTP/2 server.
type h2Ask exchange

// Request and what follows are upstream.
func (x *h2Ask) Request(e *exchange, end bool) error {
	r, w := &x.req, x.w
	r.Scheme = "https"
	f := h2.AppendRequest(w.outgoing[:0], r)
	w.outgoing = f
	s, err := x.origin.conn.Open(f, end)
	if err != nil {
		return err
	}
	x.asked, s.Value = s, e
	return nil
}

func (x *h2Ask) Write(p []byte) int     { return x.asked.Write(p) }
func (x *h2Ask) End(trailers l7.Fields) { x.asked.Headers(trailers, true) }
func (x *h2Ask) Credit(n int)           { x.asked.Credit(n) }
func (x *h2Ask) Abort(error)            { x.asked.Reset(nil) }

func (x *h2Ask) release(whole bool) {
	if !whole {
		x.asked.Reset(&h2.StreamError{Code: h2.CodeNoError})
	}
}

// An h1Origin is an HTTP/1.1 connection to the server, for one exchange at a time.
type h1Origin struct {
	*h1.Client
	w        *worker
	x        *exchange // nil while idle
	flushing bool
}

func (w *worker) openHTTP1(sock *loop.Socket) {
	o := &h1Origin{w: w}
	leg := loop.NewTCP(w.loop, sock, 0, nil)
	o.Client = h1.NewClient(leg, (*h1Answers)(o), h1.Limits{})
	leg.SetReceiver(o.Client)
	w.idle = append(w.idle, o)
}

// Request holds a head with content back until the batch ends.
func (o *h1Origin) Request(x *exchange, end bool) error {
	o.x = x
	if !end {
		o.Hold()
		if !o.flushing {
			o.flushing = true
			o.w.loop.AtBatchEnd(o)
		}
	}
	return o.Client.Request(&x.req, end)
}

// Flush is loop.Flusher.
func (o *h1Origin) Flush() {
	o.flushing = false
	o.Client.Flush()
}

func (o *h1Origin) Abort(err error) {
	o.x = nil
	o.Client.Abort(err)
}

func (o *h1Origin) release(whole bool) {
	o.x = nil
	switch {
	case !whole:
		o.Client.Abort(nil)
	case o.Reusable():
		o.w.idle = append(o.w.idle, o)
	default:
		o.Close()
	}
}

// h1Answers is an h1Origin as what its codec tells of the answer.
type h1Answers h1Origin

func (o *h1Answers) Response(r *l7.Response, end bool) {
	if o.x != nil {
		o.x.upstreamHead(r, end)
	}
}

func (o *h1Answers) Content(p []byte) {
	if o.x != nil {
		o.x.upstreamContent(p)
	}
}

func (o *h1Answers) End(trailers l7.Fields) {
	if o.x != nil {
		o.x.upstreamEnd(trailers)
	}
}

func (o *h1Answers) Sent(n int) {
	if o.x != nil {
		o.x.upstreamSent(n)
	}
}

func (o *h1Answers) Reset(err error) {
	if x := o.x; x != nil {
		o.x, x.up = nil, nil
		x.upstreamGone(err)
	}
}

func (o *h1Answers) Closed(error) {
	if i := slices.Index(o.w.idle, (*h1Origin)(o)); i >= 0 {
		o.w.idle = slices.Delete(o.w.idle, i, i+1)
	}
}
