package ztunnel

import (
	"context"
	"net"
	"net/netip"

	"github.com/waystone-mesh/waystone/internal/zds"
)

// ServeSelf has our own pod reached over HBONE, by its identity and subject to its
// policies, as Istio's node tunnel has its metrics asked for: on port 15008, at
// its own address. Nothing is redirected there, and nothing that it sends is
// carried. Its UID is any that no other pod has. It is called once.
func (z *Ztunnel) ServeSelf(about zds.Pod) error {
	o := z.options.InPod
	if o == nil {
		return errNoPods
	}
	in := &inside{Pod: about, known: make(chan struct{}), resolve: func() {}}
	if o.Sockets != nil {
		in.sockets = o.Sockets(about)
	} else {
		in.sockets = &namespace{netns: about.Netns, options: o, log: z.options.Log}
	}
	p := &pod{z: z, uid: about.UID, sockets: asSelf{in.sockets}, inside: in, over: make(chan struct{})}
	ln, err := p.listenAny(z.options.HBONEPort, o.NoIPv6)
	if err != nil {
		return err
	}
	p.listeners = []net.Listener{ln}
	p.server = z.newServer(p)
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.draining {
		p.close()
		return errEnding
	}
	z.self = p
	z.matchLocked(p, z.localPods())
	z.serving.Go(func() { p.serve(ln) })
	return nil
}

// asSelf makes sockets that are our own whoever they are for: there are no rules
// that would bring back what goes to another's address.
type asSelf struct{ Inside }

func (s asSelf) Dial(ctx context.Context, _ netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	return s.Inside.Dial(ctx, netip.Addr{}, dst)
}
