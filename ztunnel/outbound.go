package ztunnel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

// maxAttempts is how many endpoints are tried before any byte is sent: the first
// and two more.
const maxAttempts = 3

var (
	errDrained = errors.New("connection closed due to connection drain")
	errGone    = errors.New("the pod went away")
)

// An outbound is one connection of a pod's, on its way into the mesh.
type outbound struct {
	worker *worker
	pod    *pod
	src    *mesh.Workload
	leg    *loop.TCP // the pod's side
	target mesh.Authority
	route  route
	tried  []*mesh.Workload
	answer func(error) // tells the pod's side how it went; nil once it has

	early   flow.Early // what the pod sent before there was anybody to take it
	cancel  func()
	pair    flow.Pair
	copying bool
	opened  bool
	over    bool
	rec     telemetry.TCP
}

// carry takes a connection of the pod's to where it wants to go. rest is what
// the pod has sent already. answer is told, before anything else is written to
// leg, whether somebody is there.
func (w *worker) carry(p *pod, leg *loop.TCP, target mesh.Authority, rest []byte, answer func(error)) {
	src := p.workload.Load()
	o := &outbound{worker: w, pod: p, src: src, leg: leg, target: target, answer: answer}
	o.rec.Ends = telemetry.Ends{
		Reporter: telemetry.BySource, Source: src,
		SourceAddr: netip.AddrPortFrom(p.addrs[0], leg.Socket().RemoteAddr().Port()),
	}
	o.rec.Start, o.rec.Trace = w.loop.Now(), telemetry.NewTrace()
	w.outbound[o] = struct{}{}
	o.early.Gone = o.finish
	o.early.Data(rest)
	leg.SetReceiver(&o.early)
	r, err := w.decide(src, target, nil)
	o.connect(r, err)
}

func (w *worker) decide(src *mesh.Workload, target mesh.Authority, tried []*mesh.Workload) (route, error) {
	d := decider{w.options.Store.Snapshot(), w.options.Network, w.options.ClusterDomain, w.options.HBONEPort}
	return d.decide(src, target, tried)
}

// connect tries to get where it was decided to go.
func (o *outbound) connect(r route, err error) {
	o.route = r
	if err != nil {
		o.fail(err)
		return
	}
	if r.dest != nil {
		o.tried = append(o.tried, r.dest)
	}
	o.open()
	w, from := o.worker, o.pod.address(r.addr.Addr())
	if !r.tunnel {
		o.cancel = w.dial(from, r.addr, o.connectedPlain)
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
	o.cancel = w.pool.Open(key, c, nil, o.connectedTunnel)
}

// dial connects plainly, on a goroutine of its own, and tells ready on the loop.
func (w *worker) dial(src netip.Addr, dst netip.AddrPort, ready func(net.Conn, error)) (cancel func()) {
	ctx, cancel := context.WithTimeout(context.Background(), w.options.ConnectTimeout)
	w.serving.Go(func() {
		defer cancel()
		nc, err := w.options.Dial(ctx, src, dst)
		w.loop.Do(func() { ready(nc, err) })
	})
	return cancel
}

func (o *outbound) connectedPlain(nc net.Conn, err error) {
	switch {
	case o.over:
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

// failed tries another endpoint, unless the one that was tried answered: it had
// its reason. Nothing of the connection has been sent to it.
func (o *outbound) failed(err error) {
	o.cancel = nil
	var status *hbone.StatusError
	if errors.As(err, &status) || len(o.tried) == 0 || len(o.tried) == maxAttempts {
		o.fail(err)
		return
	}
	r, other := o.worker.decide(o.src, o.target, o.tried)
	if other != nil || r.dest == nil || contains(o.tried, r.dest) {
		o.fail(err)
		return
	}
	o.close(err) // each attempt is a connection to somebody else
	o.connect(r, nil)
}

// join copies between the pod and whoever was reached.
func (o *outbound) join(s flow.Stream, attach func(flow.Receiver)) {
	o.cancel = nil
	o.reply(nil)
	o.pair.Join(o.leg, s, o.done)
	o.copying = true
	attach(o.pair.B())
	o.leg.SetReceiver(o.pair.A())
	o.early.HandTo(o.pair.A())
}

// reply tells the pod's side, and lets go of what it kept until then.
func (o *outbound) reply(err error) {
	answer := o.answer
	o.answer = nil
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
	o.early.Drop()
	o.close(err)
	o.worker.left()
}

// age is how long the connection has lasted.
func (w *worker) age(start time.Time) time.Duration { return w.loop.Now().Sub(start) }
