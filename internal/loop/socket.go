package loop

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
)

// closeTimeout bounds what Close may still do: flush to a peer that does not
// read, and wait for the peer to end its direction.
const closeTimeout = 5 * time.Second

// A phase is how far a socket has come.
type phase uint8

const (
	fresh     phase = iota // nobody's yet
	open                   // served by its driver
	closing                // flushes, then closes; nothing more is received
	lingering              // has no driver; what arrives is dropped
	gone
)

// A Socket is a connection, plain or TLS, on its way to a Loop or on it. Once it
// is adopted its methods are for functions that run on its loop. They never
// call the driver: what follows from them happens at the end of the batch.
// After Closed they do nothing.
type Socket struct {
	// Immutable once adopted.
	local, remote netip.AddrPort
	nc            net.Conn // taken over by the wire
	state         tls.ConnectionState
	layer         layer // nil: not TLS
	stock         layer // crypto/tls, until the loop has chosen

	// Owned by the loop.
	loop   *Loop
	d      Driver
	w      wire
	out    bufs.Queue // written by the driver, but not yet taken by the wire
	held   bufs.Queue // ciphertext: part of a record, or records that arrived before a pause
	index  int        // in loop.sockets
	most   int        // how much to read at a time; 0: no limit
	cause  error      // for Closed
	ended  error      // TLS has nothing more to say, which has not been told yet
	timer  *Timer     // while closing
	known  *knownTCP  // nil: nobody is interested
	phase  phase
	dirty  bool // in loop.dirty
	again  bool // in loop.ready
	paused bool
	full   bool // the wire takes no more for now
	eof    bool // the peer has ended its direction, and the driver knows
	ending bool // we are to end ours when all is written
	shut   bool // we have
	alert  bool // TLS has said that it has nothing more to say
	reset  bool // close with a reset
	broken bool // finish in the next flush
	greedy bool // it used up its last turn to read
}

