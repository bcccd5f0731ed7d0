package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Open returns the network namespace that has a file at path, such as
// /proc/PID/ns/net or /run/netns/NAME.
func Open(path string) (*Netns, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open network namespace", Path: path, Err: err}
	}
	n, err := FromFD(fd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// FromFD returns the network namespace of a descriptor. The descriptor is the
// Netns's from then on; it is closed if it is not of a network namespace.
func FromFD(fd int) (*Netns, error) {
	id, err := identify(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &Netns{file: os.NewFile(uintptr(fd), "netns:"+id.String()), id: id}, nil
}

func identify(fd int) (ID, error) {
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return ID{}, fmt.Errorf("descriptor %d is not of a namespace: %w", fd, err)
	}
	if kind != unix.CLONE_NEWNET {
		return ID{}, fmt.Errorf("descriptor %d is of a namespace of another kind (%#x) than network", fd, kind)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ID{}, fmt.Errorf("descriptor %d of a network namespace: %w", fd, err)
	}
	return ID{Dev: st.Dev, Ino: st.Ino}, nil
}

// Do calls f on a thread that is in the namespace, and returns its error. What
// f opens stays in the namespace; goroutines that it starts are not in it.
func (n *Netns) Do(f func() error) error {
	if n == nil {
		return f()
	}
	done := make(chan error, 1)
	go n.inside(f, done)
	return <-done
}

var errExited = errors.New("netns: the function ended its goroutine")

// inside is a goroutine of its own because one that ends while locked to its
// thread ends the thread. So nothing else ever runs on a thread that could not
// be brought home.
func (n *Netns) inside(f func() error, done chan<- error) {
	runtime.LockOSThread()
	back, err := home()
	if err == nil {
		err = setns(n.file)
	}
	if err != nil {
		runtime.UnlockOSThread()
		done <- fmt.Errorf("network namespace %s: %w", n.id, err)
		return
	}
	err = errExited
	defer func() { // even if f does not return
		if setns(back) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	err = f()
}

// home is the namespace that the process is in. It is opened once, on a thread
// that nobody has moved: a new goroutine never gets one that another has locked.
var home = sync.OnceValues(func() (*os.File, error) { return os.Open("/proc/thread-self/ns/net") })

func setns(file *os.File) error {
	c, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var e error
	if c.Control(func(fd uintptr) { e = unix.Setns(int(fd), unix.CLONE_NEWNET) }) != nil {
		return os.ErrClosed // its only reason
	}
	return os.NewSyscallError("setns", e)
}

// control puts a socket of the namespace in the place of package net's, and sets
// the options. Package net registers the descriptor with its poller after this.
func (n *Netns) control(addr netip.Addr, u use, o SocketOptions) control {
	return func(_, _ string, c syscall.RawConn) error {
		var e error
		if err := c.Control(func(fd uintptr) { e = n.prepare(int(fd), addr, u, o) }); err != nil {
			return err
		}
		return e
	}
}

func (n *Netns) prepare(fd int, addr netip.Addr, u use, o SocketOptions) error {
	if n != nil {
		if err := n.replace(fd, addr, u); err != nil {
			return err
		}
	}
	return o.set(fd, addr, u)
}

// replace makes a socket in the namespace and gives it the number fd.
func (n *Netns) replace(fd int, addr netip.Addr, u use) error {
	domain, kind := unix.AF_INET6, unix.SOCK_STREAM
	if addr.Is4() {
		domain = unix.AF_INET
	}
	if u == packets {
		kind = unix.SOCK_DGRAM
	}
	var inside int
	err := n.Do(func() (err error) {
		inside, err = unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return err
	}
	defer unix.Close(inside)
	return os.NewSyscallError("dup3", unix.Dup3(inside, fd, unix.O_CLOEXEC))
}

func (o SocketOptions) set(fd int, addr netip.Addr, u use) error {
	var err error
	set := func(level, option, value int, name string) {
		if e := unix.SetsockoptInt(fd, level, option, value); e != nil && err == nil {
			err = os.NewSyscallError("setsockopt "+name, e)
		}
	}
	if addr.Is6() {
		only := 1
		if addr.IsUnspecified() {
			only = 0
		}
		set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only, "IPV6_V6ONLY")
	}
	if u == listening {
		set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1, "SO_REUSEADDR") // as package net's
	}
	if u == dialingFrom {
		// The port is chosen at connect, by both ends' addresses: else a source
		// would have no more connections than ports.
		set(unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1, "IP_BIND_ADDRESS_NO_PORT")
	}
	if o.UserTimeout > 0 && u != packets {
		set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(min(o.UserTimeout.Milliseconds(), math.MaxInt32)), "TCP_USER_TIMEOUT")
	}
	if o.Mark != 0 {
		set(unix.SOL_SOCKET, unix.SO_MARK, int(o.Mark), "SO_MARK")
	}
	if o.ReusePort {
		set(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1, "SO_REUSEPORT")
	}
	switch {
	case o.Transparent && addr.Is4():
		set(unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1, "IP_TRANSPARENT")
		set(unix.IPPROTO_IP, unix.IP_FREEBIND, 1, "IP_FREEBIND")
	case o.Transparent:
		set(unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1, "IPV6_TRANSPARENT")
		set(unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1, "IPV6_FREEBIND")
	}
	return err
}

// OriginalDestination returns where an accepted connection was going before it
// was redirected here: SO_ORIGINAL_DST, for IPv4 and then for IPv6. Without
// redirection it is the connection's own address, or an error where connections
// are not tracked.
func OriginalDestination(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var dst netip.AddrPort
	var e error
	if err := raw.Control(func(fd uintptr) { dst, e = originalDestination(int(fd)) }); err != nil {
		return netip.AddrPort{}, err
	}
	return dst, os.NewSyscallError("getsockopt SO_ORIGINAL_DST", e)
}

// originalDestination reads the address into other structures of the right
// size, as x/sys has no call for this option.
func originalDestination(fd int) (netip.AddrPort, error) {
	v4, err := unix.GetsockoptIPv6Mreq(fd, unix.IPPROTO_IP, unix.SO_ORIGINAL_DST) // 16 bytes of a sockaddr_in
	if err == nil {
		b := v4.Multiaddr // family, port, address
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3])), nil
	}
	v6, err6 := unix.GetsockoptIPv6MTUInfo(fd, unix.IPPROTO_IPV6, unix.SO_ORIGINAL_DST) // begins with a sockaddr_in6
	if err6 != nil {
		return netip.AddrPort{}, err
	}
	port := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v6.Addr.Port))
	return netip.AddrPortFrom(netip.AddrFrom16(v6.Addr.Addr).Unmap(), port), nil
}
