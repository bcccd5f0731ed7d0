package bench

import (
	"github.com/waystone-mesh/waystone/internal/flow"
)

// A rawClient asks in bytes with lengths before them. With Protocol connect it
// asks once, and closes the tunnel.
type rawClient struct {
	t      *tunnel
	stream flow.Stream
	x      *exchange
	up     upload
	left   int64 // of the answer
	over   bool  // closed by us, or lost
}

func newRawClient(t *tunnel, s flow.Stream) (client, flow.Receiver) {
	c := &rawClient{t: t, stream: s, x: &t.exchanges[0]}
	return c, c
}

func (c *rawClient) start() { c.t.mayAsk() }

func (c *rawClient) ask(*exchange) {
	c.left = c.t.e.load.Size
	c.up = upload{rest: c.t.e.run.requests.content, waiting: c.up.waiting}
	c.pump()
}

func (c *rawClient) pump() {
	if c.up.pump(c.stream) {
		c.x.sent(int(c.t.e.load.Send))
	}
}

// Data and what follows are flow.Receiver.
func (c *rawClient) Data(p []byte) {
	n := int(min(c.left, int64(len(p))))
	switch {
	case c.over:
		c.stream.Credit(len(p))
		return
	case n < len(p) || !c.x.active: // an answer to nothing
		c.t.lost(fault(kindMalformed))
		return
	}
	c.left -= int64(n)
	c.x.got(p)
	switch {
	case c.left > 0:
	case c.t.single():
		c.stream.CloseWrite()
	default:
		c.x.done()
	}
}

func (c *rawClient) EOF() {
	switch {
	case c.over:
	case c.t.single() && c.left == 0:
		c.over = true
		c.t.over()
	default:
		c.t.lost(fault(kindClosed))
	}
}

func (c *rawClient) Sent(n int) {
	c.up.waiting -= n
	if !c.over && len(c.up.rest) > 0 {
		c.pump()
	}
}

func (c *rawClient) Reset(err error) {
	if !c.over {
		c.t.lost(err)
	}
}

func (c *rawClient) credit(_ *exchange, n int) { c.stream.Credit(n) }

func (c *rawClient) close() {
	c.over = true
	c.stream.CloseWrite()
}

func (c *rawClient) abort() {
	c.over = true
	c.stream.Reset(nil)
}
