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
