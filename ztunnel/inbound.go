package ztunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

var (
	errUnknownPod    = errors.New("the pod is not known")
	errWrongPod      = errors.New("ip mismatch")
	errBypassed      = errors.New("bypassed waypoint")
	errPolicy        = errors.New("policy rejection")
	errPolicyChanged = errors.New("connection closed due to policy change")
	errClientGone    = errors.New("the client gave up before it was answered")
)

// A statusError is an answer to a CONNECT, and why.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// An inbound is one tunnel to a pod of ours.
type inbound struct {
	worker *worker
	pod    *pod
	in     *hbone.Incoming
	plain  *plaintext          // not nil: it came without HBONE, and in says from where to where
	dest   *config.Destination // the pod, with its policies
	input  authz.Input
	source *mesh.Workload // of the client, if it is known by its address
	wanted *wanted

	cancel        func()
	pair          flow.Pair
	copying       bool
	foreignSource bool // dialling from the client's address has failed
	counted       bool // in the node tunnel's count
	countedID     bool // in the pod's quota
	opened        bool
	over          bool
	link          link
	rec           telemetry.TCP
}

// receive takes a CONNECT for a pod: is it for this pod, does policy let the
// caller in, does the application answer. Only then is it 200.
func (w *worker) receive(p *pod, in *hbone.Incoming) {
	i := &inbound{worker: w, pod: p, in: in}
	i.record()
	in.OnCancel(func() { i.finish(errClientGone) })
	i.begin()
}

// admitted asks policy about a client that came to the right place, and dials the
// application if it may come in; or refuses one for which err says that it did
// not.
func (i *inbound) admitted(addr netip.AddrPort, err error) {
	w := i.worker
	if err != nil {
		i.refuse(err)
		return
	}
	w.inbound[i] = struct{}{}
	i.open(addr)
	if err = i.judge(); err == nil {
		err = i.enter()
	}
	if err != nil {
		i.refuse(err)
		return
	}
	src, dst := i.whence(addr)
	i.cancel = w.dial(i.pod, src, dst, i.connected)
}

// enter counts the tunnel among those that are open, if there may be another.
func (i *inbound) enter() error {
	o := &i.worker.options
	if i.counted = i.worker.receiving.take(o.MaxConnections); !i.counted {
		return fmt.Errorf("%w: %d", errFull, o.MaxConnections)
	}
	if o.MaxPerIdentity == 0 || i.in.Peer.IsZero() {
		return nil
	}
	if i.countedID = i.pod.quota.take(i.in.Peer, o.MaxPerIdentity); !i.countedID {
		return fmt.Errorf("%w: %d of %v", errIdentityFull, o.MaxPerIdentity, i.in.Peer)
	}
	return nil
}

// leave counts it out again.
func (i *inbound) leave() {
	if i.counted {
		i.worker.receiving.release()
	}
	if i.countedID {
		i.pod.quota.release(i.in.Peer)
	}
	i.counted, i.countedID = false, false
}

// whence returns where the application is dialled, and from where: as the client,
// unless it is told of the client otherwise.
func (i *inbound) whence(addr netip.AddrPort) (src netip.Addr, dst netip.AddrPort) {
	o := &i.worker.options
	if a := i.dest.Workload.AppTunnel; a != nil && a.Proxy && o.LocalhostAppTunnel && i.plain == nil {
		local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if addr.Addr().Is6() {
			local = netip.IPv6Loopback()
		}
		// Such an application listens there alone, so that nobody can come to it
		// but through us.
		i.foreignSource = true
		return local, netip.AddrPortFrom(local, addr.Port())
	}
	if o.NoOriginalSource {
		return addr.Addr(), addr
	}
	return i.in.Source.Addr(), addr
}

