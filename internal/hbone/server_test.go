package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// dial connects to the server without a pool, from 10.0.0.9.
func (r *rig) dial() net.Conn {
	r.t.Helper()
	nc, err := r.net.Dial(context.Background(), netip.MustParseAddr("10.0.0.9"), r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	return nc
}

// failures returns what HandshakeFailed has been told, and forgets it.
func (r *rig) failures() (all []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, r.failed = r.failed, nil
	return all
}

func TestServerCutsWhoDoesNotShakeHands(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		began := time.Now()
		nc := r.dial()
		if _, err := io.Copy(io.Discard, nc); err == nil && time.Since(began) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		nc.Close()
		synctest.Wait()
		if f := r.failures(); len(f) != 1 || !strings.Contains(f[0].Error(), "10.0.0.9") || r.srv.Open() != 0 {
			t.Errorf("%d open, told %v", r.srv.Open(), f)
		}

		// With a handshake, and then nothing; or a preface byte by byte.
		for _, dribble := range []bool{false, true} {
			began = time.Now()
			nc := tls.Client(r.dial(), identity.ClientConfig(r.ids, web, items))
			if err := nc.Handshake(); err != nil {
				t.Fatal(err)
			}
			stop := make(chan struct{})
			if dribble {
				go func() {
					defer close(stop)
					for i := range "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
						if _, err := nc.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[i:][:1])); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				}()
			} else {
				close(stop)
			}
			_, _ = io.Copy(io.Discard, nc)
			if took := time.Since(began); took < 10*time.Second || took > 12*time.Second {
				t.Errorf("cut after %v", took)
			}
			<-stop
			nc.Close()
		}
	})
}

func TestServerLimitsHandshakes(t *testing.T) {
	inMemory(t, rigOptions{server: ServerOptions{MaxHandshakes: 2}}, func(r *rig) {
		began := time.Now()
		var slow []net.Conn
		for range 5 {
			slow = append(slow, r.dial())
		}
		synctest.Wait()
		if n := r.srv.Open(); n != 2 {
			t.Errorf("%d handshakes run", n)
		}
		// Who is honest waits for the slow ones' timeouts: five of them, by twos.
		nc := tls.Client(r.dial(), identity.ClientConfig(r.ids, web, items))
		if err := nc.Handshake(); err != nil || time.Since(began) != 20*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		for _, nc := range append(slow, nc) {
			nc.Close()
		}
	})
}

func TestServerLimitsConnections(t *testing.T) {
	inMemory(t, rigOptions{server: ServerOptions{MaxConns: 2}}, func(r *rig) {
		a, b := r.dial(), r.dial()
		c := r.dial()
		_, _ = io.Copy(io.Discard, c) // until it is closed
		if f := r.failures(); len(f) != 1 || !errors.Is(f[0], errMaxConns) {
			t.Errorf("told %v", f)
		}
		c.Close()
		a.Close()
		synctest.Wait()
		if got := r.open("echo").roundTrip("in its place"); got != "in its place" {
			t.Errorf("got %q", got)
		}
		b.Close()
	})
}

func TestServerClosesIdleConnections(t *testing.T) {
	o := rigOptions{server: ServerOptions{IdleTimeout: time.Minute}, pool: PoolOptions{IdleRelease: -1}}
	inMemory(t, o, func(r *rig) {
		e := r.open("echo")
		time.Sleep(10 * time.Minute)
		e.reset(nil)
		time.Sleep(55 * time.Second)
		if s := r.stats(); s.Conns != 1 {
			t.Errorf("closed too soon: %+v", s)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := r.stats(); s != (Stats{}) || r.srv.Open() != 0 {
			t.Errorf("not closed: %+v, server %d", s, r.srv.Open())
		}
	})
}

func TestServerShutdownWaitsForTunnels(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		e := r.open("echo")
		ended := make(chan error, 1)
		go func() { ended <- r.srv.Shutdown(context.Background()) }()
		synctest.Wait()
		if got := e.roundTrip("still"); got != "still" {
			t.Errorf("got %q", got)
		}
		if err := r.openErr(r.key(), "echo"); !NothingSent(err) {
			t.Errorf("a new tunnel: %v", err)
		}
		time.Sleep(time.Hour)
		select {
		case err := <-ended:
			t.Fatalf("did not wait: %v", err)
		default:
		}
		e.closeWrite()
		e.untilEOF()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := r.srv.Serve(r.net.Listen(netip.MustParseAddrPort("10.0.0.7:1"))); err != nil {
			t.Errorf("Serve afterwards: %v", err)
		}
	})
}

func TestServerShutdownCutsWhatIsLeft(t *testing.T) {
	bothWays(t, rigOptions{}, func(t *testing.T, r *rig) {
		e := r.open("echo")
		o := r.begin(r.key(), connectTo("hold"))
		r.held(1)
		if r.net != nil {
			defer r.dial().Close() // who shakes no hands
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		if err := r.srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if err := e.untilReset(); Canceled(err) {
			t.Errorf("the tunnel: %v", err)
		}
		if err := <-o.err; !NothingSent(err) {
			t.Errorf("the CONNECT: %v", err)
		}
	})
}

// TestShutdownUnderLoad drains a server while tunnels are opened as fast as
// they can be: each opens and carries what it should, or learns that nothing
// was sent.
func TestShutdownUnderLoad(t *testing.T) {
	bothWays(t, rigOptions{}, func(t *testing.T, r *rig) {
		stop, done := make(chan struct{}), make(chan int)
		for range 8 {
			go func() {
				n := 0
				defer func() { done <- n }()
				for {
					o := r.begin(r.key(), connectTo("echo"))
					err := <-o.err
					switch {
					case err == nil:
						if got := o.e.roundTrip("x"); got != "x" {
							t.Errorf("got %q, %v", got, o.e.err)
						}
						o.e.closeWrite()
						o.e.untilEOF()
						n++
						continue
					case !NothingSent(err):
						t.Errorf("got %v", err)
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			}()
		}
		r.open("echo").reset(nil)
		if err := r.srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		close(stop)
		for range 8 {
			<-done
		}
	})
}

// TestServerSpreadsItsConnections has a server of several loops: the
// connections are on the loops that it was given.
func TestServerSpreadsItsConnections(t *testing.T) {
	g, err := loop.NewGroup(3, loop.Options{Lead: -1, CryptoTLS: *cryptoTLS})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[*loop.Loop]int{}
	overTCP(t, rigOptions{}, func(r *rig) {
		srv := NewServer(ServerOptions{
			Self: func(netip.AddrPort) identity.ID { return items }, Identity: r.ids, Loops: g,
			Connect: func(in *Incoming) {
				r.mu.Lock()
				seen[in.Loop]++
				r.mu.Unlock()
				in.Refuse(503)
			},
		})
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go srv.Serve(ln)
		for i := range 6 {
			k := r.key()
			k.Addr = addrPort(ln.Addr())
			k.SourceIP = netip.AddrFrom4([4]byte{127, 0, 1, byte(i)})
			if _, ok := errors.AsType[*StatusError](r.openErr(k, "x")); !ok {
				t.Error("not answered")
			}
		}
		_ = r.pool.Shutdown(context.Background())
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	g.Close()
	if len(seen) != 3 {
		t.Errorf("%d loops were used", len(seen))
	}
}
