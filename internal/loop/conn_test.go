package loop

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
)

func TestEchoTLS(t *testing.T) {
	each(t, func(e *env) {
		s, peer := e.secure()
		if got := s.TLS(); got.NegotiatedProtocol != "h2" || len(got.PeerCertificates) != 1 {
			e.Errorf("state: ALPN %q, %d certificates", got.NegotiatedProtocol, len(got.PeerCertificates))
		}
		d := echo()
		e.adoptConn(s, d)
		want := pattern(1 << 20)
		go func() {
			for p, n := want, 1; len(p) > 0; n = n*3%70_000 + 1 {
				k := min(n, len(p))
				e.write(peer, p[:k])
				p = p[k:]
			}
			peer.CloseWrite()
		}()
		got, err := io.ReadAll(peer)
		if err != nil || !bytes.Equal(got, want) {
			e.Errorf("read %d bytes, %v; want the %d bytes sent", len(got), err, len(want))
		}
		<-d.eof
		peer.Close() // crypto/tls sends close_notify and leaves TCP open
		e.wantClosed(d, nil)
	})
}

// The client side of a handshake works as well.
func TestHandshakeAsClient(t *testing.T) {
	each(t, func(e *env) {
		client, server := certs()
		ours, peers := e.pair(e)
		peer := tls.Server(peers, server)
		go peer.Handshake()
		s, err := Handshake(e.Context(), ours, client, ClientSide)
		if err != nil {
			e.Fatal(err)
		}
		d := &driver{out: []byte("hello")}
		e.adoptConn(s, d)
		if got := e.read(peer, 5); string(got) != "hello" {
			e.Errorf("peer read %q", got)
		}
		peer.Close()
		e.wantClosed2(d)
	})
}

// wantClosed2 closes d if the peer's close did not.
func (e *env) wantClosed2(d *driver) {
	<-d.eof
	e.on(d.s.Close)
	e.wantClosed(d, nil)
}

// Records arrive a byte at a time.
func TestRecordsSplitAtEveryByte(t *testing.T) {
	bubble(t, func(e *env) {
		s, peer := e.secure()
		d := echo()
		e.adoptConn(s, d)
		e.mem.Segment(1)
		for _, n := range []int{1, 100, 1000} {
			want := pattern(n)
			e.write(peer, want)
			if got := e.read(peer, n); !bytes.Equal(got, want) {
				e.Errorf("%d bytes came back changed", n)
			}
		}
		if d.calls != 3 {
			e.Errorf("%d calls of Receive for 3 records", d.calls)
		}
		peer.Close()
		e.wantClosed(d, nil)
	})
}

// Several records that arrived together go to the driver together.
func TestRecordsAreGathered(t *testing.T) {
	bubble(t, func(e *env) {
		s, peer := e.secure()
		d := &driver{}
		e.adoptConn(s, d)
		e.mem.Stall(s.LocalAddr().Addr(), true)
		for range 10 {
			e.write(peer, []byte("0123456789"))
		}
		e.mem.Stall(s.LocalAddr().Addr(), false)
		synctest.Wait()
		e.on(func() {
			if len(d.in) != 100 || d.calls != 1 {
				e.Errorf("%d bytes in %d calls", len(d.in), d.calls)
			}
		})
	})
}

// What was read together with the end of the handshake is delivered.
func TestBytesBehindTheHandshake(t *testing.T) {
	each(t, func(e *env) {
		ours, peers := e.pair(e)
		sent := make(chan struct{})
		client, server := certs()
		peer := tls.Client(peers, client)
		go func() {
			defer close(sent)
			peer.Handshake()
			e.write(peer, pattern(20_000))
		}()
		// The ClientHello is one read; the rest is read when all of it is there.
		gate := &gatedConn{Conn: ours, gate: sent}
		s, err := Handshake(e.Context(), gate, server, ServerSide)
		if err != nil {
			e.Fatal(err)
		}
		if s.held.Len() == 0 {
			e.Fatal("nothing was read beyond the handshake")
		}
		if _, ok := ours.(*net.TCPConn); ok {
			s.nc = ours
		}
		d := &driver{}
		e.adoptConn(s, d)
		e.until("the bytes", func() bool { return len(d.in) == 20_000 })
		if !bytes.Equal(d.in, pattern(20_000)) {
			e.Error("other bytes")
		}
	})
}

type gatedConn struct {
	net.Conn
	reads int
	gate  chan struct{}
}

func (c *gatedConn) Read(p []byte) (int, error) {
	if c.reads++; c.reads == 2 {
		<-c.gate
	}
	return c.Conn.Read(p)
}

func TestPauseHoldsRecords(t *testing.T) {
	bubble(t, func(e *env) {
		s, peer := e.secure()
		d := &driver{}
		d.receive = func(p []byte) error {
			d.in = append(d.in, p...)
			d.s.Pause()
			return nil
		}
		e.adoptConn(s, d)
		want := pattern(500_000)
		go func() {
			e.write(peer, want)
			peer.Close()
		}()
		synctest.Wait()
		for len(d.in) < len(want) {
			had := len(d.in)
			e.on(d.s.Resume)
			synctest.Wait()
			if len(d.in) == had || len(d.in) > had+plainSize {
				e.Fatalf("Resume gave %d bytes", len(d.in)-had)
			}
		}
		if !bytes.Equal(d.in, want) {
			e.Error("other bytes")
		}
		select {
		case <-d.eof:
			e.Error("EOF while paused")
		default:
		}
		e.on(d.s.Resume)
		e.wantClosed2(d)
	})
}

