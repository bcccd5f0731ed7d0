package hbone

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// move sends n bytes there and back.
func (e *end) move(n int) {
	e.mu.Lock()
	e.got.Reset()
	e.mu.Unlock()
	e.write(make([]byte, n))
	e.untilBytes(n)
}

// TestPoolSpreadsFromBusyConnections: who comes while a connection is busy gets
// another, up to as many as there may be, and the first again once it is not.
func TestPoolSpreadsFromBusyConnections(t *testing.T) {
	inMemory(t, rigOptions{pool: PoolOptions{Spread: 3}}, func(r *rig) {
		first := r.open("echo")
		first.move(bulkBytes / 4)
		r.open("echo") // 1 MiB each way is not much yet
		if s := r.stats(); s.Conns != 1 {
			t.Fatalf("not busy: got %+v", s)
		}
		first.move(bulkBytes / 2)
		second := r.open("echo")
		if s := r.stats(); s.Conns != 2 || second.tun.Local() == first.tun.Local() {
			t.Fatalf("one is busy: got %+v", s)
		}
		if third := r.open("echo"); third.tun.Local() != second.tun.Local() {
			t.Errorf("one that is not busy was passed over: %+v", r.stats())
		}
		second.move(bulkBytes)
		third := r.open("echo")
		third.move(bulkBytes)
		if s := r.stats(); s.Conns != 3 {
			t.Fatalf("two are busy: got %+v", s)
		}
		fourth := r.open("echo") // all are: on the one that moved least
		if s := r.stats(); s.Conns != 3 || fourth.tun.Local() != first.tun.Local() {
			t.Fatalf("all are busy: got %+v", s)
		}
		time.Sleep(3 * time.Second)
		if e := r.open("echo"); e.tun.Local() != first.tun.Local() {
			t.Error("the first connection, busy no more, was passed over")
		}
		for _, e := range []*end{second, third} {
			e.reset(nil)
		}
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if s := r.stats(); s.Conns != 2 { // on the second there still is a tunnel
			t.Errorf("an idle connection stays: %+v", s)
		}
	})
}

// TestPoolDoesNotSpreadUnasked: one connection, however busy.
func TestPoolDoesNotSpreadUnasked(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		e := r.open("echo")
		e.move(2 * bulkBytes)
		r.open("echo")
		if s := r.stats(); s.Conns != 1 {
			t.Errorf("got %+v", s)
		}
	})
}

// TestPoolSharesBusyConnectionWhenNoOtherCanBeMade: that another cannot be made
// costs a second, once, and fails nobody.
func TestPoolSharesBusyConnectionWhenNoOtherCanBeMade(t *testing.T) {
	for name, dial := range map[string]func(context.Context) (net.Conn, error){
		"refused":     func(context.Context) (net.Conn, error) { return nil, errors.New("no more of you") },
		"unreachable": func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, rigOptions{pool: PoolOptions{Spread: 4}}, func(r *rig) {
				first := r.open("echo")
				first.move(bulkBytes)
				dials, real := 0, r.pool.o.Dial
				r.pool.o.Dial = func(ctx context.Context, _ netip.Addr, _ netip.AddrPort) (net.Conn, error) {
					dials++
					return dial(ctx)
				}
				began := time.Now()
				a, b := r.begin(r.key(), connectTo("echo")), r.begin(r.key(), connectTo("echo"))
				if err := errors.Join(<-a.err, <-b.err); err != nil || a.e.tun.Local() != first.tun.Local() {
					t.Fatalf("got %v", err)
				}
				if took := time.Since(began); took > spreadTimeout {
					t.Errorf("took %v", took)
				}
				first.move(bulkBytes)
				began = time.Now()
				if r.open("echo"); time.Since(began) > 0 || dials != 1 {
					t.Errorf("%d dials, waited %v for the second", dials, time.Since(began))
				}
				r.pool.o.Dial = real
				time.Sleep(spreadPause)
				first.move(bulkBytes)
				if r.open("echo"); r.stats().Conns != 2 {
					t.Errorf("it is not tried again: %+v", r.stats())
				}
			})
		})
	}
}

// TestPoolSpreadSurvivesSilentPeer has a peer accept the second connection and say
// nothing on it.
func TestPoolSpreadSurvivesSilentPeer(t *testing.T) {
	inMemory(t, rigOptions{pool: PoolOptions{Spread: 2}}, func(r *rig) {
		first := r.open("echo")
		first.move(bulkBytes)
		r.pool.o.Dial = func(ctx context.Context, src netip.Addr, _ netip.AddrPort) (net.Conn, error) {
			hole := netip.MustParseAddrPort("10.0.0.9:15008")
			ln := r.net.Listen(hole)
			defer ln.Close()
			return r.net.Dial(ctx, src, hole)
		}
		began := time.Now()
		if e := r.open("echo"); e.roundTrip("x") != "x" || time.Since(began) > 2*spreadTimeout {
			t.Errorf("took %v", time.Since(began))
		}
	})
}

