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
	dest   *config.Destination // the pod, with its policies
	input  authz.Input
	source *mesh.Workload // of the client, if it is known by its address

	cancel        func()
	pair          flow.Pair
	copying       bool
	foreignSource bool // dialling from the client's address has failed
	opened        bool
	over          bool
	rec           telemetry.TCP
}

// receive takes a CONNECT for a pod: is it for this pod, does policy let the
// caller in, does the application answer. Only then is it 200.
func (w *worker) receive(p *pod, in *hbone.Incoming) {
	i := &inbound{worker: w, pod: p, in: in}
	i.record()
	addr, err := i.admit()
	if err != nil {
		i.refuse(err)
		return
	}
	w.inbound[i] = struct{}{}
	in.OnCancel(func() { i.finish(errClientGone) })
	i.open(addr)
	if err := i.judge(); err != nil {
		i.refuse(err)
		return
	}
	src := in.Source.Addr()
	if w.options.NoOriginalSource {
		src = addr.Addr()
	}
	i.cancel = w.dial(src, addr, i.connected)
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
	if i.dest = snap.Destination(i.pod.uid); i.dest == nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %v", errUnknownPod, local)
	}
	if n := i.in.Network; n == "" || strings.EqualFold(n, o.Network) {
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
	if isIllegal(port) || port == o.HBONEPort || port == o.SOCKSPort {
		return netip.AddrPort{}, fmt.Errorf("%w: port %d", errSelfCall, port)
	}
	if w.AppTunnel != nil && w.AppTunnel.Port != 0 {
		port = w.AppTunnel.Port
	}
	return netip.AddrPortFrom(local, port), nil
}

// behindUs reports whether the pod is the waypoint of what the authority names.
func (i *inbound) behindUs(snap *config.Snapshot, a mesh.Authority) bool {
	d := snap.Lookup(i.worker.options.Network, i.in.Peer.Namespace, a)
	if d == nil {
		return false
	}
	gws := []*mesh.GatewayAddress{}
	if d.Service != nil {
		gws = waypointsOf(d.Service)
	} else if d.Workload.Waypoint != nil {
		gws = append(gws, d.Workload.Waypoint)
	}
	for _, gw := range gws {
		if g := snap.Gateway(gw); g != nil && hasEndpoint(g, func(w *mesh.Workload) bool { return w == i.dest.Workload }) {
			return true
		}
	}
	return false
}

func waypointsOf(s *mesh.Service) []*mesh.GatewayAddress {
	var gws []*mesh.GatewayAddress
	if s.Waypoint != nil {
		gws = append(gws, s.Waypoint)
	}
	for k := range s.Canary {
		gws = append(gws, &s.Canary[k].Waypoint)
	}
	return gws
}

func hasEndpoint(d *config.Destination, is func(*mesh.Workload) bool) bool {
	return slices.ContainsFunc(d.Endpoints, func(e mesh.Endpoint) bool { return is(e.Workload) })
}

// judge asks whether the caller may come in, as things are now.
func (i *inbound) judge() error {
	v := i.dest.Policies.Check(&i.input)
	i.recordVerdict(&v)
	if !v.Allowed {
		return &statusError{401, fmt.Errorf("%w: %s", errPolicy, v.Details())}
	}
	if i.worker.options.RequireWaypoint && !i.throughWaypoint() {
		return &statusError{401, errBypassed}
	}
	return nil
}

// throughWaypoint reports whether the caller is the waypoint that the pod, or a
// service of it on this port, has; or whether there is none.
func (i *inbound) throughWaypoint() bool {
	snap := i.worker.options.Store.Snapshot()
	w := i.dest.Workload
	required := false
	through := func(gw *mesh.GatewayAddress) bool {
		g := snap.Gateway(gw)
		if g == nil {
			return false // a waypoint that is not there guards nothing yet
		}
		required = true
		return hasEndpoint(g, func(w *mesh.Workload) bool { return w.Identity() == i.in.Peer })
	}
	if w.Waypoint != nil && through(w.Waypoint) {
		return true
	}
	for host := range w.Services {
		s := snap.Service(host)
		if s == nil {
			continue
		}
		here := func(p mesh.Port) bool { return s.TargetPort(w, p.Service) == i.input.Dest.Port() }
		if slices.ContainsFunc(s.Ports, here) && slices.ContainsFunc(waypointsOf(s), through) {
			return true
		}
	}
	return !required
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
		i.cancel = i.worker.dial(i.input.Dest.Addr(), i.input.Dest, i.connected)
		return
	case err != nil:
		i.refuse(err)
		return
	}
	t := loop.NewTCP(i.worker.loop, loop.Plain(nc), i.worker.window(), nil)
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
	i.in.Refuse(status)
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
	i.close(err)
	i.worker.left()
}
