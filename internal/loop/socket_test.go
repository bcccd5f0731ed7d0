package loop

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
)

func TestEcho(t *testing.T) {
	each(t, func(e *env) {
		d := echo()
		peer := e.adopt(d)
		want := pattern(1 << 20)
		go func() {
			for p, n := want, 1; len(p) > 0; n = n*3 + 1 {
				k := min(n, len(p))
				e.write(peer, p[:k])
				p = p[k:]
			}
			closeWrite(peer)
		}()
		got, err := io.ReadAll(peer)
		if err != nil || !bytes.Equal(got, want) {
			e.Errorf("read %d bytes, %v; want the %d bytes sent", len(got), err, len(want))
		}
		e.wantClosed(d, nil)
	})
}

func TestCloseWriteLeavesTheOtherDirectionOpen(t *testing.T) {
	each(t, func(e *env) {
		d := &driver{}
		peer := e.adopt(d)
		e.on(func() {
			d.out = []byte("question")
			d.s.CloseWrite()
		})
		if got, err := io.ReadAll(peer); string(got) != "question" || err != nil {
			e.Errorf("peer read %q, %v", got, err)
		}
		e.write(peer, []byte("answer"))
		closeWrite(peer)
		e.wantClosed(d, nil)
		if string(d.in) != "answer" {
			e.Errorf("received %q", d.in)
		}
	})
}

func TestPeerEndsFirst(t *testing.T) {
	each(t, func(e *env) {
		d := &driver{}
		peer := e.adopt(d)
		closeWrite(peer)
		<-d.eof
		e.wantQuiet()
		e.send(d, []byte("late"))
		if got := e.read(peer, 4); string(got) != "late" {
			e.Errorf("peer read %q", got)
		}
		e.on(d.s.Close)
		e.wantClosed(d, nil)
	})
}

// A peer that does not read makes the loop stop asking for output, and what it
// holds is bounded.
func TestSlowReader(t *testing.T) {
	each(t, func(e *env) {
		before := bufs.InUse()
		const size = 8 << 20
		chunk := pattern(60_000)
		d := &driver{}
		ours, peer := e.pair(e)
		if c, ok := ours.(*net.TCPConn); ok {
			c.SetWriteBuffer(64 << 10)
			peer.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		d.output = func() []byte {
			return chunk[:min(len(chunk), size-d.pulled)]
		}
		e.adoptConn(Plain(ours), d)
		e.until("the socket to be full", func() bool { return d.s.full && d.s.out.Len() > 0 })
		e.wait(10 * time.Millisecond)
		e.until("the socket to be full", func() bool { return d.s.full && d.s.out.Len() > 0 })
		if n := bufs.InUse() - before; n > 3*bufs.Large {
			e.Errorf("%d bytes held for a peer that does not read", n)
		}
		e.on(func() {
			if d.pulled > size/2 {
				e.Errorf("%d bytes of output were asked for", d.pulled)
			}
		})
		e.on(d.s.CloseWrite)
		n, at := 0, 0
		buf := make([]byte, 10_000)
		for {
			k, err := peer.Read(buf)
			for _, c := range buf[:k] {
				if c != chunk[at] {
					e.Fatalf("byte %d differs", n)
				}
				n, at = n+1, (at+1)%len(chunk)
			}
			if err != nil {
				break
			}
		}
		if n != size {
			e.Errorf("peer read %d bytes, want %d", n, size)
		}
	})
}

func TestPauseAndResume(t *testing.T) {
	each(t, func(e *env) {
		d := &driver{}
		first := make(chan struct{})
		d.receive = func(p []byte) error {
			d.in = append(d.in, p...)
			if d.calls == 1 {
				d.s.Pause()
				close(first)
			}
			return nil
		}
		peer := e.adopt(d)
		e.write(peer, []byte("a"))
		<-first
		e.write(peer, []byte("b"))
		closeWrite(peer)
		e.wait(10 * time.Millisecond)
		e.on(func() {
			if string(d.in) != "a" {
				e.Errorf("received %q while paused", d.in)
			}
			d.s.Resume()
		})
		<-d.eof
		e.on(func() {
			if string(d.in) != "ab" {
				e.Errorf("received %q", d.in)
			}
			d.s.Close()
		})
		e.wantClosed(d, nil)
	})
}

// Both directions have ended but the driver does not read: epoll says so for
// ever, and must not be listened to.
func TestPausedHangUpDoesNotSpin(t *testing.T) {
	for _, data := range []string{"", "unread"} {
		each(t, func(e *env) {
			d := &driver{}
			peer := e.adopt(d)
			e.on(func() {
				d.s.Pause()
				d.s.CloseWrite()
			})
			if got, err := io.ReadAll(peer); len(got) > 0 || err != nil {
				e.Errorf("peer read %q, %v", got, err)
			}
			e.write(peer, []byte(data))
			closeWrite(peer)
			e.wait(5 * time.Millisecond)
			e.wantQuiet()
			e.on(d.s.Resume)
			e.wantClosed(d, nil)
			if string(d.in) != data {
				e.Errorf("received %q, want %q", d.in, data)
			}
		})
	}
}

func TestAbortResets(t *testing.T) {
	each(t, func(e *env) {
		d := &driver{}
		peer := e.adopt(d)
		why := errors.New("why")
		e.on(func() { d.s.Abort(why) })
		e.wantClosed(d, why)
		if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			e.Errorf("peer: %v, want a reset", err)
		}
	})
}

