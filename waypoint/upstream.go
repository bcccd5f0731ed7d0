package waypoint

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// An upstream is the side of an exchange that answers: an HTTP/1.1 connection to
// an endpoint ([h1Upstream]) or a stream of an HTTP/2 one ([h2Upstream]).
type upstream interface {
	Request(r *l7.Request, end bool) error
	Write(p []byte) (queued int)
	End(trailers l7.Fields)
	Credit(n int)
	Abort(err error)

	// release gives the upstream back. Whole says that the request was sent to
	// its end, without which nothing else can follow on it.
	release(whole bool)
}

// An originKey is an endpoint as a service reaches it. A workload that was
// replaced is another pointer, and so its successor never inherits a connection.
type originKey struct {
	workload *mesh.Workload
	service  *mesh.Service
	addr     netip.AddrPort
	http2    bool
}

// An origin is what a worker holds open to one endpoint.
type origin struct {
	worker *worker
	key    originKey
	wants  string        // who must answer, as hbone.Key spells it
	idle   []*h1Upstream // the most recently used last
	conns  []*h2Origin

	dropped bool // the worker has forgotten it, for it was empty
}

// origin returns what w holds open to e, which may be nothing yet.
func (w *worker) origin(s *mesh.Service, e *mesh.Endpoint, http2 bool) *origin {
	if s != nil && len(s.SANs) == 0 {
		s = nil // only its names make a difference
	}
	key := originKey{e.Workload, s, e.Addr, http2}
	o := w.origins[key]
	if o == nil {
		o = &origin{worker: w, key: key, wants: accepted(e.Workload, s)}
		w.origins[key] = o
	}
	return o
}

// accepted returns the identities that may answer for e as an endpoint of s.
func accepted(e *mesh.Workload, s *mesh.Service) string {
	ids := []identity.ID{e.Identity()}
	if s != nil {
		for _, san := range s.SANs {
			if id, err := identity.Parse(san); err == nil {
				ids = append(ids, id)
			}
		}
	}
	return identity.JoinIDs(ids...)
}

// take returns an upstream that is at hand, bound to x, or nil.
func (o *origin) take(x *exchange) upstream {
	if o.key.http2 {
		for _, c := range o.conns {
			if up := c.stream(x); up != nil {
				return up
			}
		}
		return nil
	}
	for n := len(o.idle); n > 0; n-- {
		u := o.idle[n-1]
		o.idle[n-1] = nil
		o.idle = o.idle[:n-1]
		if u.Reusable() {
			u.x = x
			return u
		}
		u.Close()
	}
	return nil
}

// open makes a new connection for whoever holds t, and returns how to stop
// waiting for it. An HTTP/2 connection that is being opened already is shared.
func (o *origin) open(t ticket) (cancel func()) {
	if o.key.http2 {
		return o.openHTTP2(t)
	}
	return o.openHTTP1(t)
}

// dial opens a stream of bytes to the endpoint. ready is called once, on the
// loop and not within dial, unless cancel is called first.
func (o *origin) dial(ready dialed) (cancel func()) { return o.worker.dial(o, ready) }

// dialed is told the outcome of a dial: a stream and how to install its receiver,
// or an error.
type dialed func(leg flow.Stream, attach func(flow.Receiver), err error)

// dialOrigin opens a tunnel, or a plain connection to an endpoint that is not in
// the mesh.
func dialOrigin(o *origin, ready dialed) (cancel func()) {
	w := o.worker
	if o.key.workload.Tunnel == mesh.HBONE {
		key := hbone.Key{Self: w.options.Self, Wants: o.wants, Addr: netip.AddrPortFrom(o.key.addr.Addr(), w.options.HBONEPort)}
		c := &hbone.Connect{Authority: mesh.Authority{IP: o.key.addr.Addr(), Port: o.key.addr.Port()}}
		return w.pool.Open(key, c, nil, func(t *hbone.Tunnel, err error) {
			if err != nil {
				ready(nil, nil, err)
				return
			}
			ready(t, t.SetReceiver, nil)
		})
	}
	d := &plainDial{worker: w, addr: o.key.addr, ready: ready}
	d.ctx, d.stop = context.WithTimeout(w.dials, w.options.ConnectTimeout)
	go d.run()
	return d.cancel
}

// A plainDial is a connection in the making to an endpoint outside the mesh.
type plainDial struct {
	worker   *worker
	addr     netip.AddrPort
	ready    dialed
	ctx      context.Context
	stop     context.CancelFunc
	canceled bool
}

func (d *plainDial) cancel() {
	d.canceled = true
	d.stop()
}

// run dials on a goroutine of its own.
func (d *plainDial) run() {
	nc, err := d.worker.options.Dial(d.ctx, netip.Addr{}, d.addr)
	d.stop()
	d.worker.loop.Do(func() { d.done(nc, err) })
}

func (d *plainDial) done(nc net.Conn, err error) {
	w := d.worker
	switch {
	case d.canceled:
		if err == nil {
			nc.Close()
		}
	case err != nil:
		d.ready(nil, nil, err)
	default:
		t := loop.NewTCP(w.loop, loop.Plain(nc), w.options.window(), nil)
		d.ready(t, t.SetReceiver, nil)
	}
}

// expire closes what nobody has used for a while.
func (o *origin) expire(now time.Time, idle time.Duration) {
	for len(o.idle) > 0 && now.Sub(o.idle[0].since) > idle { // the longest idle come first
		u := o.idle[0]
		o.idle = slices.Delete(o.idle, 0, 1)
		u.Close()
	}
	for _, c := range o.conns {
		if c.inner != nil && c.inner.Active() == 0 && now.Sub(c.since) > idle {
			c.inner.Close()
		}
	}
}

// close ends every connection that is not in use.
func (o *origin) close() {
	idle := o.idle
	o.idle = nil
	for _, u := range idle {
		u.Close()
	}
	for _, c := range o.conns {
		if c.inner != nil {
			c.inner.Close()
		}
	}
}

// empty reports whether o holds nothing. Connections that are in use do not
// count: they come back by [origin.current].
func (o *origin) empty() bool { return len(o.idle) == 0 && len(o.conns) == 0 }

// current returns o, or what has taken its place since the worker forgot it.
func (o *origin) current() *origin {
	if !o.dropped {
		return o
	}
	w := o.worker
	if other := w.origins[o.key]; other != nil {
		return other
	}
	o.dropped = false
	w.origins[o.key] = o
	return o
}
