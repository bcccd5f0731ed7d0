package netns

import (
	"context"
	"net"
	"net/netip"
)

// DialPacket opens a socket for UDP that sends to dst and takes what comes from
// there.
func (n *Netns) DialPacket(ctx context.Context, dst netip.AddrPort, o SocketOptions) (net.Conn, error) {
	dst = unmap(dst)
	d := net.Dialer{Control: n.control(dst.Addr(), packets, o)}
	return d.DialContext(ctx, "udp"+family(dst.Addr()), dst.String())
}
