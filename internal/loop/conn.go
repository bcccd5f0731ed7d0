package loop

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
)

// A Side is which end of a TLS connection we are.
type Side uint8

// The sides.
const (
	ClientSide Side = iota
	ServerSide
)

const (
	recordHeader = 5
	maxRecord    = recordHeader + 16<<10 + 2<<10 // RFC 5246, section 6.2.3; TLS 1.3 allows less
	maxPlain     = 16 << 10                      // of one record
)

// Handshake makes a TLS connection of nc and takes it over. It blocks, so it is
// for a goroutine of its own: a handshake takes half a millisecond of CPU, and
// as long as the peer likes. When it fails, or ctx is done first, nc is closed.
func Handshake(ctx context.Context, nc net.Conn, cfg *tls.Config, side Side) (*Socket, error) {
	s := Plain(nc)
	rec := &records{s: s, nc: nc}
	s.rec = rec
	if side == ClientSide {
		s.tls = tls.Client(rec, cfg)
	} else {
		s.tls = tls.Server(rec, cfg)
	}
	err := s.tls.HandshakeContext(ctx)
	rec.settle(err == nil)
	if err != nil {
		_ = nc.Close()
		return nil, s.opError("handshake", err)
	}
	s.state = s.tls.ConnectionState()
	return s, nil
}

// records is the net.Conn beneath crypto/tls. It gives crypto/tls one record at
// a time, so that crypto/tls never holds bytes that we cannot see. During the
// handshake it blocks as any connection does. On the loop it never does: a Read
// for which no whole record is there fails with a temporary error, which
// crypto/tls forgets (outside of a handshake), and a Write always succeeds, into
// what the loop gathers or the socket holds.
type records struct {
	s    *Socket
	nc   net.Conn     // nil on the loop
	buf  *bufs.Buffer // of the handshake
	in   []byte       // read, and not yet given to crypto/tls
	left int          // what is missing of the record that crypto/tls is reading
	err  error        // what follows in

	gather bool // the socket is flushing
}

// size returns how long the record at the beginning of p is, or 0 when p does
// not tell yet. Of a record that is longer than allowed it returns the length of
// the header, with which crypto/tls refuses it.
func size(p []byte) int {
	if len(p) < recordHeader {
		return 0
	}
	n := recordHeader + int(p[3])<<8 + int(p[4])
	if n > maxRecord {
		return recordHeader
	}
	return n
}

// whole reports whether crypto/tls can read to the end of a record.
func (r *records) whole() bool {
	if r.left > 0 {
		return len(r.in) >= r.left
	}
	n := size(r.in)
	return n > 0 && len(r.in) >= n
}

func (r *records) Read(p []byte) (int, error) {
	if r.nc != nil {
		if err := r.wait(); err != nil {
			return 0, err
		}
	} else if !r.whole() {
		if r.err == io.EOF && len(r.in) > 0 {
			return 0, errTruncated
		}
		if r.err != nil {
			return 0, r.err
		}
		return 0, errWait
	}
	if r.left == 0 {
		r.left = size(r.in)
	}
	n := copy(p, r.in[:min(r.left, len(r.in))])
	r.in = r.in[n:]
	r.left -= n
	return n, nil
}

// errTruncated is not io.ErrUnexpectedEOF, which crypto/tls takes for an orderly
// end when it has seen nothing of the record.
var errTruncated = errors.New("the connection ends in the middle of a record")

// wait blocks until there is something to give to crypto/tls.
func (r *records) wait() error {
	for len(r.in) == 0 || r.left == 0 && size(r.in) == 0 {
		if r.buf == nil {
			r.buf = bufs.Get(bufs.Large)
		}
		b := r.buf.B[:cap(r.buf.B)]
		n := copy(b, r.in)
		k, err := r.nc.Read(b[n:])
		r.in = b[:n+k]
		if err != nil && k == 0 {
			return err
		}
	}
	return nil
}

// settle ends the handshake. What was read beyond it waits in the socket.
func (r *records) settle(keep bool) {
	if keep {
		r.s.held.Append(r.in)
	}
	r.in = nil
	if r.buf != nil {
		r.buf.Free()
		r.buf = nil
	}
}

func (r *records) Write(p []byte) (int, error) {
	switch {
	case r.nc != nil:
		return r.nc.Write(p)
	case r.gather:
		r.s.loop.sealed = append(r.s.loop.sealed, p...)
	case !r.s.shut: // an alert, the answer to a KeyUpdate
		r.s.out.Append(p)
		r.s.mark()
	}
	return len(p), nil
}

