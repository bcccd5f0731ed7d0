package ztunnel

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

var (
	errDrained  = errors.New("connection closed due to connection drain")
	errGone     = errors.New("the pod went away")
	errDestGone = errors.New("the destination went away")
)

// An outbound is one connection of a pod's, on its way into the mesh.
type outbound struct {
	worker *worker
	pod    *pod
	src    *mesh.Workload
	leg    *loop.TCP // the pod's side
	search *search   // nil once somebody is reached
	route  route

	cancel  func()
	pair    flow.Pair
	far     *far // nil unless it is to another network
	counted bool
	copying bool
	opened  bool
	over    bool
	link    link
	rec     telemetry.TCP
}

// A search is what a connection has more as long as nobody is reached: most stay
// for longer after that.
type search struct {
	target mesh.Authority
	dice   uint32           // see decider
	tried  []*mesh.Workload // those that were to be reached
	tries  int
	wanted wanted
	answer func(error) // tells the pod's side how it went; nil once it has
	early  flow.Early  // what the pod sent before there was anybody to take it
}

// carry takes a connection of the pod's to where it wants to go. rest is what
// the pod has sent already. answer is told, before anything else is written to
// leg, whether somebody is there.
func (w *worker) carry(p *pod, leg *loop.TCP, target mesh.Authority, rest []byte, answer func(error)) {
	src := p.workload.Load()
	o := &outbound{worker: w, pod: p, src: src, leg: leg}
	o.search = &search{target: target, dice: rand.Uint32(), answer: answer}
	o.rec.Ends = telemetry.Ends{
		Reporter: telemetry.BySource, Source: src,
		SourceAddr: p.source(leg.Socket().RemoteAddr()),
	}
	o.rec.Start, o.rec.Trace = w.loop.Now(), telemetry.NewTrace()
	w.outbound[o] = struct{}{}
	early := &o.search.early
	early.Gone = o.finish
	early.Data(rest)
	leg.SetReceiver(early)
	if o.counted = w.sending.take(w.options.MaxConnections); !o.counted {
		o.fail(errFull)
		return
	}
	o.start()
}

// decide says where the connection goes as things are now: elsewhere than where
// it was tried, if possible.
func (o *outbound) decide() (route, error) {
	w := o.worker
	d := decider{
		snap: w.options.Store.Snapshot(), network: w.options.Network, domain: w.options.ClusterDomain,
		port: w.options.HBONEPort, registryOnly: w.options.RegistryOnly, dice: o.search.dice, failed: w.failed, hosts: &w.hosts,
	}
	if w.options.Demand != nil {
		d.wanted = &o.search.wanted
	}
	return d.decide(o.src, o.search.target, o.search.tried)
}

// connect tries to get where it was decided to go.
func (o *outbound) connect(r route, err error) {
	o.route = r
	switch {
	case errors.Is(err, errNotInRegistry):
		o.open() // so that it is counted: somebody will look for it
		fallthrough
	case err != nil:
		o.fail(err)
		return
	}
	s := o.search
	s.tries++
	for _, w := range [...]*mesh.Workload{r.dest, r.beyond} {
		if w != nil {
			s.tried = append(s.tried, w)
		}
	}
	if r.name != "" {
		try := s.tries
		o.cancel = o.worker.lookup(r.name, func(ips []netip.Addr, err error) { o.resolved(try, ips, err) })
		return
	}
	o.reach()
}

// stale reports whether a try is over, which was given up before its outcome came.
func (o *outbound) stale(try int) bool {
	return o.over || o.search == nil || o.search.tries != try
}

// resolved takes the addresses of an endpoint that is known by its name: any of
// them, of the family that was dialled if there is one.
func (o *outbound) resolved(try int, ips []netip.Addr, err error) {
	if o.stale(try) {
		return
	}
	o.cancel = nil
	if err != nil {
		o.failed(err)
		return
	}
	r := &o.route
	ip := oneOf(ips, o.search.target.IP)
	r.addr = netip.AddrPortFrom(ip, r.addr.Port())
	if r.tunnel && r.hop == telemetry.Direct && !r.double {
		r.authority.IP = ip
	}
	o.reach()
}

