package h1

import (
	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// A ServerHandler is told what clients send. There is one exchange at a time:
// Request opens it, and it is over when the response is complete and every byte
// of content that Write left waiting has been reported by Sent. What is left of
// the request then is read and dropped, or the connection closed; the next
// request is announced only after that.
//
// Every call may come from within a call to the Server.
type ServerHandler interface {
	// Request opens an exchange. r and its strings are valid for the call; its
	// fields may be edited. With end there is no content, and neither Content
	// nor End follows.
	Request(r *l7.Request, end bool)

	// Content lends p for the call; its bytes stay uncredited until Credit.
	// After a 101 the bytes are the other protocol's.
	Content(p []byte)

	// End completes the request: nothing more is read of it. trailers may be nil
	// and are valid for the call. After a 101 it says that the client has ended
	// its direction.
	End(trailers l7.Fields)

	// Sent says that n bytes of content that Write left waiting have now left.
	Sent(n int)

	// EOF says that the client has ended its direction while the response is not
	// complete. A client that went away looks like this, and so does one that
	// half-closes and waits: Abort the exchange, or go on with it.
	EOF()

	// Reset ends the exchange by force: the stream is gone, or the request's
	// framing is broken (then err is an *Error, and the codec has answered it
	// itself when no response had begun). Nothing follows for this exchange.
	Reset(err error)

	// Malformed says that a request was refused before it opened an exchange:
	// the codec has answered status and is closing the connection.
	Malformed(status int, err error)

	// Closed is the last call: both directions have ended, or the stream is
	// gone. err is nil when it ended in good order.
	Closed(err error)
}

// A Server is the serving end of one HTTP/1.1 connection. It is the Receiver
// of its stream; every call is made on the stream's loop.
//
// It ends a connection by closing our direction and waiting for the client to
// close its own, so that what was written last is not lost to a reset. It has no
// clock: who wants to wait no longer calls Abort.
type Server struct {
	// Immutable.
	h      ServerHandler
	limits *Limits

	in   incoming
	out  outgoing
	wait bufs.Queue // bytes that came too early, uncredited

	// The exchange.
	open       bool // the handler has it
	head       bool // its method is HEAD
	old        bool // HTTP/1.0
	persistent bool // the client will send another request
	expect     bool // the client waits for a 100 before it sends content
	upgrade    bool // the client asked for another protocol
	upgraded   bool // and has it
	told       bool // the handler knows of the EOF
	drained    int  // bytes of content dropped

	// The connection.
	closing bool // after this exchange
	eof     bool // the client has ended its direction
	gone    bool // nothing more is to be said, either way
	running bool // run is on the stack
	fault   error
}

var _ flow.Receiver = (*Server)(nil)

// NewServer returns a Server on s that reports to h. The caller makes it the
// Receiver of s, and gives Data the bytes that it has read already.
func NewServer(s flow.Stream, h ServerHandler, l Limits) *Server {
	return &Server{h: h, limits: l.orDefaults(), out: outgoing{stream: s}}
}

// Data and, below, EOF, Sent and Reset are the stream's.
func (c *Server) Data(p []byte) {
	if c.gone {
		return
	}
	if c.running || c.wait.Len() > 0 {
		c.wait.Append(p)
		c.run()
		return
	}
	c.running = true
	n := c.feed(p)
	c.running = false
	if n < len(p) && !c.gone {
		c.wait.Append(p[n:])
	}
	c.run()
}

// EOF is the stream's.
func (c *Server) EOF() {
	c.eof = true
	c.run()
}

// Sent is the stream's.
func (c *Server) Sent(n int) {
	if c.gone {
		return
	}
	if n = c.out.sent(n); n > 0 && c.open {
		c.h.Sent(n)
	}
	c.run()
}

// Reset is the stream's.
func (c *Server) Reset(err error) {
	if !c.gone {
		c.end(err)
	}
}

// run does what is due, until nothing is. Calls from a handler change the state
// and return: the run that called the handler goes on from there, so that a
// thousand pipelined requests are a loop and not a recursion.
func (c *Server) run() {
	if c.running {
		return
	}
	c.running = true
	for !c.gone {
		c.settle()
		if c.wait.Len() > 0 {
			n := c.feed(c.wait.Front())
			if c.gone {
				break
			}
			if c.wait.Consume(n); n > 0 {
				continue
			}
		}
		if !c.eof || !c.ended() {
			break
		}
	}
	c.running = false
	if c.gone {
		c.release()
	}
}

// settle ends the exchange if it is over, and closes the connection if it was
// the last.
func (c *Server) settle() {
	if c.gone || !c.out.done {
		return
	}
	if c.open && c.out.content == 0 && (!c.upgraded || c.in.stage == complete) {
		c.open = false
		c.credit(c.in.held)
	}
	switch {
	case c.upgraded || c.out.closed:
	case c.last():
		c.close()
	case !c.open && c.in.stage == complete:
		c.in.stage = atHead
		c.out.next()
	}
}

// last reports whether no request follows on this connection.
func (c *Server) last() bool {
	if c.closing || !c.persistent {
		return true
	}
	// A request that was answered early: read past what is left of it when that
	// is little. A client that waited for a 100 may send its content or not (RFC
	// 9110, section 10.1.1): there is no telling what its next byte is.
	return c.in.stage != complete && (c.expect || c.in.stage == atLength && c.in.left > int64(c.limits.Drain))
}

func (c *Server) close() {
	c.in.stage, c.drained = dropping, 0
	c.out.close()
}

// feed reads from p and returns how much of it was used: less than all of it
// when the rest belongs to the next request and has to wait.
func (c *Server) feed(p []byte) (used int) {
	for used < len(p) && !c.gone {
		if c.in.stage == complete {
			if c.settle(); c.in.stage == complete {
				return used
			}
		}
		switch c.in.stage {
		case atHead:
			used += c.readHead(p[used:])
		case dropping:
			c.drop(len(p) - used)
			return len(p)
		default:
			used += c.readContent(p[used:])
		}
	}
	return used
}

func (c *Server) readHead(p []byte) int {
	h, b, n, err := c.in.heads.feed(request, p, c.limits)
	c.out.stream.Credit(n)
	if err != nil {
		c.refuse(err)
		return n
	}
	if h == nil {
		return n
	}
	defer h.release()
	r := &h.req
	minor, err := h.request(b, r, c.limits)
	if err != nil {
		c.refuse(err)
		return n
	}
	c.in.begin(r.Length)
	c.open, c.old, c.head = true, minor == 0, r.Method == "HEAD"
	c.persistent, c.expect = h.keepAlive(minor), h.expect
	c.upgrade, c.told, c.drained = r.Upgrade != "", false, 0
	c.h.Request(r, r.Length == 0)
	return n
}

func (c *Server) readContent(p []byte) int {
	c.expect = false // it sends without waiting
	n, content, last, err := c.in.next(p, c.limits)
	switch {
	case err != nil:
		c.out.stream.Credit(len(p))
		c.broken(err)
		return len(p)
	case !content:
		c.out.stream.Credit(n)
	case c.out.done && !c.upgraded:
		c.drop(n)
	default:
		c.in.held += n
		c.h.Content(p[:n])
	}
	if c.in.stage == complete && !c.gone && !c.out.done {
		c.h.End(fieldsOf(last))
	}
	if last != nil {
		last.release()
	}
	return n
}

// drop passes over bytes that nobody wants, up to a point.
func (c *Server) drop(n int) {
	c.out.stream.Credit(n)
	if c.drained += n; c.drained <= c.limits.Drain {
		return
	}
	if c.in.stage == dropping {
		// We have closed, and have been patient.
		c.out.stream.Reset(nil)
		c.end(c.fault)
		return
	}
	c.closing = true
	c.settle()
}

// ended does what is due after the client's EOF, and reports whether it did
// anything.
func (c *Server) ended() bool {
	switch {
	case c.in.stage == complete && c.open && !c.told && !c.out.done:
		c.told = true
		c.h.EOF()
	case c.wait.Len() > 0:
		return false // requests that came before it
	case c.in.stage == raw:
		c.in.stage = complete
		c.h.End(nil)
	case c.in.stage == atHead:
		if c.in.heads.part != nil {
			c.fault = ErrCut
		}
		c.close()
	case c.in.stage < complete && c.out.done:
		c.closing = true
		c.close()
	case c.in.stage < complete:
		c.out.stream.Reset(nil)
		c.end(ErrCut)
	case c.out.closed && !c.open && c.out.content+c.out.framing == 0:
		c.end(c.fault)
	default:
		return false
	}
	return true
}

// refuse answers a request that opens no exchange.
func (c *Server) refuse(err *Error) {
	c.fault = err
	c.answer(err.Status)
	c.h.Malformed(err.Status, err)
}

// broken ends an exchange whose request's content cannot be told from what
// follows it.
func (c *Server) broken(err *Error) {
	c.fault = err
	switch {
	case c.out.done: // it is answered already, and only waits to leave
		c.closing = true
		c.settle()
	case c.out.begun:
		c.out.stream.Reset(err)
		c.end(err)
	default:
		c.open = false
		c.answer(err.Status)
		c.h.Reset(err)
	}
}

// end is the last that the handler hears.
func (c *Server) end(err error) {
	c.gone = true
	if c.open {
		c.open = false
		c.h.Reset(err)
	}
	c.h.Closed(err)
	if !c.running {
		c.release()
	}
}

// release gives up what is held. What a handler on the stack may still look at
// is left to run.
func (c *Server) release() {
	c.out.drop()
	c.wait.Clear()
	c.in.heads.drop()
}
