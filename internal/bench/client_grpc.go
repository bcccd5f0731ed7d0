package bench

import (
	"errors"
	"fmt"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/inner"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// call makes r the requests of gRPC calls.
func (r *requests) call(l *Load, path string, own l7.Fields) {
	r.fields = append(l7.Fields{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: path}, {Name: ":authority", Value: l.Host},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}, own.Clone().Del(sizeField).Del("accept")...)
	r.content = appendRequest(nil, l.Size, content(l.Send))
}

// A grpcClient makes gRPC calls: one for each exchange, or one for as many as
// come.
type grpcClient struct {
	t         *tunnel
	conn      *inner.Conn
	calls     []call
	streaming bool
	known     bool    // the server's limit of streams is
	over      bool    // closed by us
	waiting   []*call // for a stream
}

// A call is the place of an exchange: the stream that it is on.
type call struct {
	c      *grpcClient
	x      *exchange
	stream *h2.Stream // nil between calls
	up     upload
	in     messageReader
	status int  // of the answer; 0 before it came
	whole  bool // the message has come
	fault  error
}

func newGRPCClient(t *tunnel, s flow.Stream) (client, flow.Receiver) {
	c := &grpcClient{t: t, calls: make([]call, len(t.exchanges)), streaming: t.e.load.Protocol == speakGRPCStream}
	for i := range c.calls {
		c.calls[i].c, c.calls[i].x = c, &t.exchanges[i]
		t.exchanges[i].state = &c.calls[i]
	}
	c.conn = t.e.inners.New(s, h2.Client, c, c.gone)
	return c, c.conn
}

// start waits for the server's SETTINGS.
func (c *grpcClient) start() {}

// live reports whether the tunnel still wants to hear.
func (c *grpcClient) live() bool { return c.t.client == client(c) && !c.over }

func (c *grpcClient) ask(x *exchange) {
	k := x.state.(*call)
	k.whole, k.fault = false, nil
	if k.stream == nil && !k.open() {
		c.waiting = append(c.waiting, k)
		return
	}
	k.up = upload{rest: c.t.e.run.requests.content, waiting: k.up.waiting}
	k.pump()
}

// open begins a call, if there is room for one.
func (k *call) open() bool {
	s, err := k.c.conn.Open(k.c.t.e.run.requests.fields, false)
	if errors.Is(err, h2.ErrNoStreams) {
		return false
	}
	if err != nil {
		k.c.t.lost(err)
		return true
	}
	s.Value = k
	k.stream, k.status = s, 0
	k.in, k.up = messageReader{payload: payloadInResponse}, upload{}
	return true
}

func (k *call) pump() {
	if k.stream == nil || !k.up.pump(k.stream) {
		return
	}
	k.x.sent(int(k.c.t.e.load.Send))
	if !k.c.streaming {
		k.stream.CloseWrite()
	}
}

// Headers and what follows are h2.Handler.
func (c *grpcClient) Headers(s *h2.Stream, f l7.Fields, end bool) {
	k, ok := s.Value.(*call)
	if !ok || !c.live() {
		return
	}
	if k.status == 0 {
		status := f.Get(":status")
		if len(status) != 3 || status[0] == '1' {
			return
		}
		k.status = 200
		if status != "200" {
			k.fault = fault("status " + status)
		}
	}
	if end {
		k.end(f.Get("grpc-status"))
	}
}

func (c *grpcClient) Data(s *h2.Stream, p []byte, end bool) {
	k, ok := s.Value.(*call)
	if !ok || !c.live() {
		return
	}
	k.x.arrived(len(p))
	if err := k.in.read(p, k.message); err != nil && k.stream == s {
		k.fault = err
	}
	if end && k.stream == s {
		k.end("")
	}
}

// message takes an answer.
func (k *call) message(m message) error {
	if k.whole || !k.x.active { // an answer to nothing
		return fault(kindMalformed)
	}
	k.x.body = m.body
	k.whole = true
	if k.c.streaming {
		k.x.done()
	}
	return nil
}

// end takes the end of a call. Of a streaming one none is expected.
func (k *call) end(status string) {
	s := k.stream
	k.stream, s.Value = nil, nil
	switch {
	case k.fault != nil:
	case status == "":
		k.fault = fault(kindMalformed)
	case status != "0":
		k.fault = grpcFault(status)
	case !k.whole, k.in.within():
		k.fault = fault(kindClosed)
	}
	s.Reset(&h2.StreamError{Code: h2.CodeNoError}) // if we were not done
	switch {
	case !k.x.active: // a stream that ended between exchanges: the next opens another
	case k.fault != nil || k.c.streaming:
		k.x.fail(orClosed(k.fault))
	default:
		k.x.done()
	}
}

func orClosed(err error) error {
	if err == nil {
		err = fault(kindClosed)
	}
	return err
}

func (c *grpcClient) Sent(s *h2.Stream, n int) {
	if k, ok := s.Value.(*call); ok && c.live() {
		k.up.waiting -= n
		if len(k.up.rest) > 0 {
			k.pump()
		}
	}
}

func (c *grpcClient) Reset(s *h2.Stream, err error) {
	k, ok := s.Value.(*call)
	if !ok || !c.live() {
		return
	}
	k.stream = nil
	if k.x.active {
		k.x.fail(err)
	}
}

// Changed is called when the server has said how many streams it takes, and
// whenever there may be room for one.
func (c *grpcClient) Changed() {
	c.conn.Settle()
	if !c.live() {
		return
	}
	if !c.known {
		c.known = true
		if n := c.conn.Available(); n < len(c.calls) {
			c.t.lost(fmt.Errorf("the server takes %d streams in a tunnel: lower --concurrency, or raise its limit", n))
			return
		}
		c.t.mayAsk()
		return
	}
	for len(c.waiting) > 0 && c.live() {
		k := c.waiting[0]
		if !k.open() {
			return
		}
		c.waiting = c.waiting[1:]
		c.ask(k.x)
	}
}

func (c *grpcClient) Closed(error) {}

// gone is called when the connection is over.
func (c *grpcClient) gone() {
	if c.live() {
		c.t.lost(fault(kindClosed))
	}
}

func (c *grpcClient) credit(x *exchange, n int) {
	if k := x.state.(*call); k.stream != nil {
		k.stream.Credit(n)
	}
}

// close ends streaming calls, and the connection when they have ended.
func (c *grpcClient) close() {
	c.over = true
	for i := range c.calls {
		if s := c.calls[i].stream; s != nil {
			s.CloseWrite()
		}
	}
	c.conn.Drain()
	c.conn.Settle()
}

func (c *grpcClient) abort() { c.conn.Abort(nil) }
