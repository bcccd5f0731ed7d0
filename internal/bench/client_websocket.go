package bench

import (
	"encoding/base64"
	"io"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// webSocketKey and webSocketMask are always the same. The one is to be random so
// that no cache answers, the other so that no content can be made to look like
// something else to a proxy between; neither is a danger here, and content that
// is masked once need not be again.
const webSocketKey = "waystone bench 0" // 16 bytes

var webSocketMask = [4]byte{0x9d, 0x2e, 0x71, 0xc4}

// upgrade makes r the request for a WebSocket, and a message on it.
func (r *requests) upgrade(l *Load) {
	r.head.Method, r.head.Upgrade, r.head.Length = "GET", "websocket", 0
	r.head.Fields = append(r.head.Fields.Clone(),
		l7.Field{Name: "sec-websocket-key", Value: base64.StdEncoding.EncodeToString([]byte(webSocketKey))},
		l7.Field{Name: "sec-websocket-version", Value: "13"})
	masked := content(l.Send)
	applyMask(masked, webSocketMask, 0)
	r.content = append(appendFrameHead(nil, opBinary, l.Send, &webSocketMask), masked...)
}

// A webSocketClient sends messages and gets messages back.
type webSocketClient struct {
	t     *tunnel
	codec *h1.Client
	x     *exchange
	up    upload
	in    frameReader
	pong  []byte // the content of a ping
	over  bool   // closed by us
}

func newWebSocketClient(t *tunnel, s flow.Stream) (client, flow.Receiver) {
	c := &webSocketClient{t: t, x: &t.exchanges[0]}
	c.codec = h1.NewClient(s, c, h1.Limits{})
	return c, c.codec
}

func (c *webSocketClient) start() {
	if err := c.codec.Request(&c.t.e.run.requests.head, true); err != nil {
		c.t.lost(err)
	}
}

// live reports whether the tunnel still wants to hear.
func (c *webSocketClient) live() bool { return c.t.client == client(c) && !c.over }

// Response and what follows are h1.ClientHandler.
func (c *webSocketClient) Response(r *l7.Response, _ bool) {
	switch {
	case r.Status != 101 && r.Status < 200 || !c.live():
	case r.Status != 101:
		c.t.lost(statusFault(r.Status))
	case r.Fields.Get("sec-websocket-accept") != webSocketAccept(base64.StdEncoding.EncodeToString([]byte(webSocketKey))):
		c.t.lost(fault(kindMalformed))
	default:
		c.t.mayAsk()
	}
}

func (c *webSocketClient) ask(*exchange) {
	c.up = upload{rest: c.t.e.run.requests.content, waiting: c.up.waiting}
	c.pump()
}

func (c *webSocketClient) pump() {
	if c.up.pump(c.codec) {
		c.x.sent(int(c.t.e.load.Send))
	}
}

// Content credits what is not content of a message at once.
func (c *webSocketClient) Content(p []byte) {
	if !c.live() {
		c.codec.Credit(len(p))
		return
	}
	c.x.arrived(len(p))
	if err := c.in.read(p, nil, c); err != nil && c.live() {
		c.t.lost(err)
	}
}

// frame and frameEnd are frames.
func (c *webSocketClient) frame(op byte, p []byte) {
	switch op {
	case opBinary, opContinuation, opText:
		c.x.body.add(p)
	case opPing:
		c.pong = append(c.pong, p...)
	}
}

func (c *webSocketClient) frameEnd(op byte, last bool) {
	switch {
	case !c.live():
	case op == opClose:
		c.t.lost(fault(kindClosed))
	case op == opPing:
		applyMask(c.pong, webSocketMask, 0)
		c.codec.Write(append(appendFrameHead(nil, opPong, int64(len(c.pong)), &webSocketMask), c.pong...))
		c.pong = c.pong[:0]
	case op == opPong || !last:
	case !c.x.active:
		c.t.lost(fault(kindMalformed))
	default:
		c.x.done()
	}
}

func (c *webSocketClient) End(l7.Fields) { c.lose(io.EOF) }

func (c *webSocketClient) Sent(n int) {
	c.up.waiting -= n
	if c.live() && len(c.up.rest) > 0 {
		c.pump()
	}
}

func (c *webSocketClient) Reset(err error) { c.lose(err) }

func (c *webSocketClient) Closed(err error) {
	if err == nil {
		err = io.EOF
	}
	c.lose(err)
}

func (c *webSocketClient) lose(err error) {
	if c.live() {
		c.t.lost(err)
	}
}

func (c *webSocketClient) credit(_ *exchange, n int) { c.codec.Credit(n) }

// close says good-bye (RFC 6455, section 7.1.2) and does not wait for the answer.
func (c *webSocketClient) close() {
	c.over = true
	c.codec.Write(appendFrameHead(nil, opClose, 0, &webSocketMask))
	c.codec.End(nil)
}

func (c *webSocketClient) abort() { c.codec.Abort(nil) }
