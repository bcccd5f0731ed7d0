package hbone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/identity"
)

func TestPoolSharesConnections(t *testing.T) {
	bothWays(t, rigOptions{}, func(t *testing.T, r *rig) {
		for range 10 {
			e := r.open("echo")
			if got := e.roundTrip("hello"); got != "hello" {
				t.Fatalf("got %q", got)
			}
		}
		if s := r.stats(); s != (Stats{Conns: 1, Tunnels: 10, Keys: 1}) {
			t.Errorf("got %+v", s)
		}
		for _, k := range []Key{
			{Self: identity.ID{TrustDomain: "cluster.local", Namespace: "a", ServiceAccount: "b"}, Wants: items.String(), Addr: r.addr},
			{Self: web, Wants: identity.JoinIDs(web, items), Addr: r.addr},
			{Self: web, Wants: items.String(), Addr: r.addr, SourceIP: r.addr.Addr()},
		} {
			if err := r.openErr(k, "echo"); err != nil {
				t.Fatal(err)
			}
		}
		if s := r.stats(); s != (Stats{Conns: 4, Tunnels: 13, Keys: 4}) {
			t.Errorf("other keys: got %+v", s)
		}
	})
}

// TestPoolWaitersShareOneDial has many tunnels wanted before there is a
// connection, of a server that allows fewer on one than the pool would put
// there.
func TestPoolWaitersShareOneDial(t *testing.T) {
	for _, tt := range []struct{ limit, tunnels, conns int }{
		{100, 90, 1},
		{100, 250, 3},
		{10, 95, 10},
		{1000, 950, 1}, // of which 100 are sent before the server says that it takes more
		{200, 950, 5},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			o := rigOptions{server: ServerOptions{H2: h2.Options{MaxStreams: uint32(tt.limit)}}}
			o.pool.MaxStreams = max(100, tt.limit)
			bothWays(t, o, func(t *testing.T, r *rig) {
				var all []*opening
				for range tt.tunnels {
					all = append(all, r.begin(r.key(), connectTo("echo")))
				}
				for _, o := range all {
					if err := <-o.err; err != nil {
						t.Fatal(err)
					}
				}
				s := r.stats()
				if s.Tunnels != tt.tunnels || s.Dials != 0 {
					t.Errorf("got %+v", s)
				}
				// A dial too many is one that streams which ended made superfluous.
				if s.Conns < tt.conns || s.Conns > tt.conns+2 {
					t.Errorf("got %d connections, want %d", s.Conns, tt.conns)
				}
				if all[0].e.roundTrip("x") != "x" || all[tt.tunnels-1].e.roundTrip("y") != "y" {
					t.Error("tunnels do not work")
				}
			})
		})
	}
}

// TestBlackHoleFailsEveryoneAtOnce is a destination that never answers: however
// many wait, each waits for one timeout, and nobody else notices.
func TestBlackHoleFailsEveryoneAtOnce(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		hole := netip.MustParseAddrPort("10.0.0.8:15008")
		r.net.Stall(hole.Addr(), true)
		k := r.key()
		k.Addr = hole
		began := time.Now()
		var all []*opening
		for range 250 {
			all = append(all, r.begin(k, connectTo("echo")))
		}
		synctest.Wait()
		if s := r.stats(); s.Dials != 3 {
			t.Errorf("%d dials for 250 tunnels of 100 a connection", s.Dials)
		}
		time.Sleep(4 * time.Second)
		late := r.begin(k, connectTo("echo")) // shares what is left of the timeout
		if got := r.open("echo").roundTrip("x"); got != "x" || time.Since(began) > 5*time.Second {
			t.Errorf("another destination: %q after %v", got, time.Since(began))
		}
		for _, o := range append(all, late) {
			err := <-o.err
			if d, ok := errors.AsType[*DialError](err); !ok || d.Addr != hole || !NothingSent(err) || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(err.Error(), "no connection within 10s: is a NetworkPolicy blocking the port?") {
				t.Fatalf("got %v", err)
			}
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("took %v", took)
		}
		r.net.Stall(hole.Addr(), false)
		if err := r.openErr(k, "echo"); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("afterwards, where nobody listens: %v", err)
		}
		if s := r.stats(); s.Keys != 1 {
			t.Errorf("the destination is remembered: %+v", s)
		}
	})
}

// TestBlackHoleInTheHandshake is one that accepts and then says nothing.
func TestBlackHoleInTheHandshake(t *testing.T) {
	inMemory(t, rigOptions{pool: PoolOptions{ConnectTimeout: 3 * time.Second}}, func(r *rig) {
		k := r.key()
		k.Addr = netip.MustParseAddrPort("10.0.0.8:15008")
		ln := r.net.Listen(k.Addr)
		defer ln.Close()
		began := time.Now()
		if err := r.openErr(k, "echo"); !NothingSent(err) || time.Since(began) != 3*time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
	})
}

