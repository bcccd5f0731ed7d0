package hbone

import (
	"bytes"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
)

// A burst is tunnels that open, echo one message each, and close, driven on the
// pool's loop.
type burst struct {
	pool *Pool
	key  Key
	left int
	done chan struct{}
	errs []error
}

// A bouncer is one of a burst's tunnels.
type bouncer struct {
	b   *burst
	t   *Tunnel
	got int
}

const ping = "one message there, and back again"

func (b *burst) start(n int) {
	b.left = n
	for range n {
		x := &bouncer{b: b}
		b.pool.Open(b.key, connectTo("echo"), x, x.ready)
	}
}

func (x *bouncer) ready(t *Tunnel, err error) {
	if err != nil {
		x.b.finish(err)
		return
	}
	x.t = t
	t.Write([]byte(ping))
}

func (x *bouncer) Data(p []byte) {
	x.t.Credit(len(p))
	if x.got += len(p); x.got == len(ping) {
		x.t.CloseWrite()
	}
}
func (x *bouncer) Sent(int)        {}
func (x *bouncer) EOF()            { x.b.finish(nil) }
func (x *bouncer) Reset(err error) { x.b.finish(err) }

func (b *burst) finish(err error) {
	if err != nil {
		b.errs = append(b.errs, err)
	}
	if b.left--; b.left == 0 {
		close(b.done)
	}
}

// ours counts the goroutines that run this module's code: the runtime has some
// of its own now and then.
func ours() (n int) {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for g := range bytes.SplitSeq(buf, []byte("\n\n")) {
		if bytes.Contains(g, []byte("waystone-mesh/waystone/")) {
			n++
		}
	}
	return n
}

// TestTenThousandTunnels opens, uses and closes 10,000 tunnels at once, and
// finds goroutines, buffers, streams and connections back where they were.
func TestTenThousandTunnels(t *testing.T) {
	const n = 10_000
	inMemory(t, rigOptions{}, func(r *rig) {
		r.open("echo").reset(nil)
		synctest.Wait()
		goroutines, buffers := ours(), bufs.InUse()
		b := &burst{pool: r.pool, key: r.key(), done: make(chan struct{})}
		on(r.pool.o.Loop, func() { b.start(n) })
		<-b.done
		if len(b.errs) > 0 {
			t.Fatalf("%d failed, first: %v", len(b.errs), b.errs[0])
		}
		if s := r.stats(); s.Conns > n/100 || s.Tunnels != 0 {
			t.Errorf("got %+v", s)
		}
		r.wantIdle(goroutines, buffers)
	})
}

// TestIdleTunnelMemory weighs tunnels that have carried a message each way and lie
// idle, both ends: a waypoint has one of each for every client that has asked.
func TestIdleTunnelMemory(t *testing.T) {
	const (
		n, conns = 10_000, 10
		most     = 800 // bytes
	)
	o := rigOptions{pool: PoolOptions{MaxStreams: n / conns}}
	o.server.H2.MaxStreams = n / conns
	overTCP(t, o, func(r *rig) {
		r.open("echo").reset(nil)
		idlers := make([]idler, n)
		left := make(chan struct{}, n)
		con := connectTo("echo")
		before := live()
		on(r.pool.o.Loop, func() {
			for i := range idlers {
				x := &idlers[i]
				r.pool.Open(r.key(), con, x, func(u *Tunnel, err error) {
					if err != nil {
						t.Error(err)
						return
					}
					x.t, x.left = u, left
					u.Write([]byte(ping))
				})
			}
		})
		for range n {
			<-left
		}
		got := (live() - before) / n
		t.Logf("%d bytes", got)
		if got > most && !raceOn {
			t.Errorf("an idle tunnel takes %d bytes at both ends together, want at most %d", got, most)
		}
		runtime.KeepAlive(idlers)
	})
}

// An idler takes an echo and lies idle.
type idler struct {
	t    *Tunnel
	left chan<- struct{}
}

func (x *idler) Data(p []byte) { x.t.Credit(len(p)); x.left <- struct{}{} }
func (x *idler) Sent(int)      {}
func (x *idler) EOF()          {}
func (x *idler) Reset(error)   {}

