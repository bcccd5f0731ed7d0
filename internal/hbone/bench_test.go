//go:build unix

package hbone

import (
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// BenchmarkConnect measures new HBONE connections, both ends in this process:
// TCP, the handshake with both certificates verified, HTTP/2's preface, and one
// CONNECT refused.
func BenchmarkConnect(b *testing.B) {
	overTCP(b, rigOptions{pool: PoolOptions{IdleRelease: -1}}, func(r *rig) {
		if err := r.openErr(r.key(), "status-503"); NothingSent(err) { // makes the certificates
			b.Fatal(err)
		}
		b.ReportAllocs()
		report := measureCPU(b)
		i := 0
		for b.Loop() {
			k := r.key()
			i++
			k.SourceIP = netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}) // a connection of its own
			if err := r.openErr(k, "status-503"); NothingSent(err) {
				b.Fatal(err)
			}
			on(r.pool.o.Loop, func() {
				for c := range r.pool.conns {
					c.retire()
					c.sock.Abort(nil)
				}
			})
		}
		report()
	})
}

// BenchmarkHandshake is what BenchmarkConnect cannot cost less than: TCP and
// crypto/tls alone, with the same certificates verified at both ends, a byte
// there and one back, so that the server is known to have finished too.
func BenchmarkHandshake(b *testing.B) {
	ids, err := identity.Open("self:"+b.TempDir(), identity.Options{})
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- answerBytes(ln, identity.ServerConfig(ids, items)) }()
	config := identity.ClientConfig(ids, web, items)
	if err := askByte(ln.Addr(), config); err != nil { // makes the certificates
		b.Fatal(err)
	}
	b.ReportAllocs()
	report := measureCPU(b)
	for b.Loop() {
		if err := askByte(ln.Addr(), config); err != nil {
			b.Fatal(err)
		}
	}
	report()
	ln.Close()
	if err := <-served; err != nil {
		b.Error(err)
	}
}

// answerBytes serves one connection after the other until ln is closed.
func answerBytes(ln net.Listener, config *tls.Config) error {
	for {
		nc, err := ln.Accept()
		if err != nil {
			return nil
		}
		c := tls.Server(nc, config)
		var one [1]byte
		if _, err = io.ReadFull(c, one[:]); err == nil {
			_, err = c.Write(one[:])
		}
		c.Close()
		if err != nil {
			return err
		}
	}
}

func askByte(to net.Addr, config *tls.Config) error {
	nc, err := net.Dial("tcp", to.String())
	if err != nil {
		return err
	}
	c := tls.Client(nc, config)
	defer c.Close()
	one := [1]byte{'?'}
	if _, err = c.Write(one[:]); err == nil {
		_, err = io.ReadFull(c, one[:])
	}
	return err
}

// measureCPU returns a function that reports the CPU time of this process, both
// ends of what it benchmarks, since the benchmark's loop began.
func measureCPU(b *testing.B) func() {
	before := cpuTime(b)
	return func() {
		b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "conns/s")
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
