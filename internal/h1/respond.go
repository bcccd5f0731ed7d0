package h1

import (
	"strconv"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// Respond sends a response head. Informational ones (1xx) may come before the
// final one; a 101 with Upgrade set switches both directions to raw bytes. With
// end there is no content.
//
// Content is delimited by r.Length: as many bytes when it is not negative;
// otherwise by chunks, or for an HTTP/1.0 client by closing. The framing fields
// among r.Fields are ignored; of a response to HEAD, and of a 304, the
// content-length field is passed on.
//
// An error (ErrState or ErrInvalid) means that nothing was written.
func (c *Server) Respond(r *l7.Response, end bool) error {
	switch {
	case c.gone || !c.open || c.out.begun:
		return ErrState
	case r.Status == 101:
		return c.switchTo(r)
	case r.Status < 200:
		return c.inform(r)
	}
	none := c.head || r.Status == 204 || r.Status == 304
	if end && !none && r.Length > 0 {
		return ErrInvalid
	}
	if !end && !none && r.Length < 0 && c.old {
		c.persistent = false // its end is the connection's
	}
	if c.expect || end && c.last() {
		c.persistent = false
	}
	buf := bufs.Get(sizeOf(r.Fields))
	defer buf.Free()
	b, ok := appendStatus(buf.B, r)
	if !ok {
		return ErrInvalid
	}
	switch {
	case c.closing || !c.persistent:
		b = append(b, "connection: close\r\n"...)
	case c.old:
		b = append(b, "connection: keep-alive\r\n"...)
	}
	b = c.delimit(b, r, none, end)
	c.out.begun = true
	if end {
		c.out.hold = false
	}
	c.out.head(append(b, crlf...))
	if end {
		c.out.done = true
		c.run()
	}
	return nil
}

// delimit decides how the end of the content is told, and appends the field
// that tells it.
func (c *Server) delimit(b []byte, r *l7.Response, none, end bool) []byte {
	switch {
	case none:
		c.out.by = byNothing
		if v := r.Fields.Get("content-length"); r.Status != 204 && v != "" {
			if n, err := parseLength(bytesOf(v)); err == nil {
				b = appendLength(b, n)
			}
		}
	case end:
		c.out.by = byNothing
		b = appendLength(b, 0)
	case r.Length >= 0:
		c.out.by, c.out.left = byLength, r.Length
		b = appendLength(b, r.Length)
	case c.old:
		c.out.by = byClose
	default:
		c.out.by = byChunks
		b = append(b, "transfer-encoding: chunked\r\n"...)
	}
	return b
}

// inform sends a 1xx, which HTTP/1.0 has not.
func (c *Server) inform(r *l7.Response) error {
	if c.old {
		return nil
	}
	buf := bufs.Get(sizeOf(r.Fields))
	defer buf.Free()
	b, ok := appendStatus(buf.B, r)
	if !ok {
		return ErrInvalid
	}
	if r.Status == 100 {
		c.expect = false
	}
	c.out.framing += c.out.stream.Write(append(b, crlf...))
	return nil
}

// switchTo sends a 101. From here on bytes are the other protocol's.
func (c *Server) switchTo(r *l7.Response) error {
	if !c.upgrade || r.Upgrade == "" {
		return ErrState
	}
	if !validValue(bytesOf(r.Upgrade)) {
		return ErrInvalid
	}
	buf := bufs.Get(sizeOf(r.Fields))
	defer buf.Free()
	b, ok := appendStatus(buf.B, r)
	if !ok {
		return ErrInvalid
	}
	b = appendConnection(b, false, r.Upgrade)
	c.out.hold = false
	c.out.begun, c.out.by = true, byClose
	c.out.head(append(b, crlf...))
	c.upgraded, c.in.stage = true, raw
	c.run()
	return nil
}

// answer sends a response of our own, without content, and closes.
func (c *Server) answer(status int) {
	buf := bufs.Get(0)
	b, _ := appendStatus(buf.B, &l7.Response{Status: status})
	b = append(b, "content-length: 0\r\nconnection: close\r\n\r\n"...)
	c.out.begun, c.out.done, c.closing = true, true, true
	c.out.framing += c.out.stream.Write(b)
	buf.Free()
	c.settle()
}

// Write sends content, which is lent for the call, and returns how many of its
// bytes are waiting: Sent reports those. Content that the response may not have
// (HEAD, 204, 304) is dropped. More than the declared length resets the stream,
// and the handler is told by Reset with ErrLength.
func (c *Server) Write(p []byte) (queued int) {
	if c.gone || !c.open || !c.out.begun || c.out.done {
		return 0
	}
	queued, ok := c.out.write(p)
	if !ok {
		c.out.stream.Reset(ErrLength)
		c.end(ErrLength)
		return 0
	}
	return queued
}

// End completes the response. Trailers are sent when it is chunked. After a 101
// it ends our direction. Less content than declared is a reset, as in Write.
func (c *Server) End(trailers l7.Fields) {
	if c.gone || !c.open || !c.out.begun || c.out.done {
		return
	}
	if !c.out.end(trailers) {
		c.out.stream.Reset(ErrLength)
		c.end(ErrLength)
		return
	}
	if c.upgraded {
		c.out.close()
	}
	c.run()
}

// Hold makes the next response head, and what small content follows it, wait
// until there is enough, the response ends, or Flush: so that they leave in one
// Write. Who calls Hold calls Flush at the end of the batch.
func (c *Server) Hold() { c.out.hold = !c.gone }

// Flush writes what Hold has kept back.
func (c *Server) Flush() {
	if !c.gone {
		c.out.flush()
	}
}

// Credit says that n bytes of the request's content have been passed on.
func (c *Server) Credit(n int) {
	if !c.gone {
		c.credit(n)
	}
}

func (c *Server) credit(n int) {
	if n = min(n, c.in.held); n > 0 {
		c.in.held -= n
		c.out.stream.Credit(n)
	}
}

// Abort gives the connection up. The handler is told nothing more.
func (c *Server) Abort(err error) {
	if c.gone {
		return
	}
	c.gone, c.open = true, false
	c.out.stream.Reset(err)
	if !c.running {
		c.release()
	}
}

// CloseAfter closes the connection after the current exchange, telling the
// client by Connection: close if the response has not begun; an idle one at
// once. Another protocol is not closed.
func (c *Server) CloseAfter() {
	c.closing = true
	if c.Idle() && !c.gone {
		c.close()
	}
	c.run()
}

// A Wait is what a Server waits for. It has no clock: whoever has one may set a
// limit.
type Wait uint8

// What there is to wait for.
const (
	ForRequest  Wait = iota // an idle connection's next
	ForHead                 // the rest of a head
	ForExchange             // an exchange is open, or what it wrote has not left
	ForClose                // we have closed, the client has not
)

// Waiting returns what the Server waits for.
func (c *Server) Waiting() Wait {
	switch {
	case c.open:
		return ForExchange
	case c.out.closed || c.gone:
		return ForClose
	case c.Idle():
		return ForRequest
	case c.in.stage == atHead:
		return ForHead
	}
	return ForExchange
}

// Idle reports whether no exchange is open and no byte of another has come.
func (c *Server) Idle() bool {
	return !c.open && c.in.stage == atHead && c.in.heads.part == nil && c.wait.Len() == 0
}

// appendStatus appends a status line and the fields of r.
func appendStatus(b []byte, r *l7.Response) (_ []byte, ok bool) {
	if r.Status < 100 || r.Status > 999 {
		return b, false
	}
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, ' ')
	b = append(b, reason(r.Status)...)
	b = append(b, crlf...)
	return appendFields(b, r.Fields, false)
}