// readTLS reads once, opens the records that are whole, and hands on what was
// in them.
func (s *Socket) readTLS() (n int, more bool) {
	if s.ended != nil {
		s.tlsEnded()
		return 0, false
	}
	in := s.loop.in
	had := s.takeHeld(in)
	r := s.rec
	r.in = in[:had]
	if !r.whole() {
		var err error
		room := in[had:min(had+readSize, len(in))]
		n, err = s.w.read(room)
		r.in = in[:had+n]
		if err != nil && err != errWait {
			r.err = err
		}
		more = err == nil && (n == len(room) || s.w.more())
	} else {
		more = true // the socket has not been asked
	}
	s.open()
	s.held.Append(r.in)
	r.in = nil
	return n, more && s.reads()
}

// takeHeld moves what the socket holds to the front of p.
func (s *Socket) takeHeld(p []byte) (n int) {
	for s.held.Len() > 0 {
		k := copy(p[n:], s.held.Front())
		s.held.Consume(k)
		n += k
	}
	return n
}

// open opens whole records until there is none, or the driver wants no more.
// The contents of several go to the driver together: a frame that spans two
// records is then in one piece.
func (s *Socket) open() {
	r, plain := s.rec, s.loop.plain
	for s.ended == nil && s.reads() && (r.whole() || r.err != nil) {
		n := 0
		for s.ended == nil && len(plain)-n >= maxPlain && (r.whole() || r.err != nil) {
			k, err := s.tls.Read(plain[n:])
			n += k
			if err != nil && err != error(errWait) {
				s.ended = err
			}
		}
		if n > 0 {
			if err := s.d.Receive(plain[:n]); err != nil {
				s.end(err)
				return
			}
		}
	}
	if s.ended != nil && s.reads() {
		s.tlsEnded()
	}
}

// tlsEnded tells the driver why TLS has nothing more to say.
func (s *Socket) tlsEnded() {
	switch err := s.ended; {
	case err == io.EOF:
		s.gotEOF()
	case err == s.rec.err: // the socket's
		s.fail(s.opError("read", err))
	default: // crypto/tls has queued an alert, which is worth a flush
		s.end(s.opError("read", err))
	}
}

// writeTLS seals what the driver has to say and writes it together.
func (s *Socket) writeTLS() bool {
	l := s.loop
	keeper, _ := s.d.(keeper)
	for total := 0; total < maxFlush; {
		p := s.d.Output()
		if len(p) == 0 {
			return s.sendSealed()
		}
		total += len(p)
		s.rec.gather = true
		_, err := s.tls.Write(p)
		s.rec.gather = false
		if keeper != nil {
			keeper.wrote(len(p))
		}
		if err != nil && s.phase == closing {
			return s.sendSealed() // TLS has failed, and has said so
		}
		if err != nil {
			l.sealed = l.sealed[:0]
			s.fail(s.opError("write", err))
			return false
		}
		if len(l.sealed) >= sealSize && !s.sendSealed() {
			return false
		}
	}
	if s.sendSealed() {
		s.mark()
	}
	return false
}

// sendSealed writes the gathered records. What the wire does not take the socket
// holds.
func (s *Socket) sendSealed() bool {
	l := s.loop
	p := l.sealed
	l.sealed = p[:0]
	if len(p) == 0 {
		return true
	}
	n := s.send(p)
	s.out.Append(p[n:])
	return n == len(p)
}

// closeNotify sends TLS's close_notify, if this is TLS. It reports whether it
// has left.
func (s *Socket) closeNotify() bool {
	if s.tls == nil || s.alert {
		return true
	}
	s.alert = true
	s.rec.gather = true
	_ = s.tls.CloseWrite() // fails when TLS has failed before, and said so
	s.rec.gather = false
	return s.sendSealed()
}

func (r *records) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(r.s.local) }
func (r *records) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(r.s.remote) }

// Close is called by crypto/tls when the context of a handshake is done.
func (r *records) Close() error {
	if r.nc != nil {
		return r.nc.Close()
	}
	return nil
}

// The deadlines are those of the handshake. On the loop nothing waits.

func (r *records) SetDeadline(t time.Time) error {
	if r.nc != nil {
		return r.nc.SetDeadline(t)
	}
	return nil
}

func (r *records) SetReadDeadline(t time.Time) error {
	if r.nc != nil {
		return r.nc.SetReadDeadline(t)
	}
	return nil
}

func (r *records) SetWriteDeadline(t time.Time) error {
	if r.nc != nil {
		return r.nc.SetWriteDeadline(t)
	}
	return nil
}