// A connection with nothing under way holds no buffer of ours.
func TestIdleTLSHoldsNothing(t *testing.T) {
	before := bufs.InUse()
	newEnv(t, Options{}, nil, func(e *env) {
		s, peer := e.secure()
		d := echo()
		e.adoptConn(s, d)
		for range 10 {
			e.write(peer, pattern(30_000))
			e.read(peer, 30_000)
		}
		e.on(func() {
			if n := bufs.InUse() - before; n != 0 {
				e.Errorf("%d bytes", n)
			}
		})
	})
}

func TestTruncatedTLS(t *testing.T) {
	each(t, func(e *env) {
		ours, peers := e.pair(e)
		s, peer := e.secureConns(ours, peers)
		d := &driver{}
		e.adoptConn(s, d)
		e.write(peer, []byte("whole"))
		e.write(peers, []byte{23, 3, 3, 0, 100, 1, 2, 3})
		closeWrite(peers)
		if err := <-d.closed; !errors.Is(err, errTruncated) {
			e.Errorf("Closed(%v)", err)
		}
		if string(d.in) != "whole" {
			e.Errorf("received %q", d.in)
		}
	})
}

// A record that does not open closes the connection, and the peer is told why.
func TestBadRecord(t *testing.T) {
	for name, record := range map[string][]byte{
		"forged":   append([]byte{23, 3, 3, 0, 30}, make([]byte, 30)...),
		"too long": {23, 3, 3, 0xff, 0xff, 0},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(e *env) {
				ours, peers := e.pair(e)
				s, peer := e.secureConns(ours, peers)
				d := &driver{}
				e.adoptConn(s, d)
				e.write(peers, record)
				if err := <-d.closed; err == nil || !strings.Contains(err.Error(), "tls:") {
					e.Errorf("Closed(%v)", err)
				}
				if _, err := peer.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "remote error: tls:") {
					e.Errorf("peer: %v", err)
				}
			})
		})
	}
}

func TestPeerResetTLS(t *testing.T) {
	each(t, func(e *env) {
		ours, peers := e.pair(e)
		s, _ := e.secureConns(ours, peers)
		d := &driver{}
		e.adoptConn(s, d)
		resetConn(peers)
		if err := <-d.closed; err == nil {
			e.Error("Closed(nil)")
		}
	})
}

func TestSlowReaderTLS(t *testing.T) {
	each(t, func(e *env) {
		before := bufs.InUse()
		const size = 4 << 20
		chunk := pattern(60_000)
		ours, peers := e.pair(e)
		if c, ok := ours.(*net.TCPConn); ok {
			c.SetWriteBuffer(64 << 10)
			peers.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		s, peer := e.secureConns(ours, peers)
		d := &driver{}
		d.output = func() []byte { return chunk[:min(len(chunk), size-d.pulled)] }
		e.adoptConn(s, d)
		e.until("the socket to be full", func() bool { return d.s.full })
		if n := bufs.InUse() - before; n > 2*sealSize+3*bufs.Large {
			e.Errorf("%d bytes held for a peer that does not read", n)
		}
		e.on(d.s.CloseWrite)
		got, err := io.ReadAll(peer)
		if len(got) != size || err != nil {
			e.Errorf("peer read %d bytes, %v", len(got), err)
		}
		peer.Close()
		e.wantClosed2(d)
	})
}

func TestHandshakeFails(t *testing.T) {
	each(t, func(e *env) {
		client, server := certs()
		client = client.Clone()
		client.Certificates = nil
		ours, peers := e.pair(e)
		peer := tls.Client(peers, client)
		done := make(chan struct{})
		go func() {
			defer close(done)
			peer.Handshake()
			peer.Read(make([]byte, 1))
			peers.Close()
		}()
		_, err := Handshake(e.Context(), ours, server, ServerSide)
		var le *Error
		if !errors.As(err, &le) || le.Op != "handshake" || le.Remote.Port() == 0 {
			e.Errorf("error %v", err)
		}
		<-done
	})
}

func TestHandshakeIsCancelled(t *testing.T) {
	bubble(t, func(e *env) {
		_, server := certs()
		ours, peer := e.pair(e)
		ctx, cancel := context.WithTimeout(e.Context(), time.Minute)
		defer cancel()
		_, err := Handshake(ctx, ours, server, ServerSide)
		if !errors.Is(err, context.DeadlineExceeded) {
			e.Errorf("error %v", err)
		}
		if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
			e.Errorf("peer: %v", err)
		}
	})
}

func FuzzSize(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{22, 3, 1, 0, 1, 0})
	f.Add([]byte{23, 3, 3, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, p []byte) {
		n := size(p)
		if (n == 0) != (len(p) < recordHeader) || n > maxRecord || n != 0 && n < recordHeader {
			t.Errorf("size(%x) = %d", p, n)
		}
	})
}
