package loop

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/record"
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
)

// Handshake makes a TLS connection of nc and takes it over. It blocks, so it is
// for a goroutine of its own: a handshake takes half a millisecond of CPU, and
// as long as the peer likes. When it fails, or ctx is done first, nc is closed.
//
// The handshake is crypto/tls's. What protects the records after it is package
// record where that can, unless the Group's Options say otherwise.
func Handshake(ctx context.Context, nc net.Conn, cfg *tls.Config, side Side) (*Socket, error) {
	s := Plain(nc)
	var secrets record.Secrets
	defer secrets.Clear()
	cfg = secrets.Tap(cfg, side == ServerSide)
	rec := &records{s: s, nc: nc}
	conn := tls.Client(rec, cfg)
	if side == ServerSide {
		conn = tls.Server(rec, cfg)
	}
	err := conn.HandshakeContext(ctx)
	if err == nil && rec.left != 0 {
		err = errPart
	}
	rec.settle(err == nil)
	if err != nil {
		_ = nc.Close()
		return nil, s.opError("handshake", err)
	}
	s.state = conn.ConnectionState()
	s.layer = &stock{conn: conn, rec: rec}
	if own := record.New(&s.state, &secrets, side == ServerSide); own != nil {
		s.layer, s.stock = own, s.layer
	}
	return s, nil
}

// errPart would say that crypto/tls does not read records to their end.
var errPart = errors.New("a part of a record was read")

// records is the net.Conn beneath crypto/tls. It gives crypto/tls one record at
// a time, so that crypto/tls never holds bytes that we cannot see. During the
// handshake it blocks as any connection does. On the loop it never does: a Read
// for which no whole record is there fails with a temporary error, which
// crypto/tls forgets (outside of a handshake), and a Write always succeeds.
type records struct {
	s    *Socket
	nc   net.Conn     // nil on the loop
	buf  *bufs.Buffer // of the handshake
	in   []byte       // read, and not yet given to crypto/tls
	out  []byte       // written by crypto/tls on the loop
	left int          // what is missing of the record that crypto/tls is reading
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

func whole(p []byte) bool {
	n := size(p)
	return n > 0 && len(p) >= n
}

func (r *records) Read(p []byte) (int, error) {
	if r.nc != nil {
		if err := r.wait(); err != nil {
			return 0, err
		}
	} else if r.left == 0 && !whole(r.in) {
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
	if r.nc != nil {
		return r.nc.Write(p)
	}
	r.out = append(r.out, p...)
	return len(p), nil
}

// stock is crypto/tls as a layer.
type stock struct {
	conn *tls.Conn
	rec  *records
}

func (k *stock) Whole(p []byte) bool { return whole(p) }

func (k *stock) Open(dst, src []byte) (n, used int, err error) {
	if !whole(src) {
		return 0, 0, nil
	}
	r := k.rec
	r.in = src
	n, err = k.conn.Read(dst)
	used = len(src) - len(r.in)
	r.in = nil
	if err == error(errWait) {
		err = nil
	}
	return n, used, err
}

// Owes reports whether crypto/tls wrote while it read: an alert, the answer to a
// KeyUpdate.
func (k *stock) Owes() bool { return len(k.rec.out) > 0 }

func (k *stock) Seal(dst, p []byte) ([]byte, error) {
	return k.write(dst, func() error {
		if len(p) == 0 {
			return nil
		}
		_, err := k.conn.Write(p)
		return err
	})
}

// Close fails when TLS has failed before, and said so.
func (k *stock) Close(dst []byte) []byte {
	dst, _ = k.write(dst, k.conn.CloseWrite)
	return dst
}

// write appends to dst what crypto/tls has written before and writes in f.
func (k *stock) write(dst []byte, f func() error) ([]byte, error) {
	k.rec.out = append(dst, k.rec.out...)
	err := f()
	dst, k.rec.out = k.rec.out, nil
	return dst, err
}

// Clear has nothing to do: the keys are crypto/tls's.
func (k *stock) Clear() {}

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
