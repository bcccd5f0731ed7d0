package ztunnel_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/meshtest"
)

// The benchmarks here are those of Istio's node tunnel (benches/throughput.rs),
// under the names that they have there: what direct, tcp and hbone have in common
// is the client, the server and the machine, so what tells something is their
// ratio in one run. The client, the server and both node tunnels are in this
// process, on the loopback interface. A connection over TCP passes one node tunnel,
// one over HBONE two.

// A way is one of the ways from a client to a server.
type way struct {
	name string
	dial func(testing.TB) net.Conn
}

// ways makes a mesh and returns the ways to its servers, which hand every
// connection to f.
func ways(b *testing.B, f func(net.Conn)) (*meshtest.Mesh, []way) {
	m := meshtest.With(b, meshtest.Options{Loopback: true, Loops: 2, Level: "error"})
	m.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: outside}\n")
	web := m.WorkloadOn("node-a", "web")
	items, legacy := m.WorkloadOn("node-b", "items"), m.WorkloadOn("node-b", "outside/legacy")
	serve(items, f)
	serve(legacy, f)
	through := func(w *meshtest.Workload) func(testing.TB) net.Conn {
		return func(tb testing.TB) net.Conn { return dialSlowly(tb, web, w.IP.String()+":8080") }
	}
	direct := func(tb testing.TB) net.Conn {
		nc, err := net.Dial("tcp", netip.AddrPortFrom(items.IP, meshtest.AppPort).String())
		if err != nil {
			tb.Fatal(err)
		}
		return nc
	}
	return m, []way{{"direct", direct}, {"tcp", through(legacy)}, {"hbone", through(items)}}
}

// dialSlowly is dial without a deadline on the connection.
func dialSlowly(tb testing.TB, w *meshtest.Workload, addr string) net.Conn {
	tb.Helper()
	nc := dial(tb, w, addr)
	_ = nc.SetDeadline(time.Time{})
	return nc
}

// BenchmarkThroughput sends from 1, 2 and 8 clients at once, each on a connection
// of its own (throughput/{direct,tcp,hbone}/{1,2,8}).
func BenchmarkThroughput(b *testing.B) {
	const message = 8 << 20 // an operation is one of each client, and its receipt
	_, all := ways(b, func(nc net.Conn) { receive(nc, message) })
	for _, w := range all {
		for _, n := range []int{1, 2, 8} {
			b.Run(w.name+"/"+strconv.Itoa(n), func(b *testing.B) {
				conns := make([]net.Conn, n)
				for i := range conns {
					conns[i] = w.dial(b)
					defer conns[i].Close()
				}
				b.SetBytes(int64(n) * message)
				out := make([]byte, 64<<10)
				for b.Loop() {
					each(b, conns, func(nc net.Conn) error { return send(nc, out, message) })
				}
			})
		}
	}
}

// receive takes messages of a size, and says so of each by a byte.
func receive(nc net.Conn, size int64) {
	defer nc.Close()
	buf := make([]byte, 256<<10)
	for {
		for left := size; left > 0; {
			n, err := nc.Read(buf[:min(left, int64(len(buf)))])
			if err != nil {
				return
			}
			left -= int64(n)
		}
		if _, err := nc.Write(buf[:1]); err != nil {
			return
		}
	}
}

// send sends a message and waits for its receipt.
func send(nc net.Conn, buf []byte, size int) error {
	for ; size > 0; size -= len(buf) {
		if _, err := nc.Write(buf[:min(size, len(buf))]); err != nil {
			return err
		}
	}
	var receipt [1]byte
	_, err := io.ReadFull(nc, receipt[:])
	return err
}

// each calls f with every connection at once.
func each(b *testing.B, conns []net.Conn, f func(net.Conn) error) {
	errs := make([]error, len(conns))
	var all sync.WaitGroup
	for i, nc := range conns {
		all.Go(func() { errs[i] = f(nc) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkLatency sends 1 KiB there and back on an open connection
// (latency/{direct,tcp,hbone}).
func BenchmarkLatency(b *testing.B) {
	_, all := ways(b, echo)
	for _, w := range all {
		b.Run(w.name, func(b *testing.B) {
			nc := w.dial(b)
			defer nc.Close()
			buf := make([]byte, 1<<10)
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				if _, err := nc.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(nc, buf); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
		})
	}
}

// BenchmarkConnections connects, exchanges a byte, without which the tunnel need
// not have been there, and closes (connections/{direct,tcp,hbone}). There is an
// HBONE connection between the node tunnels already, as there mostly is. Closed
// connections keep their ports for a minute: with more than some 20,000 in that time
// it is the kernel's search for a free one that is measured, and so is what follows.
// -benchtime 3000x is enough.
func BenchmarkConnections(b *testing.B) {
	_, all := ways(b, echo)
	for _, w := range all {
		b.Run(w.name, func(b *testing.B) {
			var one [1]byte
			for b.Loop() {
				nc := w.dial(b)
				if err := send(nc, one[:], 1); err != nil {
					b.Fatal(err)
				}
				nc.Close()
			}
		})
	}
}

// BenchmarkHBONEConnections asks one of many destinations after the other
// (hbone_connections/connect_request_response): each pod has a service account, so
// there is an HBONE connection to each.
func BenchmarkHBONEConnections(b *testing.B) {
	for _, n := range []int{1, 16, 128} {
		b.Run(fmt.Sprint("destinations=", n), func(b *testing.B) {
			m := meshtest.With(b, meshtest.Options{Loopback: true, Loops: 2, Level: "error"})
			web := m.WorkloadOn("node-a", "web")
			targets := make([]string, n)
			for i := range targets {
				w := m.WorkloadOn("node-b", fmt.Sprint("items-", i))
				serve(w, echo)
				targets[i] = w.IP.String() + ":8080"
			}
			buf := make([]byte, 1<<10)
			ask := func(target string) {
				nc := dial(b, web, target)
				defer nc.Close()
				if _, err := nc.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(nc, buf); err != nil {
					b.Fatal(err)
				}
			}
			for _, target := range targets {
				ask(target)
			}
			i := 0
			for b.Loop() {
				ask(targets[i%n])
				i++
			}
		})
	}
}

// BenchmarkIdleConnections opens connections that then carry nothing, and reports
// the memory of each: heap and stacks of this process, the client's and the
// server's among them, which direct tells. Of what the kernel holds nothing is
// seen.
func BenchmarkIdleConnections(b *testing.B) {
	const n = 2000
	m, all := ways(b, echo)
	for _, w := range all {
		b.Run(w.name, func(b *testing.B) {
			var sum float64
			for b.Loop() {
				before := inUse()
				conns := make([]net.Conn, n)
				var one [1]byte
				for i := range conns {
					conns[i] = w.dial(b)
					if err := send(conns[i], one[:], 1); err != nil {
						b.Fatal(err)
					}
				}
				sum += float64(inUse()-before) / n
				for _, nc := range conns {
					nc.Close()
				}
				m.Until("they are closed", func() bool {
					open, pools := m.Ztunnel("node-b").OpenForTest()
					return open == 0 && pools.Tunnels == 0
				})
			}
			b.ReportMetric(sum/float64(b.N), "B/conn")
		})
	}
}

// inUse returns what is in use of heap and stacks, in bytes.
func inUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
