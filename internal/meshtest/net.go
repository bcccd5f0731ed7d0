package meshtest

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/waystone-mesh/waystone/internal/memnet"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// A network is what a mesh stands on.
type network interface {
	addr(n int) netip.Addr // the address of the n-th workload
	listen(netip.AddrPort) (net.Listener, error)
	dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error)
	close()
}

func newNetwork(loopback bool) network {
	if loopback {
		return &loopbackNet{block: byte(blocks.Add(1))}
	}
	return memoryNet{memnet.New()}
}

type memoryNet struct{ *memnet.Net }

func (memoryNet) addr(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 244, byte(n >> 8), byte(n)})
}
func (m memoryNet) listen(a netip.AddrPort) (net.Listener, error) { return m.Listen(a), nil }
func (m memoryNet) dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	return m.Dial(ctx, src, dst)
}
func (memoryNet) close() {}

// blocks keeps the meshes of one process apart on the loopback interface.
var blocks atomic.Int32

// A loopbackNet is a /16 of 127/8, all of which is this machine.
type loopbackNet struct{ block byte }

func (l *loopbackNet) addr(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 60 + l.block, byte(n >> 8), byte(n)})
}
func (*loopbackNet) listen(a netip.AddrPort) (net.Listener, error) {
	return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
}
func (*loopbackNet) dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	return ztunnel.DialTCP(ctx, src, dst)
}
func (*loopbackNet) close() {}
