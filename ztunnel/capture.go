package ztunnel

import (
	"errors"
	"net"
	"time"

	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// socksTimeout is how long a client may take to say where it wants to go: 10 s.
const socksTimeout = 10 * time.Second

// capture takes the pod's connections from a SOCKS5 listener. It is one of two
// ways to learn where a connection wants to go, the one that needs no rights;
// whatever learns it ends in worker.carry.
func (p *pod) capture(ln net.Listener) {
	for {
		nc, err := ln.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				p.z.options.Log.Error("SOCKS listener failed", "address", ln.Addr().String(), "error", err)
			}
			return
		}
		l := p.z.options.Loops.Pick()
		l.Do(func() { p.z.workers[l].greet(p, nc) })
	}
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

func (w *worker) greet(p *pod, nc net.Conn) {
	g := &greeter{worker: w, pod: p}
	g.leg = loop.NewTCP(w.loop, loop.Plain(nc), w.window(), g)
	g.timer.F = func() { g.fail(errors.New("socks: the client does not say where it wants to go")) }
	w.loop.After(&g.timer, socksTimeout)
}

// window is what a pod's connection may have uncredited: what a tunnel may.
func (w *worker) window() int {
	if n := w.options.HBONE.StreamWindow; n > 0 {
		return int(n)
	}
	return 256 << 10
}

func (g *greeter) Data(p []byte) {
	if g.done {
		return
	}
	var reply []byte
	reply, target, rest, done, err := g.socks.read(p, reply)
	switch {
	case err != nil:
		g.leg.Credit(len(p))
		g.fail(err)
	case done:
		g.leg.Write(reply)
		g.leg.Credit(len(p) - min(len(p), len(rest)))
		g.carry(target, rest)
	default:
		g.leg.Write(reply)
		g.leg.Credit(len(p))
	}
}

func (g *greeter) carry(target mesh.Authority, rest []byte) {
	g.done = true
	g.timer.Stop()
	g.worker.carry(g.pod, g.leg, target, rest, func(err error) {
		if err == nil {
			g.leg.Write(appendReply(nil, socksOK))
			return
		}
		g.leg.Write(appendReply(nil, replyFor(err)))
	})
}

// fail tells a client that speaks SOCKS5 what is wrong, and closes.
func (g *greeter) fail(err error) {
	g.done = true
	g.timer.Stop()
	var known *socksError
	if errors.As(err, &known) {
		if known.reply == socksNoAcceptable {
			g.leg.Write([]byte{socksVersion, socksNoAcceptable})
		} else {
			g.leg.Write(appendReply(nil, known.reply))
		}
	}
	g.worker.options.Log.Debug("connection refused", "pod", g.pod.uid, "error", err)
	g.leg.Socket().Close()
}

func (g *greeter) EOF() {
	if !g.done {
		g.fail(errNotSOCKS5)
	}
}

func (g *greeter) Sent(int) {}

func (g *greeter) Reset(error) {
	g.done = true
	g.timer.Stop()
}
