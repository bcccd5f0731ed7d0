package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
)

// A target is a Destination in this process.
type target struct {
	Load                // that reaches it
	stop func() *Served // ends it
}

// serveBench starts d on the loopback interface.
func serveBench(tb testing.TB, d Destination) target {
	tb.Helper()
	src, err := identity.Open("self:"+tb.TempDir(), identity.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	d.Listen, d.source = "127.0.0.1:0", src
	ctx, cancel := context.WithCancel(context.Background())
	addr := make(chan net.Addr, 1)
	type outcome struct {
		served *Served
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		s, err := d.Serve(ctx, func(a net.Addr) { addr <- a })
		done <- outcome{s, err}
	}()
	t := target{Load: Load{source: src, Peers: []string{"default/items"}, Transport: d.Transport}}
	select {
	case a := <-addr:
		t.Connect = a.String()
	case o := <-done:
		tb.Fatal(o.err)
	}
	t.stop = sync.OnceValue(func() *Served {
		cancel()
		o := <-done
		if o.err != nil {
			tb.Error(o.err)
		}
		return o.served
	})
	tb.Cleanup(func() { t.stop() })
	return t
}

// mustRun does l, which is to end by itself.
func mustRun(tb testing.TB, l Load) *Result {
	tb.Helper()
	if l.Duration == 0 {
		l.Duration = time.Minute // it ends by the number of its requests
	}
	r, err := Run(tb.Context(), l, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// wantErrors checks what was counted, by kind.
func wantErrors(t *testing.T, r *Result, want map[string]int64) {
	t.Helper()
	if !maps.Equal(r.Errors, want) {
		t.Errorf("errors are %v, want %v", r.Errors, want)
	}
}

// TestEveryProtocolOnEveryTransport makes exactly as many requests as are asked
// for, with content both ways that both ends check, and leaves nothing open.
func TestEveryProtocolOnEveryTransport(t *testing.T) {
	for _, transport := range transports {
		for _, protocol := range protocols {
			for _, c := range []struct{ size, send int64 }{{}, {1000, 0}, {0, 1000}, {300_000, 200_000}} {
				t.Run(fmt.Sprintf("%s/%s/%d-%d", transport, protocol, c.size, c.send), func(t *testing.T) {
					d := Destination{Transport: overTCP}
					if transport == overHBONE {
						d.Transport = overHBONE
					}
					at := serveBench(t, d)
					l := at.Load
					if l.Transport = transport; transport == overSOCKS5 {
						l.Authority, l.Connect = l.Connect, serveSOCKS5(t)
					}
					l.Protocol, l.Size, l.Send = protocol, c.size, c.send
					l.Tunnels, l.Conns, l.Requests = 6, 4, 50
					if protocol == speakGRPC || protocol == speakGRPCStream {
						l.Concurrency = 3
					}
					r := mustRun(t, l)
					wantErrors(t, r, map[string]int64{})
					if r.Requests != 50 || r.BytesSent < 50*c.send || r.BytesReceived < 50*c.size || r.Latency.P50 == 0 || r.Rate == 0 {
						t.Errorf("%+v", r)
					}
					switch {
					case protocol == speakConnect:
						if r.Connections < 50 {
							t.Errorf("%d connections were made for 50 requests", r.Connections)
						}
					case r.Tunnels != 6, transport == overHBONE && r.Connections != 4, transport != overHBONE && r.Connections != 6:
						t.Errorf("%d tunnels on %d connections", r.Tunnels, r.Connections)
					}
					if s := at.stop(); s.Requests != 50 || s.Open != 0 || len(s.Errors) != 0 {
						t.Errorf("served %+v", s)
					}
				})
			}
		}
	}
}

// serveSOCKS5 is a proxy that knows what is needed here.
func serveSOCKS5(t *testing.T) (addr string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				if err := relay(nc); err != nil {
					t.Error(err)
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		all.Wait()
	})
	return ln.Addr().String()
}

func relay(nc net.Conn) error {
	defer nc.Close()
	var b [10]byte // a greeting with one method; a request for an IPv4 address
	if _, err := io.ReadFull(nc, b[:3]); err != nil || b != [10]byte{5, 1, 0} {
		return fmt.Errorf("greeting %v, %w", b, err)
	}
	if _, err := nc.Write([]byte{5, 0}); err != nil {
		return err
	}
	if _, err := io.ReadFull(nc, b[:]); err != nil || [4]byte(b[:4]) != [4]byte{5, 1, 0, 1} {
		return fmt.Errorf("request %v, %w", b, err)
	}
	to, err := net.Dial("tcp", net.JoinHostPort(net.IP(b[4:8]).String(), fmt.Sprint(int(b[8])<<8|int(b[9]))))
	if err != nil {
		return err
	}
	defer to.Close()
	if _, err := nc.Write([]byte{5, 0, 0, 1, 127, 0, 0, 1, 1, 2}); err != nil {
		return err
	}
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{nc, to}, {to, nc}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = way[0].(*net.TCPConn).CloseWrite()
		})
	}
	both.Wait()
	return nil
}