func TestPoolCancelWhileDialling(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		r.net.Stall(itemIP, true)
		a, b := r.begin(r.key(), connectTo("echo")), r.begin(r.key(), connectTo("echo"))
		synctest.Wait()
		on(r.pool.o.Loop, a.cancel)
		if s := r.stats(); s.Dials != 1 || s.Keys != 1 {
			t.Errorf("one still waits: %+v", s)
		}
		on(r.pool.o.Loop, b.cancel)
		synctest.Wait()
		if s := r.stats(); s != (Stats{}) {
			t.Errorf("nobody waits: %+v", s)
		}
		c := r.begin(r.key(), connectTo("echo"))
		r.net.Stall(itemIP, false)
		if err := <-c.err; err != nil {
			t.Error(err)
		}
	})
}

func TestPoolReleasesIdleConnections(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		e := r.open("echo")
		time.Sleep(time.Hour)
		if got := e.roundTrip("an hour later"); got != "an hour later" {
			t.Errorf("got %q", got)
		}
		e.closeWrite()
		e.untilEOF()
		time.Sleep(4*time.Minute + 55*time.Second)
		if s := r.stats(); s.Conns != 1 {
			t.Fatalf("released too soon: %+v", s)
		}
		e = r.open("echo") // asked for again
		e.reset(nil)
		time.Sleep(4*time.Minute + 55*time.Second)
		if s := r.stats(); s.Conns != 1 {
			t.Fatalf("released too soon: %+v", s)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := r.stats(); s != (Stats{}) || r.srv.Open() != 0 {
			t.Errorf("not released: %+v, the server has %d", s, r.srv.Open())
		}
	})
}

func TestPoolPinsTheDestination(t *testing.T) {
	bothWays(t, rigOptions{}, func(t *testing.T, r *rig) {
		k := r.key()
		k.Wants = identity.JoinIDs(web)
		err := r.openErr(k, "echo")
		m, ok := errors.AsType[*identity.MismatchError](err)
		if !ok || m.Got != items || !NothingSent(err) {
			t.Fatalf("got %v", err)
		}
		if want := "certificate is for " + items.String() + ", want " + web.String(); !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
		for _, wants := range []string{"", "nonsense"} {
			k.Wants = wants
			if err := r.openErr(k, "echo"); !NothingSent(err) {
				t.Errorf("with Wants %q: %v", wants, err)
			}
		}
	})
}

// TestPoolHearsThatItsCertificateIsRefused: with TLS 1.3 the client's handshake
// is over before the server has looked at its certificate. Of those who wait then,
// some have been sent and some are yet to be.
func TestPoolHearsThatItsCertificateIsRefused(t *testing.T) {
	bothWays(t, rigOptions{pool: PoolOptions{MaxStreams: 1000}}, func(t *testing.T, r *rig) {
		k := r.key()
		k.Self.TrustDomain = "foreign.local"
		var dials atomic.Int32
		dial := r.pool.o.Dial
		r.pool.o.Dial = func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
			dials.Add(1)
			return dial(ctx, src, dst)
		}
		var all []*opening
		on(r.pool.o.Loop, func() {
			for range 150 {
				o := &opening{err: make(chan error, 1)}
				all = append(all, o)
				r.pool.Open(k, connectTo("echo"), nil, func(_ *Tunnel, err error) { o.err <- err })
			}
		})
		for i, o := range all {
			if err := <-o.err; !NothingSent(err) || !errors.Is(err, ErrEnded) {
				t.Fatalf("tunnel %d: got %v", i, err)
			}
		}
		if n := dials.Load(); n != 1 {
			t.Errorf("dialled %d times", n)
		}
		r.settle("connections stay", func(s Stats) bool { return s == Stats{} })
	})
}

func TestPoolRetiresBrokenConnections(t *testing.T) {
	bothWays(t, rigOptions{}, func(t *testing.T, r *rig) {
		e := r.open("open")
		r.cutAll()
		if err := e.untilReset(); Canceled(err) {
			t.Errorf("got %v", err)
		}
		r.settle("the connection stays", func(s Stats) bool { return s == Stats{} })
		if got := r.open("echo").roundTrip("anew"); got != "anew" {
			t.Errorf("got %q", got)
		}
	})
}

// cutAll aborts the server's connections.
func (r *rig) cutAll() {
	r.srv.each(func(on *serverLoop) {
		for c := range on.conns {
			c.sock.Abort(nil)
		}
	})
}