func TestCloseFlushesFirst(t *testing.T) {
	each(t, func(e *env) {
		want := pattern(1 << 20)
		d := &driver{}
		peer := e.adopt(d)
		e.write(peer, []byte("what nobody reads must not cut the answer short"))
		e.on(func() {
			d.out = want
			d.s.Close()
		})
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			e.write(peer, []byte("nor this"))
		}()
		got, err := io.ReadAll(peer)
		<-wrote
		if err != nil || !bytes.Equal(got, want) {
			e.Errorf("peer read %d bytes, %v; want %d", len(got), err, len(want))
		}
		e.wantClosed(d, nil)
		peer.Close()
		e.until("the socket to be gone", func() bool { return len(e.l.sockets) == 0 })
	})
}

func TestErrorFromReceiveFlushesAndCloses(t *testing.T) {
	each(t, func(e *env) {
		d := &driver{}
		bad := errors.New("bad frame")
		d.receive = func([]byte) error {
			d.out = []byte("goodbye")
			return bad
		}
		peer := e.adopt(d)
		e.write(peer, []byte("?"))
		if got, err := io.ReadAll(peer); string(got) != "goodbye" || err != nil {
			e.Errorf("peer read %q, %v", got, err)
		}
		e.wantClosed(d, bad)
	})
}

func TestCloseDoesNotWaitForEver(t *testing.T) {
	bubble(t, func(e *env) {
		d := &driver{}
		peer := e.adopt(d)
		start := time.Now()
		e.on(func() {
			d.out = pattern(1 << 20)
			d.s.Close()
		})
		e.wantClosed(d, ErrCloseTimeout)
		if took := time.Since(start); took != closeTimeout {
			e.Errorf("took %v", took)
		}
		io.Copy(io.Discard, peer)

		// And neither for a peer that reads everything and never closes.
		d = &driver{}
		e.adopt(d)
		e.on(d.s.Close)
		e.wantClosed(d, nil)
		e.wait(closeTimeout + time.Second)
		e.on(func() {
			if n := len(e.l.sockets); n != 0 {
				e.Errorf("%d sockets linger", n)
			}
		})
	})
}

func TestPipeWithoutHalfClose(t *testing.T) {
	bubble(t, func(e *env) {
		ours, peer := net.Pipe()
		d := echo()
		e.adoptConn(Plain(ours), d)
		if d.s.RemoteAddr().IsValid() {
			e.Error("a pipe has an address")
		}
		e.write(peer, []byte("hello"))
		if got := e.read(peer, 5); string(got) != "hello" {
			e.Errorf("peer read %q", got)
		}
		peer.Close()
		e.wantClosed(d, nil)
	})
}

func TestAddresses(t *testing.T) {
	ours, peer := tcpPair(t)
	s := Plain(ours)
	if got, want := s.RemoteAddr().String(), peer.LocalAddr().String(); got != want {
		t.Errorf("remote %s, want %s", got, want)
	}
	if got, want := s.LocalAddr().String(), peer.RemoteAddr().String(); got != want {
		t.Errorf("local %s, want %s", got, want)
	}
	if s.TLS().HandshakeComplete {
		t.Error("plain socket has TLS")
	}
}

func TestClosedBeforeAdopted(t *testing.T) {
	each(t, func(e *env) {
		ours, peer := e.pair(e)
		s := Plain(ours)
		why := errors.New("why")
		s.Abort(why)
		if _, err := peer.Read(make([]byte, 1)); err == nil {
			e.Error("peer read something")
		}
		d := &driver{}
		e.adoptConn(s, d)
		e.wantClosed(d, why)
	})
}

// One socket that never falls silent does not keep the others waiting.
func TestFairness(t *testing.T) {
	each(t, func(e *env) {
		loud := &driver{receive: func([]byte) error { return nil }}
		loudPeer := e.adopt(loud)
		quiet := echo()
		quietPeer := e.adopt(quiet)
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			p := make([]byte, 256<<10)
			for {
				select {
				case <-stop:
					return
				default:
					e.write(loudPeer, p)
				}
			}
		}()
		for range 50 {
			e.write(quietPeer, []byte("x"))
			e.read(quietPeer, 1)
		}
		close(stop)
		<-done
	})
}