// reach dials, or opens a tunnel.
func (o *outbound) reach() {
	r := &o.route
	if !r.double { // else it is not known yet who will answer
		o.open()
	}
	w, from := o.worker, o.pod.address(r.addr.Addr())
	if !r.tunnel {
		try := o.search.tries
		o.cancel = w.dial(o.pod, from, r.addr, func(nc net.Conn, err error) { o.connectedPlain(try, nc, err) })
		return
	}
	f := hbone.Forwarded{For: o.rec.SourceAddr}
	if r.service != nil {
		f.Host = r.service.Hostname
	}
	c := &hbone.Connect{
		Authority: r.authority, Baggage: hbone.BaggageOf(o.src).String(),
		Forwarded: f.String(), Traceparent: o.rec.Trace.Traceparent(),
	}
	key := hbone.Key{Self: o.src.Identity(), Wants: r.wants, Addr: r.addr, SourceIP: from}
	if r.double {
		o.far = &far{}
		o.cancel = o.far.open(o, key, c)
		return
	}
	o.cancel = w.pool(o.pod).Open(key, c, nil, o.connectedTunnel)
}

// dial connects plainly, on a goroutine of its own, and tells ready on the loop.
func (w *worker) dial(p *pod, src netip.Addr, dst netip.AddrPort, ready func(net.Conn, error)) (cancel func()) {
	ctx, cancel := context.WithTimeout(context.Background(), w.options.ConnectTimeout)
	w.serving.Go(func() {
		defer cancel()
		nc, err := p.sockets.Dial(ctx, src, dst)
		w.loop.Do(func() { ready(nc, err) })
	})
	return cancel
}

func (o *outbound) connectedPlain(try int, nc net.Conn, err error) {
	switch {
	case o.stale(try):
		if nc != nil {
			nc.Close()
		}
	case err != nil:
		o.failed(err)
	default:
		t := loop.NewTCP(o.worker.loop, loop.Plain(nc), o.worker.window(), nil)
		o.join(t, t.SetReceiver)
	}
}

func (o *outbound) connectedTunnel(t *hbone.Tunnel, err error) {
	if err != nil {
		o.failed(err)
		return
	}
	o.join(t, t.SetReceiver)
}

// failed tries another endpoint, if there is one that was not tried, as often as
// that is allowed. Nothing of the connection has been sent: before a 200 no byte
// is. An answer other than 200 is that of a policy, or of the client's doing, and
// would be the same elsewhere; except 503, by which the node tunnel of a pod says
// that the application does not answer.
func (o *outbound) failed(err error) {
	o.cancel = nil
	dest, s, most := o.route.dest, o.search, o.worker.options.ConnectRetries
	var status *hbone.StatusError
	answered := errors.As(err, &status)
	again := dest != nil && (!answered || status.Status == 503 && o.route.hop == telemetry.Direct)
	if again {
		o.worker.failed.note(o.route.culprit(err))
	}
	if !again || s.tries > most {
		o.fail(err)
		return
	}
	r, other := o.decide()
	if other != nil || r.dest == nil || contains(s.tried, r.dest) {
		o.fail(err)
		return
	}
	o.far.close()
	o.close(fmt.Errorf("%w; trying %s next, %d of %d", err, r.dest.Name, s.tries, most)) // each attempt is a connection to somebody else
	o.connect(r, nil)
}

// join copies between the pod and whoever was reached.
func (o *outbound) join(s flow.Stream, attach func(flow.Receiver)) {
	o.cancel = nil
	o.worker.failed.forget(o.route.dest)
	o.worker.failed.forget(o.route.beyond)
	o.reply(nil)
	o.pair.Join(o.leg, s, o.done)
	o.copying = true
	attach(o.pair.B())
	o.leg.SetReceiver(o.pair.A())
	o.search.early.HandTo(o.pair.A())
	o.search = nil
}

// reply tells the pod's side, and lets go of what it kept until then.
func (o *outbound) reply(err error) {
	answer := o.search.answer
	o.search.answer = nil
	answer(err)
}

// fail ends a connection that reached nobody.
func (o *outbound) fail(err error) {
	o.reply(err)
	o.leg.Socket().Close()
	o.finish(err)
}

// reset ends the connection from our side.
func (o *outbound) reset(err error) {
	if o.copying {
		o.pair.Reset(err)
		return
	}
	o.fail(err)
}

func (o *outbound) done(err error) { o.finish(inOrder(err)) }

func (o *outbound) finish(err error) {
	if o.over {
		return
	}
	o.over = true
	delete(o.worker.outbound, o)
	if cancel := o.cancel; cancel != nil {
		o.cancel = nil
		cancel()
	}
	if o.search != nil {
		o.search.early.Drop()
	}
	if o.counted {
		o.worker.sending.release()
	}
	o.far.close()
	o.close(err)
	o.worker.left()
}

// age is how long the connection has lasted.
func (w *worker) age(start time.Time) time.Duration { return w.loop.Now().Sub(start) }