// TestPoolBoundsWhoWaits is a destination that never answers, and more tunnels for
// it than may wait.
func TestPoolBoundsWhoWaits(t *testing.T) {
	inMemory(t, rigOptions{pool: PoolOptions{MaxStreams: 10, MaxWaiting: 50}}, func(r *rig) {
		k := r.key()
		k.Addr = netip.MustParseAddrPort("10.0.0.8:15008")
		r.net.Stall(k.Addr.Addr(), true)
		began := time.Now()
		var all []*opening
		for range 60 {
			all = append(all, r.begin(k, connectTo("echo")))
		}
		for i, o := range all[50:] {
			if err := <-o.err; !errors.Is(err, errCrowded) || !NothingSent(err) {
				t.Fatalf("tunnel %d: got %v", 50+i, err)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("who may not wait waited %v", took)
		}
		if s := r.stats(); s.Dials != 5 {
			t.Errorf("got %+v", s)
		}
		for _, o := range all[:50] {
			if err := <-o.err; errors.Is(err, errCrowded) || time.Since(began) != 10*time.Second {
				t.Fatalf("got %v after %v", err, time.Since(began))
			}
		}
	})
}

// A slowLink is the near end of a connection whose kernel sends at a rate and
// buffers before that, as TCP's does.
type slowLink struct {
	net.Conn
	rate, buffer int // bytes a second; bytes

	mu   sync.Mutex
	free time.Time // when all that was written has left
	out  chan packet
	over chan struct{}
	once sync.Once
}

type packet struct {
	due   time.Time
	bytes []byte
}

func newSlowLink(c net.Conn, rate, buffer int) *slowLink {
	l := &slowLink{Conn: c, rate: rate, buffer: buffer, out: make(chan packet, 1024), over: make(chan struct{})}
	go l.deliver()
	return l
}

func (l *slowLink) deliver() {
	for {
		select {
		case p := <-l.out:
			select {
			case <-time.After(time.Until(p.due)):
				_, _ = l.Conn.Write(p.bytes)
			case <-l.over:
				return
			}
		case <-l.over:
			return
		}
	}
}

func (l *slowLink) takes(n int) time.Duration {
	return time.Duration(n) * time.Second / time.Duration(l.rate)
}

func (l *slowLink) Write(p []byte) (int, error) {
	l.mu.Lock()
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(l.takes(len(p)))
	due := l.free
	l.mu.Unlock()
	l.out <- packet{due, append([]byte(nil), p...)}
	time.Sleep(time.Until(due.Add(-l.takes(l.buffer))))
	return len(p), nil
}

func (l *slowLink) Close() error {
	l.once.Do(func() { close(l.over) })
	return l.Conn.Close()
}

// A hose sends for as long as it is let.
type hose struct{ t *Tunnel }

func (h *hose) start(t *Tunnel) { h.t = t; h.Sent(0) }
func (h *hose) Data(p []byte)   { h.t.Credit(len(p)) }
func (h *hose) EOF()            {}
func (h *hose) Reset(error)     {}
func (h *hose) Sent(int) {
	for !h.t.gone && h.t.Queued() < 64<<10 {
		h.t.Write(make([]byte, 16<<10))
	}
}

// TestSmallExchangesBesideBulk measures, in the bubble's time, what a small
// exchange waits for when another tunnel of the same two pods sends all it can:
// connections have 100 Mbit/s each and a send buffer of 1 MiB.
func TestSmallExchangesBesideBulk(t *testing.T) {
	took := map[int]time.Duration{}
	for _, spread := range []int{1, 4} {
		inMemory(t, rigOptions{pool: PoolOptions{Spread: spread}}, func(r *rig) {
			dial := r.pool.o.Dial
			r.pool.o.Dial = func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
				c, err := dial(ctx, src, dst)
				if err != nil {
					return nil, err
				}
				return newSlowLink(c, 100e6/8, 1<<20), nil
			}
			h := &hose{}
			ready := make(chan error, 1)
			on(r.pool.o.Loop, func() {
				r.pool.Open(r.key(), connectTo("sink"), h, func(t *Tunnel, err error) {
					if err == nil {
						h.start(t)
					}
					ready <- err
				})
			})
			if err := <-ready; err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			e := r.open("echo")
			const n = 20
			began := time.Now()
			for range n {
				if e.roundTrip("ping") != "ping" {
					t.Fatal("no answer")
				}
			}
			took[spread] = time.Since(began) / n
			on(r.pool.o.Loop, func() { h.t.Reset(nil) })
		})
	}
	t.Logf("a small exchange takes %v on the bulk's connection, %v on another", took[1], took[4])
	if took[4]*20 > took[1] {
		t.Errorf("a small exchange takes %v beside bulk on another connection, %v on the same", took[4], took[1])
	}
}
