package ztunnel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

// A pod is a workload of this node, with the ports that we serve for it on its
// own addresses: HBONE for what others send it, and one where it hands us what
// it sends.
//
// The ports are open whether or not the pod is in the mesh yet: nodes learn of
// that at different moments, and the first to know must not find a closed port.
type pod struct {
	z        *Ztunnel
	uid      string
	workload atomic.Pointer[mesh.Workload] // as it is now
	addrs    []netip.Addr
	server   *hbone.Server
	socks    []net.Listener
}

// Reconcile makes the pods that are served those that the Store has: it opens
// and closes their ports. Run calls it on every change.
func (z *Ztunnel) Reconcile() {
	z.mu.Lock()
	defer z.mu.Unlock()
	want := map[string]*mesh.Workload{}
	for _, w := range z.options.Store.Snapshot().Local(z.options.Node) {
		if !w.HostNetwork && !w.NativeTunnel && len(w.Addresses) > 0 {
			want[w.UID] = w
		}
	}
	if z.draining {
		return
	}
	for uid, p := range z.pods {
		w := want[uid]
		if w != nil && sameAddresses(w.Addresses, p.addrs) && w.Identity() == p.workload.Load().Identity() {
			p.workload.Store(w)
			delete(want, uid)
			continue
		}
		delete(z.pods, uid)
		z.options.Telemetry.ProxyStopped()
		go z.retire(p)
	}
	for uid, w := range want {
		z.options.Telemetry.ProxyPending()
		p, err := z.start(w)
		if err != nil {
			z.options.Log.Error("pod is not served", "pod", w.Namespace+"/"+w.Name, "error", err)
			continue
		}
		z.options.Telemetry.ProxyStarted()
		z.pods[uid] = p
		z.options.Log.Info("pod is served", "pod", w.Namespace+"/"+w.Name, "identity", w.Identity().String())
	}
}

func sameAddresses(a, b []netip.Addr) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// start opens the ports of a pod.
func (z *Ztunnel) start(w *mesh.Workload) (*pod, error) {
	o := &z.options
	p := &pod{z: z, uid: w.UID, addrs: w.Addresses}
	p.workload.Store(w)
	p.server = hbone.NewServer(hbone.ServerOptions{
		Self:     func(netip.AddrPort) identity.ID { return p.workload.Load().Identity() },
		Identity: o.Identity, Aliases: o.Aliases, Loops: o.Loops, H2: o.HBONE, ResetIsEOF: true,
		Connect: func(in *hbone.Incoming) { z.workers[in.Loop].receive(p, in) },
		Events:  hbone.Events{HandshakeFailed: p.handshakeFailed},
	})
	for _, ip := range w.Addresses {
		if err := p.listen(ip); err != nil {
			_ = p.stop(canceled())
			return nil, err
		}
	}
	return p, nil
}

func (p *pod) listen(ip netip.Addr) error {
	z := p.z
	hbone, err := z.options.Listen(netip.AddrPortFrom(ip, z.options.HBONEPort))
	if err != nil {
		return err
	}
	z.serving.Go(func() {
		if err := p.server.Serve(hbone); err != nil {
			z.options.Log.Error("HBONE listener failed", "address", hbone.Addr().String(), "error", err)
		}
	})
	socks, err := z.options.Listen(netip.AddrPortFrom(ip, z.options.SOCKSPort))
	if err != nil {
		return err
	}
	p.socks = append(p.socks, socks)
	z.serving.Go(func() { p.capture(socks) })
	return nil
}

// stop closes the ports and waits for what is open.
func (p *pod) stop(ctx context.Context) error {
	for _, ln := range p.socks {
		ln.Close()
	}
	return p.server.Shutdown(ctx)
}

// retire ends a pod that is gone: there is nobody left to drain for.
func (z *Ztunnel) retire(p *pod) {
	if err := p.stop(canceled()); err != nil && !errors.Is(err, context.Canceled) {
		z.options.Log.Warn("pod did not stop in order", "pod", p.uid, "error", err)
	}
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// handshakeFailed reports a connection to the pod that came to nothing.
func (p *pod) handshakeFailed(remote netip.AddrPort, err error) {
	p.z.options.Telemetry.HandshakeFailed()
	rec := telemetry.TCP{Err: err}
	rec.Reporter = telemetry.ByDestination
	rec.SourceAddr, rec.LocalAddr = remote, netip.AddrPortFrom(p.addrs[0], p.z.options.HBONEPort)
	p.z.options.Telemetry.Failed(&rec)
}
