// Package inner is HTTP/2 inside a stream: it carries bytes between an [h2.Conn]
// and the tunnel or TCP connection beneath it, on that stream's loop.
//
//	flow.Stream ⇄ Conn ⇄ h2.Conn ⇄ h2.Handler
//
// The stream is credited on receipt, because the inner connection has windows of
// its own; and output is pulled once per batch, so that the frames of many
// streams leave in one write.
//
// It accepts and opens nothing: whoever has a stream puts HTTP/2 on it.
package inner

import (
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// maxAhead is how much output of a connection may wait in its stream before the
// connection is asked for no more: 64 KiB, one flush.
const maxAhead = 64 << 10

// closeTimeout is how long a peer may take to close its end of what we have
// closed, before it is reset: 5 s.
const closeTimeout = 5 * time.Second

// A Set is the connections of one loop, which share options and a clock.
type Set struct {
	loop    *loop.Loop
	options h2.Options
	conns   map[*Conn]struct{}
}

// NewSet returns an empty Set for streams of l. Of o, Wake and Keepalive are not
// used: what is beneath the streams has a keepalive of its own.
func NewSet(l *loop.Loop, o h2.Options) *Set {
	o.Keepalive = -1
	return &Set{loop: l, options: o, conns: map[*Conn]struct{}{}}
}

// Len returns how many connections there are, those included whose end the peer
// has not seen yet.
func (s *Set) Len() int { return len(s.conns) }

// Tick is to be called about once a second, on the loop.
func (s *Set) Tick(now time.Time) {
	for c := range s.conns {
		c.tick(now)
	}
}

// A Conn is one HTTP/2 connection. It is the Receiver of its stream, whose
// methods, and Flush, are for the stream and the loop to call.
//
// It ends in two steps: dying, it lets its last frames out (a GOAWAY that says
// why); gone, it has closed its direction of the stream and waits for the peer
// to close the other. For neither does it wait long.
type Conn struct {
	set     *Set
	h2      *h2.Conn
	leg     flow.Stream
	waking  bool
	dying   bool
	gone    bool
	eof     bool      // the peer has ended its direction
	aborted bool      // see Abort
	cause   error     // ... what with
	since   time.Time // when it began to die
	onGone  func()
}

var _ flow.Receiver = (*Conn)(nil)

// New puts HTTP/2 on leg. The caller makes the Conn its Receiver. onGone is
// called once, when it is over: no stream is left, and none can be opened.
func (s *Set) New(leg flow.Stream, role h2.Role, h h2.Handler, onGone func()) *Conn {
	c := &Conn{set: s, leg: leg, onGone: onGone}
	o := s.options
	o.Wake = c.wake
	c.h2 = h2.New(role, o, h, s.loop.Now())
	s.conns[c] = struct{}{}
	c.wake()
	return c
}

// Open is [h2.Conn.Open].
func (c *Conn) Open(f l7.Fields, end bool) (*h2.Stream, error) { return c.h2.Open(f, end) }

// Active returns how many streams there are.
func (c *Conn) Active() int { return c.h2.Active() }

// Available returns how many streams Open would grant now: none on a connection
// that is ending.
func (c *Conn) Available() int {
	if c.dying {
		return 0
	}
	return c.h2.Available()
}

// Drain ends the connection gracefully, as [h2.Conn.Drain] does. The handler
// calls Settle from its Changed, so that it also closes.
func (c *Conn) Drain() { c.h2.Drain() }

// Settle closes a connection that has drained.
func (c *Conn) Settle() {
	if !c.dying && c.h2.Drained() {
		c.Close()
	}
}

// Close ends the connection as soon as its output has left: one that is idle.
// Streams that there are then are reset.
func (c *Conn) Close() {
	if !c.dying {
		c.dying, c.since = true, c.set.loop.Now()
		c.wake()
	}
}

// Abort gives the connection up with its stream. What follows from it is told at
// the end of the batch, so that it may be called from within the handler.
func (c *Conn) Abort(err error) {
	if !c.aborted {
		c.leg.Reset(err)
		c.aborted, c.dying, c.eof, c.cause = true, true, true, err
		c.wake()
	}
}

func (c *Conn) wake() {
	if !c.waking {
		c.waking = true
		c.set.loop.AtBatchEnd(c)
	}
}

// Flush moves output into the stream. The loop calls it at the end of the batch.
func (c *Conn) Flush() {
	c.waking = false
	switch {
	case c.aborted && !c.gone:
		c.end(c.cause)
		return
	case c.gone:
		if c.aborted {
			c.forget()
		}
		return
	}
	for c.leg.Queued() < maxAhead {
		p := c.h2.Output()
		if p == nil {
			if c.dying {
				c.leg.CloseWrite()
				c.end(nil)
			}
			return
		}
		c.leg.Write(p)
	}
}

// Data and what follows are the stream's.
func (c *Conn) Data(p []byte) {
	c.leg.Credit(len(p))
	if c.gone || c.dying {
		return
	}
	if err := c.h2.Receive(p); err != nil {
		c.Close()
	}
}

// EOF is the stream's.
func (c *Conn) EOF() {
	c.eof = true
	if c.gone {
		c.forget()
		return
	}
	_ = c.h2.EOF() // either way the peer will send nothing more
	c.Close()
}

// Sent is the stream's.
func (c *Conn) Sent(int) { c.wake() }

// Reset is the stream's.
func (c *Conn) Reset(err error) {
	c.eof = true
	if c.gone {
		c.forget()
		return
	}
	c.end(err)
}

func (c *Conn) tick(now time.Time) {
	switch {
	case c.dying && now.Sub(c.since) > closeTimeout:
		c.leg.Reset(nil)
		c.Reset(nil)
	case c.dying:
	case c.h2.Tick(now) != nil:
		c.Close()
	default:
		c.Settle()
	}
}

// end ends the streams that there are.
func (c *Conn) end(err error) {
	c.gone, c.dying = true, true
	c.h2.Closed(err)
	c.onGone()
	if c.eof {
		c.forget()
	}
}

func (c *Conn) forget() { delete(c.set.conns, c) }
