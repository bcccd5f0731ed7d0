package ztunnel_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/ztunnel"
)

type dialer func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error)

// holdAppDials has every dial of an application wait until the test calls the
// function that it sends.
func holdAppDials(dial dialer, held chan<- func()) dialer {
	return func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
		if dst.Port() != meshtest.AppPort {
			return dial(ctx, src, dst)
		}
		go_ := make(chan struct{})
		held <- func() { close(go_) }
		<-go_
		return dial(ctx, src, dst)
	}
}

func holding(held chan<- func()) func(*ztunnel.Options) {
	return func(o *ztunnel.Options) { o.Dial = holdAppDials(o.Dial, held) }
}

func TestHalfClose(t *testing.T) {
	onBoth(t, meshtest.Options{}, func(t *testing.T, m *meshtest.Mesh) {
		web, items := m.Workload("web"), m.Workload("items")
		conns := taken(items)
		for _, clientFirst := range []bool{true, false} {
			near := dial(t, web, items.IP.String()+":8080")
			far := <-conns
			if !clientFirst {
				near, far = far, near
			}
			say(t, near, "last words")
			near.(interface{ CloseWrite() error }).CloseWrite()
			if got, err := io.ReadAll(far); string(got) != "last words" || err != nil {
				t.Errorf("client first %t: got %q, %v", clientFirst, got, err)
			}
			say(t, far, "an answer")
			far.Close()
			if got, err := io.ReadAll(near); string(got) != "an answer" || err != nil {
				t.Errorf("client first %t: got %q, %v", clientFirst, got, err)
			}
			near.Close()
		}
		m.Until("all are closed", func() bool { n, _ := m.Metric("istio_tcp_sockets_open"); return n == 0 })
		m.WantMetric(`istio_tcp_connections_closed_total{response_flags="-"}`, 4)
	})
}

func TestResetsArePassedOn(t *testing.T) {
	onBoth(t, meshtest.Options{}, func(t *testing.T, m *meshtest.Mesh) {
		web, items := m.Workload("web"), m.Workload("items")
		conns := taken(items)
		for _, client := range []bool{true, false} {
			near := dial(t, web, items.IP.String()+":8080")
			far := <-conns
			if !client {
				near, far = far, near
			}
			say(t, near, "x")
			wantRead(t, far, "x")
			near.(interface{ SetLinger(int) error }).SetLinger(0)
			near.Close()
			wantOver(t, far)
		}
		m.Until("all are closed", func() bool { n, _ := m.Metric("istio_tcp_sockets_open"); return n == 0 })
		m.WantMetric(`istio_tcp_connections_failed_total`, 0) // it is the applications' affair
	})
}

// A large message passes whole while neither side may buffer it.
func TestBulk(t *testing.T) {
	onBoth(t, meshtest.Options{}, func(t *testing.T, m *meshtest.Mesh) {
		web, items := m.Workload("web"), m.Workload("items")
		serve(items, echo)
		nc := dial(t, web, items.IP.String()+":8080")
		want := bytes.Repeat([]byte("0123456789abcdef"), 256<<10) // 4 MiB
		go func() {
			_, _ = nc.Write(want)
			nc.(interface{ CloseWrite() error }).CloseWrite()
		}()
		got, err := io.ReadAll(nc)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		nc.Close()
		m.Until("counted", func() bool {
			n, _ := m.Metric(`istio_tcp_received_bytes_total{reporter="source"}`)
			return n == float64(len(want))
		})
	})
}

// What a client sends together with its request is part of its connection.
func TestEagerClient(t *testing.T) {
	m := meshtest.New(t)
	web, items := m.Workload("web"), m.Workload("items")
	serve(items, echo)
	raw := web.Raw(t.Context())
	say(t, raw, "\x05\x01\x00\x05\x01\x00\x01"+string(items.IP.AsSlice())+"\x1f\x90eager")
	wantRead(t, raw, "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00eager")
	raw.Close()

	raw = web.Raw(t.Context())
	say(t, raw, "GET / HTTP/1.1\r\n\r\n")
	if got, _ := io.ReadAll(raw); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	raw.Close()
	raw = web.Raw(t.Context())
	say(t, raw, "\x05\x01\x02")
	if got, _ := io.ReadAll(raw); string(got) != "\x05\xff" {
		t.Errorf("got %q", got)
	}
	raw.Close()
}

// deaf has connections to the HBONE port of an address fail.
type deaf struct {
	mu   sync.Mutex
	addr netip.Addr
	hits atomic.Int32
}

func (d *deaf) options(o *ztunnel.Options) {
	dial := o.Dial
	o.Dial = func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
		d.mu.Lock()
		addr := d.addr
		d.mu.Unlock()
		if dst.Addr() == addr && dst.Port() == 15008 {
			d.hits.Add(1)
			return nil, syscall.ECONNREFUSED
		}
		return dial(ctx, src, dst)
	}
}

func (d *deaf) set(addr netip.Addr) {
	d.mu.Lock()
	d.addr = addr
	d.mu.Unlock()
}

func TestAnotherEndpointIsTried(t *testing.T) {
	var d deaf
	onBoth(t, meshtest.Options{Ztunnel: d.options}, func(t *testing.T, m *meshtest.Mesh) {
		d.hits.Store(0)
		web, one, two := m.Workload("web"), m.Workload("items.1"), m.Workload("items.2")
		m.Service("items", 80)
		d.set(one.IP)
		serve(one, echo)
		serve(two, echo)
		const n = 40 // one of them, at least, picks the deaf one first
		for range n {
			nc := dial(t, web, "items:80")
			wantEcho(t, nc)
			nc.Close()
		}
		failed := float64(d.hits.Load())
		if failed == 0 || failed == n {
			t.Errorf("%v of %d picked the endpoint that does not answer", failed, n)
		}
		m.Until("all are closed", func() bool { n, _ := m.Metric("istio_tcp_sockets_open"); return n == 0 })
		m.WantMetric(`istio_tcp_connections_failed_total{reporter="source",response_flags="CONNECT",destination_workload="items.1"}`, failed)
		m.WantMetric(`istio_tcp_connections_closed_total{reporter="source",response_flags="-",destination_workload="items.2"}`, n)
		wantRefused(t, web, one.IP.String()+":8080", 5) // there is no other
	})
}
