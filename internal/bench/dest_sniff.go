package bench

import (
	"strings"

	"github.com/waystone-mesh/waystone/internal/flow"
)

// preface is what an HTTP/2 client begins with (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0"

// A sniffer waits for the first bytes of a stream, which say what it speaks.
type sniffer struct {
	p      *place
	stream flow.Stream
	become func(flow.Receiver)
	held   []byte
}

// attach gives the sniffer its stream, and the way to install another in its
// place.
func (s *sniffer) attach(stream flow.Stream, become func(flow.Receiver)) {
	s.stream, s.become = stream, become
}

// Data is flow.Receiver. HTTP/2 begins as an HTTP/1.1 request might, for a while.
func (s *sniffer) Data(p []byte) {
	if len(s.held) > 0 || len(p) < len(preface) {
		s.held = append(s.held, p...)
		p = s.held
	}
	if len(p) < len(preface) && strings.HasPrefix(preface, string(p)) {
		return
	}
	var r flow.Receiver
	switch {
	case strings.HasPrefix(string(p[:min(len(p), len(preface))]), preface):
		r = newHTTP2Served(s.p, s.stream)
	case p[0] >= 'A' && p[0] <= 'Z':
		r = newHTTP1Served(s.p, s.stream)
	default:
		r = newRawServed(s.p, s.stream)
	}
	s.become(r)
	r.Data(p)
}

func (s *sniffer) EOF() {
	s.stream.CloseWrite()
	s.p.gone(nil)
}

func (s *sniffer) Sent(int) {}

func (s *sniffer) Reset(error) { s.p.gone(nil) }

// A rawServed answers messages of raw bytes, one after the other.
type rawServed struct {
	p      *place
	stream flow.Stream
	in     rawReader
	out    download
	wanted []int64 // further answers
	eof    bool
	over   bool
}

func newRawServed(p *place, s flow.Stream) flow.Receiver { return &rawServed{p: p, stream: s} }

// Data and what follows are flow.Receiver.
func (r *rawServed) Data(p []byte) {
	r.stream.Credit(len(p))
	if r.over {
		return
	}
	if err := r.in.read(p, r.message); err != nil {
		r.over = true
		r.p.gone(err)
		r.stream.Reset(nil)
		return
	}
	r.pump()
}

func (r *rawServed) message(got body, wanted int64) {
	r.p.took(got)
	r.wanted = append(r.wanted, wanted)
}

// pump writes what there is room for.
func (r *rawServed) pump() {
	for r.out.pump(r.stream) {
		if len(r.wanted) == 0 {
			if r.eof && !r.over {
				r.over = true
				r.stream.CloseWrite()
				r.p.gone(nil)
			}
			return
		}
		n := r.wanted[0]
		r.wanted = r.wanted[:copy(r.wanted, r.wanted[1:])]
		r.p.served.BytesSent += n
		r.out.begin(n)
	}
}

func (r *rawServed) EOF() {
	if r.over {
		return
	}
	if r.in.within() {
		r.p.failed(fault(kindClosed))
	}
	r.eof = true
	r.pump()
}

func (r *rawServed) Sent(n int) {
	r.out.waiting -= n
	r.pump()
}

func (r *rawServed) Reset(err error) {
	if !r.over {
		r.over = true
		r.p.gone(err)
	}
}
