package h2

import (
	"fmt"
	"testing"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// tunnels is a pair with n tunnels between echoing ends: what the client writes
// comes back to it.
func tunnels(tb testing.TB, n int) (*pair, []*Stream) {
	p := newPair(tb, Options{}, &watch{data: func(s *Stream, b []byte, end bool) { s.Credit(len(b)) }}, echo{})
	all := make([]*Stream, n)
	for i := range all {
		all[i] = p.open(toTunnel, false)
	}
	p.settle()
	return p, all
}

func TestDataDoesNotAllocate(t *testing.T) {
	if !pooling {
		t.Skip("pools do not keep")
	}
	for _, size := range []int{1, 1000, 20_000, 100_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			p, streams := tunnels(t, 10)
			content := make([]byte, size)
			i := 0
			step := func() {
				streams[i%len(streams)].Write(content)
				i++
				p.settle()
			}
			for range 1000 {
				step()
			}
			if got := testing.AllocsPerRun(1000, step); got != 0 {
				t.Errorf("got %v allocations per write", got)
			}
		})
	}
}

// A request costs the streams, the map's growth, the Framer's frame and hpack's
// strings. The number is here to be noticed when it grows.
func TestRequestAllocations(t *testing.T) {
	if !pooling {
		t.Skip("pools do not keep")
	}
	p := newPair(t, Options{}, ignore{}, &watch{headers: func(s *Stream, f l7.Fields, end bool) { s.Headers(ok, true) }})
	step := func() {
		p.open(toRequest, true)
		p.settle()
	}
	for range 100 {
		step()
	}
	if got := testing.AllocsPerRun(1000, step); got > 6 {
		t.Errorf("got %v allocations for a request and its response", got)
	}
}

// BenchmarkTunnel sends 16 KiB there and back on one stream of several. It
// excludes TLS and the kernel.
func BenchmarkTunnel(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("%dstreams", n), func(b *testing.B) {
			p, streams := tunnels(b, n)
			content := make([]byte, 16<<10)
			b.SetBytes(2 * int64(len(content)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				streams[i%n].Write(content)
				if i%8 == 7 { // a batch
					p.settle()
				}
			}
		})
	}
}

// BenchmarkRequest is a request and its response without content.
func BenchmarkRequest(b *testing.B) {
	p := newPair(b, Options{}, ignore{}, &watch{headers: func(s *Stream, f l7.Fields, end bool) { s.Headers(ok, true) }})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p.open(toRequest, true)
		if i%8 == 7 {
			p.settle()
		}
	}
}
