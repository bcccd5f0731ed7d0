package memnet

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Conn is one end of a connection. It is a net.Conn with the methods of a
// *net.TCPConn that matter here: CloseWrite and SetLinger.
type Conn struct {
	// Immutable.
	n             *Net
	local, remote netip.AddrPort
	in, out       *stream

	closed atomic.Bool
	linger atomic.Bool // Close resets
}

// Read returns what has arrived, io.EOF after the peer's CloseWrite or Close,
// and ECONNRESET after a reset.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.wrap("read", err)
}

// Write blocks while the buffer is full.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.wrap("write", err)
}

func (c *Conn) wrap(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// CloseWrite ends our direction.
func (c *Conn) CloseWrite() error {
	return c.wrap("close", c.out.end())
}

// SetLinger with 0 has Close reset the connection.
func (c *Conn) SetLinger(sec int) error {
	c.linger.Store(sec == 0)
	return nil
}

// Close closes both directions. As in a kernel the peer gets a reset when there
// was something to read that nobody will.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return c.wrap("close", net.ErrClosed)
	}
	c.n.forget(c)
	unread := c.in.closeReader()
	if unread || c.linger.Load() {
		c.in.reset()
		c.out.closeWriter(true)
	} else {
		c.out.closeWriter(false)
	}
	return nil
}

// Buffered returns how much has been sent to us and not been read.
func (c *Conn) Buffered() int { return c.in.len() }

// LocalAddr returns a *net.TCPAddr.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr likewise.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline sets both.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline fails Reads from t on with os.ErrDeadlineExceeded.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	return nil
}

// SetWriteDeadline likewise for Writes.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

// A stream is one direction.
type stream struct {
	mu              sync.Mutex
	change          sync.Cond
	buf             []byte
	segment         int
	stalled         bool // nothing arrives
	ended           bool // by the writer's CloseWrite or Close
	writerGone      bool
	readerGone      bool
	broken          bool // reset
	readBy, writeBy deadline
}

// A deadline wakes a stream's waiters when it passes.
type deadline struct {
	t      time.Time
	timer  *time.Timer
	passed bool
}

func newStream() *stream {
	s := &stream{}
	s.change.L = &s.mu
	return s
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		arrived := !s.stalled
		switch {
		case s.readerGone:
			return 0, net.ErrClosed
		case s.readBy.passed:
			return 0, os.ErrDeadlineExceeded
		case arrived && len(s.buf) > 0:
			if s.segment > 0 {
				p = p[:min(len(p), s.segment)]
			}
			n := copy(p, s.buf)
			s.buf = s.buf[n:]
			s.change.Broadcast()
			return n, nil
		case len(p) == 0:
			return 0, nil
		case arrived && s.broken:
			return 0, syscall.ECONNRESET
		case arrived && s.ended:
			return 0, io.EOF
		}
		s.change.Wait()
	}
}

func (s *stream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.writerGone:
			return n, net.ErrClosed
		case s.ended:
			return n, syscall.EPIPE
		case s.writeBy.passed:
			return n, os.ErrDeadlineExceeded
		case !s.stalled && s.broken:
			return n, syscall.ECONNRESET
		case !s.stalled && s.readerGone:
			return n, syscall.EPIPE
		case len(p) == 0:
			return n, nil
		}
		if room := bufferSize - len(s.buf); room > 0 {
			k := min(room, len(p))
			s.buf = append(s.buf, p[:k]...)
			p = p[k:]
			n += k
			s.change.Broadcast()
			continue
		}
		s.change.Wait()
	}
}

func (s *stream) set(f func(*stream)) {
	s.mu.Lock()
	f(s)
	s.change.Broadcast()
	s.mu.Unlock()
}

func (s *stream) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.buf)
}

func (s *stream) end() (err error) {
	s.set(func(s *stream) {
		if s.writerGone {
			err = net.ErrClosed
		}
		s.ended = true
	})
	return err
}

// reset has the writer told that the peer is gone.
func (s *stream) reset() { s.set(func(s *stream) { s.broken = true }) }

func (s *stream) closeWriter(reset bool) {
	s.set(func(s *stream) {
		s.writerGone, s.ended = true, true
		s.broken = s.broken || reset
		s.writeBy.stop()
	})
}

// closeReader reports whether something had not been read.
func (s *stream) closeReader() (unread bool) {
	s.set(func(s *stream) {
		unread = len(s.buf) > 0
		s.readerGone, s.buf = true, nil
		s.readBy.stop()
	})
	return unread
}

func (s *stream) setDeadline(d *deadline, t time.Time) {
	s.set(func(s *stream) {
		d.stop()
		d.t = t
		d.passed = !t.IsZero() && !t.After(time.Now())
		if !t.IsZero() && !d.passed {
			d.timer = time.AfterFunc(time.Until(t), func() {
				s.set(func(*stream) { d.passed = d.passed || d.t.Equal(t) })
			})
		}
	})
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
