//go:build unix

package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"
)

// A narrow is a network between two hosts that gives each connection 25 MB/s: a
// relay with real sockets, and thereby the queues of real kernels.
type narrow struct {
	ln net.Listener
	to string
}

func newNarrow(b *testing.B, to netip.AddrPort) *narrow {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	n := &narrow{ln, to.String()}
	go n.serve()
	return n
}

func (n *narrow) serve() {
	for {
		near, err := n.ln.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", n.to)
		if err != nil {
			near.Close()
			return
		}
		go relay(near, far)
		go relay(far, near)
	}
}

func relay(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 32<<10)
	const rate = 25 << 20 // bytes a second
	free := time.Now()
	for {
		k, err := from.Read(buf)
		if err != nil {
			return
		}
		if now := time.Now(); free.Before(now) {
			free = now
		}
		free = free.Add(time.Duration(k) * time.Second / rate)
		<-time.After(time.Until(free))
		if _, err := to.Write(buf[:k]); err != nil && !errors.Is(err, io.EOF) {
			return
		}
	}
}

// A pinger sends a message and then again whenever it is back, n times.
type pinger struct {
	t    *Tunnel
	left int
	got  int
	done chan error
}

func (p *pinger) ready(t *Tunnel, err error) {
	if err != nil {
		p.done <- err
		return
	}
	p.t = t
	p.done <- nil
}

func (p *pinger) Data(b []byte) {
	p.t.Credit(len(b))
	if p.got += len(b); p.got < 1024 {
		return
	}
	p.got = 0
	if p.left--; p.left == 0 {
		p.done <- nil
		return
	}
	p.t.Write(make([]byte, 1024))
}
func (p *pinger) Sent(int)        {}
func (p *pinger) EOF()            {}
func (p *pinger) Reset(err error) { p.done <- err }

// BenchmarkBesideBulk measures how long 1 KiB takes there and back when another
// tunnel of the same two pods sends all that its connection carries, which is 25
// MB/s: on that connection, or on another.
func BenchmarkBesideBulk(b *testing.B) {
	for _, spread := range []int{1, 4} {
		b.Run("connections="+strconv.Itoa(spread), func(b *testing.B) {
			overTCP(b, rigOptions{pool: PoolOptions{Spread: spread}}, func(r *rig) {
				n := newNarrow(b, r.addr)
				defer n.ln.Close()
				r.pool.o.Dial = func(ctx context.Context, _ netip.Addr, _ netip.AddrPort) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "tcp", n.ln.Addr().String())
				}
				h := &hose{}
				ready := make(chan error, 1)
				on(r.pool.o.Loop, func() {
					r.pool.Open(r.key(), connectTo("sink"), h, func(t *Tunnel, err error) { h.start(t); ready <- err })
				})
				if err := <-ready; err != nil {
					b.Fatal(err)
				}
				for busy := false; !busy; {
					on(r.pool.o.Loop, func() { busy = h.t.c.moved >= bulkBytes })
				}
				p := &pinger{left: b.N, done: make(chan error, 1)}
				on(r.pool.o.Loop, func() { r.pool.Open(r.key(), connectTo("echo"), p, p.ready) })
				if err := <-p.done; err != nil {
					b.Fatal(err)
				}
				b.ResetTimer()
				on(r.pool.o.Loop, func() { p.t.Write(make([]byte, 1024)) })
				if err := <-p.done; err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				on(r.pool.o.Loop, func() { h.t.Reset(nil) })
			})
		})
	}
}
