package hbone

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// A poolConn is one connection of a pool.
type poolConn struct {
	conn
	pool *Pool
	dest *dest
	dial *dial // which it came by, until the peer has said how many tunnels it takes

	extra  bool // made because the others were busy
	before int  // bytes moved in the second before
}

// newPoolConn begins to use a connection.
func newPoolConn(d *dest, sock *loop.Socket, peer identity.ID) *poolConn {
	p := d.pool
	now := p.o.Loop.Now()
	c := &poolConn{
		conn: conn{loop: p.o.Loop, sock: sock, peer: peer, lenient: p.o.ResetIsEOF, began: now, idle: now},
		pool: p, dest: d,
	}
	o := p.o.H2
	o.Wake = sock.Wake
	c.h2 = h2.New(h2.Client, o, c, now)
	p.conns[c] = struct{}{}
	d.conns = append(d.conns, c)
	p.o.Events.Opened(d.key.Addr, peer)
	c.heard = 24 // a server has no preface
	p.o.Loop.Adopt(sock, driver{c.h2, &c.conn})
	if !p.timer.Armed() {
		p.o.Loop.After(&p.timer, tickEvery)
	}
	return c
}

// room returns how many more tunnels c takes.
func (c *poolConn) room() int {
	if c.ending || c.closing {
		return 0
	}
	return min(c.h2.Available(), c.dest.limit-c.h2.Active())
}

// open sends w's CONNECT and reports whether there was room for it.
func (c *poolConn) open(w *waiter) bool {
	if c.room() <= 0 {
		return false
	}
	var buf [8]l7.Field
	s, err := c.h2.Open(w.con.Fields(buf[:0]), false)
	if err != nil { // draining, whatever Available said
		return false
	}
	w.t.c, w.t.s = &c.conn, s
	s.Value = w.t
	c.touched()
	return true
}

// Headers implements [h2.Handler].
func (c *poolConn) Headers(s *h2.Stream, f l7.Fields, end bool) {
	t, ok := s.Value.(*Tunnel)
	if !ok {
		return
	}
	w := t.w
	status := f.Get(":status")
	if len(status) == 3 && status[0] == '1' && !end {
		return
	}
	c.touched()
	if len(status) == 3 && status[0] == '2' {
		t.Baggage, _ = f.Joined("baggage")
		t.Baggage = string(append([]byte(nil), t.Baggage...))
		t.w, w.done = nil, true
		w.ready(t, nil)
		if end {
			t.data(nil, true)
		}
		return
	}
	t.gone = true
	s.Value = nil
	s.Reset(&h2.StreamError{Code: h2.CodeNoError})
	w.fail(&StatusError{atoi(status)})
}

// atoi returns the number that three digits are, or 0.
func atoi(s string) (n int) {
	for i := 0; i < len(s); i++ {
		if len(s) != 3 || s[i] < '0' || s[i] > '9' {
			return 0
		}
		n = 10*n + int(s[i]-'0')
	}
	return n
}

// Reset implements [h2.Handler].
func (c *poolConn) Reset(s *h2.Stream, err error) {
	c.touched()
	t, ok := s.Value.(*Tunnel)
	if !ok {
		return
	}
	w := t.w
	if w == nil {
		t.reset(err)
		return
	}
	s.Value = nil
	c.letDown(w, err)
}

// letDown says what becomes of a tunnel that has not been answered. Nothing of it
// has been sent, so it may go elsewhere, except where the peer has looked at the
// CONNECT and given up on it; or at us, of which an extra connection is no proof:
// it took the others.
func (c *poolConn) letDown(w *waiter, err error) {
	if h2.Refused(err) || connectionOver(err) && (c.settled() || c.extra) {
		w.retry(err)
		return
	}
	if !c.settled() {
		err = fmt.Errorf("%w (%w)", ErrEnded, err)
	}
	w.fail(&DialError{c.dest.key.Addr, err})
}

// connectionOver reports whether err is the end of the connection rather than of
// one stream.
func connectionOver(err error) bool {
	_, stream := errors.AsType[*h2.StreamError](err)
	return !stream
}

// Changed implements [h2.Handler].
func (c *poolConn) Changed() {
	c.touched()
	c.retireIfDraining()
	if c.settled() && !c.h2.Draining() {
		c.dest.limit = max(1, c.h2.Available()+c.h2.Active())
		c.endWait(c.dest.place)
	}
	c.dest.free(c)
}

// retireIfDraining takes c out of the pool when the peer wants no more of us.
func (c *poolConn) retireIfDraining() {
	if c.h2.Draining() {
		c.retire()
		c.ending = true
	}
}

// retire takes c out of the pool: it is handed out no more.
func (c *poolConn) retire() {
	d := c.dest
	d.conns = slices.DeleteFunc(d.conns, func(x *poolConn) bool { return x == c })
	c.endWait(func(w *waiter) { w.retry(ErrClosed) })
	c.pool.settle(d)
}

// Closed implements [h2.Handler].
func (c *poolConn) Closed(err error) {
	c.closing = true
	delete(c.pool.conns, c)
	if c.extra && !c.settled() {
		c.dest.spreadAfter = c.loop.Now().Add(spreadPause)
	}
	c.endWait(func(w *waiter) { c.letDown(w, cmp.Or(err, ErrClosed)) })
	c.retire()
	c.pool.o.Events.Closed(c.dest.key.Addr, c.peer, err)
}
