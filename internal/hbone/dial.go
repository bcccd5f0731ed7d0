package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// A dest is the connections of one Key.
type dest struct {
	key   Key
	pool  *Pool
	limit int         // tunnels on one connection: ours, or the peer's once it is known
	conns []*poolConn // those that may take tunnels
	dials []*dial

	spreadAfter time.Time // none is made before because the others are busy
}

// A dial is a connection in the making, and who waits for it: to be there, and
// then for the peer to say how many tunnels it takes. Until it has, it is sent no
// more than any peer may be.
type dial struct {
	dest    *dest
	extra   bool // those there are would do, but are busy
	cancel  context.CancelFunc
	waiters []*waiter
}

// A waiter is a tunnel that somebody asked for and the peer has not answered.
type waiter struct {
	t     *Tunnel
	con   *Connect
	ready func(*Tunnel, error)
	dest  *dest
	dial  *dial // waits for it, or nil
	tries int   // connections that let it down
	done  bool  // ready has been called, or is not to be
}

// maxTries is how many connections may let a tunnel down before it fails: the
// first may have been stale and the second full.
const maxTries = 3

// place opens w's stream on a connection that has room, or has it wait for one.
// Those that are busy are the last resort, once there are as many as there may be.
func (d *dest) place(w *waiter) {
	switch {
	case d.openOn(false, w) || d.wait(w):
	case d.spreads():
		d.dial(true).add(w)
	case d.openOn(true, w):
	case d.crowded():
		d.pool.later(w, &DialError{d.key.Addr, errCrowded})
	default:
		d.dial(false).add(w)
	}
}

// wait has w wait for a connection in the making, if one has room for it.
func (d *dest) wait(w *waiter) bool {
	for _, c := range d.conns {
		if x := c.dial; x != nil && len(x.waiters)+c.h2.Active() < d.limit {
			x.add(w)
			return true
		}
	}
	for _, x := range d.dials {
		if len(x.waiters) < d.limit {
			x.add(w)
			return true
		}
	}
	return false
}

func (x *dial) add(w *waiter) {
	w.dial = x
	x.waiters = append(x.waiters, w)
}

