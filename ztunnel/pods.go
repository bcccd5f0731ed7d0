package ztunnel

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/zds"
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
	uid       string // Kubernetes', or where nobody tells that, the workload's
	addrs     []netip.Addr
	sockets   Sockets
	inside    *inside // nil: it is served from outside its network namespace
	server    *hbone.Server
	listeners []net.Listener
	over      chan struct{} // closed by close

	workload  atomic.Pointer[mesh.Workload] // as it is now; nil: not known yet
	capturing sync.WaitGroup
	quota     quota // of those who send to it
}

// Sockets makes the sockets of a pod.
type Sockets interface {
	Listen(addr netip.AddrPort) (net.Listener, error)

	// Dial connects to dst, from src if that is valid, else from where the pod
	// itself would.
	Dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error)
}

// outside makes sockets in our own network namespace.
type outside struct{ *Options }

func (o outside) Listen(addr netip.AddrPort) (net.Listener, error) { return o.Options.Listen(addr) }

func (o outside) Dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	return o.Options.Dial(ctx, src, dst)
}

// A waiting is a pod that is not served yet.
type waiting struct {
	why   string
	about zds.Pod // zero unless it is to be served inside
	tried time.Time
}

// Reconcile makes the pods that are served those that the Store has: it opens
// and closes their ports. Run calls it on every change.
func (z *Ztunnel) Reconcile() {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.draining {
		return
	}
	if z.options.InPod != nil {
		z.refreshLocked()
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
		z.dropLocked(p)
	}
	for uid := range z.pending {
		if want[uid] == nil {
			z.forgetLocked(uid)
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
	was := z.pending[uid]
	if was == nil {
		z.options.Telemetry.ProxyPending()
	}
	p, err := z.start(w)
	if err != nil {
		z.pending[uid] = &waiting{why: err.Error()}
		if was == nil || was.why != err.Error() {
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
	p := &pod{z: z, uid: w.UID, addrs: w.Addresses, sockets: outside{o}, over: make(chan struct{})}
	p.workload.Store(w)
	for _, ip := range w.Addresses {
		for _, port := range [...]uint16{o.HBONEPort, o.SOCKSPort} {
			ln, err := p.sockets.Listen(netip.AddrPortFrom(ip, port))
			if err != nil {
				p.close()
				return nil, err
			}
			p.listeners = append(p.listeners, ln)
		}
	}
	p.server = z.newServer(p)
	for i := 0; i < len(p.listeners); i += 2 {
		z.serving.Go(func() { p.serve(p.listeners[i]) })
		p.capturing.Go(func() { p.accept(p.listeners[i+1], p.greet) })
	}
	return p, nil
}

func (z *Ztunnel) newServer(p *pod) *hbone.Server {
	o := &z.options
	return hbone.NewServer(hbone.ServerOptions{
		Self:     func(netip.AddrPort) identity.ID { return p.identity() },
		Identity: o.Identity, Aliases: o.Aliases, Loops: o.Loops, H2: o.HBONE, ResetIsEOF: true,
		Connect: func(in *hbone.Incoming) { z.workers[in.Loop].receive(p, in) },
		Events:  hbone.Events{HandshakeFailed: p.handshakeFailed},
	})
}

// identity returns whom the pod's tunnels are taken in the name of. It may wait
// for the pod to be known, and is zero if it is not.
func (p *pod) identity() identity.ID {
	if w := p.wait(); w != nil {
		return w.Identity()
	}
	return identity.ID{}
}

func (p *pod) serve(ln net.Listener) {
	if err := p.server.Serve(ln); err != nil && !p.closed() {
		p.z.options.Log.Error("HBONE listener failed", "address", ln.Addr().String(), "error", err)
	}
}

// address is where the pod dials dst from: its address of that family, or in its
// network namespace whatever the kernel takes there.
func (p *pod) address(dst netip.Addr) netip.Addr {
	if p.inside != nil {
		return netip.Addr{}
	}
	for _, ip := range p.addrs {
		if ip.Is4() == dst.Is4() {
			return ip
		}
	}
	return p.addrs[0]
}

// anAddress returns an address of the pod's, or the zero Addr when none is known.
func (p *pod) anAddress() netip.Addr {
	if len(p.addrs) > 0 {
		return p.addrs[0]
	}
	if w := p.workload.Load(); w != nil && len(w.Addresses) > 0 {
		return w.Addresses[0]
	}
	return netip.Addr{}
}

// destination returns the pod with its policies, as they are now, or nil when the
// control plane does not know it. It is looked up by the pod, not by its address,
// which may be another's by now.
func (p *pod) destination(snap *config.Snapshot) *config.Destination {
	w := p.workload.Load()
	if w == nil {
		return nil
	}
	return snap.Destination(w.UID)
}

// close closes the ports, at once. What is open stays open.
func (p *pod) close() {
	close(p.over)
	for _, ln := range p.listeners {
		if h, ok := ln.(*handover); ok {
			h.abandon()
		} else {
			ln.Close()
		}
	}
	if p.inside != nil {
		p.inside.resolve()
	}
}

// handOver closes the ports so that another process can take over.
func (p *pod) handOver() {
	close(p.over)
	for _, ln := range p.listeners {
		ln.Close()
	}
	if in := p.inside; in != nil {
		in.handOver(p)
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
	for l, w := range p.z.workers {
		pool := make(chan *hbone.Pool, 1)
		l.Do(func() { pool <- w.pools[p]; delete(w.pools, p) })
		if pool := <-pool; pool != nil {
			_ = pool.Shutdown(ctx)
		}
	}
	p.leave()
}

// leave lets go of the pod's network namespace, when nothing is open in it.
func (p *pod) leave() {
	if p.inside != nil {
		_ = p.inside.Netns.Close() // nothing depends on it
	}
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
	w.retirePool(p)
}

// handshakeFailed reports a connection to the pod that came to nothing.
func (p *pod) handshakeFailed(remote netip.AddrPort, err error) {
	p.z.options.Telemetry.HandshakeFailed()
	p.z.countRevoked(telemetry.ByDestination, err)
	rec := telemetry.TCP{Err: err}
	rec.Reporter = telemetry.ByDestination
	rec.SourceAddr, rec.LocalAddr = remote, netip.AddrPortFrom(p.anAddress(), p.z.options.HBONEPort)
	p.z.options.Telemetry.Failed(&rec)
}