// TestPoolRetriesOnAnotherConnection has connections go away under a CONNECT
// that has not been answered.
func TestPoolRetriesOnAnotherConnection(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		r.open("echo")
		o := r.begin(r.key(), connectTo("hold"))
		r.held(1)
		r.cutAll()
		in := r.held(2) // again, without anybody having asked
		on(in.Loop, func() { in.Refuse(503) })
		if _, ok := errors.AsType[*StatusError](<-o.err); !ok {
			t.Error("no answer")
		}
		o = r.begin(r.key(), connectTo("hold"))
		for i := range maxTries {
			r.held(3 + i)
			synctest.Wait() // for the client to have heard of the connection
			r.cutAll()
		}
		if err := <-o.err; !NothingSent(err) {
			t.Errorf("after %d tries: %v", maxTries, err)
		}
	})
}

// TestGoAwayMidUse has a server reach its connections' maximum age: tunnels go
// on, new ones go elsewhere.
func TestGoAwayMidUse(t *testing.T) {
	inMemory(t, rigOptions{server: ServerOptions{MaxAge: time.Minute}}, func(r *rig) {
		old := r.open("echo")
		time.Sleep(2 * time.Minute)
		if s := r.stats(); s.Conns != 1 || s.Tunnels != 1 {
			t.Errorf("got %+v", s)
		}
		young := r.open("echo")
		if s := r.stats(); s.Conns != 2 {
			t.Errorf("a draining connection was handed out: %+v", s)
		}
		if old.roundTrip("old") != "old" || young.roundTrip("young") != "young" {
			t.Error("a tunnel does not work")
		}
		old.closeWrite()
		old.untilEOF()
		synctest.Wait()
		if s := r.stats(); s.Conns != 1 || r.srv.Open() != 1 {
			t.Errorf("the drained connection stays: %+v, server %d", s, r.srv.Open())
		}
	})
}

func TestPoolRetire(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		old := r.open("echo")
		on(r.pool.o.Loop, func() { r.pool.Retire(func(k Key) bool { return k.Self == web }) })
		if got := r.open("echo").roundTrip("new"); got != "new" {
			t.Errorf("got %q", got)
		}
		if s := r.stats(); s.Conns != 2 || old.roundTrip("old") != "old" {
			t.Errorf("got %+v", s)
		}
	})
}

func TestPoolShutdown(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		e := r.open("echo")
		waiting := r.begin(r.key(), connectTo("hold"))
		r.held(1)
		r.net.Stall(netip.MustParseAddr("10.0.0.8"), true)
		k := r.key()
		k.Addr = netip.MustParseAddrPort("10.0.0.8:15008")
		dialling := r.begin(k, connectTo("echo"))
		synctest.Wait()

		ended := make(chan error, 1)
		go func() { ended <- r.pool.Shutdown(context.Background()) }()
		synctest.Wait()
		if err := <-dialling.err; !NothingSent(err) {
			t.Errorf("who waits for a dial: %v", err)
		}
		if err := r.openErr(r.key(), "echo"); !errors.Is(err, ErrClosed) {
			t.Errorf("who comes late: %v", err)
		}
		if got := e.roundTrip("still"); got != "still" {
			t.Errorf("a tunnel: %q", got)
		}
		in := r.held(1)
		on(in.Loop, func() { in.Refuse(503) })
		<-waiting.err
		e.closeWrite()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestRotationIsHot(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		first := r.open("echo")
		for h := range 4 {
			time.Sleep(7 * time.Hour)
			if s := r.stats(); s.Conns != 1 {
				t.Fatalf("%+v", s)
			}
			e := r.open("echo") // the connection outlives its certificates
			k := r.key()
			k.SourceIP = netip.AddrFrom4([4]byte{10, 1, 0, byte(h)}) // a new one
			o := r.begin(k, connectTo("echo"))
			if err := <-o.err; err != nil {
				t.Fatalf("after %d hours: %v", 7*(h+1), err)
			}
			for _, e := range []*end{e, o.e, first} {
				if got := e.roundTrip("x"); got != "x" {
					t.Errorf("got %q", got)
				}
			}
			o.e.closeWrite()
			e.closeWrite()
		}
	})
}

// noCertificate is a source that has nothing.
type noCertificate struct{ identity.Source }

func (noCertificate) Roots() *x509bundle.Set { return x509bundle.NewSet() }
func (noCertificate) Terms() *identity.Terms { return new(identity.Terms) }

func TestPoolWithoutRoots(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		r.pool.o.Identity = noCertificate{r.ids}
		if err := r.openErr(r.key(), "echo"); !NothingSent(err) || !strings.Contains(err.Error(), "no X.509 bundle") {
			t.Errorf("got %v", err)
		}
	})
}
