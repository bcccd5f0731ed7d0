package bench

import (
	"strconv"
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
	plainCall  callKind = iota // content in, content out
	unary                      // a gRPC message each way
	streaming                  // an answer for each message
	unknownRPC                 // no such method
)

// A callServed is one stream.
type callServed struct {
	p      *place
	stream *h2.Stream
	kind   callKind
	size   int64 // of a plain answer
	status int
	in     messageReader
	got    body    // of a plain request
	wanted []int64 // sizes of answers not begun
	out    download
	begun  bool // the head is sent
	ended  bool // the request has
	over   bool // the response has
	head   [32]byte
}

// Headers and what follows are h2.Handler.
func (c *http2Served) Headers(s *h2.Stream, f l7.Fields, end bool) {
	k, open := s.Value.(*callServed)
	if !open {
		k = newCallServed(c.p, s, f)
		s.Value = k
	}
	if end {
		k.end()
	}
}

func newCallServed(p *place, s *h2.Stream, f l7.Fields) *callServed {
	k := &callServed{p: p, stream: s, status: p.Status}
	if !strings.HasPrefix(f.Get("content-type"), "application/grpc") {
		var ok bool
		if k.size, ok = sizeOf(f); !ok {
			k.size, k.status = 0, 400
		}
		return k
	}
	switch f.Get(":path") {
	case unaryCall:
		k.kind = unary
	case streamingCall:
		k.kind = streaming
		k.begin()
	default:
		k.kind = unknownRPC
		k.begin()
		k.trailers("12", "unknown method") // UNIMPLEMENTED
	}
	return k
}

func (c *http2Served) Data(s *h2.Stream, p []byte, end bool) {
	k := s.Value.(*callServed)
	s.Credit(len(p))
	switch {
	case k.over:
		return
	case k.kind == plainCall:
		k.got.add(p)
	default:
		if err := k.in.read(p, k.message); err != nil {
			k.fail(err)
			return
		}
		k.pump()
	}
	if end {
		k.end()
	}
}

func (c *http2Served) Sent(s *h2.Stream, n int) {
	k := s.Value.(*callServed)
	k.out.waiting -= n
	k.pump()
}

func (c *http2Served) Reset(s *h2.Stream, err error) {
	k, ok := s.Value.(*callServed)
	if !ok || k.over {
		return
	}
	k.over = true
	// A stream of messages that was given up between two of them was not needed
	// any more.
	if k.kind != streaming || k.in.within() || k.out.left > 0 || len(k.wanted) > 0 {
		c.p.failed(err)
	}
}

func (c *http2Served) Changed()     { c.conn.Settle() }
func (c *http2Served) Closed(error) {}

// message takes a gRPC message.
func (k *callServed) message(m []byte) error {
	size, sent, err := parseRequest(m)
	if err != nil {
		return err
	}
	var got body
	got.add(sent)
	k.p.took(got)
	k.wanted = append(k.wanted, size)
	return nil
}

// end notes that the request is complete.
func (k *callServed) end() {
	if k.over {
		return
	}
	k.ended = true
	if k.in.within() {
		k.fail(fault(kindClosed))
		return
	}
	if k.kind == plainCall {
		k.p.took(k.got)
		k.begin()
		k.p.served.BytesSent += k.size
		k.out.begin(k.size)
	}
	k.pump()
}

// begin sends the head.
func (k *callServed) begin() {
	k.begun = true
	f := make(l7.Fields, 0, 4)
	if k.kind != plainCall {
		f = append(f, l7.Field{Name: ":status", Value: "200"}, l7.Field{Name: "content-type", Value: "application/grpc"})
		k.stream.Headers(f, false)
		return
	}
	f = append(f, l7.Field{Name: ":status", Value: strconv.Itoa(k.status)}, l7.Field{Name: "content-type", Value: "application/octet-stream"},
		l7.Field{Name: "content-length", Value: strconv.FormatInt(k.size, 10)})
	if k.got.n > 0 {
		f = append(f, l7.Field{Name: crcField, Value: k.p.textOf(k.got.crc)})
	}
	k.stream.Headers(f, k.size == 0)
	k.over = k.size == 0
}

// pump writes what there is room for, and the end when there is no more.
func (k *callServed) pump() {
	for !k.over && k.out.pump(k.stream) {
		switch {
		case len(k.wanted) > 0:
			n := k.wanted[0]
			k.wanted = k.wanted[:copy(k.wanted, k.wanted[1:])]
			if !k.begun {
				k.begin()
			}
			k.p.served.BytesSent += n
			k.out.begin(n)
			k.out.waiting += k.stream.Write(appendResponseHead(k.head[:0], n))
		case !k.ended:
			return
		case k.kind == plainCall:
			k.over = true
			k.stream.CloseWrite()
		case !k.begun:
			k.fail(fault(kindClosed)) // a unary call without a message
		default:
			k.trailers("0", "")
		}
	}
}

func (k *callServed) trailers(status, message string) {
	f := l7.Fields{{Name: "grpc-status", Value: status}}
	if message != "" {
		f = append(f, l7.Field{Name: "grpc-message", Value: message})
	}
	k.over = true
	k.stream.Headers(f, true)
}

// fail ends a call that broke the rules.
func (k *callServed) fail(err error) {
	k.over = true
	k.p.failed(err)
	k.stream.Reset(err)
}
