package bench

import (
	"strings"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// An http1Served answers HTTP/1.1, and what it is upgraded to.
type http1Served struct {
	p      *place
	codec  *h1.Server
	res    l7.Response
	fields [3]l7.Field
	got    body
	size   int64
	status int
	out    download
	sent   bool // the response has ended
	delay  loop.Timer
	socket *socketServed // not nil: it is WebSocket
}

func newHTTP1Served(p *place, s flow.Stream) flow.Receiver {
	c := &http1Served{p: p}
	c.delay.F = c.respond
	c.codec = h1.NewServer(s, c, h1.Limits{})
	return c.codec
}

// Request and what follows are h1.ServerHandler.
func (c *http1Served) Request(r *l7.Request, end bool) {
	c.got, c.sent, c.status = body{}, false, c.p.Status
	var ok bool
	if c.size, ok = sizeOf(r.Fields); !ok {
		c.size, c.status = 0, 400
	}
	switch {
	case strings.EqualFold(r.Upgrade, "websocket"):
		c.upgrade(r)
	case end:
		c.answer()
	}
}

func (c *http1Served) Content(p []byte) {
	c.codec.Credit(len(p))
	if c.socket != nil {
		c.socket.read(p)
		return
	}
	c.got.add(p)
}

func (c *http1Served) End(l7.Fields) {
	if c.socket != nil {
		c.codec.End(nil)
		return
	}
	c.answer()
}

// answer responds, after a delay if there is one.
func (c *http1Served) answer() {
	c.p.took(c.got)
	if c.p.Delay > 0 {
		c.p.loop.After(&c.delay, c.p.Delay)
		return
	}
	c.respond()
}

// respond sends the head and as much content as there is room for. The head
// waits for the content, so that both leave in one frame.
func (c *http1Served) respond() {
	f := append(c.fields[:0], l7.Field{Name: "content-type", Value: "application/octet-stream"})
	if c.got.n > 0 {
		f = append(f, l7.Field{Name: crcField, Value: c.p.textOf(c.got.crc)})
	}
	c.res = l7.Response{Status: c.status, Length: c.size, Fields: f}
	if c.size > 0 {
		c.codec.Hold()
	}
	if err := c.codec.Respond(&c.res, c.size == 0); err != nil {
		c.p.failed(err)
		c.codec.Abort(err)
		c.p.gone(nil)
		return
	}
	c.p.served.BytesSent += c.size
	if c.size > 0 {
		c.out.begin(c.size)
		c.pump()
	}
}

func (c *http1Served) pump() {
	if !c.sent && c.out.pump(c.codec) {
		c.sent = true
		c.codec.End(nil)
	}
}

func (c *http1Served) Sent(n int) {
	if c.socket != nil {
		c.socket.sent(n)
		return
	}
	c.out.waiting -= n
	c.pump()
}

func (c *http1Served) EOF()            { c.codec.Abort(nil); c.Closed(nil) } // nobody waits for the answer
func (c *http1Served) Reset(err error) { c.p.failed(err); c.delay.Stop(); c.sent = true }

func (c *http1Served) Malformed(_ int, err error) { c.p.failed(err) }

func (c *http1Served) Closed(error) {
	c.delay.Stop()
	c.p.gone(nil)
}

// upgrade makes the connection WebSocket.
func (c *http1Served) upgrade(r *l7.Request) {
	f := append(c.fields[:0], l7.Field{Name: "sec-websocket-accept", Value: webSocketAccept(r.Fields.Get("sec-websocket-key"))})
	c.res = l7.Response{Status: 101, Upgrade: "websocket", Fields: f}
	if err := c.codec.Respond(&c.res, false); err != nil {
		c.p.failed(err)
		c.codec.Abort(err)
		c.p.gone(nil)
		return
	}
	c.socket = &socketServed{c: c, in: frameReader{masked: true}, size: c.size}
}

// A socketServed answers each message with one of the size that the request
// for the upgrade asked for.
type socketServed struct {
	c     *http1Served
	in    frameReader
	out   download
	size  int64
	got   body
	ping  []byte
	owed  int // answers not begun
	ended bool
	head  [10]byte
}

func (s *socketServed) read(p []byte) {
	if s.ended {
		return
	}
	if err := s.in.read(p, s.c.p.scratch[:], s); err != nil {
		s.ended = true
		s.c.p.failed(err)
		s.c.codec.Abort(err)
		s.c.p.gone(nil)
		return
	}
	s.pump()
}

// frame and frameEnd are frames.
func (s *socketServed) frame(op byte, p []byte) {
	switch op {
	case opPing:
		s.ping = append(s.ping, p...)
	case opText, opBinary, opContinuation:
		s.got.add(p)
	}
}

func (s *socketServed) frameEnd(op byte, last bool) {
	switch {
	case op == opClose:
		s.ended = true
		s.c.codec.Write(appendFrameHead(s.head[:0], opClose, 0, nil))
		s.c.codec.End(nil)
	case op == opPing:
		s.c.codec.Write(append(appendFrameHead(s.head[:0], opPong, int64(len(s.ping)), nil), s.ping...))
		s.ping = s.ping[:0]
	case op != opPong && last:
		s.c.p.took(s.got)
		s.got = body{}
		s.owed++
	}
}

// pump writes what there is room for of the answers that are owed.
func (s *socketServed) pump() {
	for !s.ended && s.out.pump(s.c.codec) && s.owed > 0 {
		s.owed--
		s.c.p.served.BytesSent += s.size
		s.out.begin(s.size)
		s.out.waiting += s.c.codec.Write(appendFrameHead(s.head[:0], opBinary, s.size, nil))
	}
}

func (s *socketServed) sent(n int) {
	s.out.waiting -= n
	s.pump()
}
