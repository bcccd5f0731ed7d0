//go:build netns

package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newNetns returns a namespace of its own, with its loopback interface up.
func newNetns(t testing.TB) *Netns {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	here, err := Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	var n *Netns
	err = here.Do(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		n, err = Open("/proc/thread-self/ns/net")
		return err // and Do goes home
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	if err := n.Do(loopbackUp); err != nil {
		t.Fatal(err)
	}
	return n
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req)
}

// inode returns the namespace that a socket says it is in.
func inode(t testing.TB, c syscall.Conn) uint64 {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	var e error
	err = raw.Control(func(fd uintptr) {
		var ns int
		if ns, e = unix.IoctlRetInt(int(fd), unix.SIOCGSKNS); e != nil {
			return
		}
		e = unix.Fstat(ns, &st)
		unix.Close(ns)
	})
	if err != nil || e != nil {
		t.Fatal(err, e)
	}
	return st.Ino
}

func open(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func threads(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// atHome fails the test if any thread is elsewhere than the process.
func atHome(t testing.TB) {
	t.Helper()
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if at, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net"); err == nil && at != home {
			t.Errorf("thread %s is in %s, want %s", task.Name(), at, home)
		}
	}
}

func TestSocketsAreInside(t *testing.T) {
	n, other := newNetns(t), newNetns(t)
	if n.ID() == other.ID() {
		t.Fatalf("two namespaces have the same ID, %v", n.ID())
	}
	for _, addr := range []string{"127.0.0.1:15008", "0.0.0.0:15008", "[::1]:15008", "[::]:15008"} {
		t.Run(addr, func(t *testing.T) {
			a := netip.MustParseAddrPort(addr)
			o := SocketOptions{Mark: 0x539, ReusePort: true, Transparent: true}
			ln, err := n.Listen(a, o)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			dst := a
			if a.Addr().IsUnspecified() {
				dst = netip.AddrPortFrom(map[bool]netip.Addr{true: netip.AddrFrom4([4]byte{127, 0, 0, 1}), false: netip.IPv6Loopback()}[a.Addr().Is4()], a.Port())
			}
			c, err := n.Dial(t.Context(), netip.AddrPort{}, dst, SocketOptions{Mark: 0x539})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			in, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			for _, s := range []any{ln, c, in} {
				if got := inode(t, s.(syscall.Conn)); got != n.ID().Ino {
					t.Errorf("%T is in namespace %d, want %v", s, got, n.ID())
				}
				if got := option(t, s.(syscall.Conn), unix.SOL_SOCKET, unix.SO_MARK); got != 0x539 {
					t.Errorf("%T has mark %#x, want 0x539", s, got)
				}
			}
			if _, err := other.Dial(t.Context(), netip.AddrPort{}, dst, SocketOptions{}); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("Dial in the other namespace: %v, want %v", err, unix.ECONNREFUSED)
			}
			if again, err := n.Listen(a, o); err != nil {
				t.Errorf("a second listener with ReusePort: %v", err)
			} else {
				again.Close()
			}
			go fmt.Fprint(c, "hello")
			b := make([]byte, 8)
			if l, err := in.Read(b); err != nil || string(b[:l]) != "hello" {
				t.Errorf("read %q, %v", b[:l], err)
			}
		})
	}
	atHome(t)
}

