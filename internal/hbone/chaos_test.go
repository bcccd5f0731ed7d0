package hbone

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/h2"
)

// TestChaos opens, uses, cancels and resets tunnels at random while connections
// are cut, the network stalls and connections grow old, and then finds that
// everyone was told exactly once and that nothing is left.
func TestChaos(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			o := rigOptions{
				server: ServerOptions{
					MaxAge: 20 * time.Second, H2: h2.Options{MaxStreams: 7}, ResetIsEOF: seed%2 == 0, HandshakeTimeout: 3 * time.Second,
				},
				pool: PoolOptions{ConnectTimeout: 2 * time.Second, IdleRelease: 5 * time.Second, ResetIsEOF: seed%2 == 0},
			}
			inMemory(t, o, func(r *rig) {
				if seed%3 == 0 {
					r.net.Segment(1500)
				}
				buffers := bufs.InUse()
				all := r.chaos(rand.New(rand.NewPCG(seed, 1)))
				r.net.Stall(itemIP, false)
				for range 5 { // one that is refused may have made room for another
					time.Sleep(time.Minute)
					synctest.Wait()
					r.refuseHeld()
				}
				synctest.Wait()
				for i, x := range all {
					if x.told != 1 && !(x.canceled && x.told == 0) {
						t.Errorf("tunnel %d was told %d times", i, x.told)
					}
					if x.t != nil && !x.over() {
						on(r.pool.o.Loop, func() { x.t.Reset(nil) })
					}
				}
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				if s := r.stats(); s != (Stats{}) || r.srv.Open() != 0 || ours() > 6 {
					t.Errorf("left: %+v, server %d, %d goroutines", s, r.srv.Open(), ours())
				}
				if got := bufs.InUse(); got > buffers {
					t.Errorf("%d bytes of buffers in use, want %d", got, buffers)
				}
			})
		})
	}
}

// chaos does a thousand random things.
func (r *rig) chaos(rnd *rand.Rand) (all []*wild) {
	stalled := false
	for range 1000 {
		switch n := rnd.IntN(100); {
		case n < 50:
			x := &wild{}
			all = append(all, x)
			k := r.key()
			k.SourceIP = netip.AddrFrom4([4]byte{10, 1, 1, byte(rnd.IntN(2))})
			host := []string{"echo", "echo", "echo", "status-503", "hold"}[rnd.IntN(5)]
			on(r.pool.o.Loop, func() { x.cancel = r.pool.Open(k, connectTo(host), x, x.ready) })
		case n < 60:
			time.Sleep(time.Duration(rnd.IntN(1000)) * time.Millisecond)
		case n < 62 && r.srv.Open() > 0:
			r.cutAll()
		case n < 64:
			stalled = !stalled
			r.net.Stall(itemIP, stalled)
		case n < 70:
			r.refuseHeld()
		case len(all) > 0:
			x, what, size := all[rnd.IntN(len(all))], rnd.IntN(4), rnd.IntN(300<<10)
			on(r.pool.o.Loop, func() { x.do(what, size) })
		}
	}
	return all
}

// refuseHeld answers every CONNECT that is held.
func (r *rig) refuseHeld() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, in := range r.incoming {
		in.Loop.Do(func() { in.Refuse(503) })
	}
	r.incoming = nil
}

// A wild is a tunnel that anything is done to.
type wild struct {
	t        *Tunnel
	cancel   func()
	told     int
	canceled bool
	eof      bool
	reset    int
	closed   bool
}

func (x *wild) over() bool { return x.reset > 0 || x.eof && x.closed }

func (x *wild) ready(t *Tunnel, err error) {
	x.told++
	if x.canceled {
		panic("told after having canceled")
	}
	if x.t = t; t == nil && err == nil {
		panic("neither a tunnel nor an error")
	}
}

func (x *wild) do(what, size int) {
	switch {
	case x.t == nil:
		if what == 0 && x.told == 0 {
			x.canceled = true
			x.cancel()
		}
	case what == 1:
		x.t.CloseWrite()
		x.closed = true
	case what == 2 && size < 100<<10:
		x.t.Reset(nil)
		x.reset++
	default:
		x.t.Write(make([]byte, size))
	}
}

func (x *wild) Data(p []byte) {
	if x.over() {
		panic("data after the end")
	}
	x.t.Credit(len(p))
}
func (x *wild) Sent(int) {}
func (x *wild) EOF() {
	if x.eof || x.reset > 0 {
		panic("two ends")
	}
	x.eof = true
}
func (x *wild) Reset(error) {
	if x.reset++; x.reset > 1 {
		panic("two resets")
	}
}
