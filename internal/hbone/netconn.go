package hbone

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// maxUnsent is how much may have been written to a net.Conn and not have left:
// 64 KiB, what a loop writes in one call. From then on Write blocks.
const maxUnsent = 64 << 10

// lingerTime is how long a net.Conn that was closed waits for its bytes to leave
// and for the peer to end its direction, before it is reset: 5 s.
const lingerTime = 5 * time.Second

// Dial opens a tunnel, as Open does, and returns it as a net.Conn for who is not
// on a loop: net/http, say. It blocks until the peer has answered or ctx is done,
// and so must not be called on the loop.
//
// The Conn's Read and Write block, obey their deadlines, and may be called from
// anywhere. What has arrived and was not read is not credited, so the stream's
// window bounds it; Write blocks beyond 64 KiB that have not left. There is no
// goroutine behind it. It also has CloseWrite, as a *net.TCPConn does.
func (p *Pool) Dial(ctx context.Context, k Key, c *Connect) (net.Conn, error) {
	n := newNetConn(p.o.Loop)
	opened := make(chan error, 1)
	cancel := func() {} // the loop's, once it has begun
	p.o.Loop.Do(func() {
		cancel = p.Open(k, c, n, func(t *Tunnel, err error) {
			if err == nil {
				n.adopt(t, c.Authority.String())
			}
			opened <- err
		})
	})
	select {
	case err := <-opened:
		if err != nil {
			return nil, err
		}
		return n, nil
	case <-ctx.Done():
		p.o.Loop.Do(func() {
			if cancel(); n.t != nil { // it was opened meanwhile
				n.t.Reset(nil)
			}
		})
		return nil, &DialError{k.Addr, context.Cause(ctx)}
	}
}

// A netConn is a tunnel as a net.Conn. Its two halves meet in what mu guards: the
// loop puts in what arrives and takes out what is to be sent, whoever reads and
// writes does the opposite and then has the loop look, by pump.
type netConn struct {
	// Immutable once it has been adopted.
	loop          *loop.Loop
	local, remote net.Addr

	// Owned by the loop.
	t      *Tunnel
	linger loop.Timer

	mu                 sync.Mutex
	readable, writable sync.Cond  // on mu
	in                 bufs.Queue // arrived, not read, not credited
	out                bufs.Queue // written, not taken by the loop
	unsent             int        // written and not left: out, and what the tunnel has queued
	credit             int        // read, and not credited
	posted             bool       // pump is going to run
	eof                bool       // the peer has ended its direction
	ended              bool       // we have ended ours
	closed             bool
	err                error // why the tunnel is gone
	readBy, writeBy    deadline
}

func newNetConn(l *loop.Loop) *netConn {
	c := &netConn{loop: l}
	c.readable.L, c.writable.L = &c.mu, &c.mu
	c.linger.F = c.giveUp
	return c
}

// adopt takes the tunnel, on its loop. It is to the authority.
func (c *netConn) adopt(t *Tunnel, authority string) {
	c.t, c.local, c.remote = t, net.TCPAddrFromAddrPort(t.Local()), address(authority)
}

// An address is where a tunnel leads: its peer is only who carries it there.
type address string

func (address) Network() string  { return "hbone" }
func (a address) String() string { return string(a) }

// Read returns what has arrived, and io.EOF when the peer has ended its
// direction.
func (c *netConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	n, err := c.readLocked(p)
	post := n > 0 && c.askLocked()
	c.mu.Unlock()
	if post {
		c.loop.Do(c.pump)
	}
	return n, c.wrap("read", err)
}

func (c *netConn) readLocked(p []byte) (n int, err error) {
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case c.readBy.passed:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case c.in.Len() > 0:
			for n < len(p) && c.in.Len() > 0 {
				k := copy(p[n:], c.in.Front())
				c.in.Consume(k)
				n += k
			}
			c.credit += n
			return n, nil
		case c.err != nil:
			return 0, c.err
		case c.eof:
			return 0, io.EOF
		}
		c.readable.Wait()
	}
}

// Write returns when all of p has been taken, of which 64 KiB may not have left.
func (c *netConn) Write(p []byte) (n int, err error) {
	for {
		c.mu.Lock()
		k, err := c.writeLocked(p[n:])
		n += k
		post := k > 0 && c.askLocked()
		c.mu.Unlock()
		if post {
			c.loop.Do(c.pump)
		}
		if err != nil || n == len(p) {
			return n, c.wrap("write", err)
		}
	}
}

// writeLocked takes as much of p as there is room for, which is waited for.
func (c *netConn) writeLocked(p []byte) (int, error) {
	for {
		switch {
		case c.closed || c.ended:
			return 0, net.ErrClosed
		case c.writeBy.passed:
			return 0, os.ErrDeadlineExceeded
		case c.err != nil:
			return 0, c.err
		case len(p) == 0:
			return 0, nil
		case c.unsent < maxUnsent:
			p = p[:min(len(p), maxUnsent-c.unsent)]
			c.out.Append(p)
			c.unsent += len(p)
			return len(p), nil
		}
		c.writable.Wait()
	}
}

