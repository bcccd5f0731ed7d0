package ztunnel

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/dns"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// resolver is a pod's sockets as package dns has them.
type resolver struct{ Inside }

func (r resolver) Dial(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	return r.Inside.Dial(ctx, netip.Addr{}, dst)
}

// answer has a pod's questions answered, at its own loopback addresses, until
// resolve is called. A pod that is not known yet is told nothing of the mesh, and
// what it asks is forwarded.
func (in *inside) answer(p *pod, o dns.ServerOptions) error {
	o.Client = func(*config.Snapshot, netip.Addr) *mesh.Workload { return p.about() }
	o.Sockets = resolver{in.sockets}
	if z := &p.z.options; !z.InPod.AskOurs && !z.RegistryOnly {
		o.Asked = in.sockets.Redirected
	}
	addrs := []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort)}
	if !p.z.options.InPod.NoIPv6 {
		addrs = append(addrs, netip.AddrPortFrom(netip.IPv6Loopback(), dnsPort))
	}
	s, err := dns.Listen(o, addrs...)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	in.resolve = stop
	p.z.serving.Go(func() { _ = s.Serve(ctx) }) // it has no error to tell
	return nil
}

// handOver has the pod's questions answered by whoever takes over, after those
// that have come.
func (in *inside) handOver(p *pod) {
	n, ok := in.sockets.(*namespace)
	if !ok {
		in.resolve()
		return
	}
	n.handOver()
	p.z.serving.Go(func() {
		<-time.After(handoverTime)
		in.resolve()
	})
}
