package ztunnel

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/waystone-mesh/waystone/internal/dns"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/zds"
)

// InPod has a Ztunnel serve pods inside their network namespaces, where their
// traffic is redirected to it. It is a [zds.Handler]: somebody tells it which
// pods there are. The zero value of each field means its default.
type InPod struct {
	Mark    uint32 // SO_MARK of our sockets, by which the pod's rules know them; 0x539
	NoMark  bool   // sockets have none: it takes CAP_NET_ADMIN, and the rules may go by something else
	OnlyOne bool   // no SO_REUSEPORT: nobody can take over while we drain
	NoIPv6  bool   // listen on IPv4 addresses only
	AnyNode bool   // the pod may be a workload of another node than Options.Node, or of none

	KeepAlive   *net.KeepAliveConfig // of TCP; nil: after 180 s, every 180 s, 9 times
	UserTimeout time.Duration        // for how long what was sent may go unacknowledged; 0: for any

	// DNS is how questions of pods are answered: at port 15053 of their loopback
	// addresses. Each pod is asked about, and others are asked, in its own name.
	// Nil: they are not.
	DNS *dns.ServerOptions

	// AskOurs has what is forwarded go to the servers of DNS, as it does with
	// Options.RegistryOnly, which would be no bound if any server could be asked.
	// Otherwise it goes to the server that the pod meant to ask, as its own
	// resolv.conf has it, where the kernel tells.
	AskOurs bool

	// Ready is told when all pods that were told of are served, and when that is
	// so no more. Nil: nobody is.
	Ready func(bool)

	// Sockets makes a pod's sockets; nil: in its network namespace.
	Sockets func(zds.Pod) Inside
}

// The ports in a pod, of Istio's CNI agent.
const (
	outboundPort  = 15001
	plaintextPort = 15006
	dnsPort       = 15053
)

// socketMark is Istio's PACKET_MARK.
const socketMark = 0x539

// knownTimeout is how long a connection waits for the pod's workload, which the
// control plane may tell of after istio-cni has: 5 s, as ztunnel.
const knownTimeout = 5 * time.Second

// An inside is what there is to know of a pod that is served inside its network
// namespace.
type inside struct {
	zds.Pod
	sockets Inside
	resolve func()        // ends what answers the pod's questions
	known   chan struct{} // closed once there is a workload
	waiting atomic.Int32  // connections that wait for that

	// Guarded by Ztunnel.mu.
	last *mesh.Workload // as the Store has it
	ends bool           // it is about to go
	told time.Time      // when its peers were told last
}

// tellEvery is how often the peers of a pod that is about to go are told again: 5 s.
// They may have come meanwhile, and are best told before there is no network to
// tell them by. At once would have who asks a pod that is only unwell, and goes on
// to serve, shake hands for each of his connections.
const tellEvery = 5 * time.Second

// A podName is what tells the pods of a node apart.
type podName struct{ namespace, name, account string }

func nameOf(namespace, name, account string) podName {
	return podName{namespace, name, cmp.Or(account, "default")}
}

var (
	errEnding = errors.New("ztunnel: no pod is taken any more: it is draining")
	errNoPods = errors.New("ztunnel: Options.InPod is required to be told of pods")
)

// Add begins to serve a pod in its network namespace. It is for the control
// plane to tell whom the pod is: that may come later, and connections wait for it.
// On an error the pod is pending, and is tried again.
func (z *Ztunnel) Add(about zds.Pod) error {
	z.mu.Lock()
	defer z.unlock()
	switch {
	case z.options.InPod == nil:
		return errors.Join(errNoPods, about.Netns.Close())
	case z.draining:
		return errors.Join(errEnding, about.Netns.Close())
	}
	uid := about.UID
	if p := z.pods[uid]; p != nil {
		if p.inside.Netns.ID() == about.Netns.ID() {
			return about.Netns.Close()
		}
		z.options.Log.Info("pod has another network namespace than before", "pod", p.name())
		z.dropLocked(p)
	}
	if w := z.pending[uid]; w != nil {
		if w.about.Netns.ID() == about.Netns.ID() {
			return errors.Join(errors.New(w.why), about.Netns.Close())
		}
		z.forgetLocked(uid)
	}
	return z.beginLocked(about)
}

