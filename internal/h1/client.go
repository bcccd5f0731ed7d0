package h1

import (
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// A ClientHandler is told what a destination answers. Every call may come from
// within a call to the Client.
type ClientHandler interface {
	// Response is a response head: any number of informational ones (1xx, never
	// with end), then the final one, or a 101. r and its strings are valid for
	// the call. With end there is no content, and neither Content nor End
	// follows: the exchange is over if the request is complete.
	Response(r *l7.Response, end bool)

	// Content lends p for the call; its bytes stay uncredited until Credit.
	Content(p []byte)

	// End completes the response. trailers may be nil and are valid for the call.
	End(trailers l7.Fields)

	// Sent says that n bytes of content that Write left waiting have now left.
	Sent(n int)

	// Reset ends the exchange by force: the stream is gone, or the destination
	// broke the protocol (an *Error, ErrCut or ErrNoResponse) and the stream has
	// been reset.
	Reset(err error)

	// Closed is the last call: the connection is of no more use. It comes after
	// Reset when an exchange was open, and alone on an idle connection.
	Closed(err error)
}

// A Client is the asking end of one HTTP/1.1 connection. It is the Receiver of
// its stream; every call is made on the stream's loop.
type Client struct {
	// Immutable.
	limits *Limits

	h   ClientHandler // nil when detached
	in  incoming
	out outgoing

	// The exchange.
	open     bool // Request has opened it, and it is not complete both ways
	head     bool // its method is HEAD
	upgrade  bool // it asks for another protocol
	upgraded bool // and has it
	begun    bool // something of its response has come
	stray    bool // and something after it

	// The connection.
	persistent bool // it outlives the exchange
	eof        bool // the destination has ended its direction
	gone       bool // nothing more is to be said, either way
}

var _ flow.Receiver = (*Client)(nil)

// NewClient returns a Client on s that reports to h, which may be nil until
// Attach. The caller makes it the Receiver of s.
func NewClient(s flow.Stream, h ClientHandler, l Limits) *Client {
	return &Client{
		limits: l.orDefaults(), h: h, persistent: true,
		in: incoming{stage: complete}, out: outgoing{stream: s, done: true},
	}
}

// Data is the stream's.
func (c *Client) Data(p []byte) {
	for len(p) > 0 && !c.gone {
		n := 0
		switch c.in.stage {
		case atHead:
			n = c.readHead(p)
		case complete:
			// A response to nothing: a destination that does this may as well
			// answer the next request before it was asked.
			c.fail(errStray)
			return
		case dropping:
			c.out.stream.Credit(len(p))
			return
		default:
			n = c.readContent(p)
		}
		p = p[n:]
	}
}

func (c *Client) readHead(p []byte) int {
	c.begun = true
	h, b, n, err := c.in.heads.feed(response, p, c.limits)
	c.out.stream.Credit(n)
	if err != nil {
		c.fail(err)
		return n
	}
	if h == nil {
		return n
	}
	defer h.release()
	minor, err := h.response(b, &h.res)
	if err != nil {
		c.fail(err)
		return n
	}
	r := &h.res
	switch {
	case r.Status == 101:
		c.switched(r)
	case r.Status < 200:
		r.Length, r.Fields = 0, r.Fields.Del("content-length")
		c.tell(r, false)
	default:
		c.final(r, h, minor, n < len(p))
	}
	return n
}

func (c *Client) tell(r *l7.Response, end bool) {
	if c.h != nil {
		c.h.Response(r, end)
	}
}

// final begins the content of a final response (RFC 9112, section 6.3).
func (c *Client) final(r *l7.Response, h *head, minor byte, more bool) {
	c.persistent = h.keepAlive(minor)
	switch {
	case c.head || r.Status == 304:
		r.Length = 0
	case r.Status == 204:
		r.Length, r.Fields = 0, r.Fields.Del("content-length")
	case h.chunked:
		r.Length = -1
	case r.Length < 0:
		c.persistent = false
		c.in.stage = untilClose
		c.tell(r, false)
		return
	}
	c.in.begin(r.Length)
	c.over(more)
	c.tell(r, r.Length == 0)
	c.settle()
}

// over notes that the response is complete, if it is, before the handler is
// told: who is told may send the next request at once. It may not when more
// bytes have come already, for they would be taken for the response to it.
func (c *Client) over(more bool) {
	if c.in.stage != complete {
		return
	}
	c.stray = more
	if c.out.done {
		c.open = false
	}
}

// switched begins the other protocol.
func (c *Client) switched(r *l7.Response) {
	if !c.upgrade || r.Upgrade == "" {
		c.fail(errSwitch)
		return
	}
	r.Length, r.Fields = 0, r.Fields.Del("content-length")
	c.upgraded, c.persistent = true, false
	c.in.stage = raw
	c.out.done, c.out.by = false, byClose
	c.tell(r, false)
}

func (c *Client) readContent(p []byte) int {
	n, content, last, err := c.in.next(p, c.limits)
	if err == nil {
		c.over(n < len(p))
	}
	switch {
	case err != nil:
		c.fail(err)
		return len(p)
	case !content:
		c.out.stream.Credit(n)
	case c.h == nil:
		c.out.stream.Credit(n)
	default:
		c.in.held += n
		c.h.Content(p[:n])
	}
	if c.in.stage == complete && !c.gone {
		c.ended(fieldsOf(last))
	}
	if last != nil {
		last.release()
	}
	return n
}

// ended completes the response.
func (c *Client) ended(trailers l7.Fields) {
	if c.h != nil {
		c.h.End(trailers)
	}
	c.settle()
}

// settle ends the exchange if it is complete both ways, and the connection if
// it is of no more use.
func (c *Client) settle() {
	if c.gone || c.in.stage != complete {
		return
	}
	if !c.out.done {
		if !c.upgraded {
			// Answered before it was asked in full. The rest would have to be sent
			// to keep the connection, to a destination that may not read it.
			c.out.stream.Reset(nil)
			c.end(nil)
		}
		return
	}
	c.open = false
	switch {
	case c.eof:
		if c.out.close(); c.out.content+c.out.framing == 0 {
			c.end(nil)
		}
	case !c.persistent:
		c.in.stage = dropping
		c.out.close()
	case c.stray:
		c.fail(errStray)
	}
}

// EOF is the stream's.
func (c *Client) EOF() {
	if c.gone {
		return
	}
	c.eof = true
	switch c.in.stage {
	case untilClose, raw:
		c.in.stage = complete
		c.over(false)
		c.ended(nil)
	case complete, dropping:
		if c.open {
			return // our half of another protocol goes on
		}
		c.out.close()
		c.end(nil)
	case atHead:
		if !c.begun {
			c.fail(ErrNoResponse)
			return
		}
		c.fail(ErrCut)
	default:
		c.fail(ErrCut)
	}
}

// Sent is the stream's.
func (c *Client) Sent(n int) {
	if c.gone {
		return
	}
	if n = c.out.sent(n); n > 0 && c.h != nil {
		c.h.Sent(n)
	}
	c.settle()
}

// Reset is the stream's.
func (c *Client) Reset(err error) {
	if !c.gone {
		c.end(err)
	}
}

// fail gives up a connection on which nothing can be trusted any more.
func (c *Client) fail(err error) {
	c.out.stream.Reset(err)
	c.end(err)
}

// end is the last that the handler hears.
func (c *Client) end(err error) {
	c.gone = true
	c.out.drop()
	c.in.heads.drop()
	open := c.open && err != nil
	c.open = false
	if c.h == nil {
		return
	}
	if open {
		c.h.Reset(err)
	}
	if c.h != nil {
		c.h.Closed(err)
	}
}
