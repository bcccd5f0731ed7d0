package waypoint

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/inner"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/telemetry"
)

// A worker is what one loop owns. Nothing in it is shared, so nothing in it is
// locked.
type worker struct {
	*Waypoint
	loop      *loop.Loop
	pool      *hbone.Pool
	dial      func(*origin, dialed) (cancel func())                                                       // dialOrigin, except in tests
	ask       func(c *extauthz.Client, r *extauthz.Request, answer func(extauthz.Answer)) (cancel func()) // Client.Ask, likewise
	origins   map[originKey]*origin
	sessions  []*session // each knowing its index
	waiters   map[*waiter]struct{}
	lingering map[*config.Destination]detached // by what stands in its place
	inners    *inner.Set                       // HTTP/2 inside tunnels
	tokens    *jwt.Verifier                    // remembers which are valid
	free      []*exchange
	spare     int // of free, not used since the last tick
	rng       *rand.PCG
	timer     loop.Timer
	closing   map[*h1Upstream]time.Time // closed by us, not yet by the endpoint; since when
	dials     context.Context           // over when the worker stops
	endDials  context.CancelFunc
	sampled   time.Time // when it was last asked whether a decision is wanted that allowed
	draining  bool
	stopped   bool

	// Scratch, lent for one call.
	request  l7.Request
	response l7.Response
	outgoing l7.Fields
	input    authz.Input
	text     []byte
	id       [36]byte
}

// closeTimeout is how long a peer may take to close its end of what we have
// closed, before it is reset: 5 s.
const closeTimeout = 5 * time.Second

// maxFree is how many exchanges a worker keeps for later: 1,024 of about 3 KiB,
// with the head of a request. It keeps them while they are used: see trim.
const maxFree = 1024

func newWorker(w *Waypoint, l *loop.Loop) *worker {
	k := &worker{
		Waypoint:  w,
		loop:      l,
		dial:      dialOrigin,
		ask:       (*extauthz.Client).Ask,
		origins:   map[originKey]*origin{},
		waiters:   map[*waiter]struct{}{},
		lingering: map[*config.Destination]detached{},
		inners:    inner.NewSet(l, w.options.HTTP2),
		tokens:    jwt.NewVerifier(jwt.Limits{}),
		closing:   map[*h1Upstream]time.Time{},
		rng:       rand.NewPCG(rand.Uint64(), rand.Uint64()),
	}
	k.dials, k.endDials = context.WithCancel(context.Background())
	k.pool = hbone.NewPool(hbone.PoolOptions{
		Loop: l, Identity: w.options.Identity, Dial: w.options.Dial, H2: w.options.HBONE,
		IdleRelease: w.options.PoolIdle, MaxStreams: w.options.PoolStreams, ConnectTimeout: w.options.ConnectTimeout,
		Events: hbone.Events{HandshakeFailed: func(_ netip.AddrPort, err error) { w.countRevoked(telemetry.BySource, err) }},
	})
	k.timer.F = k.tick
	l.Do(func() { l.After(&k.timer, time.Second) })
	return k
}

// tick is the clock of everything here that has none, once a second.
func (w *worker) tick() {
	now := w.loop.Now()
	w.inners.Tick(now)
	for key, o := range w.origins {
		if o.expire(now, w.options.UpstreamIdle); o.empty() {
			o.dropped = true
			delete(w.origins, key)
		}
	}
	for u, since := range w.closing {
		if now.Sub(since) > closeTimeout {
			u.Abort(nil)
		}
	}
	for s := range w.allSessions() {
		if s.serving != nil {
			s.serving.tick(now)
		}
	}
	w.forgetDetached(now)
	w.trim()
	w.loop.After(&w.timer, time.Second)
}

func (w *worker) random() uint64 { return w.rng.Uint64() }

// requestID writes a random UUID (RFC 9562, section 5.4), which is lent. It names
// a request and guards nothing, so it need not be unpredictable.
func (w *worker) requestID() []byte {
	var id [16]byte
	binary.LittleEndian.PutUint64(id[:8], w.random())
	binary.LittleEndian.PutUint64(id[8:], w.random())
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	b := hex.AppendEncode(w.id[:0], id[:4])
	for i := 4; i < 10; i += 2 {
		b = hex.AppendEncode(append(b, '-'), id[i:i+2])
	}
	return hex.AppendEncode(append(b, '-'), id[10:])
}

// newExchange takes an exchange from the free list. slot is where its owner
// keeps it; it is emptied when the exchange is released.
func (w *worker) newExchange(s *session, c client, slot **exchange) *exchange {
	var x *exchange
	if n := len(w.free); n > 0 {
		x, w.free = w.free[n-1], w.free[:n-1]
		w.spare = min(w.spare, n-1)
	} else {
		x = &exchange{}
	}
	x.session, x.client, x.slot = s, c, slot
	*slot = x
	return x
}

// release gives the exchange back. Nobody tells it anything any more: its
// upstream was left and its client's slot is empty.
func (x *exchange) release() {
	if !x.reported {
		return // it was given back already
	}
	w := x.session.worker
	if x.slot != nil && *x.slot == x {
		*x.slot = nil
	}
	x.held.Clear()
	x.replay.Clear()
	x.arena.Reset()
	*x = exchange{gen: x.gen + 1, arena: x.arena, held: x.held, replay: x.replay}
	if len(w.free) < maxFree {
		w.free = append(w.free, x)
	}
}

// trim lets go of half of the exchanges that nobody has needed since the last
// tick, so that a burst is not paid for until the end.
func (w *worker) trim() {
	drop := (w.spare + 1) / 2
	clear(w.free[len(w.free)-drop:])
	w.free = w.free[:len(w.free)-drop]
	w.spare = len(w.free)
}
