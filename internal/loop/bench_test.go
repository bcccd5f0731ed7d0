package loop

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
)

// BenchmarkEcho is a ping-pong over the loopback interface: one operation is a
// message there and back, both ends in this process. The other end is a
// goroutine on a blocking connection. It excludes handshakes.
func BenchmarkEcho(b *testing.B) {
	for _, size := range []int{100, 64 << 10} {
		for _, kind := range []string{"plain", "tls", "crypto-tls", "goroutines"} {
			b.Run(fmt.Sprintf("%s/%d", kind, size), func(b *testing.B) { benchEcho(b, kind, size) })
		}
	}
}

func benchEcho(b *testing.B, kind string, size int) {
	g, err := NewGroup(1, Options{Portable: kind == "goroutines", CryptoTLS: kind == "crypto-tls"})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	ours, peer := tcpPair(b)
	s := Plain(ours)
	if kind == "tls" || kind == "crypto-tls" {
		client, server := certs()
		tc := tls.Client(peer, client)
		go tc.Handshake()
		if s, err = Handshake(b.Context(), ours, server, ServerSide); err != nil {
			b.Fatal(err)
		}
		peer = tc
	}
	d := &reply{s: s}
	l := g.Loops()[0]
	l.Do(func() { l.Adopt(s, d) })

	p := make([]byte, size)
	roundTrip(b, peer, p)
	before := l.Stats()
	b.SetBytes(int64(2 * size))
	b.ReportAllocs()
	for b.Loop() {
		roundTrip(b, peer, p)
	}
	after := l.Stats()
	n := float64(b.N)
	b.ReportMetric(float64(after.Reads-before.Reads)/n, "reads/op")
	b.ReportMetric(float64(after.Writes-before.Writes)/n, "writes/op")
	b.ReportMetric(float64(after.Batches-before.Batches)/n, "batches/op")
}

func roundTrip(b *testing.B, c net.Conn, p []byte) {
	if _, err := c.Write(p); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(c, p); err != nil {
		b.Fatal(err)
	}
}

// reply is an echo that allocates nothing.
type reply struct {
	s   *Socket
	buf [256 << 10]byte
	n   int
}

func (r *reply) Receive(p []byte) error {
	r.n += copy(r.buf[r.n:], p)
	r.s.Wake()
	return nil
}

func (r *reply) Output() []byte {
	p := r.buf[:r.n]
	r.n = 0
	return p
}

func (r *reply) EOF() error   { return io.EOF }
func (r *reply) Closed(error) {}

// BenchmarkDo is a function posted to an idle loop and waited for.
func BenchmarkDo(b *testing.B) {
	for _, portable := range []bool{false, true} {
		b.Run(fmt.Sprintf("portable=%t", portable), func(b *testing.B) {
			g, err := NewGroup(1, Options{Portable: portable})
			if err != nil {
				b.Fatal(err)
			}
			defer g.Close()
			l := g.Loops()[0]
			done := make(chan struct{})
			f := func() { done <- struct{}{} }
			b.ReportAllocs()
			for b.Loop() {
				l.Do(f)
				<-done
			}
		})
	}
}

// BenchmarkIdle is a TLS connection that has been used and is idle: B/socket is
// what each of its ends holds, both being sockets of one loop.
func BenchmarkIdle(b *testing.B) {
	for _, kind := range []string{"tls", "crypto-tls"} {
		b.Run(kind, func(b *testing.B) {
			g, err := NewGroup(1, Options{CryptoTLS: kind == "crypto-tls"})
			if err != nil {
				b.Fatal(err)
			}
			defer g.Close()
			l := g.Loops()[0]
			chat(b, l)
			before, n := heap(), 0
			for b.Loop() {
				chat(b, l)
				n++
			}
			b.ReportMetric(float64(heap()-before)/float64(2*n), "B/socket")
		})
	}
}

// chat makes a connection between two sockets of l, sends a record's worth each
// way and leaves it.
func chat(b *testing.B, l *Loop) {
	client, server := certs()
	ours, peers := tcpPair(b)
	talked := make(chan struct{}, 2)
	adopt := func(nc net.Conn, cfg *tls.Config, side Side) {
		s, err := Handshake(b.Context(), nc, cfg, side)
		if err != nil {
			b.Error(err)
		}
		l.Do(func() { l.Adopt(s, &chatter{say: maxFlush / 16, hear: maxFlush / 16, talked: talked}) })
	}
	go adopt(peers, client, ClientSide)
	adopt(ours, server, ServerSide)
	<-talked
	<-talked
}

// A chatter says and hears so many bytes and tells when it has.
type chatter struct {
	say, hear int
	talked    chan struct{}
}

func (c *chatter) Receive(p []byte) error {
	if c.hear -= len(p); c.hear == 0 {
		c.talked <- struct{}{}
		c.talked = nil
	}
	return nil
}

func (c *chatter) Output() []byte {
	p := zeros[:c.say]
	c.say = 0
	return p
}

func (c *chatter) EOF() error   { return io.EOF }
func (c *chatter) Closed(error) {}

var zeros [maxFlush]byte

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
