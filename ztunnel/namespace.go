package ztunnel

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/waystone-mesh/waystone/internal/netns"
)

// Inside makes the sockets of a pod in its network namespace. All of them bear
// the mark by which the pod's rules know what is ours.
type Inside interface {
	Sockets
	ListenPacket(addr netip.AddrPort) (*net.UDPConn, error)

	// DialPacket is Dial for UDP.
	DialPacket(ctx context.Context, dst netip.AddrPort) (net.Conn, error)

	// Original returns where a connection that came to a listener was going
	// before it was redirected there.
	Original(c net.Conn) (netip.AddrPort, error)

	// Redirected is Original of what a client sends to here, an address of ours, by
	// "tcp" or "udp".
	Redirected(network string, client, here netip.AddrPort) (netip.AddrPort, error)
}

// A namespace is the Inside of a real pod.
type namespace struct {
	netns   *netns.Netns
	options *InPod
	log     *slog.Logger

	opaque  atomic.Bool    // we may have no addresses but the pod's own
	packets []*net.UDPConn // by Listen's caller alone
}

func (n *namespace) socket(o netns.SocketOptions) netns.SocketOptions {
	o.KeepAlive, o.UserTimeout = n.options.KeepAlive, n.options.UserTimeout
	if !n.options.NoMark {
		o.Mark = n.options.Mark
	}
	return o
}

// Listen also asks for connections to addresses that are not the pod's, as far as
// we may: that needs CAP_NET_ADMIN.
func (n *namespace) Listen(addr netip.AddrPort) (net.Listener, error) {
	o := n.socket(netns.SocketOptions{ReusePort: !n.options.OnlyOne, Transparent: !n.opaque.Load()})
	ln, err := n.netns.Listen(addr, o)
	if o.Transparent && notPermitted(err) {
		n.opaque.Store(true)
		n.log.Warn("applications will see the pod's own address rather than the client's: CAP_NET_ADMIN is missing", "error", err)
		o.Transparent = false
		ln, err = n.netns.Listen(addr, o)
	}
	if t, ok := ln.(*net.TCPListener); ok && o.ReusePort {
		return &handover{TCPListener: t}, err
	}
	return ln, err
}

// Dial takes src for our own address although it is another's; where that is not
// permitted it fails with EPERM.
func (n *namespace) Dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	if src.IsValid() && (src == dst.Addr() || src.Is4() != dst.Addr().Is4() || n.opaque.Load()) {
		src = netip.Addr{}
	}
	if !src.IsValid() {
		return n.netns.Dial(ctx, netip.AddrPort{}, dst, n.socket(netns.SocketOptions{}))
	}
	return n.netns.Dial(ctx, netip.AddrPortFrom(src, 0), dst, n.socket(netns.SocketOptions{Transparent: true}))
}

func (n *namespace) ListenPacket(addr netip.AddrPort) (*net.UDPConn, error) {
	c, err := n.netns.ListenPacket(addr, n.socket(netns.SocketOptions{ReusePort: !n.options.OnlyOne}))
	if err == nil {
		n.packets = append(n.packets, c)
	}
	return c, err
}

// handOver has what is asked from now on go to whoever takes over.
func (n *namespace) handOver() {
	for _, c := range n.packets {
		_ = netns.HandOver(c) // then some of it is asked again
	}
}

func (n *namespace) DialPacket(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	return n.netns.DialPacket(ctx, dst, n.socket(netns.SocketOptions{}))
}

func (n *namespace) Original(c net.Conn) (netip.AddrPort, error) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return netip.AddrPort{}, errors.New("ztunnel: the connection is not TCP")
	}
	return netns.OriginalDestination(t)
}

func (n *namespace) Redirected(network string, client, here netip.AddrPort) (netip.AddrPort, error) {
	return n.netns.Redirected(network, client, here)
}

// notPermitted reports whether an error is about rights that we lack.
func notPermitted(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES)
}

// listenAny listens on all addresses of the pod: of both families, where it has
// both.
func (p *pod) listenAny(port uint16, noIPv6 bool) (net.Listener, error) {
	if !noIPv6 {
		ln, err := p.sockets.Listen(netip.AddrPortFrom(netip.IPv6Unspecified(), port))
		if !errors.Is(err, syscall.EAFNOSUPPORT) && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return ln, err
		}
	}
	return p.sockets.Listen(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
}
