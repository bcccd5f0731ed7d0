package netns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFromFDTakesOnlyNetworkNamespaces(t *testing.T) {
	for _, path := range []string{os.DevNull, "/proc/self/ns/uts", t.TempDir()} {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := FromFD(fd); err == nil {
			t.Errorf("%s: FromFD returned namespace %v, want an error", path, n.ID())
		}
		if err := unix.Close(fd); !errors.Is(err, unix.EBADF) {
			t.Errorf("%s: the descriptor is still open", path)
		}
	}
}

func TestOpenNamesThePath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gone")
	if _, err := Open(path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("Open: %v, want one of %v that names the path", err, os.ErrNotExist)
	}
	if _, err := Open("/proc/self/ns/uts"); err == nil || !strings.Contains(err.Error(), "/proc/self/ns/uts") {
		t.Errorf("Open: %v, want an error that names the path", err)
	}
}

func TestSameNamespaceHasSameID(t *testing.T) {
	a, err := Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if a.ID() != b.ID() || a.ID() == (ID{}) {
		t.Errorf("IDs are %v and %v, want the same and not zero", a.ID(), b.ID())
	}
	var none *Netns
	if none.ID() != (ID{}) {
		t.Errorf("ID of the current namespace is %v, want zero", none.ID())
	}
}

func TestDoAfterClose(t *testing.T) {
	n, err := Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	n.Close()
	if err := n.Do(func() error { t.Error("called"); return nil }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Do after Close: %v, want %v", err, os.ErrClosed)
	}
}

// TestSocketsOfTheCurrentNamespace needs no rights: nothing is entered.
func TestSocketsOfTheCurrentNamespace(t *testing.T) {
	var n *Netns
	ln, err := n.Listen(netip.MustParseAddrPort("127.0.0.1:0"), SocketOptions{ReusePort: true})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	second, err := n.Listen(addr, SocketOptions{ReusePort: true})
	if err != nil {
		t.Errorf("a second listener with ReusePort: %v", err)
	} else {
		second.Close()
	}
	if third, err := n.Listen(addr, SocketOptions{}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a third listener without: %v, want %v", err, unix.EADDRINUSE)
		if err == nil {
			third.Close()
		}
	}
	src := netip.MustParseAddrPort("127.0.0.9:0")
	c, err := n.Dial(context.Background(), src, addr, SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if got := in.RemoteAddr().(*net.TCPAddr).AddrPort(); got.Addr() != src.Addr() {
		t.Errorf("accepted from %v, want %v", got, src.Addr())
	}
	for _, c := range []net.Conn{c, in} {
		for _, o := range []struct {
			name                string
			level, option, want int
		}{
			{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 180},
			{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 180},
			{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
		} {
			if got := option(t, c.(syscall.Conn), o.level, o.option); got != o.want {
				t.Errorf("%s is %d, want %d", o.name, got, o.want)
			}
		}
	}
}

func TestPacketsOfTheCurrentNamespace(t *testing.T) {
	var n *Netns
	a, err := n.ListenPacket(netip.MustParseAddrPort("127.0.0.1:0"), SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.WriteTo([]byte("hello"), a.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	a.SetReadDeadline(time.Now().Add(5 * time.Second))
	if l, _, err := a.ReadFrom(b); err != nil || string(b[:l]) != "hello" {
		t.Errorf("read %q, %v", b[:l], err)
	}
}

func option(t testing.TB, c syscall.Conn, level, name int) int {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var v int
	var e error
	if err := raw.Control(func(fd uintptr) { v, e = unix.GetsockoptInt(int(fd), level, name) }); err != nil || e != nil {
		t.Fatal(err, e)
	}
	return v
}
