package bench

import (
	"strings"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// An http1Served answers HTTP/1.1, and what it is upgraded to.
type http1Served struct {
	p       *place
	codec   *h1.Server
	answers answers // one at most, of HTTP/1.1
	socket  *socketServed

	// The exchange.
	got     body
	size    int64
	status  int
	writing bool // its response is begun and not ended

	res    l7.Response
	fields [2]l7.Field
}

func newHTTP1Served(p *place, s flow.Stream) flow.Receiver {
	c := &http1Served{p: p}
	c.answers.begin(p, c.pump)
	c.codec = h1.NewServer(s, c, h1.Limits{})
	return c.codec
}

// Request and what follows are h1.ServerHandler.
func (c *http1Served) Request(r *l7.Request, end bool) {
	c.got = body{}
	c.size, c.status = c.p.asked(r.Method, r.Fields)
	if c.status == 200 && strings.EqualFold(r.Upgrade, "websocket") {
		if c.upgrade(r) {
			return
		}
		c.size, c.status = 0, 400
	}
	switch {
	case end:
		c.answer()
	case waits(r.Fields):
		_ = c.codec.Respond(&l7.Response{Status: 100}, false) // what cannot be written need not be
	}
}

func (c *http1Served) Content(p []byte) {
	if c.socket != nil {
		c.socket.read(p)
		return
	}
	c.codec.Credit(len(p))
	c.got.add(p)
}

func (c *http1Served) End(l7.Fields) {
	if c.socket != nil {
		c.socket.eof()
		return
	}
	c.answer()
}

func (c *http1Served) answer() {
	c.p.took(c.got)
	c.answers.ask(c.size)
	c.pump()
}

// pump responds when it is time, and writes what there is room for.
func (c *http1Served) pump() {
	if c.socket != nil {
		c.socket.pump()
		return
	}
	if size, ok := c.answers.next(c.codec); ok {
		c.respond(size)
	}
	if !c.writing {
		return
	}
	c.answers.written(c.codec)
	if c.answers.none() {
		c.writing = false
		c.codec.End(nil)
	}
}

// respond sends the head. It waits for content, so that both leave in one frame.
func (c *http1Served) respond(size int64) {
	f := append(c.fields[:0], l7.Field{Name: "content-type", Value: "application/octet-stream"})
	if c.got.n > 0 {
		f = append(f, l7.Field{Name: crcField, Value: c.p.crcs.crc(c.got.crc)})
	}
	c.res = l7.Response{Status: c.status, Length: size, Fields: f}
	if c.writing = size > 0; c.writing {
		c.codec.Hold()
	}
	if err := c.codec.Respond(&c.res, size == 0); err != nil {
		c.give(err)
	}
}

// give gives the connection up.
func (c *http1Served) give(err error) {
	c.writing = false
	c.answers.stop()
	c.codec.Abort(err)
	c.p.gone(err)
}

func (c *http1Served) Sent(n int) {
	c.answers.out.waiting -= n
	c.pump()
}

// EOF changes nothing: a client may half-close and wait. One that is gone resets
// what is written to it.
func (c *http1Served) EOF() {}

// Reset is no error of a WebSocket on which nothing is under way: nobody needs
// it any more.
func (c *http1Served) Reset(err error) {
	if c.socket == nil || c.socket.busy() {
		c.p.failed(err)
	}
	c.writing = false
	c.answers.stop()
}

func (c *http1Served) Malformed(_ int, err error) { c.p.failed(err) }

func (c *http1Served) Closed(error) { c.p.gone(nil) }

// upgrade makes the connection a WebSocket, and reports whether the request was
// for one (RFC 6455, section 4.2.1).
func (c *http1Served) upgrade(r *l7.Request) bool {
	key := r.Fields.Get("sec-websocket-key")
	if key == "" || r.Fields.Get("sec-websocket-version") != "13" {
		return false
	}
	f := append(c.fields[:0], l7.Field{Name: "sec-websocket-accept", Value: webSocketAccept(key)})
	c.res = l7.Response{Status: 101, Upgrade: "websocket", Fields: f}
	c.socket = &socketServed{c: c, in: frameReader{masked: true}, size: c.size}
	if err := c.codec.Respond(&c.res, false); err != nil {
		c.give(err)
	}
	return true
}