// Plain returns a Socket for a connection without TLS. It takes nc over.
func Plain(nc net.Conn) *Socket {
	return &Socket{nc: nc, local: addrPort(nc.LocalAddr()), remote: addrPort(nc.RemoteAddr())}
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// LocalAddr returns our address, and the zero AddrPort when the connection is
// not TCP.
func (s *Socket) LocalAddr() netip.AddrPort { return s.local }

// RemoteAddr returns the peer's address likewise.
func (s *Socket) RemoteAddr() netip.AddrPort { return s.remote }

// TLS returns the state at the end of the handshake, and the zero state of a
// plain connection.
func (s *Socket) TLS() tls.ConnectionState { return s.state }

// Wake says that the driver has output.
func (s *Socket) Wake() { s.mark() }

// Pause stops reading: from here on neither Receive nor EOF is called, and the
// peer fills its window. A peer that resets the connection is still noticed,
// unless it has sent something that waits to be read.
func (s *Socket) Pause() {
	s.paused = true
	s.mark()
}

// Resume ends a Pause.
func (s *Socket) Resume() {
	if !s.paused {
		return
	}
	s.paused = false
	s.mark()
	if s.phase == open && (s.held.Len() > 0 || s.ended != nil || s.w != nil && s.w.more()) {
		s.loop.again(s)
	}
}

// CloseWrite ends our direction once the driver's Output is empty: with TLS's
// close_notify, if it is TLS, and TCP's FIN. When the peer has ended its own too
// the socket closes.
func (s *Socket) CloseWrite() {
	s.ending = true
	s.mark()
}

// Close flushes the driver's Output and closes. A peer that does not read gets
// five seconds. Nothing more is received.
func (s *Socket) Close() { s.end(nil) }

// Abort closes at once, with a reset in place of a FIN. What was not written is
// lost. Closed is told err, or ErrAborted when that is nil.
func (s *Socket) Abort(err error) {
	if err == nil {
		err = ErrAborted
	}
	s.reset = true
	s.fail(err)
}

// ErrAborted is what Closed is told after Abort(nil).
var ErrAborted = errors.New("loop: aborted")

// end is Close with a reason for it.
func (s *Socket) end(cause error) {
	switch s.phase {
	case fresh:
		s.phase, s.cause = gone, cause
		s.drop()
	case open:
		s.phase, s.cause = closing, cause
		s.timer = &Timer{F: s.expired}
		s.loop.After(s.timer, closeTimeout)
		s.mark()
	}
}

// fail has the socket finished in the next flush.
func (s *Socket) fail(err error) {
	switch {
	case s.phase == fresh:
		s.phase, s.cause = gone, err
		s.drop()
	case s.phase == gone || s.broken:
	default:
		if s.phase == open || s.phase == closing && s.cause == nil {
			s.cause = err
		}
		s.broken = true
		s.mark()
	}
}

// drop closes a connection that was never adopted.
func (s *Socket) drop() {
	if c, ok := s.nc.(interface{ SetLinger(int) error }); ok && s.reset {
		_ = c.SetLinger(0)
	}
	_ = s.nc.Close()
	s.held.Clear()
	if s.layer != nil {
		s.layer.Clear()
	}
}

// expired ends a Close that took too long.
func (s *Socket) expired() {
	s.reset = true
	s.fail(ErrCloseTimeout)
}

// ErrCloseTimeout is what Closed is told when the peer did not take what was to
// be flushed.
var ErrCloseTimeout = errors.New("loop: close: the peer does not read")

// mark has the socket flushed at the end of the batch.
func (s *Socket) mark() {
	if !s.dirty && s.loop != nil && s.phase != gone {
		s.dirty = true
		s.loop.dirty = append(s.loop.dirty, s)
	}
}

// start gives an adopted socket its wire.
func (s *Socket) start() {
	s.phase = open
	if s.w = s.loop.poller.open(s); s.w == nil {
		s.w = newGoWire(s)
	}
	if s.layer != nil {
		s.choose(s.loop.cryptoTLS)
	}
	s.nc = nil
	if s.held.Len() > 0 {
		s.loop.again(s)
	}
}

// reads reports whether what arrives is of use.
func (s *Socket) reads() bool { return s.phase == open && !s.paused && !s.eof && !s.broken }

// errWait says that nothing is there to be read. To crypto/tls it is a temporary
// error, after which Read may be called again.
var errWait net.Error = waitError{}

type waitError struct{}

func (waitError) Error() string   { return "loop: nothing to read yet" }
func (waitError) Timeout() bool   { return true }
func (waitError) Temporary() bool { return true }

// arrives says that there is something to read. Who used up the last turn comes
// after the others.
func (s *Socket) arrives() {
	if s.greedy {
		s.greedy = false
		s.loop.late = append(s.loop.late, s)
		return
	}
	s.readable()
}

// readable reads until nothing is there, or the budget is spent, or the driver
// wants no more.
func (s *Socket) readable() {
	if s.phase == lingering {
		s.discard()
		return
	}
	for n, calls := 0, 0; s.reads(); calls++ {
		if n >= maxReadBytes || calls == maxReads {
			s.greedy = true
			if s.w.more() {
				s.loop.again(s)
			}
			return
		}
		k, more := 0, false
		if s.layer != nil {
			k, more = s.readTLS()
		} else {
			k, more = s.readPlain()
		}
		s.loop.carried += k
		if n += k; !more {
			return
		}
	}
}

// readPlain reads once. It reports how much there was, and whether there may be
// more.
func (s *Socket) readPlain() (n int, more bool) {
	p := s.loop.in[:readSize]
	if s.most > 0 {
		p = p[:min(s.most, readSize)]
	}
	n, err := s.w.read(p)
	if n > 0 {
		if err := s.d.Receive(p[:n]); err != nil {
			s.end(err)
			return n, false
		}
	}
	if err != nil {
		s.readFailed(err)
	}
	return n, err == nil && (n == len(p) || s.w.more())
}

func (s *Socket) readFailed(err error) {
	switch err {
	case errWait:
	case io.EOF:
		s.gotEOF()
	default:
		s.fail(s.opError("read", err))
	}
}

// gotEOF tells the driver that the peer has ended its direction.
func (s *Socket) gotEOF() {
	s.eof = true
	s.mark()
	if err := s.d.EOF(); err != nil {
		s.end(err)
	}
}

// discard drops what arrives after we have closed. Without it the kernel would
// answer it with a reset, and the peer might lose the end of what we said.
func (s *Socket) discard() {
	for range maxReads {
		n, err := s.w.read(s.loop.in)
		if err == errWait {
			return
		}
		if err != nil || n == 0 {
			s.broken = true
			s.mark()
			return
		}
	}
	if s.w.more() {
		s.loop.again(s)
	}
}

// arrived says that n bytes are there to be read, and err behind them. While the
// socket is paused they wait, except for a reset with nothing before it.
func (s *Socket) arrived(err error, n int) {
	switch {
	case s.reads() || s.phase == lingering:
		s.readable()
	case n == 0 && err != nil && err != io.EOF && s.phase != gone:
		s.fail(s.opError("read", err))
	}
}

// opError is allocated only when something failed, and worded only when
// somebody reads it.
func (s *Socket) opError(op string, err error) error {
	return &Error{Op: op, Remote: s.remote, Err: err}
}

// An Error is a failed read, write or handshake. It unwraps to the cause, for a
// reset by the peer syscall.ECONNRESET.
type Error struct {
	Op     string
	Remote netip.AddrPort
	Err    error
}

func (e *Error) Error() string {
	if !e.Remote.IsValid() {
		return "loop: " + e.Op + ": " + e.Err.Error()
	}
	return "loop: " + e.Op + " " + e.Remote.String() + ": " + e.Err.Error()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }
