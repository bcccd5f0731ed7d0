package hbone

import (
	"net/netip"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// A Tunnel is one CONNECT stream whose answer was 200: a TCP connection, in
// effect, between us and whoever the peer speaks for. It is a [flow.Stream] and
// belongs to its loop.
//
// Its Reset with an error other than a peer's cancellation reaches the peer as
// CONNECT_ERROR, which is what a reset of the TCP connection behind a proxy is
// (RFC 9113, section 8.5); with nil, as CANCEL.
type Tunnel struct {
	// Baggage is the baggage field of the 200, on the side that opened the
	// tunnel: what the peer says about the destination. See [ParseBaggage].
	Baggage string

	c *conn
	s *h2.Stream // nil until the CONNECT is sent
	r flow.Receiver

	in *Incoming // not nil: not answered yet, by us
	w  *waiter   // not nil: not answered yet, by the peer

	queued int   // written and not yet on the output
	eof    bool  // the peer has ended its direction
	closed bool  // we have ended ours
	gone   bool  // reset, by either side: s must not be used
	dead   bool  // the receiver is told nothing more
	soft   error // the peer's reset that was taken for the end of its direction

	// What the receiver has not been told yet: because there is none, or because
	// it must not be called from within a call of its own. The bytes are
	// uncredited, so the stream's window bounds them.
	held      bufs.Queue
	heldEOF   bool  // after the bytes
	heldErr   error // after that
	scheduled bool  // Flush runs at the end of the batch
	lending   bool  // the receiver is using held's first bytes
	drop      bool  // clear held as soon as it is not
}

var _ flow.Stream = (*Tunnel)(nil)

// SetReceiver makes r take what arrives from now on, and what is waiting: that
// is delivered at the end of the batch, never within this call. With nil,
// arriving bytes wait, as far as the stream's window allows.
func (t *Tunnel) SetReceiver(r flow.Receiver) {
	t.r = r
	if r != nil && !t.lending && (t.held.Len() > 0 || t.heldEOF || t.heldErr != nil) {
		t.schedule()
	}
}

// Peer returns who the other proxy is.
func (t *Tunnel) Peer() identity.ID { return t.c.peer }

// Loop returns the loop that the tunnel belongs to.
func (t *Tunnel) Loop() *loop.Loop { return t.c.loop }

// Local returns our address of the connection beneath.
func (t *Tunnel) Local() netip.AddrPort { return t.c.sock.LocalAddr() }

// Remote returns the other proxy's address of the connection beneath.
func (t *Tunnel) Remote() netip.AddrPort { return t.c.sock.RemoteAddr() }

// TCPInfo is that of the connection beneath, which other tunnels share.
func (t *Tunnel) TCPInfo() (loop.TCPInfo, bool) { return t.c.sock.TCPInfo() }

// Write implements [flow.Stream].
func (t *Tunnel) Write(p []byte) (queued int) {
	if t.gone || t.closed {
		if t.soft != nil && !t.closed { // now the receiver must know that nobody is listening
			t.heldErr, t.soft = t.soft, nil
			t.schedule()
		}
		return 0
	}
	t.c.moved += len(p)
	queued = t.s.Write(p)
	t.queued += queued
	return queued
}

// CloseWrite implements [flow.Stream].
func (t *Tunnel) CloseWrite() {
	if t.closed {
		return
	}
	t.closed = true
	if !t.gone {
		t.s.CloseWrite()
		t.c.touched()
	}
}

// Credit implements [flow.Stream].
func (t *Tunnel) Credit(n int) {
	if !t.gone {
		t.s.Credit(n)
	}
}

// Queued implements [flow.Stream].
func (t *Tunnel) Queued() int { return t.queued }

// Reset implements [flow.Stream].
func (t *Tunnel) Reset(err error) {
	if !t.gone {
		t.gone = true
		t.s.Reset(outward(err))
		t.c.touched()
	}
	t.die()
}

// die ends what the receiver is told.
func (t *Tunnel) die() {
	t.dead, t.queued = true, 0
	t.soft, t.heldErr, t.heldEOF = nil, nil, false
	t.clear()
}

// clear drops the bytes that nobody is going to be given.
func (t *Tunnel) clear() {
	if t.lending {
		t.drop = true
		return
	}
	t.held.Clear()
}

// data takes what arrived.
func (t *Tunnel) data(p []byte, end bool) {
	t.eof = t.eof || end
	if t.r == nil || t.scheduled {
		t.held.Append(p)
		t.heldEOF = t.heldEOF || end
		return
	}
	if len(p) > 0 {
		t.r.Data(p)
	}
	switch {
	case !end || t.dead:
	case t.r == nil: // taken away meanwhile
		t.heldEOF = true
	default:
		t.r.EOF()
	}
}

func (t *Tunnel) sent(n int) {
	t.queued -= n
	if t.r != nil && !t.dead {
		t.r.Sent(n)
	}
}

// reset is told that the stream is gone.
func (t *Tunnel) reset(err error) {
	if t.gone {
		return
	}
	t.gone = true
	switch {
	case t.c.lenient && Canceled(err):
		t.softReset(err)
	case t.r == nil || t.lending:
		t.queued, t.heldEOF, t.heldErr = 0, false, err
		t.clear()
	default:
		t.die()
		t.r.Reset(err)
	}
}

// softReset is reset where the peer's cancellation counts as the end of its
// direction, as node tunnels take it: reading ends in order, and only who goes
// on writing is told of the reset.
func (t *Tunnel) softReset(err error) {
	if !t.eof {
		t.eof, t.heldEOF = true, true
	}
	if t.queued > 0 {
		t.heldErr, t.queued = err, 0
	} else {
		t.soft = err
	}
	t.schedule()
}

// schedule has Flush run at the end of the batch.
func (t *Tunnel) schedule() {
	if !t.scheduled {
		t.scheduled = true
		t.c.loop.AtBatchEnd((*delivery)(t))
	}
}

// A delivery is a Tunnel at the end of a batch.
type delivery Tunnel

// Flush tells the receiver what it has not been told yet.
func (d *delivery) Flush() {
	t := (*Tunnel)(d)
	t.lending = true
	for t.r != nil && !t.drop && t.held.Len() > 0 {
		p := t.held.Front()
		t.r.Data(p)
		t.held.Consume(len(p))
	}
	t.lending = false
	t.scheduled = false
	if t.drop {
		t.drop = false
		t.held.Clear()
	}
	if t.r != nil && t.heldEOF {
		t.heldEOF = false
		t.r.EOF()
	}
	if t.r != nil && t.heldErr != nil {
		err := t.heldErr
		t.die()
		t.r.Reset(err)
	}
}
