package hbone

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// bothWays runs f in memory and over TCP.
func bothWays(t *testing.T, o rigOptions, f func(*testing.T, *rig)) {
	t.Run("memory", func(t *testing.T) { inMemory(t, o, func(r *rig) { f(t, r) }) })
	t.Run("tcp", func(t *testing.T) { overTCP(t, o, func(r *rig) { f(t, r) }) })
}

func TestTunnelCarriesBytesAndHalfCloses(t *testing.T) {
	bothWays(t, rigOptions{}, func(t *testing.T, r *rig) {
		e := r.open("echo")
		if e.tun.Peer() != items || ParseBaggage(e.tun.Baggage).Service != "items" {
			t.Errorf("peer %v, baggage %q", e.tun.Peer(), e.tun.Baggage)
		}
		want := make([]byte, 3<<20) // many windows
		for i := range want {
			want[i] = byte(rand.Uint32())
		}
		e.write(want)
		e.closeWrite()
		e.untilEOF()
		if !e.eof || e.err != nil || !bytes.Equal(e.got.Bytes(), want) {
			t.Errorf("got %d bytes, eof %v, err %v, want %d bytes", e.got.Len(), e.eof, e.err, len(want))
		}
		e.until(func() bool { return e.sent > 0 })
		r.settle("the stream stays", func(s Stats) bool { return s.Tunnels == 0 })
		if s := r.stats(); s.Conns != 1 || s.Dials != 0 {
			t.Errorf("got %+v", s)
		}
	})
}

// TestTunnelInSmallPieces has the network deliver a few bytes at a time.
func TestTunnelInSmallPieces(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		for _, size := range []int{1, 2, 7, 23} {
			r.net.Segment(size)
			e := r.open("echo")
			want := strings.Repeat("abcdefghij", 50)
			if got := e.roundTrip(want); got != want {
				t.Errorf("%d at a time: got %q", size, got)
			}
			e.closeWrite()
			e.untilEOF()
		}
	})
}

// TestServerEndsFirst has the destination end its direction before the client
// does: what the client still sends arrives.
func TestServerEndsFirst(t *testing.T) {
	bothWays(t, rigOptions{}, func(t *testing.T, r *rig) {
		e := r.open("open")
		there := r.end(1)
		there.write([]byte("bye"))
		there.closeWrite()
		e.untilEOF()
		e.write([]byte("still here"))
		e.closeWrite()
		there.untilEOF()
		if e.got.String() != "bye" || there.got.String() != "still here" {
			t.Errorf("got %q and %q", e.got.String(), there.got.String())
		}
	})
}

func TestResetsReachTheOtherSide(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want h2.ErrCode
	}{
		{"no longer interested", nil, h2.CodeCancel},
		{"connection reset behind us", errors.New("read: connection reset by peer"), h2.CodeConnect},
		{"in order", &h2.StreamError{Code: h2.CodeNoError}, h2.CodeNoError},
		{"refused elsewhere", &h2.StreamError{Code: h2.CodeRefusedStream, Remote: true}, h2.CodeConnect},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bothWays(t, rigOptions{}, func(t *testing.T, r *rig) {
				for i, clientResets := range []bool{true, false} {
					a, b := r.open("open"), r.end(i+1)
					if !clientResets {
						a, b = b, a
					}
					a.reset(tt.err)
					err := b.untilReset()
					var s *h2.StreamError
					if !errors.As(err, &s) || s.Code != tt.want || !s.Remote {
						t.Errorf("client resets %v: got %v, want %v", clientResets, err, tt.want)
					}
					if got, want := Canceled(err), tt.want == h2.CodeCancel || tt.want == h2.CodeNoError; got != want {
						t.Errorf("Canceled(%v) = %v", err, got)
					}
					if b.eof {
						t.Error("a reset was announced as an end")
					}
					if a.err != nil {
						t.Errorf("who reset was told %v", a.err)
					}
				}
				r.settle("streams stay", func(s Stats) bool { return s.Tunnels == 0 })
			})
		})
	}
}

// TestResetIsEOF is the rule of Istio's node tunnels: a cancellation is the end
// of the peer's direction, and only who goes on writing hears of it.
func TestResetIsEOF(t *testing.T) {
	o := rigOptions{server: ServerOptions{ResetIsEOF: true}}
	inMemory(t, o, func(r *rig) {
		e, there := r.open("open"), r.end(1)
		e.write([]byte("last words"))
		synctest.Wait()
		e.reset(nil)
		there.untilEOF()
		synctest.Wait()
		if !there.eof || there.err != nil || there.got.String() != "last words" {
			t.Fatalf("got %q, eof %v, err %v", there.got.String(), there.eof, there.err)
		}
		there.write([]byte("anyone?"))
		if err := there.untilReset(); !Canceled(err) {
			t.Errorf("after writing: %v", err)
		}

		// Who does not write again is not bothered.
		e, there = r.open("open"), r.end(2)
		e.reset(nil)
		there.untilEOF()
		there.closeWrite()
		synctest.Wait()
		if there.err != nil {
			t.Errorf("after closing: %v", there.err)
		}

		// What was queued is lost, which is a reset.
		e, there = r.open("open"), r.end(3)
		on(e.tun.Loop(), func() { e.tun.SetReceiver(nil) })
		there.write(make([]byte, 1<<20))
		synctest.Wait()
		e.reset(nil)
		if err := there.untilReset(); !there.eof || !Canceled(err) {
			t.Errorf("with bytes queued: eof %v, %v", there.eof, err)
		}

		// A reset for a reason is always one.
		e, there = r.open("open"), r.end(4)
		e.reset(errors.New("boom"))
		if err := there.untilReset(); there.eof || Canceled(err) {
			t.Errorf("with a reason: eof %v, %v", there.eof, err)
		}
	})
}

