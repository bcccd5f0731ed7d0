package bench

import (
	"strings"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/inner"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// An http2Served answers HTTP/2: gRPC calls, and plain requests.
type http2Served struct {
	p    *place
	conn *inner.Conn
}

func newHTTP2Served(p *place, s flow.Stream) flow.Receiver {
	c := &http2Served{p: p}
	c.conn = p.inners.New(s, h2.Server, c, func() { p.gone(nil) })
	return c.conn
}

// A kind of call says how its content is read and answered.
type callKind uint8

const (
	plainCall callKind = iota // content in, content out
	unary                     // a gRPC message each way
	streaming                 // an answer for each message
)

// What gRPC calls that fail are answered with (google.rpc.Code).
const (
	grpcInvalidArgument = "3"
	grpcUnimplemented   = "12"
)

// Headers and what follows are h2.Handler.
func (c *http2Served) Headers(s *h2.Stream, f l7.Fields, end bool) {
	k, open := s.Value.(*callServed)
	if !open {
		k = c.p.call(s)
		k.begin(f)
		if k.kind == plainCall && !end && waits(f) {
			s.Headers(append(l7.Fields(k.fields[:0]), l7.Field{Name: ":status", Value: "100"}), false)
		}
	}
	if end {
		k.end()
	}
	k.settle()
}

func (c *http2Served) Data(s *h2.Stream, p []byte, end bool) {
	k, open := s.Value.(*callServed)
	if !open {
		return
	}
	k.read(p)
	if end {
		k.end()
	}
	k.settle()
}

func (c *http2Served) Sent(s *h2.Stream, n int) {
	if k, open := s.Value.(*callServed); open {
		k.answers.out.waiting -= n
		k.advance()
	}
}

// Reset is no error of a stream of messages between two of them: nobody needs it
// any more.
func (c *http2Served) Reset(s *h2.Stream, err error) {
	k, open := s.Value.(*callServed)
	if !open {
		return
	}
	if !k.over && (k.kind != streaming || k.in.within() || !k.answers.none()) {
		c.p.failed(err)
	}
	k.free()
}

func (c *http2Served) Changed()     { c.conn.Settle() }
func (c *http2Served) Closed(error) {}

// A callServed is one stream. It is used again.
type callServed struct {
	p       *place
	stream  *h2.Stream
	answers answers
	in      messageReader

	kind   callKind
	size   int64 // of a plain answer
	status int
	got    body // of a plain request
	begun  bool // the response's head is sent
	ended  bool // the request is complete
	over   bool // so is the response

	fields [4]l7.Field
	head   [32]byte
}

// call returns a callServed for s.
func (p *place) call(s *h2.Stream) *callServed {
	var k *callServed
	if n := len(p.calls); n > 0 {
		k, p.calls = p.calls[n-1], p.calls[:n-1]
	} else {
		k = &callServed{p: p}
		k.answers.begin(p, k.advance)
	}
	k.stream = s
	k.size, k.status, k.got = 0, 0, body{}
	k.begun, k.ended, k.over = false, false, false
	k.in = messageReader{payload: payloadInRequest, size: sizeInRequest}
	s.Value = k
	return k
}

// settle ends what is over at both ends, and has left.
func (k *callServed) settle() {
	if k.stream != nil && k.over && k.ended && k.answers.out.waiting == 0 {
		k.free()
	}
}

// maxSpare is how many calls are kept for use again, unless they have owed more
// than maxSpareOwed answers at a time.
const (
	maxSpare     = 1024
	maxSpareOwed = 64
)

func (k *callServed) free() {
	k.stream.Value, k.stream = nil, nil
	k.answers.stop()
	if len(k.p.calls) < maxSpare && cap(k.answers.owed) <= maxSpareOwed {
		k.p.calls = append(k.p.calls, k)
	}
}

// begin reads the head of the request.
func (k *callServed) begin(f l7.Fields) {
	k.size, k.status = k.p.asked(f.Get(":method"), f)
	k.kind = plainCall
	if k.status != 200 || !strings.HasPrefix(f.Get("content-type"), "application/grpc") {
		return
	}
	switch f.Get(":path") {
	case unaryCall:
		k.kind = unary
	case streamingCall:
		k.kind = streaming
		k.respond(0)
	default:
		k.kind = unary
		k.fail(fault(kindGRPCMethod), grpcUnimplemented, "only grpc.testing.BenchmarkService/UnaryCall and StreamingCall are served")
	}
}

// read takes content of the request.
func (k *callServed) read(p []byte) {
	switch {
	case k.over:
	case k.kind == plainCall:
		k.got.add(p)
	default:
		if err := k.in.read(p, k.message); err != nil {
			k.fail(err, grpcInvalidArgument, "a message that cannot be read")
		}
	}
	k.stream.Credit(k.answers.credit(len(p)))
	k.pump()
}

// message takes a gRPC message.
func (k *callServed) message(m message) error {
	k.p.took(m.body)
	k.answers.ask(m.size)
	return nil
}

// end notes that the request is complete.
func (k *callServed) end() {
	k.ended = true
	switch {
	case k.over:
	case k.kind == plainCall:
		k.p.took(k.got)
		k.answers.ask(k.size)
	case k.in.within() || k.kind == unary && !k.begun && k.answers.none():
		k.fail(fault(kindClosed), grpcInvalidArgument, "the request ends before its message does")
	}
	k.pump()
}

// advance is pump, from without.
func (k *callServed) advance() {
	k.pump()
	k.settle()
}

// pump writes what there is room for, and the end when there is no more.
func (k *callServed) pump() {
	a := &k.answers
	for !k.over {
		size, ok := a.next(k.stream)
		if !ok {
			break
		}
		if !k.begun {
			k.respond(size)
		}
		if k.kind != plainCall {
			a.out.waiting += k.stream.Write(appendResponseHead(k.head[:0], size))
		}
	}
	if a.held > 0 {
		k.stream.Credit(a.credit(0))
	}
	switch {
	case k.over || !k.ended || !k.begun || !a.none():
	case k.kind == plainCall:
		k.over = true
		k.stream.CloseWrite()
	default:
		k.trailers("0", "")
	}
}

// respond sends the head: of a plain response, with its end if there is no
// content.
func (k *callServed) respond(size int64) {
	k.begun = true
	f := append(l7.Fields(k.fields[:0]), l7.Field{Name: ":status", Value: k.p.statuses.decimal(int64(k.status))})
	if k.kind != plainCall {
		k.stream.Headers(append(f, l7.Field{Name: "content-type", Value: "application/grpc"}), false)
		return
	}
	f = append(f, l7.Field{Name: "content-type", Value: "application/octet-stream"}, l7.Field{Name: "content-length", Value: k.p.lengths.decimal(size)})
	if k.got.n > 0 {
		f = append(f, l7.Field{Name: crcField, Value: k.p.crcs.crc(k.got.crc)})
	}
	k.over = size == 0
	k.stream.Headers(f, k.over)
}

// trailers ends the response of a gRPC call.
func (k *callServed) trailers(status, message string) {
	f := l7.Fields(k.fields[:0])
	if !k.begun {
		f = append(f, l7.Field{Name: ":status", Value: "200"}, l7.Field{Name: "content-type", Value: "application/grpc"})
	}
	f = append(f, l7.Field{Name: "grpc-status", Value: status})
	if message != "" {
		f = append(f, l7.Field{Name: "grpc-message", Value: message})
	}
	k.begun, k.over = true, true
	k.stream.Headers(f, true)
}

// fail ends a call that breaks the rules. An answer that is half written is cut
// off: its message cannot be completed by trailers.
func (k *callServed) fail(err error, status, message string) {
	k.p.failed(err)
	half := k.answers.out.left > 0
	waiting := k.answers.out.waiting
	k.answers.stop()
	k.answers.out.waiting = waiting
	if half {
		k.over = true
		k.stream.Reset(err)
		k.ended, k.answers.out.waiting = true, 0 // nothing follows
		return
	}
	k.trailers(status, message)
}
