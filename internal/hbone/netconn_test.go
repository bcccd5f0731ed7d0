package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/memnet"
)

// acceptConns has the rig's server accept tunnels to "conn" as net.Conns, which
// the listener returned gives out.
func (r *rig) acceptConns() *conns {
	l := &conns{accepted: make(chan net.Conn), done: make(chan struct{})}
	r.conn = func(in *Incoming) {
		c := newNetConn(in.Loop)
		c.adopt(in.Accept(c, nil), "client")
		go func() {
			select {
			case l.accepted <- c:
			case <-l.done:
				c.Close()
			}
		}()
	}
	return l
}

// conns is a net.Listener.
type conns struct {
	accepted chan net.Conn
	once     sync.Once
	done     chan struct{}
}

func (l *conns) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *conns) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *conns) Addr() net.Addr { return address("conn") }

func (r *rig) dialConn(ctx context.Context) (net.Conn, error) {
	return r.pool.Dial(ctx, r.key(), connectTo("conn"))
}

// dialNow is dialConn for who waits as long as it takes.
func (r *rig) dialNow() (net.Conn, error) { return r.dialConn(context.Background()) }

// endPool shuts the pool down, at once.
func (r *rig) endPool() {
	done, cancel := context.WithCancel(context.Background())
	cancel()
	_ = r.pool.Shutdown(done)
}

// conform runs the net package's own demands of a Conn.
func conform(t *testing.T, r *rig) {
	l := r.acceptConns()
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		if c1, err = r.dialNow(); err != nil {
			return nil, nil, nil, err
		}
		if c2, err = l.Accept(); err != nil {
			return nil, nil, nil, err
		}
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

func TestNetConnConforms(t *testing.T) {
	t.Run("tcp", func(t *testing.T) { overTCP(t, rigOptions{}, func(r *rig) { conform(t, r) }) })
	t.Run("memory", func(t *testing.T) { // no bubble: the deadlines are real
		n := memnet.New()
		r := newRig(t, n, n.Listen(netip.AddrPortFrom(itemIP, 15008)), rigOptions{})
		conform(t, r)
		r.stop()
	})
}

// both returns the two ends of a tunnel.
func (r *rig) both() (near, far net.Conn) {
	r.t.Helper()
	l := r.acceptConns()
	near, err := r.dialNow()
	if err != nil {
		r.t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		r.t.Fatal(err)
	}
	return near, far
}

func closeWrite(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
}

func TestNetConnHalfCloses(t *testing.T) {
	bothWays(t, rigOptions{}, func(t *testing.T, r *rig) {
		near, far := r.both()
		want := make([]byte, 1<<20) // several windows
		for i := range want {
			want[i] = byte(rand.Uint32())
		}
		go func() {
			_, _ = near.Write(want)
			closeWrite(t, near)
		}()
		got, err := io.ReadAll(far)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want))
		}
		if _, err := near.Write([]byte("more")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("written after CloseWrite: %v", err)
		}
		if _, err := far.Write([]byte("answer")); err != nil {
			t.Error(err)
		}
		far.Close()
		if got, err := io.ReadAll(near); err != nil || string(got) != "answer" {
			t.Errorf("got %q, %v", got, err)
		}
		near.Close()
		r.settle("the stream stays", func(s Stats) bool { return s.Tunnels == 0 })
	})
}

// A Conn that is closed may have 64 KiB and a window before it; what does not
// leave in time is given up, and so is its stream.
func TestNetConnLingersForAWhile(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		before := bufs.InUse()
		near, far := r.both()
		_ = near.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := near.Write(make([]byte, 4<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) || n < maxUnsent || n > 512<<10 {
			t.Fatalf("%d bytes were taken by nobody, %v", n, err)
		}
		near.Close()
		synctest.Wait()
		if s := r.stats(); s.Tunnels != 1 {
			t.Errorf("it does not linger: %+v", s)
		}
		time.Sleep(lingerTime + time.Second) // of the bubble
		if s := r.stats(); s.Tunnels != 0 {
			t.Errorf("it lingers on: %+v", s)
		}
		if _, err := io.Copy(io.Discard, far); err == nil {
			t.Error("the peer saw the end in order")
		}
		far.Close()
		synctest.Wait()
		if left := bufs.InUse() - before; left != 0 {
			t.Errorf("%d bytes of buffers are out", left)
		}
	})
}

func TestNetConnResetsWhatNobodyReads(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		near, far := r.both()
		if _, err := far.Write([]byte("unread")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		near.Close()
		synctest.Wait()
		if _, err := far.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("the peer reads %v, want a reset", err)
		}
		near, far = r.both()
		near.Close()
		synctest.Wait()
		if _, err := far.Write([]byte("late")); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if _, err := far.Write([]byte("later")); err == nil {
			t.Error("what comes after Close is no error")
		}
		if s := r.stats(); s.Tunnels != 0 {
			t.Errorf("%d tunnels are left", s.Tunnels)
		}
	})
}

func TestNetConnTellsOfTheEndOfItsPool(t *testing.T) {
	bothWays(t, rigOptions{}, func(t *testing.T, r *rig) {
		near, _ := r.both()
		failed := make(chan error)
		go func() {
			_, err := near.Read(make([]byte, 1))
			failed <- err
		}()
		r.endPool()
		if err := <-failed; err == nil || errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
		r.here.Close() // the loop is over: what is posted to it runs at once
		if _, err := near.Write([]byte("x")); err == nil {
			t.Error("written to nobody")
		}
		near.Close()
		if _, err := r.dialNow(); !errors.Is(err, ErrClosed) {
			t.Errorf("dialled a pool that is shut down: %v", err)
		}
	})
}

func TestDialGivesUp(t *testing.T) {
	inMemory(t, rigOptions{}, func(r *rig) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := r.pool.Dial(ctx, r.key(), connectTo("hold"))
		var d *DialError
		if !errors.As(err, &d) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		if s := r.stats(); s.Tunnels != 0 {
			t.Errorf("%d tunnels are left", s.Tunnels)
		}
		var status *StatusError
		if _, err = r.pool.Dial(context.Background(), r.key(), connectTo("status-503")); !errors.As(err, &status) || status.Status != 503 {
			t.Errorf("got %v", err)
		}
	})
}

func TestHTTPOverATunnel(t *testing.T) {
	overTCP(t, rigOptions{}, func(r *rig) {
		l := r.acceptConns()
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			all, _ := io.ReadAll(req.Body)
			_, _ = w.Write(all)
		})}
		go func() { _ = srv.Serve(l) }()
		defer srv.Close()
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return r.dialConn(ctx) }}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for i := range 20 {
					want := strings.Repeat("x", i*10_000)
					resp, err := client.Post("http://conn/", "text/plain", strings.NewReader(want))
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || string(got) != want {
						t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want))
					}
				}
			})
		}
		all.Wait()
	})
}

func TestGRPCOverATunnel(t *testing.T) {
	overTCP(t, rigOptions{}, func(r *rig) {
		l := r.acceptConns()
		srv := grpc.NewServer()
		healthv1.RegisterHealthServer(srv, health.NewServer())
		go func() { _ = srv.Serve(l) }()
		defer srv.Stop()
		conn, err := grpc.NewClient("passthrough:///conn", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return r.dialConn(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range 100 {
			got, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
			if err != nil || got.Status != healthv1.HealthCheckResponse_SERVING {
				t.Fatalf("got %v, %v", got, err)
			}
		}
	})
}