// TestBytesWaitForTheirReceiver has the client send before the server has
// answered, and the server take its time to say who reads.
func TestBytesWaitForTheirReceiver(t *testing.T) {
	bothWays(t, rigOptions{}, func(t *testing.T, r *rig) {
		o := r.begin(r.key(), connectTo("hold"))
		in := r.held(1)
		there := newEnd()
		var tun *Tunnel
		on(in.Loop, func() { tun = in.Accept(nil, nil); there.adopt(tun) })
		if err := <-o.err; err != nil {
			t.Fatal(err)
		}
		o.e.write([]byte("hello"))
		o.e.closeWrite()
		for waiting := 0; waiting == 0; {
			on(in.Loop, func() { waiting = tun.held.Len() })
		}
		if there.got.Len() != 0 {
			t.Error("bytes arrived at nobody")
		}
		on(in.Loop, func() {
			tun.SetReceiver(there)
			if there.got.Len() != 0 {
				t.Error("the receiver was called from within SetReceiver")
			}
		})
		there.untilEOF()
		if there.got.String() != "hello" || !there.eof {
			t.Errorf("got %q, eof %v", there.got.String(), there.eof)
		}
		on(in.Loop, func() { tun.Reset(nil) })
	})
}

func TestHalfClosedFromTheStart(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		o := r.begin(r.key(), connectTo("hold"))
		in := r.held(1)
		there := newEnd()
		on(in.Loop, func() {
			there.adopt(in.Accept(there, nil))
			there.tun.CloseWrite()
		})
		if err := <-o.err; err != nil {
			t.Fatal(err)
		}
		o.e.untilEOF()
		o.e.closeWrite()
		there.untilEOF()
		r.settle("the stream stays", func(s Stats) bool { return s.Tunnels == 0 })
	})
}

func TestIncomingCanceled(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		for i, answer := range []func(*Incoming, *end){
			func(in *Incoming, e *end) { e.adopt(in.Accept(e, nil)) },
			func(in *Incoming, _ *end) { in.Refuse(503) },
		} {
			o := r.begin(r.key(), connectTo("hold"))
			in := r.held(i + 1)
			canceled := make(chan struct{})
			on(in.Loop, func() { in.OnCancel(func() { close(canceled) }) })
			on(r.pool.o.Loop, func() { o.cancel(); o.cancel() })
			<-canceled
			e := newEnd()
			on(in.Loop, func() {
				if !in.Canceled() {
					t.Error("not canceled")
				}
				answer(in, e)
			})
			if e.tun != nil {
				if err := e.untilReset(); !Canceled(err) {
					t.Errorf("accepted all the same: %v", err)
				}
			}
			synctest.Wait()
			select {
			case err := <-o.err:
				t.Errorf("ready was called: %v", err)
			default:
			}
		}
	})
}

func TestIncomingKnowsWhoAsks(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		c := &Connect{
			Authority: mesh.Authority{Host: "hold", Port: 8080}, Baggage: "service.name=web",
			Forwarded:   Forwarded{For: r.addr, Host: "items.default.svc"}.String(),
			Traceparent: NewTraceparent(), Network: "net2", Sender: "waypoint",
		}
		k := r.key()
		k.SourceIP = r.addr.Addr().Next()
		o := r.begin(k, c)
		in := r.held(1)
		if in.Connect != *c {
			t.Errorf("got %+v, want %+v", in.Connect, *c)
		}
		if in.Peer != web || in.Source.Addr() != k.SourceIP || in.Local != r.addr {
			t.Errorf("peer %v, source %v, local %v", in.Peer, in.Source, in.Local)
		}
		on(in.Loop, func() { in.Refuse(401) })
		var s *StatusError
		if err := <-o.err; !errors.As(err, &s) || s.Status != 401 {
			t.Errorf("got %v", err)
		}
	})
}

func TestRefusedStatuses(t *testing.T) {
	bothWays(t, rigOptions{}, func(t *testing.T, r *rig) {
		for host, want := range map[string]int{"status-400": 400, "status-401": 401, "status-503": 503, "nobody": 404} {
			var s *StatusError
			if err := r.openErr(r.key(), host); !errors.As(err, &s) || s.Status != want || NothingSent(err) {
				t.Errorf("%s: %v, want %d", host, err, want)
			}
		}
		if got := r.open("echo").roundTrip("still of use"); got != "still of use" {
			t.Errorf("got %q", got)
		}
		if s := r.stats(); s.Conns != 1 {
			t.Errorf("refusals cost connections: %+v", s)
		}
	})
}

// TestManySlowReaders has tunnels whose receivers take nothing: what they hold
// is bounded by their windows, and others go on.
func TestManySlowReaders(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		const slow = 20
		for i := range slow {
			e := r.open("open")
			on(e.tun.Loop(), func() { e.tun.SetReceiver(nil) })
			r.end(i + 1).write(make([]byte, 1<<20))
		}
		synctest.Wait()
		if got := r.open("echo").roundTrip("past them all"); got != "past them all" {
			t.Errorf("got %q", got)
		}
		time.Sleep(10 * time.Minute) // nobody loses patience with a tunnel
		if s := r.stats(); s.Tunnels != slow+1 {
			t.Errorf("got %+v", s)
		}
	})
}
