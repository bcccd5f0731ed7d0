package ztunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

// maxWaiting is how many connections of a pod may wait for its workload to be
// known. Others are reset.
const maxWaiting = 256

var errTooMany = errors.New("too many connections wait for the pod to be known")

// takeOutbound takes a connection of the pod's that was redirected to us: the
// kernel says where it was going. It is the way to learn that which applications
// need not know of.
func (p *pod) takeOutbound(nc net.Conn) {
	p.take(nc, telemetry.BySource, func(w *worker, dst netip.AddrPort) {
		leg := loop.NewTCP(w.loop, loop.Plain(nc), w.window(), nil)
		w.carry(p, leg, mesh.Authority{IP: dst.Addr(), Port: dst.Port()}, nil, func(err error) {
			if err != nil {
				leg.Reset(err) // an end would look like an empty answer
			}
		})
	})
}

// takePlaintext takes a connection to the pod that came without HBONE.
func (p *pod) takePlaintext(nc net.Conn) {
	p.take(nc, telemetry.ByDestination, func(w *worker, dst netip.AddrPort) { w.receivePlaintext(p, nc, dst) })
}

// take has then called on a loop with where a redirected connection was going,
// once the pod is known.
func (p *pod) take(nc net.Conn, r telemetry.Reporter, then func(*worker, netip.AddrPort)) {
	dst, err := p.original(nc, r)
	if err != nil {
		p.refuse(nc, r, dst, err)
		return
	}
	pick := func() {
		l := p.z.options.Loops.Pick()
		l.Do(func() { then(p.z.workers[l], dst) })
	}
	if p.workload.Load() != nil {
		pick()
		return
	}
	if p.inside.waiting.Add(1) > maxWaiting {
		p.inside.waiting.Add(-1)
		p.refuse(nc, r, dst, errTooMany)
		return
	}
	p.capturing.Go(func() {
		defer p.inside.waiting.Add(-1)
		if p.wait() == nil {
			p.refuse(nc, r, dst, fmt.Errorf("%w: %s was not told of in time", errUnknownPod, p.name()))
			return
		}
		pick()
	})
}

// original returns where a connection was going. One that was going to a port of
// ours, because somebody dialled that, would come back for ever.
func (p *pod) original(nc net.Conn, r telemetry.Reporter) (netip.AddrPort, error) {
	dst, err := p.inside.sockets.Original(nc)
	if err != nil {
		dst = addrOf(nc.LocalAddr()) // nothing has redirected it
	}
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	switch local := addrOf(nc.LocalAddr()); {
	case dst == local:
		return dst, errSelfCall
	case r == telemetry.ByDestination && p.z.options.reserved(dst.Port()):
		return dst, fmt.Errorf("%w: port %d", errSelfCall, dst.Port())
	}
	return dst, nil
}

// reserved reports whether a port in a pod is one of ours.
func (o *Options) reserved(port uint16) bool {
	if o.InPod == nil && (port == o.SOCKSPort || isIllegal(port)) {
		return true
	}
	return port == o.HBONEPort || port == outboundPort || port == plaintextPort
}

func addrOf(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// refuse resets a connection that goes nowhere, and says so.
func (p *pod) refuse(nc net.Conn, r telemetry.Reporter, dst netip.AddrPort, err error) {
	rec := telemetry.TCP{Err: err}
	rec.Reporter, rec.SourceAddr, rec.LocalAddr = r, addrOf(nc.RemoteAddr()), dst
	if c, ok := nc.(interface{ SetLinger(int) error }); ok {
		_ = c.SetLinger(0)
	}
	nc.Close()
	p.z.options.Telemetry.Failed(&rec)
}

// A plaintext is what an inbound connection without HBONE has more.
type plaintext struct {
	leg   *loop.TCP  // the client's side
	early flow.Early // what the client sent before the application was there
}

// receivePlaintext takes a connection to a pod that came without HBONE: does
// policy let somebody in of whom nothing is known but an address (where mTLS is
// required, by PeerAuthentication, it does not), and does the application answer.
func (w *worker) receivePlaintext(p *pod, nc net.Conn, dst netip.AddrPort) {
	sock := loop.Plain(nc)
	i := &inbound{worker: w, pod: p, in: &hbone.Incoming{
		Connect:    hbone.Connect{Authority: mesh.Authority{IP: dst.Addr(), Port: dst.Port()}},
		Connection: &hbone.Connection{Source: sock.RemoteAddr(), Local: dst, Loop: w.loop},
	}}
	i.plain = &plaintext{}
	i.plain.early.Gone = func(error) { i.finish(errClientGone) }
	i.plain.leg = loop.NewTCP(w.loop, sock, w.window(), &i.plain.early)
	i.record()
	i.begin()
}

// admitPlaintext finds the pod, and who is at the client's address.
func (w *worker) admitPlaintext(i *inbound, dst netip.AddrPort) (netip.AddrPort, error) {
	if w.cutting {
		return dst, errDrained
	}
	snap := w.options.Store.Snapshot()
	if i.dest = i.pod.destination(snap); i.dest == nil {
		return dst, fmt.Errorf("%w: %s", errUnknownPod, i.pod.name())
	}
	i.source = snap.Workload(w.options.Network, i.in.Source.Addr())
	return dst, nil
}

// joinPlaintext copies between the client and the application.
func (i *inbound) joinPlaintext(t *loop.TCP) {
	leg := i.plain.leg
	i.pair.Join(leg, t, i.done)
	i.copying = true
	t.SetReceiver(i.pair.B())
	leg.SetReceiver(i.pair.A())
	i.plain.early.HandTo(i.pair.A())
}
