package ztunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

// gatewayTo returns the gateway to the network of a workload, or nil when there is
// none with an endpoint that can be dialled from here.
func (d *decider) gatewayTo(w *mesh.Workload) *config.Destination {
	if w.Gateway == nil {
		return nil
	}
	g := d.gateway(w.Gateway)
	if g == nil {
		return nil
	}
	for i := range g.Endpoints {
		if d.reaches(&g.Endpoints[i], false) {
			return g
		}
	}
	return nil
}

// gateway returns where a waypoint or network gateway is, or nil. One that is named
// is a service, or else a workload that is known by that name: a load balancer of
// a cloud's, say.
func (d *decider) gateway(gw *mesh.GatewayAddress) *config.Destination {
	g := d.snap.Gateway(gw)
	if g == nil && gw.Hostname != (mesh.Hostname{}) {
		g = d.hosts.find(d.snap, gw.Hostname)
	}
	if g == nil {
		d.wanted.gateway(gw)
	}
	return g
}

// A hosts finds workloads by their host names, which nothing else does: it looks at
// all, once for each snapshot. It belongs to a loop. The zero hosts is ready; nil
// remembers nothing.
type hosts struct {
	version uint64
	known   map[mesh.Hostname]*config.Destination
}

func (h *hosts) find(snap *config.Snapshot, name mesh.Hostname) *config.Destination {
	if h != nil {
		if h.version != snap.Version() || h.known == nil {
			h.version, h.known = snap.Version(), map[mesh.Hostname]*config.Destination{}
		}
		if d, ok := h.known[name]; ok {
			return d
		}
	}
	var d *config.Destination
	for w := range snap.Workloads() {
		if isNamed(w, name) {
			d = snap.Destination(w.UID)
			break
		}
	}
	if h != nil {
		h.known[name] = d
	}
	return d
}

// isNamed reports whether a workload is known by a host name.
func isNamed(w *mesh.Workload, name mesh.Hostname) bool {
	return w.Hostname != "" && w.Hostname == name.Host && w.Namespace == name.Namespace
}

// throughGateway goes to another network: a tunnel to its gateway, and in that
// tunnel another to whom the gateway picks, which it cannot look into. w is what
// stands here for the endpoints over there, of target: the service that was asked
// for, s, or its waypoint's. Both CONNECTs name s by its host name: an address of
// this network means nothing there.
//
// Who the gateway picks is not known here. So it may present none of the
// identities that a workload here has, but those alone that target lists.
func (d *decider) throughGateway(w *mesh.Workload, s, target *mesh.Service, port uint16, tried []*mesh.Workload) (route, error) {
	r := route{hop: telemetry.Direct, service: s}
	g := d.gatewayTo(w)
	if g == nil {
		return r, fmt.Errorf("%w: %s", errNoGateway, w.UID)
	}
	var sans []identity.ID
	if target != nil {
		sans = identities(nil, target)
	}
	if len(sans) == 0 {
		return r, fmt.Errorf("%w: %s", errNoIdentity, s.Hostname)
	}
	e := d.pick(g.Endpoints, tried, false)
	r.tunnel, r.double = true, true
	r.dest, r.beyond = e.Workload, w
	r.addr = netip.AddrPortFrom(e.Addr.Addr(), cmp.Or(e.Addr.Port(), w.Gateway.Port, d.port))
	if !r.addr.Addr().IsValid() {
		r.name = e.Workload.Hostname
	}
	r.authority = mesh.Authority{Host: s.Hostname, Port: port}
	r.accept(e.Workload, g.Service)
	r.inner = identity.JoinIDs(sans...)
	return r, nil
}

// culprit is who did not answer: a gateway that was reached is not to blame for
// what is behind it.
func (r *route) culprit(err error) *mesh.Workload {
	var inner, outer *hbone.DialError
	if r.double && !(errors.As(err, &inner) && errors.As(inner.Err, &outer)) {
		return r.beyond
	}
	return r.dest
}