// Keep does nothing: a pod stays until it is removed.
func (z *Ztunnel) Keep(string) {}

// Remove ends what is open of a pod, at once: its network namespace is gone.
func (z *Ztunnel) Remove(uid string) {
	z.mu.Lock()
	defer z.unlock()
	z.removeLocked(uid)
}

// Synced says that all pods were told of.
func (z *Ztunnel) Synced() {
	z.mu.Lock()
	defer z.unlock()
	z.synced = true
}

// Connected says that whoever tells of pods has come, and will tell of all of
// them, or that he has gone. What there is stays, but we are not ready until
// Synced.
func (z *Ztunnel) Connected(bool) {
	z.mu.Lock()
	defer z.unlock()
	z.synced = false
}

// tellLocked tells whether all pods are served, if that has changed.
func (z *Ztunnel) tellLocked() {
	ready := z.synced && len(z.pending) == 0
	if o := z.options.InPod; o != nil && o.Ready != nil && ready != z.ready {
		z.ready = ready
		o.Ready(ready)
	}
}

// unlock ends a method that may have changed what there is to wait for.
func (z *Ztunnel) unlock() {
	z.tellLocked()
	z.mu.Unlock()
	z.notice() // for what is pending to be tried again
}

func (z *Ztunnel) removeLocked(uid string) {
	if p := z.pods[uid]; p != nil {
		z.options.Log.Info("pod is gone", "pod", p.name())
		z.dropLocked(p)
	}
	if z.pending[uid] != nil {
		z.forgetLocked(uid)
	}
}

// dropLocked serves a pod no more.
func (z *Ztunnel) dropLocked(p *pod) {
	delete(z.pods, p.uid)
	z.options.Telemetry.ProxyStopped()
	p.close() // at once: another pod may have the address now
	z.serving.Go(p.retire)
}

// forgetLocked tries no more to serve a pod.
func (z *Ztunnel) forgetLocked(uid string) {
	_ = z.pending[uid].about.Netns.Close() // nil where there is none
	delete(z.pending, uid)
	z.options.Telemetry.ProxyForgotten()
}

// beginLocked opens the ports of a pod in its network namespace, or notes why
// they cannot be.
func (z *Ztunnel) beginLocked(about zds.Pod) error {
	was := z.pending[about.UID]
	if was == nil {
		z.options.Telemetry.ProxyPending()
	}
	p, err := z.enter(about)
	if err != nil {
		z.pending[about.UID] = &waiting{about: about, why: err.Error(), tried: time.Now()}
		if was == nil || was.why != err.Error() {
			z.options.Log.Error("pod is not served", "pod", about.Namespace+"/"+about.Name, "error", err)
		}
		return err
	}
	delete(z.pending, about.UID)
	z.options.Telemetry.ProxyStarted()
	z.pods[about.UID] = p
	z.matchLocked(p, z.localPods())
	z.options.Log.Info("pod is served", "pod", p.name(), "netns", about.Netns.ID().String())
	return nil
}

// enter opens the ports of a pod.
func (z *Ztunnel) enter(about zds.Pod) (*pod, error) {
	o := z.options.InPod
	in := &inside{Pod: about, known: make(chan struct{}), resolve: func() {}}
	if o.Sockets != nil {
		in.sockets = o.Sockets(about)
	} else {
		in.sockets = &namespace{netns: about.Netns, options: o, log: z.options.Log}
	}
	p := &pod{z: z, uid: about.UID, sockets: in.sockets, inside: in, over: make(chan struct{})}
	for _, port := range [...]uint16{z.options.HBONEPort, plaintextPort, outboundPort} {
		ln, err := p.listenAny(port, o.NoIPv6)
		if err != nil {
			p.close()
			return nil, err
		}
		p.listeners = append(p.listeners, ln)
	}
	if o.DNS != nil {
		if err := in.answer(p, *o.DNS); err != nil {
			p.close()
			return nil, err
		}
	}
	p.server = z.newServer(p)
	z.serving.Go(func() { p.serve(p.listeners[0]) })
	p.capturing.Go(func() { p.accept(p.listeners[1], p.takePlaintext) })
	p.capturing.Go(func() { p.accept(p.listeners[2], p.takeOutbound) })
	return p, nil
}

