package meshtest

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/waystone-mesh/waystone/internal/memnet"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// A Network is what a mesh stands on.
type Network interface {
	Addr(n int) netip.Addr // the address of the n-th workload
	Listen(netip.AddrPort) (net.Listener, error)
	Dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error)
	Close()
}

func newNetwork(o Options) (Network, error) {
	switch {
	case o.Network != nil:
		return o.Network, nil
	case o.Loopback:
		return newLoopback()
	}
	return memoryNet{memnet.New()}, nil
}

type memoryNet struct{ *memnet.Net }

func (memoryNet) Addr(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 244, byte(n >> 8), byte(n)})
}
func (m memoryNet) Listen(a netip.AddrPort) (net.Listener, error) { return m.Net.Listen(a), nil }
func (m memoryNet) Dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	return m.Net.Dial(ctx, src, dst)
}
func (memoryNet) Close() {}

// A loopbackNet is a /16 of 127/8, all of which is this machine. The claim is a
// listener that keeps it for us: tests of several packages run at a time.
type loopbackNet struct {
	block byte
	claim net.Listener
}

// next is where to look for a /16 that is free: not where another mesh has just
// been, whose connections may linger.
var next atomic.Uint32

func newLoopback() (*loopbackNet, error) {
	const first, count = 60, 190
	var err error
	for range count {
		l := &loopbackNet{block: byte(first + next.Add(1)%count)}
		if l.claim, err = l.Listen(netip.AddrPortFrom(l.Addr(0xffff), 15008)); err == nil {
			return l, nil
		}
	}
	return nil, err
}

func (l *loopbackNet) Addr(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, l.block, byte(n >> 8), byte(n)})
}
func (*loopbackNet) Listen(a netip.AddrPort) (net.Listener, error) {
	return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
}
func (*loopbackNet) Dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	return ztunnel.DialTCP(ctx, src, dst)
}
func (l *loopbackNet) Close() { l.claim.Close() }
