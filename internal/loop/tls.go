package loop

import (
	"errors"
	"io"

	"github.com/waystone-mesh/waystone/internal/record"
)

// A layer protects the records of a TLS connection after the handshake. It is a
// [record.Conn], whose methods say what they do, or a stock.
type layer interface {
	Whole(p []byte) bool
	Open(dst, src []byte) (n, used int, err error)
	Owes() bool
	Seal(dst, p []byte) ([]byte, error)
	Close(dst []byte) []byte
	Clear()
}

// choose settles which layer an adopted socket has. The other is let go: with
// crypto/tls goes what it holds for each connection, a record's worth of buffer
// above all.
func (s *Socket) choose(cryptoTLS bool) {
	if cryptoTLS && s.stock != nil {
		s.layer.Clear()
		s.layer = s.stock
	}
	if k, ok := s.layer.(*stock); ok {
		k.rec.nc = nil
	}
	s.stock = nil
}

// errTruncated is an end of the connection that is none of TLS's. One between two
// records is taken for an orderly end even without a close_notify, as crypto/tls
// takes it: HTTP/2 knows by itself whether it has heard everything.
var errTruncated = errors.New("the connection ends in the middle of a record")

// readTLS reads once, opens the records that are whole, and hands on what was
// in them.
func (s *Socket) readTLS() (n int, more bool) {
	if s.ended != nil {
		s.tlsEnded()
		return 0, false
	}
	in := s.loop.in
	had := s.takeHeld(in)
	more = true // if the socket need not be asked
	if !s.layer.Whole(in[:had]) {
		var err error
		room := in[had:min(had+readSize, len(in))]
		n, err = s.w.read(room)
		switch {
		case err == io.EOF && had > 0:
			s.end(s.opError("read", errTruncated))
			return 0, false
		case err != nil && err != errWait:
			s.readFailed(err)
			return 0, false
		}
		more = err == nil && (n == len(room) || s.w.more())
	}
	s.held.Append(s.open(in[:had+n]))
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

// open opens whole records until there is none, or the driver wants no more, and
// returns what is left.
func (s *Socket) open(p []byte) []byte {
	plain := s.loop.plain
	for s.ended == nil && s.reads() {
		var n int
		n, p = s.openInto(plain, p)
		if s.layer.Owes() {
			s.mark()
		}
		if n == 0 {
			break
		}
		if err := s.d.Receive(plain[:n]); err != nil {
			s.end(err)
			return nil
		}
	}
	if s.ended == nil {
		return p
	}
	if s.reads() {
		s.tlsEnded()
	}
	return nil
}

// openInto fills plain with the contents of whole records. Those of several go
// to the driver together: a frame that spans two records is then in one piece,
// and each is opened to where it belongs. Opening them in place and handing on one
// at a time was no cheaper.
func (s *Socket) openInto(plain, p []byte) (n int, rest []byte) {
	for s.ended == nil && len(plain)-n >= record.Room {
		var k, used int
		k, used, s.ended = s.layer.Open(plain[n:], p)
		if used == 0 {
			break
		}
		n, p = n+k, p[used:]
	}
	return n, p
}

// tlsEnded tells the driver why TLS has nothing more to say.
func (s *Socket) tlsEnded() {
	if s.ended == io.EOF {
		s.gotEOF()
		return
	}
	s.end(s.opError("read", s.ended)) // the peer may be owed an alert, which is worth a flush
}

// writeTLS seals what the driver has to say and writes it together.
func (s *Socket) writeTLS() bool {
	l := s.loop
	keeper, _ := s.d.(keeper)
	for total := 0; total < maxFlush; {
		p := s.d.Output()
		var err error
		l.sealed, err = s.layer.Seal(l.sealed, p) // what is owed, when p is empty
		if len(p) == 0 {
			return s.sendSealed()
		}
		total += len(p)
		if keeper != nil {
			keeper.wrote(len(p))
		}
		if err != nil { // TLS has failed, and has said so
			sent := s.sendSealed()
			if s.phase == closing {
				return sent
			}
			s.fail(s.opError("write", err))
			return false
		}
		if len(l.sealed) >= sealSize && !s.sendSealed() {
			return false
		}
	}
	if s.sendSealed() {
		s.rest()
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
	if s.layer == nil || s.alert {
		return true
	}
	s.alert = true
	s.loop.sealed = s.layer.Close(s.loop.sealed)
	return s.sendSealed()
}