// live returns how many bytes of heap are in use, by others than pools.
func live() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// wantIdle waits until idle connections are released, and checks that nothing is
// left but what there was before.
func (r *rig) wantIdle(goroutines int, buffers int64) {
	r.t.Helper()
	time.Sleep(6 * time.Minute) // until idle connections are released
	synctest.Wait()
	if s := r.stats(); s != (Stats{}) || r.srv.Open() != 0 {
		r.t.Errorf("left: %+v, server %d", s, r.srv.Open())
	}
	if got := ours(); got > goroutines {
		r.t.Errorf("%d goroutines, want %d", got, goroutines)
	}
	if got := bufs.InUse(); got > buffers {
		r.t.Errorf("%d bytes of buffers in use, want %d", got, buffers)
	}
}

// TestAbandonedTunnels has clients give up at every stage.
func TestAbandonedTunnels(t *testing.T) {
	const n = 400
	inMemory(t, rigOptions{}, func(r *rig) {
		synctest.Wait()
		goroutines, buffers := ours(), bufs.InUse()
		for i := range n {
			on(r.pool.o.Loop, func() {
				x := &abandoner{stage: i % 4}
				cancel := r.pool.Open(r.key(), connectTo("echo"), x, x.ready)
				switch x.stage {
				case 0:
					cancel()
				case 1:
					r.pool.o.Loop.Do(cancel)
				}
			})
		}
		r.wantIdle(goroutines, buffers)
	})
}

type abandoner struct {
	stage int
	t     *Tunnel
}

func (x *abandoner) ready(t *Tunnel, err error) {
	if err != nil {
		return
	}
	x.t = t
	t.Write(make([]byte, 600<<10)) // more than the windows take
	if x.stage == 2 {
		t.Reset(nil)
	}
}
func (x *abandoner) Data([]byte) { x.t.Reset(nil) }
func (x *abandoner) Sent(int)    {}
func (x *abandoner) EOF()        {}
func (x *abandoner) Reset(error) {}

// BenchmarkTunnel measures a tunnel through two loops and the loopback
// interface, mTLS included, with an echo at its end. It excludes any copy to a
// socket behind it.
func BenchmarkTunnel(b *testing.B) {
	b.Run("open", func(b *testing.B) { // open, a message there and back, close
		overTCP(b, rigOptions{}, func(r *rig) {
			b.ReportAllocs()
			for b.Loop() {
				x := &burst{pool: r.pool, key: r.key(), done: make(chan struct{})}
				on(r.pool.o.Loop, func() { x.start(50) })
				<-x.done
				if len(x.errs) > 0 {
					b.Fatal(x.errs[0])
				}
			}
			b.ReportMetric(float64(b.N)*50/b.Elapsed().Seconds(), "tunnels/s")
		})
	})
	for _, bm := range []struct {
		name          string
		streams, size int
	}{{"1stream/1KiB", 1, 1 << 10}, {"100streams/1KiB", 100, 1 << 10}, {"1stream/64KiB", 1, 64 << 10}} {
		b.Run(bm.name, func(b *testing.B) {
			overTCP(b, rigOptions{}, func(r *rig) { benchEcho(b, r, bm.streams, bm.size) })
		})
	}
}

func benchEcho(b *testing.B, r *rig, streams, size int) {
	b.SetBytes(int64(streams * size))
	b.ReportAllocs()
	round := &echoRound{done: make(chan struct{}, 1), message: make([]byte, size)}
	for range streams {
		x := &echoer{round: round}
		on(r.pool.o.Loop, func() {
			r.pool.Open(r.key(), connectTo("echo"), x, func(t *Tunnel, err error) {
				if err != nil {
					b.Error(err)
				}
				x.t = t
				round.done <- struct{}{}
			})
		})
		<-round.done
		round.all = append(round.all, x)
	}
	start := func() { round.start() }
	for b.Loop() {
		r.pool.o.Loop.Do(start)
		<-round.done
	}
}

// An echoRound sends a message on every tunnel and waits for all of them.
type echoRound struct {
	all     []*echoer
	message []byte
	left    int
	done    chan struct{}
}

func (e *echoRound) start() {
	e.left = len(e.all)
	for _, x := range e.all {
		x.t.Write(e.message)
	}
}

type echoer struct {
	round *echoRound
	t     *Tunnel
	got   int
}

func (x *echoer) Data(p []byte) {
	x.t.Credit(len(p))
	if x.got += len(p); x.got == len(x.round.message) {
		x.got = 0
		if x.round.left--; x.round.left == 0 {
			x.round.done <- struct{}{}
		}
	}
}
func (x *echoer) Sent(int)    {}
func (x *echoer) EOF()        {}
func (x *echoer) Reset(error) {}