// refreshLocked tries again to serve the pods that are pending, and takes note of
// what the control plane says of those that are served.
func (z *Ztunnel) refreshLocked() {
	for _, w := range z.pending {
		if time.Since(w.tried) >= retryEvery {
			_ = z.beginLocked(w.about) // it was said, unless the reason is another
		}
	}
	local := z.localPods()
	for _, p := range z.pods {
		z.matchLocked(p, local)
		p.drain()
	}
	if z.self != nil {
		z.matchLocked(z.self, local)
	}
	z.tellLocked()
}

// localPods returns the workloads of the node by their names. Of two that have
// one, in two clusters perhaps, it is the one in our network.
func (z *Ztunnel) localPods() map[podName]*mesh.Workload {
	snap := z.options.Store.Snapshot()
	out := map[podName]*mesh.Workload{}
	add := func(w *mesh.Workload) {
		k := nameOf(w.Namespace, w.Name, w.ServiceAccount)
		if was := out[k]; was == nil || was.Network != z.options.Network {
			out[k] = w
		}
	}
	if z.options.InPod.AnyNode {
		for w := range snap.Workloads() {
			add(w)
		}
		return out
	}
	for _, w := range snap.Local(z.options.Node) {
		add(w)
	}
	return out
}

// matchLocked takes note of what the control plane says of a pod. One that it
// calls unhealthy where it did not before, or does not name any more, is most
// likely about to go (a pod that is being deleted is called unhealthy at once):
// its peers are told while there is a network to tell them by.
func (z *Ztunnel) matchLocked(p *pod, local map[podName]*mesh.Workload) {
	in := p.inside
	w, was := local[nameOf(in.Namespace, in.Name, in.ServiceAccount)], in.last
	if w == was {
		return
	}
	in.last = w
	switch {
	case was != nil && !was.Unhealthy && (w == nil || w.Unhealthy):
		in.ends, in.told = true, time.Time{}
	case w != nil && !w.Unhealthy:
		in.ends = false
	}
	if w == nil {
		return // what it has open goes on as who it was
	}
	if w.Tunnel != mesh.HBONE { // its traffic is captured, whether or not that is known everywhere
		captured := *w
		captured.Tunnel = mesh.HBONE
		w = &captured
	}
	if p.workload.Swap(w) == nil {
		z.options.Log.Info("pod is known", "pod", p.name(), "identity", w.Identity().String())
		close(in.known)
	}
}

// drain has the peers of a pod that is about to go, and itself, use other
// connections than those that there are.
func (p *pod) drain() {
	if in := p.inside; !in.ends || time.Since(in.told) < tellEvery {
		return
	}
	p.inside.told = time.Now()
	p.server.Drain()
	for l, w := range p.z.workers {
		l.Do(func() { w.retirePool(p) })
	}
}

func (p *pod) name() string {
	if in := p.inside; in != nil {
		return in.Namespace + "/" + in.Name
	}
	w := p.workload.Load()
	return w.Namespace + "/" + w.Name
}

// wait returns the pod's workload, or nil when it is not known in time.
func (p *pod) wait() *mesh.Workload {
	if w := p.workload.Load(); w != nil || p.inside == nil {
		return w
	}
	timeout := time.NewTimer(knownTimeout)
	defer timeout.Stop()
	select {
	case <-p.inside.known:
	case <-p.over:
	case <-timeout.C:
	}
	return p.workload.Load()
}

// source is where a connection of the pod's comes from.
func (p *pod) source(remote netip.AddrPort) netip.AddrPort {
	if p.inside != nil {
		return remote
	}
	return netip.AddrPortFrom(p.addrs[0], remote.Port())
}