// admit checks that the CONNECT is for the pod it came to, and returns where in
// the pod it goes: always to the pod's own address.
func (i *inbound) admit() (netip.AddrPort, error) {
	o := &i.worker.options
	snap := o.Store.Snapshot()
	local := i.in.Local.Addr()
	if i.worker.cutting {
		return netip.AddrPort{}, errDrained
	}
	// By the pod, not by the address, which may be another's by now.
	if i.dest = i.pod.destination(snap); i.dest == nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %v", errUnknownPod, local)
	}
	if !i.fromGateway() {
		i.source = snap.Workload(o.Network, i.in.Source.Addr())
	}
	w, a := i.dest.Workload, i.in.Authority
	port := a.Port
	switch {
	case !a.IP.IsValid():
		d := snap.Lookup(o.Network, w.Namespace, a)
		if d == nil || d.Service == nil {
			return netip.AddrPort{}, fmt.Errorf("%w: %v", errUnknownName, a)
		}
		if port = d.Service.TargetPort(w, a.Port); port == 0 && d.Port != nil {
			port = d.Port.Target
		}
		if port == 0 {
			return netip.AddrPort{}, fmt.Errorf("%w: %v", errNoPort, a)
		}
		i.rec.Service = d.Service
	case a.IP != local && w.AppTunnel == nil && !i.behindUs(snap, a):
		return netip.AddrPort{}, &statusError{400, fmt.Errorf("%w: the CONNECT is for %v, the connection came to %v", errWrongPod, a.IP, local)}
	}
	if o.reserved(port) {
		return netip.AddrPort{}, fmt.Errorf("%w: port %d", errSelfCall, port)
	}
	if w.AppTunnel != nil && w.AppTunnel.Port != 0 {
		port = w.AppTunnel.Port
	}
	return netip.AddrPortFrom(local, port), nil
}

// fromGateway reports whether the client is in another network: what its address
// is here says nothing about it.
func (i *inbound) fromGateway() bool {
	n := i.in.Network
	return n != "" && !strings.EqualFold(n, i.worker.options.Network)
}

// behindUs reports whether the pod is the waypoint of what the authority names.
func (i *inbound) behindUs(snap *config.Snapshot, a mesh.Authority) bool {
	d := snap.Lookup(i.worker.options.Network, i.in.Peer.Namespace, a)
	if d == nil {
		return false
	}
	us := i.dest.Workload
	return slices.ContainsFunc(waypointsBefore(d), func(gw *mesh.GatewayAddress) bool { return serves(snap, gw, us) })
}

// judge asks whether the caller may come in, as things are now.
func (i *inbound) judge() error {
	v := i.dest.Policies.Check(&i.input)
	i.recordVerdict(&v)
	if !v.Allowed {
		return &statusError{401, fmt.Errorf("%w: %s", errPolicy, v.Details())}
	}
	if i.worker.options.RequireWaypoint && !throughWaypoint(i.worker.options.Store.Snapshot(), i.dest.Workload, i.input.Dest.Port(), i.in.Peer, i.source) {
		return &statusError{401, errBypassed}
	}
	return nil
}

// connected answers 200 and copies, or says that nobody is there.
func (i *inbound) connected(nc net.Conn, err error) {
	i.cancel = nil
	switch {
	case i.over:
		if nc != nil {
			nc.Close()
		}
		return
	case err != nil && i.foreign(err):
		i.cancel = i.worker.dial(i.pod, i.input.Dest.Addr(), i.input.Dest, i.connected)
		return
	case err != nil:
		i.refuse(err)
		return
	}
	t := loop.NewTCP(i.worker.loop, loop.Plain(nc), i.worker.window(), nil)
	if i.plain != nil {
		i.joinPlaintext(t)
		return
	}
	if a := i.dest.Workload.AppTunnel; a != nil && a.Proxy {
		t.Write(appendProxy(nil, i.in.Source, i.asked(), i.in.Peer))
	}
	tunnel := i.in.Accept(nil, l7.Fields{{Name: "baggage", Value: hbone.BaggageOf(i.dest.Workload).String()}})
	i.pair.Join(tunnel, t, i.done)
	i.copying = true
	tunnel.SetReceiver(i.pair.A())
	t.SetReceiver(i.pair.B())
}

// foreign reports whether the dial failed because we may not take the client's
// address for our own: then the pod's has to do.
func (i *inbound) foreign(err error) bool {
	first := !i.foreignSource
	i.foreignSource = true
	return first && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES))
}

func (i *inbound) refuse(err error) {
	status := 503
	var s *statusError
	switch {
	case errors.As(err, &s):
		status = s.status
	case errors.Is(err, errPolicyChanged):
		status = 401
	}
	if i.plain != nil {
		i.plain.leg.Reset(err)
	} else {
		i.in.Refuse(status)
	}
	i.finish(err)
}

// reset ends the tunnel from our side.
func (i *inbound) reset(err error) {
	if i.copying {
		i.pair.Reset(err)
		return
	}
	i.refuse(err)
}

func (i *inbound) done(err error) { i.finish(inOrder(err)) }

func (i *inbound) finish(err error) {
	if i.over {
		return
	}
	i.over = true
	delete(i.worker.inbound, i)
	if cancel := i.cancel; cancel != nil {
		i.cancel = nil
		cancel()
	}
	i.leave()
	if i.plain != nil {
		i.plain.early.Drop()
	}
	i.close(err)
	i.worker.left()
}
