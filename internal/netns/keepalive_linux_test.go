package netns

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestConnectionsAreProbedAsAsked has a connection of which each end asks for probes
// of its own, in our own namespace, which takes no rights.
func TestConnectionsAreProbedAsAsked(t *testing.T) {
	var here *Netns
	option := func(c net.Conn, name, level int) (value int) {
		t.Helper()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if cerr := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, name) }); cerr != nil || err != nil {
			t.Fatal(cerr, err)
		}
		return value
	}
	for name, test := range map[string]struct {
		o                         SocketOptions
		on, idle, every, n, after int
	}{
		"not said": {SocketOptions{}, 1, 180, 180, 9, 0},
		"said":     {SocketOptions{KeepAlive: &net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3}, UserTimeout: 45 * time.Second}, 1, 30, 5, 3, 45000},
		"off":      {SocketOptions{KeepAlive: new(net.KeepAliveConfig)}, 0, 0, 0, 0, 0},
	} {
		ln, err := here.Listen(netip.MustParseAddrPort("127.0.0.1:0"), test.o)
		if err != nil {
			t.Fatal(err)
		}
		near, err := here.Dial(t.Context(), netip.AddrPort{}, ln.Addr().(*net.TCPAddr).AddrPort(), test.o)
		if err != nil {
			t.Fatal(err)
		}
		far, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for end, c := range map[string]net.Conn{"made": near, "accepted": far} {
			if got := option(c, unix.SO_KEEPALIVE, unix.SOL_SOCKET); got != test.on {
				t.Errorf("%s, %s: SO_KEEPALIVE %d, want %d", name, end, got, test.on)
			}
			if got := option(c, unix.TCP_USER_TIMEOUT, unix.IPPROTO_TCP); got != test.after {
				t.Errorf("%s, %s: TCP_USER_TIMEOUT %d, want %d", name, end, got, test.after)
			}
			if test.on == 0 {
				continue
			}
			for option2, want := range map[int]int{unix.TCP_KEEPIDLE: test.idle, unix.TCP_KEEPINTVL: test.every, unix.TCP_KEEPCNT: test.n} {
				if got := option(c, option2, unix.IPPROTO_TCP); got != want {
					t.Errorf("%s, %s: option %d is %d, want %d", name, end, option2, got, want)
				}
			}
			c.Close()
		}
		near.Close()
		far.Close()
		ln.Close()
	}
}
