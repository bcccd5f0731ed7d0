package netns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// dialEach connects n times and returns the connections.
func dialEach(t *testing.T, addr string, n int) (conns []net.Conn) {
	t.Helper()
	for range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conns = append(conns, c)
	}
	return conns
}

// queued returns how many connections wait to be accepted.
func queued(t *testing.T, ln net.Listener) (n int) {
	t.Helper()
	for {
		// A connection is there when its Dial has returned; a deadline that has
		// passed would keep Accept from looking.
		if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		c, err := ln.Accept()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		n++
	}
}

// The ports are shared by hash until one hands over; what it had by then it keeps.
func TestHandOver(t *testing.T) {
	const each = 64
	var here *Netns
	share := SocketOptions{ReusePort: true}
	generation := func(addr netip.AddrPort) net.Listener {
		ln, err := here.Listen(addr, share)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln
	}
	first := generation(netip.MustParseAddrPort("127.0.0.1:0"))
	addr := first.Addr().(*net.TCPAddr).AddrPort()
	second := generation(addr)
	dialEach(t, addr.String(), each)
	if err := HandOver(first.(*net.TCPListener)); err != nil {
		t.Fatal(err)
	}
	dialEach(t, addr.String(), each)
	a, b := queued(t, first), queued(t, second)
	if a == 0 || b <= each || a+b != 2*each {
		t.Errorf("%d and %d connections, want some of %d and the others of %d", a, b, each, 2*each)
	}
	first.Close()
	dialEach(t, addr.String(), each)
	if b := queued(t, second); b != each {
		t.Errorf("%d connections to who is alone, want %d", b, each)
	}

	// Of the next generation it holds at once.
	third := generation(addr)
	dialEach(t, addr.String(), each)
	if b, c := queued(t, second), queued(t, third); b != 0 || c != each {
		t.Errorf("%d and %d connections, want %d for the youngest", b, c, each)
	}
	if err := HandOver(second.(*net.TCPListener)); err != nil {
		t.Fatal(err)
	}
	third.Close() // it crashes: nothing is refused
	dialEach(t, addr.String(), each)
	if b := queued(t, second); b != each {
		t.Errorf("%d connections to who is left, want %d", b, each)
	}
}

func TestDialPacket(t *testing.T) {
	var here *Netns
	ln, err := here.ListenPacket(netip.MustParseAddrPort("127.0.0.1:0"), SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := here.DialPacket(context.Background(), ln.LocalAddr().(*net.UDPAddr).AddrPort(), SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, from, err := ln.ReadFromUDPAddrPort(buf)
	if err != nil || string(buf[:n]) != "question" || from != c.LocalAddr().(*net.UDPAddr).AddrPort() {
		t.Errorf("got %q from %v, %v", buf[:n], from, err)
	}
}
