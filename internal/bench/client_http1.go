package bench

import (
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// An httpClient asks over HTTP/1.1.
type httpClient struct {
	t     *tunnel
	codec *h1.Client
	x     *exchange
	up    upload
	fault error // what is wrong with the answer so far

	flushing bool // Flush runs at the end of the batch
}

func newHTTPClient(t *tunnel, s flow.Stream) (client, flow.Receiver) {
	c := &httpClient{t: t, x: &t.exchanges[0]}
	c.codec = h1.NewClient(s, c, h1.Limits{})
	return c, c.codec
}

func (c *httpClient) start() { c.t.mayAsk() }

// ask sends the request. Its head waits for content, so that they leave in one
// frame.
func (c *httpClient) ask(*exchange) {
	r := &c.t.e.run.requests
	c.fault = nil
	if len(r.content) > 0 {
		c.codec.Hold()
		if !c.flushing {
			c.flushing = true
			c.t.e.loop.AtBatchEnd(c)
		}
	}
	if err := c.codec.Request(&r.head, len(r.content) == 0); err != nil {
		c.t.lost(err)
		return
	}
	if len(r.content) > 0 {
		c.up = upload{rest: r.content}
		c.pump()
	}
}

// Flush is loop.Flusher.
func (c *httpClient) Flush() {
	c.flushing = false
	c.codec.Flush()
}

func (c *httpClient) pump() {
	if c.up.pump(c.codec) {
		c.x.sent(len(c.t.e.run.requests.content))
		c.codec.End(nil)
	}
}

// Response and what follows are h1.ClientHandler.
func (c *httpClient) Response(r *l7.Response, end bool) {
	if r.Status < 200 {
		return
	}
	if r.Status > 299 {
		c.fault = statusFault(r.Status)
	} else if crc := r.Fields.Get(crcField); crc != "" && crc != c.t.e.run.requests.crc {
		c.fault = fault(kindCRC)
	}
	if end {
		c.End(nil)
	}
}

func (c *httpClient) Content(p []byte) { c.x.got(p) }

// End ends the exchange. On a connection that is not kept there is no other; it
// is replaced when it is closed.
func (c *httpClient) End(l7.Fields) {
	c.t.ready = c.codec.Reusable()
	if c.fault != nil {
		c.x.fail(c.fault)
	} else {
		c.x.done()
	}
}

func (c *httpClient) Sent(n int) {
	c.up.waiting -= n
	if c.x.active && len(c.up.rest) > 0 {
		c.pump()
	}
}

func (c *httpClient) Reset(err error) {
	if c.t.client == client(c) {
		c.t.lost(err)
	}
}

// Closed comes alone when a connection is of no more use: it was not kept, or an
// idle one was closed, which a server may do.
func (c *httpClient) Closed(err error) {
	switch {
	case c.t.client != client(c):
	case c.x.active && !c.x.whole || err != nil:
		c.t.lost(err)
	default:
		c.t.spent()
	}
}

func (c *httpClient) credit(_ *exchange, n int) { c.codec.Credit(n) }
func (c *httpClient) close()                    { c.codec.Close() }
func (c *httpClient) abort()                    { c.codec.Abort(nil) }
