package loop

import (
	"syscall"
	"testing"
	"time"
)

func TestPeerReset(t *testing.T) {
	each(t, func(e *env) {
		d := &driver{}
		peer := e.adopt(d)
		e.write(peer, []byte("last words"))
		e.until("the bytes", func() bool { return len(d.in) == 10 })
		resetConn(peer)
		e.wantClosed(d, syscall.ECONNRESET)
	})
}

func TestPeerResetWhilePaused(t *testing.T) {
	each(t, func(e *env) {
		d := &driver{}
		peer := e.adopt(d)
		e.on(d.s.Pause)
		resetConn(peer)
		e.wantClosed(d, syscall.ECONNRESET)
	})
}

// What came before a reset is not lost to a driver that was not reading.
func TestPeerResetAfterDataWhilePaused(t *testing.T) {
	each(t, func(e *env) {
		d := &driver{}
		peer := e.adopt(d)
		e.on(d.s.Pause)
		e.write(peer, []byte("last words"))
		resetConn(peer)
		e.wait(5 * time.Millisecond)
		e.wantQuiet()
		select {
		case err := <-d.closed:
			e.Fatalf("Closed(%v) before Resume", err)
		default:
		}
		e.on(d.s.Resume)
		e.wantClosed(d, syscall.ECONNRESET)
		if string(d.in) != "last words" {
			e.Errorf("received %q", d.in)
		}
	})
}

// An answer that comes before the peer gives up reading is seen.
func TestAnswerBeforeBrokenPipe(t *testing.T) {
	each(t, func(e *env) {
		d := &driver{}
		endless := make([]byte, 50_000)
		d.output = func() []byte { return endless }
		peer := e.adopt(d)
		e.read(peer, 100_000)
		e.write(peer, []byte("413"))
		peer.Close() // with unread bytes: a reset
		if err := <-d.closed; err == nil {
			e.Error("Closed(nil)")
		}
		if e.mem != nil && string(d.in) != "413" { // a kernel may drop it
			e.Errorf("received %q", d.in)
		}
	})
}