// A far is the inner tunnel of a connection to another network.
type far struct {
	pool *hbone.Pool // nil: it is over
	loop *loop.Loop

	dest *mesh.Workload // who answered, by its own account; nil: nobody has
	peer identity.ID    // ... and by its certificate
}

// open opens a tunnel in a tunnel. Only the outer one shares a connection with
// others: the gateway picks an endpoint for each connection that it carries, and
// would never pick another for all that came by a shared one.
func (f *far) open(o *outbound, outer hbone.Key, c *hbone.Connect) (cancel func()) {
	w := o.worker
	pool := w.pool(o.pod)
	f.loop = w.loop
	f.pool = hbone.NewPool(hbone.PoolOptions{
		Loop: w.loop, Identity: w.options.Identity, H2: w.options.HBONE,
		ConnectTimeout: w.options.ConnectTimeout, MaxStreams: 1, ResetIsEOF: true, Events: w.events(),
		Dial: func(ctx context.Context, _ netip.Addr, _ netip.AddrPort) (net.Conn, error) {
			return pool.Dial(ctx, outer, c)
		},
	})
	inner := *c
	inner.Network = w.options.Network
	key := outer
	key.Wants = o.route.inner
	return f.pool.Open(key, &inner, nil, o.connectedFar)
}

// connectedFar takes the inner tunnel. Only now is it known who answers.
func (o *outbound) connectedFar(t *hbone.Tunnel, err error) {
	if err == nil {
		o.far.peer = t.Peer()
		o.far.dest = o.worker.derived.workload(hbone.ParseBaggage(t.Baggage), t.Peer())
		o.open()
	}
	o.connectedTunnel(t, err)
}

// close ends the connection that the inner tunnel was on, when that is over. Nil is
// no tunnel.
func (f *far) close() {
	if f == nil || f.pool == nil {
		return
	}
	pool := f.pool
	f.pool = nil
	// Not at once: this may be the connection's own doing.
	f.loop.Do(func() { pool.Retire(func(hbone.Key) bool { return true }) })
}

// maxDerived is how many workloads of other networks are kept: as many series may
// there be of them in an hour. Beyond, they are forgotten and made anew.
const maxDerived = 1024

// A derived makes workloads of what those of other networks say about themselves.
// They are for metrics and the log, and equal ones are the same. It belongs to a
// loop.
type derived map[derivation]*mesh.Workload

type derivation struct {
	baggage hbone.Baggage
	id      identity.ID
}

// maxLabel is how long a value of baggage may be to be believed: no name that
// Kubernetes or DNS has is longer.
const maxLabel = 253

// workload returns who says b about itself. Its identity and namespace are its
// certificate's.
func (d derived) workload(b hbone.Baggage, id identity.ID) *mesh.Workload {
	b.Namespace = ""
	for _, s := range [...]*string{&b.Cluster, &b.Workload, &b.Service, &b.Revision, &b.Region, &b.Zone} {
		if len(*s) > maxLabel {
			*s = ""
		}
	}
	key := derivation{b, id}
	if w := d[key]; w != nil {
		return w
	}
	if len(d) >= maxDerived {
		clear(d)
	}
	for _, s := range [...]*string{&b.Cluster, &b.Kind, &b.Workload, &b.Service, &b.Revision, &b.Region, &b.Zone} {
		*s = strings.Clone(*s) // or the whole field would be kept
	}
	key.baggage = b
	w := &mesh.Workload{
		Name: b.Workload, Namespace: id.Namespace, ServiceAccount: id.ServiceAccount, TrustDomain: id.TrustDomain,
		ClusterID: b.Cluster, CanonicalName: b.Service, CanonicalRevision: b.Revision,
		OwnerKind: b.Kind, OwnerName: b.Workload, Tunnel: mesh.HBONE,
		Locality: mesh.Locality{Region: b.Region, Zone: b.Zone},
	}
	d[key] = w
	return w
}