// dial starts to make a connection.
func (d *dest) dial(extra bool) *dial {
	p := d.pool
	timeout := p.o.ConnectTimeout
	if extra {
		timeout = min(timeout, spreadTimeout)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	x := &dial{dest: d, extra: extra, cancel: cancel}
	d.dials = append(d.dials, x)
	p.dials++
	go x.run(ctx)
	return x
}

// run dials and shakes hands on a goroutine of its own.
func (x *dial) run(ctx context.Context) {
	p, k := x.dest.pool, x.dest.key
	sock, peer, err := p.connect(ctx, k)
	if err != nil && ctx.Err() == context.DeadlineExceeded {
		err = &timeoutError{p.o.ConnectTimeout, err} // nobody is told of an extra one's
	}
	x.cancel()
	p.o.Loop.Do(func() { x.done(sock, peer, err) })
}

func (p *Pool) connect(ctx context.Context, k Key) (*loop.Socket, identity.ID, error) {
	wants, err := identity.ParseIDs(k.Wants)
	if err != nil {
		return nil, identity.ID{}, err
	}
	nc, err := p.o.Dial(ctx, k.SourceIP, k.Addr)
	if err != nil {
		return nil, identity.ID{}, err
	}
	cfg, failed := identity.ClientConfig(p.o.Identity, k.Self, wants...), &HandshakeError{}
	ours := cfg.GetClientCertificate
	cfg.GetClientCertificate = func(req *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c, err := ours(req)
		failed.NoneOfOurs = err != nil
		return c, err
	}
	sock, err := loop.Handshake(ctx, nc, cfg, loop.ClientSide)
	if err != nil && !errors.Is(context.Cause(ctx), context.Canceled) { // unless nobody waits any more
		p.o.Events.HandshakeFailed(k.Addr, fmt.Errorf("hbone: handshake with %v: %w", k.Addr, err))
	}
	if err != nil {
		failed.Err = err
		return nil, identity.ID{}, failed
	}
	peer, err := identity.PeerID(sock.TLS())
	if err != nil {
		sock.Abort(err)
		return nil, identity.ID{}, err
	}
	return sock, peer, nil
}

// done takes the outcome of a dial, on the loop. Those who waited for it
// proceed, or fail, together.
func (x *dial) done(sock *loop.Socket, peer identity.ID, err error) {
	d := x.dest
	p := d.pool
	p.dials--
	d.dials = slices.DeleteFunc(d.dials, func(y *dial) bool { return y == x })
	waiters := x.waiters
	x.waiters = nil
	for _, w := range waiters {
		w.dial = nil
	}
	defer p.settle(d)
	if err == nil {
		if err = distrusted(p.o.Identity, sock); err != nil {
			p.o.Events.HandshakeFailed(d.key.Addr, err)
		}
	}
	if err == nil && (len(waiters) == 0 || p.ended != nil) { // nobody is to use it any more
		err = ErrClosed
		sock.Abort(err)
	}
	if err != nil {
		x.failed(waiters, err)
		return
	}
	c := newPoolConn(d, sock, peer)
	c.dial, c.extra = x, x.extra
	for _, w := range waiters {
		if !c.open(w) {
			d.place(w)
		}
	}
}

// failed tells those who waited for x. Who only waited so as not to share a busy
// connection now does.
func (x *dial) failed(waiters []*waiter, err error) {
	d := x.dest
	p := d.pool
	if !x.extra || p.ended != nil {
		for _, w := range waiters {
			w.fail(&DialError{d.key.Addr, err})
		}
		return
	}
	if len(waiters) > 0 {
		d.spreadAfter = p.o.Loop.Now().Add(spreadPause)
	}
	for _, w := range waiters {
		d.place(w)
	}
}

// endWait has then decide about those who waited for the peer to say how many
// tunnels it takes: it has, or never will.
func (c *poolConn) endWait(then func(*waiter)) {
	x := c.dial
	if x == nil {
		return
	}
	c.dial = nil
	waiters := x.waiters
	x.waiters = nil
	for _, w := range waiters {
		w.dial = nil
		then(w)
	}
}

// free gives room on c to those who wait for another connection, unless it is to
// be rid of c that they do.
func (d *dest) free(c *poolConn) {
	for c.room() > 0 {
		x := d.lastDial(c.busy())
		if x == nil {
			return
		}
		for len(x.waiters) > 0 && c.room() > 0 {
			w := x.waiters[0]
			if !c.open(w) {
				return
			}
			x.remove(w)
		}
		if len(x.waiters) > 0 {
			return
		}
	}
}

// lastDial returns the newest dial, or the newest that is needed.
func (d *dest) lastDial(needed bool) *dial {
	for _, x := range slices.Backward(d.dials) {
		if !needed || !x.extra {
			return x
		}
	}
	return nil
}

// remove takes w off x. A dial that nobody waits for is given up.
func (x *dial) remove(w *waiter) {
	w.dial = nil
	x.waiters = slices.DeleteFunc(x.waiters, func(y *waiter) bool { return y == w })
	if len(x.waiters) == 0 {
		x.cancel()
		x.dest.dials = slices.DeleteFunc(x.dest.dials, func(y *dial) bool { return y == x })
	}
}

// settle forgets d when nothing is left of it, and notes when nothing is left
// of the pool.
func (p *Pool) settle(d *dest) {
	if len(d.conns)+len(d.dials) == 0 && p.dests[d.key] == d {
		delete(p.dests, d.key)
	}
	if p.ended != nil && !p.over && p.dials == 0 && len(p.conns) == 0 {
		p.over = true
		close(p.ended)
	}
}

// cancel gives w up.
func (w *waiter) cancel() {
	if w.done {
		return
	}
	w.done = true
	t := w.t
	t.w = nil
	if w.dial != nil {
		d := w.dest
		w.dial.remove(w)
		d.pool.settle(d)
	}
	if t.s != nil {
		t.Reset(nil)
	}
}

// fail tells whoever asked for w.
func (w *waiter) fail(err error) {
	if w.done {
		return
	}
	w.done = true
	w.t.w = nil
	w.ready(nil, err)
}

// retry places w anew after its connection let it down, or fails it.
func (w *waiter) retry(err error) {
	d := w.dest
	p := d.pool
	if w.tries++; w.tries >= maxTries || p.ended != nil {
		w.fail(&DialError{d.key.Addr, err})
		return
	}
	if p.dests[d.key] == nil { // it was settled meanwhile
		p.dests[d.key] = d
	}
	w.dest = p.dests[d.key]
	w.t.s, w.t.c = nil, nil
	w.dest.place(w)
}

// A timeoutError says how long we waited.
type timeoutError struct {
	after time.Duration
	err   error
}

func (e *timeoutError) Error() string {
	return "no connection within " + e.after.String()
}
func (e *timeoutError) Unwrap() error { return e.err }
func (e *timeoutError) Timeout() bool { return true }

// dialTCP is PoolOptions.Dial unless another is given. The keepalive is Istio's
// node tunnel's; HTTP/2's own notices a dead peer sooner.
func dialTCP(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 180 * time.Second, Interval: 180 * time.Second, Count: 9,
	}}
	if src.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0))
	}
	return d.DialContext(ctx, "tcp", dst.String())
}
