package ztunnel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
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
	answer func(error) // tells the pod's side how it went, once

	held    bufs.Queue // what the pod sent before there was anybody to take it, not credited
	eof     bool
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
		Reporter: telemetry.BySource, Source: src, SourceAddr: netip.AddrPortFrom(p.addrs[0], leg.Socket().RemoteAddr().Port()),
		LocalID: src.Identity(),
	}
	o.rec.Start, o.rec.Trace = w.loop.Now(), telemetry.NewTrace()
	w.outbound[o] = struct{}{}
	o.held.Append(rest)
	leg.SetReceiver((*unconnected)(o))
	o.connect()
}

// connect decides where the connection goes and tries to get there.
func (o *outbound) connect() {
	w := o.worker
	r, err := w.decide(o.src, o.target, o.tried)
	o.route = r
	if err != nil {
		o.fail(err)
		return
	}
	o.tried = append(o.tried, r.dest)
	o.open()
	if !r.tunnel {
		ctx, stop := context.WithTimeout(context.Background(), w.options.ConnectTimeout)
		o.cancel = stop
		go w.dial(ctx, stop, o.pod.addrs[0], r.addr, o.connectedPlain)
		return
	}
	key := hbone.Key{Self: o.src.Identity(), Wants: r.wants, Addr: r.addr, SourceIP: o.pod.addrs[0]}
	c := &hbone.Connect{
		Authority: r.authority, Baggage: hbone.BaggageOf(o.src).String(), Traceparent: o.rec.Trace.Traceparent(),
	}
	f := hbone.Forwarded{For: o.rec.SourceAddr}
	if r.service != nil {
		f.Host = r.service.Hostname
	}
	c.Forwarded = f.String()
	o.cancel = w.pool.Open(key, c, nil, o.connectedTunnel)
}

func (w *worker) decide(src *mesh.Workload, target mesh.Authority, tried []*mesh.Workload) (route, error) {
	d := decider{w.options.Store.Snapshot(), w.options.Network, w.options.ClusterDomain, w.options.HBONEPort}
	return d.decide(src, target, tried)
}

// dial connects plainly, on a goroutine of its own, and tells ready on the loop.
func (w *worker) dial(ctx context.Context, stop func(), src netip.Addr, dst netip.AddrPort, ready func(net.Conn, error)) {
	defer stop()
	nc, err := w.options.Dial(ctx, src, dst)
	w.loop.Do(func() { ready(nc, err) })
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
	switch {
	case o.over:
		if t != nil {
			t.Reset(nil)
		}
	case err != nil:
		o.failed(err)
	default:
		o.join(t, t.SetReceiver)
	}
}

// failed tries another endpoint, if nothing says that the first was right to
// refuse and there is another.
func (o *outbound) failed(err error) {
	o.cancel = nil
	var status *hbone.StatusError
	if errors.As(err, &status) || o.route.hop != telemetry.Direct || o.route.service == nil || len(o.tried) == maxAttempts {
		o.fail(err)
		return
	}
	if _, other := o.worker.decide(o.src, o.target, o.tried); other != nil {
		o.fail(err)
		return
	}
	o.close(err) // each attempt is a connection to somebody else
	o.connect()
}

// join copies between the pod and whoever was reached.
func (o *outbound) join(s flow.Stream, attach func(flow.Receiver)) {
	o.cancel = nil
	o.answer(nil)
	o.pair.Join(o.leg, s, o.done)
	o.copying = true
	attach(o.pair.B())
	o.leg.SetReceiver(o.pair.A())
	for o.held.Len() > 0 {
		p := o.held.Front()
		o.pair.A().Data(p)
		o.held.Consume(len(p))
	}
	if o.eof {
		o.pair.A().EOF()
	}
}

// fail ends a connection that reached nobody.
func (o *outbound) fail(err error) {
	o.answer(err)
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

func (o *outbound) done(err error) { o.finish(err) }

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
	o.held.Clear()
	o.close(err)
}

// unconnected is an outbound as its pod's side sees it until somebody is reached.
type unconnected outbound

func (o *unconnected) Data(p []byte)   { o.held.Append(p) }
func (o *unconnected) EOF()            { o.eof = true }
func (o *unconnected) Sent(int)        {}
func (o *unconnected) Reset(err error) { (*outbound)(o).finish(err) }

// age is how long the connection has lasted.
func (w *worker) age(start time.Time) time.Duration { return w.loop.Now().Sub(start) }