func TestSOCKS5Refusals(t *testing.T) {
	for _, c := range []struct{ answer, want string }{
		{"\x05\xff", "socks5: no method"},
		{"\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00", "socks5: reply 5"},
		{"\x05\x00\x05\x00\x00\x09\x00\x00\x00\x00\x00\x00", "malformed"},
		{"\x05\x00\x05\x00", "socks5: unexpected EOF"},
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if nc, err := ln.Accept(); err == nil {
				_, _ = io.ReadFull(nc, make([]byte, 13))
				_, _ = io.WriteString(nc, c.answer)
				nc.Close()
			}
		}()
		_, err = Run(t.Context(), Load{Transport: overSOCKS5, Connect: ln.Addr().String(), Tunnels: 1}, nil)
		if err == nil || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
		ln.Close()
		<-done
	}
}

func TestOpenLoop(t *testing.T) {
	for _, arrival := range arrivals {
		for _, loops := range []int{1, 3} {
			at := serveBench(t, Destination{})
			l := at.Load
			l.Rate, l.Arrival, l.Requests, l.Loops, l.Size = 5000, arrival, 100, loops, 10
			r := mustRun(t, l)
			wantErrors(t, r, map[string]int64{})
			if r.Requests != 100 {
				t.Errorf("%s on %d loops: %+v", arrival, loops, r)
			}
		}
	}
}

func TestWarmupIsNotCounted(t *testing.T) {
	at := serveBench(t, Destination{})
	l := at.Load
	l.Warmup, l.Requests = time.Millisecond, 10
	var phases []string
	r, err := Run(t.Context(), l, func(p Progress) { phases = append(phases, p.Phase) })
	if err != nil || r.Requests != 10 {
		t.Errorf("%+v, %v", r, err)
	}
	if s := at.stop(); s.Requests <= 10 {
		t.Errorf("%d requests were made, want those of the warmup too", s.Requests)
	}
}

func TestHold(t *testing.T) {
	at := serveBench(t, Destination{})
	l := at.Load
	l.Hold, l.Tunnels, l.Conns, l.Duration = true, 50, 7, time.Millisecond
	r := mustRun(t, l)
	wantErrors(t, r, map[string]int64{})
	if r.Requests != 50 || r.Tunnels != 50 || r.Connections != 7 || r.Seconds > 0.9 {
		t.Errorf("%+v", r)
	}
	if s := at.stop(); s.Requests != 50 || s.Open != 0 {
		t.Errorf("served %+v", s)
	}
}

// TestSlowReader takes as long as its rate says, on every protocol that has
// content.
func TestSlowReader(t *testing.T) {
	for _, protocol := range []string{speakHTTP1, speakGRPC, speakGRPCStream, speakWebSocket, speakRaw} {
		at := serveBench(t, Destination{})
		l := at.Load
		l.Protocol, l.Tunnels, l.Requests, l.Size, l.ReadRate = protocol, 2, 2, 600_000, 3_000_000
		r := mustRun(t, l)
		wantErrors(t, r, map[string]int64{})
		if r.Latency.Min < 150e3 { // 200 ms, less a step and a step's beginning
			t.Errorf("%s: %+v", protocol, r.Latency)
		}
	}
}

// TestRunThatIsCutShort has a result.
func TestRunThatIsCutShort(t *testing.T) {
	t.Parallel() // it takes a second
	at := serveBench(t, Destination{})
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	l := at.Load
	l.Duration = time.Minute
	r, err := Run(ctx, l, func(Progress) { cancel(enough) })
	if !errors.Is(err, enough) || r == nil || r.Requests == 0 || r.Seconds > 30 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestProgress(t *testing.T) {
	t.Parallel() // it takes a second
	at := serveBench(t, Destination{})
	ctx, cancel := context.WithCancel(t.Context())
	l := at.Load
	l.Rate, l.Duration = 1000, time.Minute
	var got Progress
	_, _ = Run(ctx, l, func(p Progress) {
		got = p
		cancel()
	})
	if got.Phase != "measuring" || got.Tunnels != 64 || got.Requests == 0 || got.Rate == 0 || got.P50 == 0 || got.Of != time.Minute {
		t.Errorf("%+v", got)
	}
}

// TestServerThatStallsIsReported covers what has no answer when a run ends.
func TestServerThatStallsIsReported(t *testing.T) {
	t.Parallel() // it takes a second and more
	l := serveTunnels(t, func(in *hbone.Incoming) {
		c := &closer{}
		c.s = in.Accept(c, nil)
	})
	l.Protocol, l.Tunnels, l.Duration = speakRaw, 3, unfinished+100*time.Millisecond
	r := mustRun(t, l)
	wantErrors(t, r, map[string]int64{kindUnfinished: 3})
	if r.Requests != 0 || r.Latency.Min < 1e6 {
		t.Errorf("%+v", r)
	}
}

// TestUploadIsBounded writes no more than is worth keeping while nothing leaves.
func TestUploadIsBounded(t *testing.T) {
	w := &fullWriter{full: true}
	u := upload{rest: make([]byte, 1<<20)}
	if u.pump(w) || w.n < maxWaiting || w.n >= maxWaiting+maxWrite {
		t.Errorf("%d bytes are written", w.n)
	}
	u.waiting, w.full = 0, false
	if !u.pump(w) || w.n != 1<<20 {
		t.Errorf("%d bytes are written in all, %d are left", w.n, len(u.rest))
	}
}

// A fullWriter has room for nothing, or for everything.
type fullWriter struct {
	n    int
	full bool
}

func (w *fullWriter) Write(p []byte) int {
	w.n += len(p)
	if w.full {
		return len(p)
	}
	return 0
}
