package h1

import (
	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// Request opens an exchange. With end there is no content. Content is delimited
// by r.Length, or by chunks when it is negative; the framing fields among
// r.Fields are ignored. The target is r.Path, and the Host field r.Authority.
//
// An error (ErrState or ErrInvalid) means that nothing was written. Content of
// the response before this one that was not credited is credited now, so that a
// connection does not run dry on what its last user forgot.
func (c *Client) Request(r *l7.Request, end bool) error {
	if !c.Reusable() {
		return ErrState
	}
	if !validMethod(r.Method) || !validPath(r.Path, r.Method) || !validAuthority(r.Authority) ||
		end && r.Length > 0 || r.Upgrade != "" && (!end || !validValue(bytesOf(r.Upgrade))) {
		return ErrInvalid
	}
	buf := bufs.Get(sizeOf(r.Fields) + len(r.Path) + len(r.Authority))
	defer buf.Free()
	b := append(append(buf.B, r.Method...), ' ')
	b = append(append(b, r.Path...), " HTTP/1.1\r\n"...)
	b = appendField(b, "host", r.Authority)
	b, ok := appendFields(b, r.Fields, true)
	if !ok {
		return ErrInvalid
	}
	b = appendConnection(b, hasToken(bytesOf(r.Fields.Get("te")), "trailers"), r.Upgrade)
	hold := c.out.hold && !end
	c.out.next()
	c.out.hold = hold
	b = c.delimit(b, r, end)
	c.out.begun, c.out.done = true, end
	c.open, c.begun, c.upgraded = true, false, false
	c.head, c.upgrade = r.Method == "HEAD", r.Upgrade != ""
	c.in.stage = atHead
	c.Credit(c.in.held) // what the exchange before this one still owed
	c.out.head(append(b, crlf...))
	return nil
}

func (c *Client) delimit(b []byte, r *l7.Request, end bool) []byte {
	switch {
	case end:
		// RFC 9110, section 8.6: where content is expected, its absence is said.
		switch r.Method {
		case "POST", "PUT", "PATCH":
			return appendLength(b, 0)
		}
		if r.Fields.Has("content-length") {
			return appendLength(b, 0)
		}
		return b
	case r.Length >= 0:
		c.out.by, c.out.left = byLength, r.Length
		return appendLength(b, r.Length)
	}
	c.out.by = byChunks
	return append(b, "transfer-encoding: chunked\r\n"...)
}

// Write sends content, as [Server.Write] does. Once the response is complete
// content is dropped: the destination has lost interest.
func (c *Client) Write(p []byte) (queued int) {
	if c.gone || !c.open || c.out.done {
		return 0
	}
	queued, ok := c.out.write(p)
	if !ok {
		c.fail(ErrLength)
		return 0
	}
	return queued
}

// End completes the request. Trailers are sent when it is chunked. After a 101
// it ends our direction. Less content than declared is a reset, as in Write.
func (c *Client) End(trailers l7.Fields) {
	if c.gone || !c.open || c.out.done {
		return
	}
	if !c.out.end(trailers) {
		c.fail(ErrLength)
		return
	}
	if c.upgraded {
		c.out.close()
	}
	c.settle()
}

// Credit says that n bytes of the response's content have been passed on.
func (c *Client) Credit(n int) {
	if n = min(n, c.in.held); n > 0 && !c.gone {
		c.in.held -= n
		c.out.stream.Credit(n)
	}
}

// Abort gives the connection up. The handler is told nothing more.
func (c *Client) Abort(err error) {
	if c.gone {
		return
	}
	c.h = nil
	c.out.stream.Reset(err)
	c.end(err)
}

// Close ends the connection in good order: an idle one that is not wanted. An
// open exchange is aborted.
func (c *Client) Close() {
	switch {
	case c.gone:
	case c.open:
		c.Abort(nil)
	case c.eof:
		c.out.close()
		c.end(nil)
	default:
		c.persistent = false
		c.in.stage = dropping
		c.out.close()
	}
}

// Reusable reports whether another Request may follow: the last exchange is
// complete both ways, every byte of its request has left, and nothing about it
// asks for the connection to be closed.
func (c *Client) Reusable() bool {
	return !c.gone && !c.open && !c.eof && !c.stray && c.persistent && c.in.stage == complete && c.out.done && c.out.content == 0
}

// Attach makes h the handler: of an exchange to come, or, with a pool's own, of
// an idle connection, which can only be Closed.
func (c *Client) Attach(h ClientHandler) { c.h = h }

// Detach leaves the Client without a handler and credits whatever content had
// not been: who detaches owes nothing more.
func (c *Client) Detach() {
	c.h = nil
	c.Credit(c.in.held)
}

// Hold makes the next request head wait for content, as [Server.Hold] does.
func (c *Client) Hold() { c.out.hold = !c.gone }

// Flush writes what Hold has kept back.
func (c *Client) Flush() {
	if !c.gone {
		c.out.flush()
	}
}
