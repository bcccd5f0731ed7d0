package waypoint

import (
	"strconv"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// An h2Session is HTTP/2 in a tunnel: an exchange for every stream.
type h2Session struct {
	*session
	inner *inner
}

// serveHTTP2 makes HTTP/2 of the session's tunnel.
func (s *session) serveHTTP2() receiver {
	c := &h2Session{session: s}
	c.inner = newInner(s.worker, s.tunnel, h2.Server, c, s.close)
	s.drain = c.inner.conn.Drain
	if s.worker.draining {
		c.inner.conn.Drain()
	}
	return c.inner
}

// An h2Client is the client of an exchange on an HTTP/2 stream.
type h2Client struct {
	stream *h2.Stream
	x      *exchange
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
	requestFrom(&w.request, f, end)
	x.begin(&w.request, end)
}

func (c *h2Session) Data(s *h2.Stream, p []byte, end bool) {
	k := s.Value.(*h2Client)
	if k.x == nil {
		s.Credit(len(p))
		return
	}
	if len(p) > 0 {
		k.x.clientContent(p)
	}
	if end && k.x != nil {
		k.x.clientEnd(nil)
	}
}

func (c *h2Session) Sent(s *h2.Stream, n int) {
	if k, ok := s.Value.(*h2Client); ok && k.x != nil {
		k.x.clientSent(n)
	}
}

func (c *h2Session) Reset(s *h2.Stream, err error) {
	if k, ok := s.Value.(*h2Client); ok && k.x != nil {
		k.x.clientGone(err)
	}
}

// Changed and Closed are h2.Handler: a server has no use for them.
func (c *h2Session) Changed()     {}
func (c *h2Session) Closed(error) {}

// requestFrom reads the head of a request from fields that begin with the
// pseudo-fields, which the connection has validated.
func requestFrom(r *l7.Request, f l7.Fields, end bool) {
	*r = l7.Request{Protocol: l7.HTTP2, Length: -1, Fields: r.Fields[:0]}
	if end {
		r.Length = 0
	}
	host := ""
	for i := range f {
		switch name := f[i].Name; name {
		case ":method":
			r.Method = f[i].Value
		case ":scheme":
			r.Scheme = f[i].Value
		case ":authority":
			r.Authority = f[i].Value
		case ":path":
			r.Path = f[i].Value
		case "host":
			host = f[i].Value
		case "content-length":
			if n, err := strconv.ParseInt(f[i].Value, 10, 64); err == nil {
				r.Length = n
			}
			r.Fields = append(r.Fields, f[i])
		default:
			r.Fields = append(r.Fields, f[i])
		}
	}
	if r.Authority == "" {
		r.Authority = host
	}
}

// Respond and what follows are client.
func (k *h2Client) Respond(r *l7.Response, end bool) error {
	w := k.x.session.worker
	var status [3]byte
	f := append(w.outgoing[:0], l7.Field{Name: ":status", Value: string(strconv.AppendInt(status[:0], int64(r.Status), 10))})
	for _, field := range r.Fields {
		if field.Name != "content-length" {
			f = append(f, field)
		}
	}
	switch {
	case r.Length > 0 || r.Length == 0 && !end:
		f = append(f, l7.Field{Name: "content-length", Value: strconv.FormatInt(r.Length, 10)})
	case r.Fields.Has("content-length"): // of a response to HEAD
		f = append(f, l7.Field{Name: "content-length", Value: r.Fields.Get("content-length")})
	}
	k.stream.Headers(f, end)
	w.outgoing = f
	return nil
}

func (k *h2Client) Write(p []byte) int { return k.stream.Write(p) }

func (k *h2Client) End(trailers l7.Fields) {
	if len(trailers) == 0 {
		k.stream.CloseWrite()
		return
	}
	k.stream.Headers(trailers, true)
}

func (k *h2Client) Credit(n int) { k.stream.Credit(n) }

func (k *h2Client) Abort(err error) {
	if !isStreamError(err) {
		err = &h2.StreamError{Code: h2.CodeInternal, Cause: err}
	}
	k.stream.Reset(err)
}
