package waypoint

import (
	"time"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/inner"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// An h2Session is HTTP/2 in a tunnel: an exchange for every stream.
type h2Session struct {
	*session
	inner *inner.Conn
}

// serveHTTP2 makes HTTP/2 of the session's tunnel.
func (s *session) serveHTTP2() receiver {
	c := &h2Session{session: s}
	c.inner = s.worker.inners.New(s.tunnel, h2.Server, c, s.close)
	s.serving = c
	if s.worker.draining {
		c.drain()
	}
	return c.inner
}

func (c *h2Session) drain() { c.inner.Drain() }

// tick has nothing to do: the worker's inners have a clock of their own.
func (c *h2Session) tick(time.Time) {}

// An h2Client is the client of an exchange on an HTTP/2 stream.
type h2Client struct {
	stream   *h2.Stream
	x        *exchange // nil once the response is written
	answered bool      // all of the response is written
}

// Headers and what follows are h2.Handler.
func (c *h2Session) Headers(s *h2.Stream, f l7.Fields, end bool) {
	k, open := s.Value.(*h2Client)
	if open {
		if k.x != nil {
			k.x.clientEnd(f)
		}
		return
	}
	k = &h2Client{stream: s}
	s.Value = k
	w := c.worker
	x := w.newExchange(c.session, k, &k.x)
	h2.ReadRequest(&w.request, f, end)
	x.begin(&w.request, end)
}

func (c *h2Session) Data(s *h2.Stream, p []byte, end bool) {
	k := s.Value.(*h2Client)
	if k.x == nil {
		return // nobody wants it: its window is not opened again
	}
	if len(p) > 0 {
		k.x.clientContent(p)
	}
	if end && k.x != nil {
		k.x.clientEnd(nil)
	}
}

func (c *h2Session) Sent(s *h2.Stream, n int) {
	k, ok := s.Value.(*h2Client)
	switch {
	case !ok:
	case k.x != nil:
		k.x.clientSent(n)
	case k.answered:
		k.stop()
	}
}

func (c *h2Session) Reset(s *h2.Stream, err error) {
	if k, ok := s.Value.(*h2Client); ok && k.x != nil {
		k.x.clientGone(err)
	}
}

func (c *h2Session) Changed()     { c.inner.Settle() }
func (c *h2Session) Closed(error) {}

// Respond and what follows are client.
func (k *h2Client) Respond(r *l7.Response, end bool) error {
	w := k.x.session.worker
	f := h2.AppendResponse(w.outgoing[:0], r, end)
	w.outgoing = f
	k.stream.Headers(f, end)
	if end {
		k.answer()
	}
	return nil
}

func (k *h2Client) Write(p []byte) int { return k.stream.Write(p) }

func (k *h2Client) End(trailers l7.Fields) {
	k.stream.Headers(trailers, true) // none: the end alone
	k.answer()
}

// answer is called when the response is whole.
func (k *h2Client) answer() {
	k.answered = true
	k.stop()
}

// stop asks the client to send no more of a request that was answered before its
// end (RFC 9113, section 8.1), once the answer has left. A stream that has ended
// both ways is gone, and does not notice.
func (k *h2Client) stop() {
	if k.stream.Queued() == 0 {
		k.stream.Reset(&h2.StreamError{Code: h2.CodeNoError})
	}
}

func (k *h2Client) Credit(n int) { k.stream.Credit(n) }

// Abort passes the code on with which the upstream was reset, except one that
// says that nothing was done: the client has seen part of a response.
func (k *h2Client) Abort(err error) {
	if !isStreamError(err) || h2.Refused(err) {
		err = &h2.StreamError{Code: h2.CodeInternal, Cause: err}
	}
	k.stream.Reset(err)
}
