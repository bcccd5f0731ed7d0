package hbone

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/memnet"
)

// A server that was told to drain has its clients go elsewhere with what they
// begin, and serves those who come all the same.
func TestServerDrains(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		one := r.open("echo")
		r.srv.Drain()
		synctest.Wait()
		if got := one.roundTrip("hello"); got != "hello" {
			t.Errorf("got %q", got)
		}
		two := r.open("echo")
		if got := r.srv.Open(); got != 2 {
			t.Errorf("%d connections, want another", got)
		}
		one.closeWrite()
		one.untilEOF()
		synctest.Wait()
		if got := r.srv.Open(); got != 1 {
			t.Errorf("%d connections, want the first to have ended", got)
		}
		if got := two.roundTrip("hello"); got != "hello" {
			t.Errorf("got %q", got)
		}
		two.closeWrite()
		two.untilEOF()
		synctest.Wait()
		if got := r.srv.Open(); got != 1 {
			t.Errorf("%d connections, want the second to be kept", got)
		}
	})
}

// A lingering listener goes on for a second after it was closed.
type lingering struct{ net.Listener }

func (l lingering) Close() error {
	time.AfterFunc(time.Second, func() { l.Listener.Close() })
	return nil
}

func TestServerShutdownServesWhatComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		r := newRig(t, n, lingering{n.Listen(netip.MustParseAddrPort("10.0.0.2:15008"))}, rigOptions{})
		synctest.Wait() // it is accepting
		ended := make(chan error, 1)
		go func() { ended <- r.srv.Shutdown(context.Background()) }()
		<-time.After(500 * time.Millisecond)
		e := r.open("echo")
		if got := e.roundTrip("hello"); got != "hello" {
			t.Errorf("got %q", got)
		}
		<-time.After(time.Second)
		select {
		case err := <-ended:
			t.Fatalf("Shutdown returned %v before the tunnel ended", err)
		default:
		}
		e.closeWrite()
		e.untilEOF()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		r.stop()
	})
}