// askLocked reports whether the loop is to be asked to look: it has not been yet.
// Nothing is posted while mu is held: when the loop is over, Do runs what it is
// given.
func (c *netConn) askLocked() bool {
	asked := c.posted
	c.posted = true
	return !asked
}

// pump does, on the loop, what has been asked for meanwhile.
func (c *netConn) pump() {
	c.mu.Lock()
	out, credit, end := c.out, c.credit, c.ended
	c.out, c.credit, c.posted = bufs.Queue{}, 0, false
	c.mu.Unlock()
	if credit > 0 {
		c.t.Credit(credit)
	}
	left := 0 // at once
	for out.Len() > 0 {
		p := out.Front()
		left += len(p) - c.t.Write(p)
		out.Consume(len(p))
	}
	if end {
		c.t.CloseWrite()
	}
	c.Sent(left)
}

// Data and what follows are [flow.Receiver].
func (c *netConn) Data(p []byte) {
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.in.Append(p)
		c.readable.Broadcast()
	}
	c.mu.Unlock()
	if closed { // nobody will read it: the peer must know, as from a kernel
		c.giveUp()
	}
}

func (c *netConn) EOF() {
	c.mu.Lock()
	c.eof = true
	c.readable.Broadcast()
	c.mu.Unlock()
	c.rest()
}

func (c *netConn) Sent(n int) {
	if n == 0 {
		return
	}
	c.mu.Lock()
	c.unsent -= n
	c.writable.Broadcast()
	c.mu.Unlock()
	c.rest()
}

func (c *netConn) Reset(err error) {
	c.linger.Stop()
	c.mu.Lock()
	c.err = cmp.Or(err, ErrClosed)
	c.out.Clear()
	c.readable.Broadcast()
	c.writable.Broadcast()
	c.mu.Unlock()
}

// rest stops lingering when there is nothing to linger for.
func (c *netConn) rest() {
	c.mu.Lock()
	over := c.closed && c.eof && c.unsent == 0
	c.mu.Unlock()
	if over {
		c.linger.Stop()
	}
}

// giveUp resets the tunnel, on the loop.
func (c *netConn) giveUp() {
	c.linger.Stop()
	c.t.Reset(nil)
	c.Reset(net.ErrClosed)
}

// CloseWrite ends our direction once everything written has left.
func (c *netConn) CloseWrite() error {
	c.mu.Lock()
	if c.closed || c.ended {
		c.mu.Unlock()
		return c.wrap("close", net.ErrClosed)
	}
	c.ended = true
	c.writable.Broadcast()
	post := c.askLocked()
	c.mu.Unlock()
	if post {
		c.loop.Do(c.pump)
	}
	return nil
}

// Close ends both directions and returns at once. What was written leaves, if it
// does in 5 s; what arrived and was not read resets the tunnel, as in a kernel.
func (c *netConn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return c.wrap("close", net.ErrClosed)
	}
	unread := c.in.Len() > 0
	c.closed, c.ended = true, true
	c.in.Clear()
	c.readBy.stop()
	c.writeBy.stop()
	c.readable.Broadcast()
	c.writable.Broadcast()
	c.mu.Unlock()
	c.loop.Do(func() { c.shut(unread) })
	return nil
}

// shut is Close on the loop.
func (c *netConn) shut(unread bool) {
	c.pump()
	c.mu.Lock()
	over := c.err != nil || c.eof && c.unsent == 0
	c.mu.Unlock()
	switch {
	case unread:
		c.giveUp()
	case !over:
		c.loop.After(&c.linger, lingerTime)
	}
}

// wrap returns err as the net package's connections do.
func (c *netConn) wrap(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &net.OpError{Op: op, Net: "hbone", Source: c.local, Addr: c.remote, Err: err}
}

// LocalAddr returns our address of the connection beneath.
func (c *netConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns where the tunnel leads.
func (c *netConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *netConn) SetDeadline(t time.Time) error {
	c.set(&c.readBy, &c.readable, t)
	c.set(&c.writeBy, &c.writable, t)
	return nil
}

// SetReadDeadline has Read fail with os.ErrDeadlineExceeded from t on.
func (c *netConn) SetReadDeadline(t time.Time) error {
	c.set(&c.readBy, &c.readable, t)
	return nil
}

// SetWriteDeadline likewise for Write.
func (c *netConn) SetWriteDeadline(t time.Time) error {
	c.set(&c.writeBy, &c.writable, t)
	return nil
}

func (c *netConn) set(d *deadline, waiters *sync.Cond, t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		d.set(t, waiters)
	}
}