func TestUnspecifiedIPv6TakesBothFamilies(t *testing.T) {
	n := newNetns(t)
	ln, err := n.Listen(netip.MustParseAddrPort("[::]:15001"), SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := n.Dial(t.Context(), netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:15001"), SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	only, err := n.Listen(netip.MustParseAddrPort("[::1]:15002"), SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer only.Close()
	if four, err := n.Listen(netip.MustParseAddrPort("127.0.0.1:15002"), SocketOptions{}); err != nil {
		t.Errorf("IPv4 beside IPv6: %v", err)
	} else {
		four.Close()
	}
	udp, err := n.ListenPacket(netip.MustParseAddrPort("[::]:15053"), SocketOptions{Mark: 7})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	if got := inode(t, udp); got != n.ID().Ino {
		t.Errorf("the UDP socket is in namespace %d, want %v", got, n.ID())
	}
}

// TestTransparentSource dials from an address that the namespace does not have.
func TestTransparentSource(t *testing.T) {
	n := newNetns(t)
	ln, err := n.Listen(netip.MustParseAddrPort("127.0.0.1:80"), SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	src := netip.MustParseAddrPort("203.0.113.7:0")
	// Nothing routes the answers back, so it must time out, and not be refused.
	_, err = n.Dial(ctx, src, netip.MustParseAddrPort("127.0.0.1:80"), SocketOptions{Transparent: true})
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Dial from %v: %v, want a timeout", src, err)
	}
	_, err = n.Dial(t.Context(), src, netip.MustParseAddrPort("127.0.0.1:80"), SocketOptions{})
	if !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("Dial from %v without Transparent: %v, want %v", src, err, unix.EADDRNOTAVAIL)
	}
}

// silence returns an address to which connecting takes for ever: its listener's
// queue is full.
func silence(t *testing.T, n *Netns) netip.AddrPort {
	t.Helper()
	var fd int
	err := n.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		c, err := n.Dial(ctx, netip.AddrPort{}, dst, SocketOptions{})
		cancel()
		if err != nil {
			return dst
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the listener's queue does not fill")
	return dst
}

func TestDialIsCancelled(t *testing.T) {
	n := newNetns(t)
	dst := silence(t, n)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	for range 100 {
		go func() {
			_, err := n.Dial(ctx, netip.AddrPort{}, dst, SocketOptions{})
			failed <- err
		}()
	}
	before := threads(t)
	cancel()
	for range 100 {
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("Dial: %v, want %v", err, context.Canceled)
		}
	}
	if before > 60 {
		t.Errorf("100 dials that wait hold %d threads", before)
	}
	atHome(t)
}

// TestNothingLeaks counts descriptors and threads after thousands of dials,
// listeners and failures, many at once.
func TestNothingLeaks(t *testing.T) {
	n := newNetns(t)
	ln, err := n.Listen(netip.MustParseAddrPort("127.0.0.1:15006"), SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	round := func() {
		if c, err := n.Dial(context.Background(), netip.AddrPort{}, addr, SocketOptions{Mark: 1}); err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
		if _, err := n.Dial(context.Background(), netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:1"), SocketOptions{}); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("Dial: %v, want %v", err, unix.ECONNREFUSED)
		}
		if _, err := n.Listen(addr, SocketOptions{}); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("Listen: %v, want %v", err, unix.EADDRINUSE)
		}
		l, err := n.Listen(netip.MustParseAddrPort("127.0.0.1:0"), SocketOptions{ReusePort: true})
		if err != nil {
			t.Error(err)
		} else {
			l.Close()
		}
		u, err := n.ListenPacket(netip.MustParseAddrPort("127.0.0.1:0"), SocketOptions{})
		if err != nil {
			t.Error(err)
		} else {
			u.Close()
		}
		var exits sync.WaitGroup
		exits.Go(func() {
			if err := n.Do(func() error { runtime.Goexit(); return nil }); !errors.Is(err, errExited) {
				t.Errorf("Do: %v, want %v", err, errExited)
			}
		})
		exits.Wait()
	}
	many := func() {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 125 {
					round()
				}
			})
		}
		all.Wait()
	}
	many()
	fds, tasks := open(t), threads(t)
	many()
	if got := open(t); got > fds {
		t.Errorf("%d descriptors are open, %d before", got, fds)
	}
	if got := threads(t); got > tasks+8 {
		t.Errorf("%d threads, %d before", got, tasks)
	}
	atHome(t)
}

func BenchmarkDo(b *testing.B) {
	n := newNetns(b)
	for b.Loop() {
		n.Do(func() error { return nil })
	}
}

func BenchmarkDial(b *testing.B) {
	for _, inside := range []bool{false, true} {
		b.Run(fmt.Sprintf("inside=%v", inside), func(b *testing.B) {
			var n *Netns
			if inside {
				n = newNetns(b)
			}
			ln, err := n.Listen(netip.MustParseAddrPort("127.0.0.1:0"), SocketOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			addr := ln.Addr().(*net.TCPAddr).AddrPort()
			for b.Loop() {
				c, err := n.Dial(b.Context(), netip.AddrPort{}, addr, SocketOptions{})
				if err != nil {
					b.Fatal(err)
				}
				in, err := ln.Accept()
				if err != nil {
					b.Fatal(err)
				}
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
				in.Close()
			}
		})
	}
}
