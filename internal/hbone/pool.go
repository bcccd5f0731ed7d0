package hbone

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// A Key says what makes two tunnels able to share a connection: who we are to
// the peer, whom we take it for, where it is, and from which address we dial.
type Key struct {
	Self     identity.ID
	Wants    string // the identities accepted, as identity.JoinIDs writes them; "" accepts nobody
	Addr     netip.AddrPort
	SourceIP netip.Addr // zero: any
}

// PoolOptions is how a [Pool] is set up. Loop and Identity must be set; the
// zero value of the others stands for its default.
type PoolOptions struct {
	Loop     *loop.Loop
	Identity identity.Source

	// Dial connects; nil: TCP from src with keepalive. It runs on a goroutine of
	// its own and obeys ctx.
	Dial func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error)

	H2 h2.Options // tunes the connections

	// MaxStreams is how many tunnels share a connection at most, whatever the
	// peer allows; 0: 100.
	MaxStreams int

	// Spread is to how many connections the tunnels of a Key are spread so that
	// they need not share a busy one: what begins while all there are each move
	// 4 MiB a second or more has another made, for which it waits a second at
	// most. 0 or 1: one connection, for as long as it has room. What is no longer
	// needed falls idle: see IdleRelease.
	Spread int

	// MaxWaiting is how many tunnels of a Key wait for connections in the making
	// at most, rounded up to what a connection takes; further ones fail at once.
	// 0: 16,384.
	MaxWaiting int

	// ConnectTimeout bounds a dial and its handshake together, and then again
	// the time until the peer's SETTINGS; 0: 10 s.
	ConnectTimeout time.Duration

	// IdleRelease is how long a connection without tunnels is kept; 0: 5
	// minutes; negative: for ever.
	IdleRelease time.Duration

	// ResetIsEOF is as in [ServerOptions].
	ResetIsEOF bool

	Events Events
}

// A Pool opens tunnels, on connections that tunnels of the same [Key] share. A
// process has one for each loop; its methods are called on that loop, except
// Shutdown.
//
// While a connection is being made, tunnels wait for it together: as many as it
// can carry. For those beyond, another is dialled at the same time. So the
// tunnels to a destination that does not answer all fail after one timeout
// rather than one after the other; and there are at most so many that wait.
type Pool struct {
	o     PoolOptions
	dests map[Key]*dest
	conns map[*poolConn]struct{} // every one, draining ones too
	timer loop.Timer
	ended chan struct{} // not nil: shutting down; closed when nothing is left
	over  bool          // ended is closed
	dials int
}

// NewPool returns an empty pool.
func NewPool(o PoolOptions) *Pool {
	o.Events = o.Events.orSilent()
	if o.Dial == nil {
		o.Dial = dialTCP
	}
	if o.MaxStreams <= 0 {
		o.MaxStreams = 100
	}
	if o.MaxWaiting <= 0 {
		o.MaxWaiting = 16 << 10
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	if o.IdleRelease == 0 {
		o.IdleRelease = 5 * time.Minute
	}
	o.H2.MaxStreams = uint32(o.MaxStreams)
	p := &Pool{o: o, dests: map[Key]*dest{}, conns: map[*poolConn]struct{}{}}
	p.timer.F = p.tick
	return p
}

// Open asks for a tunnel. ready is called once, on the loop, never within Open:
// with the tunnel when the peer has answered 200, and then r takes what arrives
// on it; else with a [*StatusError], when the peer answered otherwise, or a
// [*DialError]. cancel gives the attempt up; ready is then not called. It does
// nothing once ready has been called.
//
// c is the pool's until ready is called.
func (p *Pool) Open(k Key, c *Connect, r flow.Receiver, ready func(*Tunnel, error)) (cancel func()) {
	w := &waiter{t: &Tunnel{r: r}, con: c, ready: ready}
	w.t.w = w
	if p.ended != nil {
		p.later(w, &DialError{k.Addr, ErrClosed})
		return w.cancel
	}
	d := p.dests[k]
	if d == nil {
		d = &dest{key: k, pool: p, limit: p.o.MaxStreams}
		p.dests[k] = d
	}
	w.dest = d
	d.place(w)
	return w.cancel
}

// later fails w after the call that found out.
func (p *Pool) later(w *waiter, err error) {
	p.o.Loop.Do(func() { w.fail(err) })
}

// tick runs once a second as long as there is a connection.
func (p *Pool) tick() {
	now := p.o.Loop.Now()
	for c := range p.conns {
		settle := p.o.ConnectTimeout
		if c.extra {
			settle = min(settle, spreadTimeout)
		}
		c.tick(now, settle, p.o.IdleRelease)
		c.retireIfDraining()
		c.sinceTick()
	}
	if len(p.conns) > 0 {
		p.o.Loop.After(&p.timer, tickEvery)
	}
}

// Retire drains the connections whose key f accepts: an identity is gone, say,
// or a peer no longer to be trusted. Their tunnels go on.
func (p *Pool) Retire(f func(Key) bool) {
	for c := range p.conns {
		if f(c.dest.key) {
			c.retire()
			c.drain()
		}
	}
}

// Stats is what a pool holds.
type Stats struct {
	Conns   int // connections, draining ones too
	Dials   int // connections in the making
	Tunnels int // streams on the connections
	Keys    int
}

// Stats counts what the pool holds.
func (p *Pool) Stats() Stats {
	s := Stats{Conns: len(p.conns), Dials: p.dials, Keys: len(p.dests)}
	for c := range p.conns {
		s.Tunnels += c.h2.Active()
	}
	return s
}

// Shutdown fails what waits, opens nothing more, and returns when every tunnel
// has ended and every connection is closed. When ctx is done first, what is left
// is cut and its error returned. It must not be called on the loop.
func (p *Pool) Shutdown(ctx context.Context) error {
	ended := make(chan (<-chan struct{}), 1)
	p.o.Loop.Do(func() { ended <- p.shut() })
	all := <-ended
	select {
	case <-all:
		return nil
	case <-ctx.Done():
	}
	err := context.Cause(ctx)
	p.o.Loop.Do(func() {
		for c := range p.conns {
			c.sock.Abort(err)
		}
	})
	<-all
	return err
}

// shut begins the shutdown, on the loop.
func (p *Pool) shut() <-chan struct{} {
	if p.ended != nil {
		return p.ended
	}
	p.ended = make(chan struct{})
	for _, d := range p.dests {
		for _, x := range d.dials {
			x.cancel()
		}
	}
	for c := range p.conns {
		c.retire()
		c.drain()
	}
	p.settle(&dest{})
	return p.ended
}
