package waypoint

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// The limits of a ClientHello that is waited for. Real ones take 2 KiB at most, in
// a record or two.
const (
	maxHello        = 16 << 10
	maxHelloRecords = 16
)

// What keeps a tunnel from being judged by its server name. None of these may pass:
// whoever could hide the name would be spared the policies that ask for it.
var (
	errNoHello  = errors.New("waypoint: a policy asks for the server name, and the client does not begin TLS or anything else")
	errBadHello = errors.New("waypoint: a policy asks for the server name, and the client's TLS greeting cannot be read")
)

// looksIntoTLS reports whether the tunnel's server name has to be known to judge
// it: a policy asks for one, and the port may speak TLS. One that is declared as
// TCP has none, as in Istio, which looks for it on TLS ports alone.
func (s *session) looksIntoTLS() bool {
	return s.dest != nil && s.dest.Policies.AsksServerName() && (s.dest.Port == nil || s.dest.Port.Protocol != mesh.TCP)
}

// A greeting is the receiver of a tunnel that is not HTTP, until it is known
// whether it is TLS and which server is meant. What it holds is not credited.
type greeting struct {
	s     *session
	hello []byte
	timer loop.Timer
	done  bool
}

// greet reads what the client says first. The CONNECT is answered before: who has
// not been answered says nothing.
func (s *session) greet(first []byte, eof bool) {
	if s.tunnel == nil {
		s.accept()
	}
	g := &greeting{s: s}
	s.serving = g
	g.timer.F = func() { g.end("", errNoHello) }
	s.worker.loop.After(&g.timer, detectTimeout)
	s.tunnel.SetReceiver(g)
	g.Data(first)
	if eof {
		g.EOF()
	}
}

// drain has nothing to do, and neither has tick: a greeting is over in 5 s.
func (g *greeting) drain()         {}
func (g *greeting) tick(time.Time) {}

func (g *greeting) Data(p []byte) {
	if g.done || len(p) == 0 {
		return
	}
	g.hello = append(g.hello, p...)
	name, err := serverName(g.hello)
	if errors.Is(err, errMore) {
		return
	}
	g.end(name, err)
}

func (g *greeting) EOF() {
	switch {
	case g.done:
	case len(g.hello) == 0: // it said nothing that could be answered
		g.s.tunnel.CloseWrite()
		g.Reset(nil)
	default:
		g.end("", errBadHello)
	}
}

func (g *greeting) Sent(int) {}

func (g *greeting) Reset(error) {
	g.timer.Stop()
	g.done = true
	g.s.close()
}

// end has the tunnel judged, with the name that was found.
func (g *greeting) end(name string, err error) {
	g.done = true
	g.timer.Stop()
	g.s.beginOpaque(g.hello, false, name, err)
}

// errMore says that the greeting is not whole.
var errMore = errors.New("waypoint: more of the greeting is needed")

// The bytes that TLS begins with (RFC 8446, sections 4 and 5.1).
const (
	recordHandshake = 22
	recordVersion   = 3 // of all versions, the first byte
	recordHeader    = 5
	maxRecord       = 1 << 14
	msgClientHello  = 1
)

// serverName returns the name in the ClientHello (RFC 6066, section 3) that p
// begins with: "" if it has none, or if p is not TLS. It returns errMore if it is
// not whole, and errBadHello if it is none, longer than maxHello, or in more
// records than maxHelloRecords.
func serverName(p []byte) (string, error) {
	if p[0] != recordHandshake {
		return "", nil
	}
	if err := wholeHello(p); err != nil {
		return "", err
	}
	name, found := "", false
	c := tls.Server(&overheard{in: bytes.NewReader(p)}, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name, found = h.ServerName, true
			return nil, errMore // it was all that is wanted
		},
	})
	if _ = c.Handshake(); !found { // it always fails
		return "", errBadHello
	}
	return name, nil
}

// wholeHello reports whether the records that p begins with hold a whole
// ClientHello, without a look into it.
func wholeHello(p []byte) error {
	var head [4]byte // of the message: its type and its length
	got := 0
	for range maxHelloRecords {
		if len(p) < recordHeader {
			return errMore
		}
		n := int(p[3])<<8 | int(p[4])
		if p[0] != recordHandshake || p[1] != recordVersion || n == 0 || n > maxRecord || got+n > maxHello {
			return errBadHello
		}
		if len(p) < recordHeader+n {
			return errMore
		}
		if got < len(head) {
			copy(head[got:], p[recordHeader:recordHeader+n])
		}
		p, got = p[recordHeader+n:], got+n
		if got < len(head) {
			continue
		}
		need := len(head) + int(head[1])<<16 + int(head[2])<<8 + int(head[3])
		switch {
		case head[0] != msgClientHello || need > maxHello:
			return errBadHello
		case got >= need:
			return nil
		}
	}
	return errBadHello
}

// An overheard is a connection on which something was said, and to which nothing
// is answered.
type overheard struct {
	net.Conn // nil: a handshake that fails at once calls no other method
	in       io.Reader
}

func (o *overheard) Read(p []byte) (int, error)  { return o.in.Read(p) }
func (o *overheard) Write(p []byte) (int, error) { return len(p), nil }
