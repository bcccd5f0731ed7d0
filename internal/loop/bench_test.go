package loop

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
)

// BenchmarkEcho is a ping-pong over the loopback interface: one operation is a
// message there and back, both ends in this process. The other end is a
// goroutine on a blocking connection. It excludes handshakes.
func BenchmarkEcho(b *testing.B) {
	for _, size := range []int{100, 64 << 10} {
		for _, kind := range []string{"plain", "tls", "goroutines"} {
			b.Run(fmt.Sprintf("%s/%d", kind, size), func(b *testing.B) { benchEcho(b, kind, size) })
		}
	}
}

func benchEcho(b *testing.B, kind string, size int) {
	g, err := NewGroup(1, Options{Portable: kind == "goroutines"})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	ours, peer := tcpPair(b)
	s := Plain(ours)
	if kind == "tls" {
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
