package loop

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/flow"
)

var _ flow.Stream = (*TCP)(nil)

// A leg is a Receiver that records what it is told, on the loop.
type leg struct {
	t    *TCP
	data func(p []byte)
	in   []byte
	sent int
	eof  chan struct{}
	gone chan error
}

func (g *leg) Data(p []byte) {
	if g.data != nil {
		g.data(p)
		return
	}
	g.in = append(g.in, p...)
}
func (g *leg) EOF()            { close(g.eof) }
func (g *leg) Sent(n int)      { g.sent += n }
func (g *leg) Reset(err error) { g.gone <- err }

// leg puts a stream on the loop; peer is the other end.
func (e *env) leg(window int, g *leg) (peer interface {
	io.ReadWriteCloser
	CloseWrite() error
	SetLinger(int) error
}) {
	e.Helper()
	ours, peers := e.pair(e)
	g.eof, g.gone = make(chan struct{}), make(chan error, 1)
	e.on(func() { g.t = NewTCP(e.l, Plain(ours), window, g) })
	return peers.(interface {
		io.ReadWriteCloser
		CloseWrite() error
		SetLinger(int) error
	})
}

func TestTCPStream(t *testing.T) {
	each(t, func(e *env) {
		g := &leg{}
		peer := e.leg(0, g)
		if !g.t.Socket().RemoteAddr().IsValid() {
			e.Error("no remote address")
		}
		e.on(func() {
			if n := g.t.Write([]byte("hello ")) + g.t.Write([]byte("world")); n != 11 || g.t.Queued() != 11 || g.sent != 0 {
				e.Errorf("%d queued, %d of them sent at once", n, g.sent)
			}
		})
		p := make([]byte, 11)
		if _, err := io.ReadFull(peer, p); string(p) != "hello world" || err != nil {
			e.Errorf("peer read %q, %v", p, err)
		}
		e.until("Sent", func() bool { return g.sent == 11 && g.t.Queued() == 0 })
		peer.Write([]byte("and back"))
		peer.CloseWrite()
		<-g.eof
		e.on(func() {
			if string(g.in) != "and back" {
				e.Errorf("received %q", g.in)
			}
			g.t.Credit(8)
			g.t.Write([]byte("bye"))
			g.t.CloseWrite()
			g.t.CloseWrite()
			if n := g.t.Write([]byte("too late")); n != 0 {
				e.Errorf("Write after CloseWrite queued %d", n)
			}
		})
		if got, err := io.ReadAll(peer); string(got) != "bye" || err != nil {
			e.Errorf("peer read %q, %v", got, err)
		}
		e.until("the socket to be gone", func() bool { return len(e.l.sockets) == 0 })
		if len(g.gone) != 0 {
			e.Error("Reset after an orderly end")
		}
	})
}

// No more than the window is received before it is credited.
func TestTCPWindow(t *testing.T) {
	each(t, func(e *env) {
		const window, size = 10_000, 1 << 20
		var got bytes.Buffer
		owed := 0
		g := &leg{}
		g.data = func(p []byte) {
			got.Write(p)
			if owed += len(p); owed > window {
				e.Errorf("%d bytes uncredited", owed)
			}
		}
		peer := e.leg(window, g)
		want := pattern(size)
		go func() {
			peer.Write(want)
			peer.CloseWrite()
		}()
		e.until("a full window", func() bool { return owed == window })
		e.wait(5 * time.Millisecond)
		for done := false; !done; {
			e.on(func() {
				n := min(owed, 3000)
				owed -= n
				g.t.Credit(n)
			})
			select {
			case <-g.eof:
				done = true
			default:
			}
		}
		if !bytes.Equal(got.Bytes(), want) {
			e.Errorf("%d bytes, or other bytes", got.Len())
		}
	})
}

// Two legs copied to each other, as a tunnel is: credit follows what has left.
func TestTCPCopy(t *testing.T) {
	each(t, func(e *env) {
		before := bufs.InUse()
		a, b := &leg{}, &leg{}
		peerA, peerB := e.leg(64<<10, a), e.leg(64<<10, b)
		var pair flow.Pair
		done := make(chan error, 1)
		e.on(func() {
			pair.Join(a.t, b.t, func(err error) { done <- err })
			a.t.SetReceiver(pair.A())
			b.t.SetReceiver(pair.B())
		})
		const size = 2 << 20
		want := pattern(size)
		go func() {
			peerA.Write(want)
			peerA.CloseWrite()
		}()
		e.until("the far side to be full", func() bool {
			// As much waits as was not credited, and no more.
			if n := bufs.InUse() - before; n > 64<<10+3*bufs.Large {
				e.Fatalf("%d bytes of buffers", n)
			}
			return e.mem == nil || a.t.owed >= 32<<10
		})
		got, err := io.ReadAll(peerB)
		if err != nil || !bytes.Equal(got, want) {
			e.Errorf("peer read %d bytes, %v", len(got), err)
		}
		go func() {
			peerB.Write(want)
			peerB.Close()
		}()
		got, err = io.ReadAll(peerA)
		if err != nil || !bytes.Equal(got, want) {
			e.Errorf("peer read %d bytes, %v", len(got), err)
		}
		if err := <-done; err != nil {
			e.Errorf("done(%v)", err)
		}
		e.until("both to be gone", func() bool { return len(e.l.sockets) == 0 })
	})
}

func TestTCPReset(t *testing.T) {
	each(t, func(e *env) {
		g := &leg{}
		peer := e.leg(0, g)
		e.on(func() {
			g.t.Write([]byte("lost"))
			g.t.Reset(nil)
			if n := g.t.Write([]byte("x")); n != 0 || g.t.Queued() != 0 {
				e.Error("Write after Reset queues")
			}
		})
		if _, err := io.ReadAll(peer); !errors.Is(err, syscall.ECONNRESET) {
			e.Errorf("peer: %v", err)
		}
		e.until("the socket to be gone", func() bool { return len(e.l.sockets) == 0 })
		if len(g.gone) != 0 {
			e.Error("the receiver was told of its own Reset")
		}
	})
}

func TestTCPPeerResets(t *testing.T) {
	each(t, func(e *env) {
		g := &leg{}
		peer := e.leg(0, g)
		e.on(func() { g.t.Write(pattern(100_000)) })
		io.ReadFull(peer, make([]byte, 1000))
		peer.SetLinger(0)
		peer.Close()
		if err := <-g.gone; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			e.Errorf("Reset(%v)", err)
		}
		e.on(func() {
			if g.t.Queued() != 0 || g.t.Write([]byte("x")) != 0 {
				e.Error("a stream that is gone queues")
			}
		})
	})
}
