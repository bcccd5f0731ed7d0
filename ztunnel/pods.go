package ztunnel

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
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
	// Immutable.
	z         *Ztunnel
	uid       string
	addrs     []netip.Addr
	server    *hbone.Server
	listeners []net.Listener
	over      chan struct{} // closed by close

	workload  atomic.Pointer[mesh.Workload] // as it is now
	capturing sync.WaitGroup
}

// Reconcile makes the pods that are served those that the Store has: it opens
// and closes their ports. Run calls it on every change.
func (z *Ztunnel) Reconcile() {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.draining {
		return
	}
	want := z.local()
	for uid, p := range z.pods {
		w := want[uid]
		if w != nil && slices.Equal(w.Addresses, p.addrs) && w.Identity() == p.workload.Load().Identity() {
			p.workload.Store(w)
			delete(want, uid)
			continue
		}
		delete(z.pods, uid)
		z.options.Telemetry.ProxyStopped()
		p.close() // at once: another pod may have the address now
		z.serving.Go(p.retire)
	}
	for uid := range z.pending {
		if want[uid] == nil {
			delete(z.pending, uid)
			z.options.Telemetry.ProxyForgotten()
		}
	}
	for uid, w := range want {
		z.serveLocked(uid, w)
	}
}

// local returns the pods that are to be served, by UID. Of several that claim
// an address it is the one that is found there: the others are about to go.
func (z *Ztunnel) local() map[string]*mesh.Workload {
	snap := z.options.Store.Snapshot()
	list := map[string]*mesh.Workload{}
	for _, w := range snap.Local(z.options.Node) {
		if w.HostNetwork || w.NativeTunnel || len(w.Addresses) == 0 || z.options.MeshOnly && w.Tunnel != mesh.HBONE {
			continue
		}
		other := func(ip netip.Addr) bool {
			at := snap.Workload(w.Network, ip)
			return at != nil && at.UID != w.UID
		}
		if !slices.ContainsFunc(w.Addresses, other) {
			list[w.UID] = w
		}
	}
	return list
}

// serveLocked begins to serve a pod. One whose ports cannot be opened is
// pending, and said to be so when the reason is a new one.
func (z *Ztunnel) serveLocked(uid string, w *mesh.Workload) {
	reason, pending := z.pending[uid]
	if !pending {
		z.options.Telemetry.ProxyPending()
	}
	p, err := z.start(w)
	if err != nil {
		if z.pending[uid] = err.Error(); z.pending[uid] != reason {
			z.options.Log.Error("pod is not served", "pod", w.Namespace+"/"+w.Name, "error", err)
		}
		return
	}
	delete(z.pending, uid)
	z.options.Telemetry.ProxyStarted()
	z.pods[uid] = p
	z.options.Log.Info("pod is served", "pod", w.Namespace+"/"+w.Name, "identity", w.Identity().String())
}

// start opens the ports of a pod.
func (z *Ztunnel) start(w *mesh.Workload) (*pod, error) {
	o := &z.options
	p := &pod{z: z, uid: w.UID, addrs: w.Addresses, over: make(chan struct{})}
	p.workload.Store(w)
	for _, ip := range w.Addresses {
		for _, port := range [...]uint16{o.HBONEPort, o.SOCKSPort} {
			ln, err := o.Listen(netip.AddrPortFrom(ip, port))
			if err != nil {
				p.close()
				return nil, err
			}
			p.listeners = append(p.listeners, ln)
		}
	}
	p.server = hbone.NewServer(hbone.ServerOptions{
		Self:     func(netip.AddrPort) identity.ID { return p.workload.Load().Identity() },
		Identity: o.Identity, Aliases: o.Aliases, Loops: o.Loops, H2: o.HBONE, ResetIsEOF: true,
		Connect: func(in *hbone.Incoming) { z.workers[in.Loop].receive(p, in) },
		Events:  hbone.Events{HandshakeFailed: p.handshakeFailed},
	})
	for i := 0; i < len(p.listeners); i += 2 {
		z.serving.Go(func() { p.serve(p.listeners[i]) })
		p.capturing.Go(func() { p.capture(p.listeners[i+1]) })
	}
	return p, nil
}

func (p *pod) serve(ln net.Listener) {
	if err := p.server.Serve(ln); err != nil && !p.closed() {
		p.z.options.Log.Error("HBONE listener failed", "address", ln.Addr().String(), "error", err)
	}
}

// address is where the pod dials dst from: its address of that family.
func (p *pod) address(dst netip.Addr) netip.Addr {
	for _, ip := range p.addrs {
		if ip.Is4() == dst.Is4() {
			return ip
		}
	}
	return p.addrs[0]
}

// close closes the ports. What is open stays open.
func (p *pod) close() {
	close(p.over)
	for _, ln := range p.listeners {
		ln.Close()
	}
}

func (p *pod) closed() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

// retire ends what is open of a pod that is gone: there is nobody left to drain
// for.
func (p *pod) retire() {
	p.capturing.Wait()
	for l, w := range p.z.workers {
		l.Do(func() { w.forget(p) })
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = p.server.Shutdown(ctx) // it is cut, as asked
}

// forget ends what a pod that is gone has on the loop.
func (w *worker) forget(p *pod) {
	for in := range w.inbound {
		if in.pod == p {
			in.reset(errGone)
		}
	}
	for g := range w.greeters {
		if g.pod == p {
			g.fail(errGone)
		}
	}
	for out := range w.outbound {
		if out.pod == p {
			out.reset(errGone)
		}
	}
	w.pool.Retire(func(k hbone.Key) bool { return slices.Contains(p.addrs, k.SourceIP) })
}

// handshakeFailed reports a connection to the pod that came to nothing.
func (p *pod) handshakeFailed(remote netip.AddrPort, err error) {
	p.z.options.Telemetry.HandshakeFailed()
	rec := telemetry.TCP{Err: err}
	rec.Reporter = telemetry.ByDestination
	rec.SourceAddr, rec.LocalAddr = remote, netip.AddrPortFrom(p.addrs[0], p.z.options.HBONEPort)
	p.z.options.Telemetry.Failed(&rec)
}
