// Package netns makes sockets in the network namespaces of pods.
//
// A socket belongs for good to the namespace in which it was created, whoever
// uses it later and on whichever thread. So only socket(2) is called inside:
// the rest, connecting and waiting included, is package net's and its poller's.
// No thread waits in a pod's namespace.
//
// The package sets no addresses, routes or rules.
package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// keepAlive is of every connection made or accepted here: probes after 180 s of
// silence and every 180 s, the ninth unanswered ends it, as in Istio's
// KEEPALIVE_TIME, KEEPALIVE_INTERVAL and KEEPALIVE_RETRIES.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 180 * time.Second, Interval: 180 * time.Second, Count: 9}

// A Netns is a network namespace, held by a file descriptor, which keeps it
// alive. A nil *Netns is the namespace that the process is in. Its methods are
// safe for concurrent use; after Close they return [os.ErrClosed].
type Netns struct {
	file *os.File
	id   ID
}

// An ID tells namespaces apart while they exist: the device and inode of the
// namespace's file. The zero ID is that of a nil *Netns.
type ID struct{ Dev, Ino uint64 }

// String returns the inode number, by which `ip netns` and lsns know it.
func (id ID) String() string { return fmt.Sprint(id.Ino) }

// SocketOptions is what a socket is made with, beyond what all have: close on
// exec, and for TCP no delay and keepalive.
type SocketOptions struct {
	// Mark is the socket's SO_MARK, which what it accepts inherits; 0: none. It
	// needs CAP_NET_ADMIN, as does Transparent.
	Mark uint32

	// Transparent sets IP_TRANSPARENT and IP_FREEBIND or IPv6's: the socket may
	// have an address that the namespace has not.
	Transparent bool

	// KeepAlive are the probes of idle connections, made or accepted; nil: keepAlive.
	KeepAlive *net.KeepAliveConfig

	// UserTimeout is for how long what was sent may go unacknowledged until a
	// connection ends; 0: for as long as the kernel tries. It is in milliseconds.
	UserTimeout time.Duration

	// ReusePort lets several sockets listen on the address, so that one process
	// can take over from another.
	ReusePort bool
}

// ID returns the namespace's.
func (n *Netns) ID() ID {
	if n == nil {
		return ID{}
	}
	return n.id
}

// Close lets go of the namespace. Sockets made in it stay.
func (n *Netns) Close() error {
	if n == nil {
		return nil
	}
	return n.file.Close()
}

// probes returns how idle connections are probed, as package net has it: off is a
// negative time, and not what is not enabled.
func (o SocketOptions) probes() (net.KeepAliveConfig, time.Duration) {
	c := keepAlive
	if o.KeepAlive != nil {
		c = *o.KeepAlive
	}
	if !c.Enable {
		return net.KeepAliveConfig{}, -1
	}
	return c, 0
}

// Listen listens for TCP. The unspecified IPv6 address takes IPv4 connections
// as well, whose addresses are then IPv4-mapped; every other IPv6 address, and
// every IPv4 address, takes its own family only.
func (n *Netns) Listen(addr netip.AddrPort, o SocketOptions) (net.Listener, error) {
	addr = unmap(addr)
	lc := net.ListenConfig{Control: n.control(addr.Addr(), listening, o)}
	lc.KeepAliveConfig, lc.KeepAlive = o.probes()
	lc.SetMultipathTCP(false)
	return lc.Listen(context.Background(), "tcp"+family(addr.Addr()), addr.String())
}

// ListenPacket opens a socket for UDP. Addresses are as in Listen.
func (n *Netns) ListenPacket(addr netip.AddrPort, o SocketOptions) (*net.UDPConn, error) {
	addr = unmap(addr)
	lc := net.ListenConfig{Control: n.control(addr.Addr(), packets, o)}
	c, err := lc.ListenPacket(context.Background(), "udp"+family(addr.Addr()), addr.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// Dial connects by TCP to dst, from src unless it is zero: from a port of the
// kernel's choice if src's is 0. It gives up when ctx is done. The connection is
// a *net.TCPConn.
func (n *Netns) Dial(ctx context.Context, src, dst netip.AddrPort, o SocketOptions) (net.Conn, error) {
	src, dst = unmap(src), unmap(dst)
	use := dialing
	if src.IsValid() && src.Port() == 0 {
		use = dialingFrom
	}
	d := net.Dialer{Control: n.control(dst.Addr(), use, o)}
	d.KeepAliveConfig, d.KeepAlive = o.probes()
	c, err := d.DialTCP(ctx, "tcp"+family(dst.Addr()), src, dst)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// A use is what a socket is for.
type use int

const (
	listening use = iota
	packets
	dialing
	dialingFrom // an address and any port
)

// A control prepares a socket of package net's before it is bound or connected.
type control = func(network, address string, c syscall.RawConn) error

func family(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
