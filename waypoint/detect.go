package waypoint

import (
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
	if isPreface(p) {
		if len(p) >= len(preface) {
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

// isPreface reports whether p begins as the preface does, as far as both go.
func isPreface(p []byte) bool {
	n := min(len(p), len(preface))
	return string(p[:n]) == preface[:n]
}

// A detector is the receiver of a tunnel until its protocol is known.
type detector struct {
	s        *session
	declared bool // the port says HTTP: the question is which
	first    []byte
	timer    loop.Timer
	since    time.Time
	done     bool
	hungUp   bool // we have closed and the client has not, since then
}

func (s *session) detect() receiver {
	d := &detector{s: s}
	if s.dest.Port != nil {
		d.declared = s.dest.Port.Protocol.IsHTTP()
	}
	s.serving, d.since = d, s.worker.loop.Now()
	if !d.declared {
		d.timer.F = func() { d.decide(looksOpaque, false) }
		s.worker.loop.After(&d.timer, detectTimeout)
	}
	return d
}

// drain has nothing to do: the worker says that it drains, see tick.
func (d *detector) drain() {}

// tick gives up a client that has begun and does not go on, or when we drain one
// that has not begun.
func (d *detector) tick(now time.Time) {
	waited := now.Sub(d.since)
	switch w := d.s.worker; {
	case d.hungUp:
		if waited >= closeTimeout {
			d.s.tunnel.Reset(nil)
			d.s.close()
		}
	case len(d.first) > 0 && waited >= w.options.HeadTimeout, len(d.first) == 0 && w.draining && waited >= drainIdle:
		d.timer.Stop()
		d.s.tunnel.CloseWrite()
		d.done, d.hungUp, d.since = true, true, now
	}
}

func (d *detector) Data(p []byte) {
	if d.done {
		return // we have hung up
	}
	if len(d.first) > 0 {
		d.first = append(d.first, p...)
		p = d.first
	}
	g := sniff(p)
	if d.declared && !isPreface(p) {
		g = looksHTTP1 // if only to be refused as such
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

func (d *detector) EOF() {
	if d.done || d.declared || len(d.first) == 0 {
		d.s.tunnel.CloseWrite() // it said nothing that could be answered
		d.Reset(nil)
		return
	}
	d.decide(looksOpaque, true)
}

func (d *detector) Sent(int) {}

func (d *detector) Reset(error) {
	d.timer.Stop()
	d.done = true
	d.s.close()
}

// decide hands the tunnel to whoever serves the protocol, with the bytes seen.
func (d *detector) decide(g guess, eof bool) {
	d.done = true
	d.timer.Stop()
	s := d.s
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
