package waypoint

import (
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// preface is how HTTP/2 with prior knowledge begins (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// detectTimeout is how long a client on an undeclared port may be silent before
// it is taken to speak a protocol in which the server speaks first: 5 s.
const detectTimeout = 5 * time.Second

// maxMethod is how long a method may be for bytes to be taken for HTTP/1.1: the
// longest registered is UPDATEREDIRECTREF, of 17.
const maxMethod = 20

// A guess is what the first bytes of a tunnel look like.
type guess uint8

const (
	undecided guess = iota // more bytes are needed
	looksHTTP1
	looksHTTP2
	looksOpaque
)

// sniff guesses from at most 24 bytes. It is undecided only about a proper
// prefix of the preface or of a method.
func sniff(p []byte) guess {
	if n := min(len(p), len(preface)); string(p[:n]) == preface[:n] {
		if n == len(preface) {
			return looksHTTP2
		}
		return undecided
	}
	for i, c := range p {
		switch {
		case c >= 'A' && c <= 'Z' || c == '-':
			if i == maxMethod {
				return looksOpaque
			}
		case c == ' ' && i >= 3:
			if len(p) == i+1 {
				return undecided
			}
			if next := p[i+1]; next == '/' || next == '*' || next == 'h' || next == 'H' {
				return looksHTTP1
			}
			return looksOpaque
		default:
			return looksOpaque
		}
	}
	return undecided
}

// A detector is the receiver of a tunnel until its protocol is known.
type detector struct {
	s        *session
	declared bool // the port says HTTP: the question is which
	first    []byte
	timer    loop.Timer
	done     bool
}

func (s *session) detect() receiver {
	d := &detector{s: s}
	if s.dest.Port != nil {
		d.declared = s.dest.Port.Protocol.IsHTTP()
	}
	s.drain = func() { s.tunnel.CloseWrite() }
	if !d.declared {
		d.timer.F = func() { d.decide(looksOpaque, false) }
		s.worker.loop.After(&d.timer, detectTimeout)
	}
	return d
}

func (d *detector) Data(p []byte) {
	if len(d.first) > 0 {
		d.first = append(d.first, p...)
		p = d.first
	}
	g := sniff(p)
	if d.declared {
		// Anything that is not the preface is HTTP/1.1, if only to be refused as
		// such.
		if g != looksHTTP2 && !strings.HasPrefix(preface, string(p)) {
			g = looksHTTP1
		}
	}
	if g == undecided {
		if len(d.first) == 0 {
			d.first = append(d.first, p...)
		}
		return
	}
	d.first = p
	d.decide(g, false)
}

func (d *detector) EOF() { d.decide(looksOpaque, true) }

func (d *detector) Sent(int) {}

func (d *detector) Reset(error) {
	d.timer.Stop()
	d.done = true
	d.s.close()
}

// decide hands the tunnel to whoever serves the protocol, with the bytes seen.
func (d *detector) decide(g guess, eof bool) {
	if d.done {
		return
	}
	d.done = true
	d.timer.Stop()
	s := d.s
	if eof && (d.declared || len(d.first) == 0) {
		s.tunnel.Credit(len(d.first))
		s.tunnel.CloseWrite() // it said nothing that could be answered
		s.close()
		return
	}
	var r receiver
	switch g {
	case looksHTTP2:
		r = s.serveHTTP2()
	case looksHTTP1:
		r = s.serveHTTP1()
	default:
		s.serveOpaque(d.first, eof)
		return
	}
	s.tunnel.SetReceiver(r)
	r.Data(d.first)
}

// isOpaque reports whether a port is never HTTP.
func isOpaque(p *mesh.Port) bool {
	return p != nil && (p.Protocol == mesh.TCP || p.Protocol == mesh.TLS)
}
