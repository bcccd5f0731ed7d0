package ztunnel

import (
	"errors"
	"net"
	"time"

	"github.com/waystone-mesh/waystone/internal/loop"
)

// socksTimeout is how long a client may take to say where it wants to go: 10 s.
const socksTimeout = 10 * time.Second

// accept hands the connections of a listener to take, until it is closed.
func (p *pod) accept(ln net.Listener, take func(net.Conn)) {
	wait := time.Duration(0)
	for {
		nc, err := ln.Accept()
		if err != nil {
			var t interface{ Temporary() bool }
			if errors.As(err, &t) && t.Temporary() && !p.closed() {
				// Out of descriptors, most likely: some will be closed.
				wait = min(max(2*wait, 5*time.Millisecond), time.Second)
				select {
				case <-time.After(wait):
				case <-p.over:
				}
				continue
			}
			if !p.closed() {
				p.z.options.Log.Error("listener failed", "address", ln.Addr().String(), "error", err)
			}
			return
		}
		wait = 0
		take(nc)
	}
}

// greet takes a connection of the pod's from a SOCKS5 listener. It is one of two
// ways to learn where a connection wants to go, the one that needs no rights;
// whatever learns it ends in worker.carry.
func (p *pod) greet(nc net.Conn) {
	l := p.z.options.Loops.Pick()
	l.Do(func() { p.z.workers[l].greet(p, nc) })
}

// A greeter is the receiver of a pod's connection until its target is known.
type greeter struct {
	worker *worker
	pod    *pod
	leg    *loop.TCP
	socks  socks
	timer  loop.Timer
	done   bool
}

var errSilent = errors.New("socks: the client does not say where it wants to go")

func (w *worker) greet(p *pod, nc net.Conn) {
	g := &greeter{worker: w, pod: p}
	g.leg = loop.NewTCP(w.loop, loop.Plain(nc), w.window(), g)
	g.timer.F = func() { g.fail(errSilent) }
	w.loop.After(&g.timer, socksTimeout)
	w.greeters[g] = struct{}{}
	if w.cutting {
		g.fail(errDrained)
	}
}

// window is what a pod's connection may have uncredited: what a tunnel may.
func (w *worker) window() int { return int(w.options.HBONE.StreamWindow) }

// Data reads what the client says. What it says about itself is credited here;
// what it sends beyond that is the connection's.
func (g *greeter) Data(p []byte) {
	if g.done {
		return
	}
	reply, target, rest, done, err := g.socks.read(p, nil)
	g.leg.Credit(len(p) - len(rest))
	g.leg.Write(reply)
	switch {
	case err != nil:
		g.fail(err)
	case done:
		g.finish()
		g.socks = socks{}
		g.worker.carry(g.pod, g.leg, target, rest, g.answer)
		g.worker.left()
	}
}

func (g *greeter) answer(err error) { g.leg.Write(appendReply(nil, replyFor(err))) }

// fail tells a client that speaks SOCKS5 what is wrong, and closes.
func (g *greeter) fail(err error) {
	var known *socksError
	if errors.As(err, &known) && known.reply != socksNoAcceptable {
		g.answer(err)
	}
	g.worker.options.Log.Debug("connection refused", "pod", g.pod.uid, "error", err)
	g.leg.Socket().Close()
	g.finish()
	g.worker.left()
}

func (g *greeter) finish() {
	g.done = true
	g.timer.Stop()
	delete(g.worker.greeters, g)
}

func (g *greeter) EOF() {
	if !g.done {
		g.fail(errNotSOCKS5)
	}
}

func (g *greeter) Sent(int) {}

func (g *greeter) Reset(error) {
	if !g.done {
		g.finish()
		g.worker.left()
	}
}
