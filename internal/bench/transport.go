package bench

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// dialTimeout bounds a dial and what is said before the stream is there: 10 s.
const dialTimeout = 10 * time.Second

// A connection is an HBONE connection and the tunnels of an engine that are to
// be on it. It has a pool of its own, so that there are exactly as many
// connections as were asked for, and each carries its share.
type connection struct {
	pool  *hbone.Pool
	key   hbone.Key
	where mesh.Authority
}

// newConnection returns a connection for at most so many tunnels, which is made
// when the first is opened.
func (e *engine) newConnection(most int) *connection {
	r := e.run
	return &connection{
		pool: hbone.NewPool(hbone.PoolOptions{
			Loop: e.loop, Identity: r.source, MaxStreams: most, IdleRelease: -1, ConnectTimeout: dialTimeout,
			Dial: func(ctx context.Context, _ netip.Addr, to netip.AddrPort) (net.Conn, error) {
				return r.load.dialTo(ctx, to)
			},
		}),
		key:   hbone.Key{Self: r.self, Wants: identity.JoinIDs(r.peers...), Addr: r.addr},
		where: r.authority,
	}
}

// open is link.
func (c *connection) open(ready func(flow.Stream, func(flow.Receiver), error)) {
	c.pool.Open(c.key, &hbone.Connect{Authority: c.where}, nil, func(t *hbone.Tunnel, err error) {
		if err != nil {
			ready(nil, nil, err)
			return
		}
		ready(t, t.SetReceiver, nil)
	})
}

// leave closes the connection, so that the next request has another.
func (c *connection) leave() { c.pool.Retire(func(hbone.Key) bool { return true }) }

// dialTo connects to an address.
func (l *Load) dialTo(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if l.dial != nil {
		return l.dial(ctx, to)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", to.String())
}

// A plain is a tunnel that is a connection, through a SOCKS5 proxy or not.
type plain struct {
	run  *run
	loop *loop.Loop
}

// open is link.
func (p *plain) open(ready func(flow.Stream, func(flow.Receiver), error)) {
	p.run.dials.Go(func() { p.dial(ready) })
}

// dial runs on a goroutine of its own.
func (p *plain) dial(ready func(flow.Stream, func(flow.Receiver), error)) {
	ctx, cancel := context.WithTimeout(p.run.ctx, dialTimeout)
	defer cancel()
	nc, err := p.run.load.dialTo(ctx, p.run.addr)
	if err == nil && p.run.load.Transport == overSOCKS5 {
		if err = socks5(ctx, nc, p.run.authority); err != nil {
			nc.Close()
		}
	}
	p.loop.Do(func() {
		if err != nil {
			ready(nil, nil, err)
			return
		}
		t := loop.NewTCP(p.loop, loop.Plain(nc), 0, deaf{})
		ready(t, t.SetReceiver, nil)
	})
}

// leave is link.
func (p *plain) leave() {}
