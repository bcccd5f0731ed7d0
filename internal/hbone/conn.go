package hbone

import (
	"net/netip"
	"time"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// Events is how servers and pools report what nobody asked them. A nil function
// is not called; the others may be called from any goroutine and must not
// block.
type Events struct {
	// HandshakeFailed says that a connection came to nothing: it was refused by
	// a limit, or either side did not accept the other's certificate.
	HandshakeFailed func(remote netip.AddrPort, err error)

	// Opened and Closed say that an HBONE connection has begun and ended. The
	// error is nil when it ended in order.
	Opened func(remote netip.AddrPort, peer identity.ID)
	Closed func(remote netip.AddrPort, peer identity.ID, err error)
}

// orSilent returns e with no function nil.
func (e Events) orSilent() Events {
	if e.HandshakeFailed == nil {
		e.HandshakeFailed = func(netip.AddrPort, error) {}
	}
	if e.Opened == nil {
		e.Opened = func(netip.AddrPort, identity.ID) {}
	}
	if e.Closed == nil {
		e.Closed = func(netip.AddrPort, identity.ID, error) {}
	}
	return e
}

// tickEvery is how often connections are asked about their timeouts, which are
// in seconds.
const tickEvery = time.Second

// A conn is one HBONE connection on its loop: what a server's and a pool's have
// in common. It hands what HTTP/2 says about a stream to the stream's Tunnel.
type conn struct {
	loop    *loop.Loop
	sock    *loop.Socket
	h2      *h2.Conn
	peer    identity.ID
	lenient bool // Options' ResetIsEOF

	began    time.Time // when the loop adopted it
	idle     time.Time // since when there has been no stream; zero: there is one
	heard    int       // bytes received, up to greeting
	moved    int       // bytes of tunnels, both ways; a pool counts them anew each second
	ending   bool      // close once no stream is left
	closing  bool      // Close has been called on the socket
	watching bool      // Flush runs at the end of the batch
}

// greeting is how long what begins a connection is at least: a client's preface
// and the header of its SETTINGS.
const greeting = 24 + 9

// settled reports whether the peer has begun to speak HTTP/2. A server that
// does not accept our certificate never does: with TLS 1.3 the client's
// handshake is over before the server has looked.
func (c *conn) settled() bool { return c.heard >= greeting }

// A driver is a conn's HTTP/2 as the loop sees it.
type driver struct {
	*h2.Conn
	c *conn
}

// Receive implements [loop.Driver].
func (d driver) Receive(p []byte) error {
	if !d.c.settled() {
		d.c.heard += len(p)
	}
	return d.Conn.Receive(p)
}

// Data implements [h2.Handler].
func (c *conn) Data(s *h2.Stream, p []byte, end bool) {
	c.moved += len(p)
	if t, ok := s.Value.(*Tunnel); ok {
		t.data(p, end)
	}
	if end {
		c.touched()
	}
}

// Sent implements [h2.Handler].
func (c *conn) Sent(s *h2.Stream, n int) {
	if t, ok := s.Value.(*Tunnel); ok {
		t.sent(n)
	}
}

// touched notes that a stream may have ended: at the end of the batch Flush
// sees whether it was the last.
func (c *conn) touched() {
	if !c.watching {
		c.watching = true
		c.loop.AtBatchEnd(c)
	}
}

// Flush implements [loop.Flusher].
func (c *conn) Flush() {
	c.watching = false
	switch {
	case c.h2.Active() > 0:
		c.idle = time.Time{}
	case c.ending && c.h2.Drained():
		c.close()
	case c.idle.IsZero():
		c.idle = c.loop.Now()
	}
}

// drain lets what is there finish and nothing new begin.
func (c *conn) drain() {
	if c.ending {
		return
	}
	c.ending = true
	c.h2.Drain()
	c.touched()
}

// close ends the connection once its output is written.
func (c *conn) close() {
	if !c.closing {
		c.closing = true
		c.sock.Close()
	}
}

// tick passes the time on. A connection that either side drains is closed here
// at the latest; one whose peer is silent for too long is cut.
func (c *conn) tick(now time.Time, settle, idle time.Duration) {
	if err := c.h2.Tick(now); err != nil {
		c.sock.Abort(err)
		return
	}
	switch {
	case !c.settled() && now.Sub(c.began) >= settle:
		c.sock.Abort(errSilent)
	case c.h2.Draining() && c.h2.Drained():
		c.ending = true
		c.close()
	case idle > 0 && !c.idle.IsZero() && now.Sub(c.idle) >= idle:
		c.drain()
	}
}
