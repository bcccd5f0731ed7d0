package waypoint

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/decisions"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/telemetry"
)

// Options is what a Waypoint is made of. The fields of the first group are
// required; the zero value of each other field means its default.
type Options struct {
	Self      identity.ID // who we are, to clients and to destinations
	Identity  identity.Source
	Store     *config.Store // configured with our Gateway's view
	Telemetry *telemetry.Telemetry
	Loops     *loop.Group
	Dial      func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error)

	Log     *slog.Logger // discards
	Aliases []string     // further trust domains that mean ours
	Network string       // the network we are in
	Baggage string       // what a 200 says about us; nothing

	HBONE          h2.Options    // connections between proxies
	HTTP2          h2.Options    // HTTP/2 inside tunnels
	HTTP1          h1.Limits     // HTTP/1.1 inside tunnels
	HBONEPort      uint16        // where node tunnels listen; 15008
	MaxAge         time.Duration // of a client's HBONE connection, jittered by a tenth; none
	ConnectTimeout time.Duration // 10 s, Istio's
	PoolIdle       time.Duration // how long an unused HBONE connection is kept; 5 min
	PoolStreams    int           // tunnels that share an HBONE connection we open; 100
	UpstreamIdle   time.Duration // how long an unused connection to an endpoint is kept; 1 min
	IdleTimeout    time.Duration // how long a client's HTTP/1.1 connection may be idle; 1 h
	HeadTimeout    time.Duration // how long the head of a request may take to arrive; 1 min

	// Patience is how long a CONNECT for something that is not served here waits
	// to become it, because its sender may have heard of a change before us; 1 s.
	Patience time.Duration

	// Linger is how long what is no longer served here is served to those who
	// have not heard; 5 s.
	Linger time.Duration

	// Budget is how many bytes of buffers may be out in the whole process before
	// new requests are shed with 503; 256 MiB.
	Budget int64

	// Keys returns the keys that tokens are verified with: none. It is called for
	// every request to a destination that takes tokens, by any loop, and must not
	// block.
	Keys func() jwt.Ring

	// Authorizer returns who asks the provider that a CUSTOM policy names, or nil
	// if nobody can: what the policy matches is refused then, as it is by default.
	// It is called by any loop, and must not block.
	Authorizer func(provider string) *extauthz.Client

	// Recent keeps the last decisions of policy, with why: nobody does.
	Recent *decisions.Recent
}

// A Waypoint is an L7 proxy. All of its methods are safe for concurrent use.
type Waypoint struct {
	options Options
	server  *hbone.Server
	workers map[*loop.Loop]*worker
	baggage l7.Fields
}

// New returns a Waypoint that serves nothing yet.
func New(o Options) (*Waypoint, error) {
	switch {
	case o.Self.IsZero():
		return nil, errors.New("waypoint: Options.Self is required")
	case o.Identity == nil || o.Store == nil || o.Telemetry == nil || o.Loops == nil || o.Dial == nil:
		return nil, errors.New("waypoint: Options.Identity, Store, Telemetry, Loops and Dial are required")
	}
	o.setDefaults()
	w := &Waypoint{options: o, workers: map[*loop.Loop]*worker{}}
	if o.Baggage != "" {
		w.baggage = l7.Fields{{Name: "baggage", Value: o.Baggage}}
	}
	for _, l := range o.Loops.Loops() {
		w.workers[l] = newWorker(w, l)
	}
	w.server = hbone.NewServer(hbone.ServerOptions{
		Self:     func(netip.AddrPort) identity.ID { return o.Self },
		Identity: o.Identity, Aliases: o.Aliases, Loops: o.Loops, H2: o.HBONE, MaxAge: o.MaxAge,
		NotConnect: 404,
		Connect:    func(in *hbone.Incoming) { w.workers[in.Loop].terminate(in) },
		Events: hbone.Events{HandshakeFailed: func(remote netip.AddrPort, err error) {
			o.Telemetry.HandshakeFailed()
			w.countRevoked(telemetry.ByDestination, err)
			o.Log.Warn("handshake failed", "peer", remote.String(), "error", err)
		}},
	})
	o.Store.OnPublish(w.published)
	w.followRevocations()
	return w, nil
}

func (o *Options) setDefaults() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.HBONEPort = cmp.Or(o.HBONEPort, 15008)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, 10*time.Second)
	o.PoolIdle = cmp.Or(o.PoolIdle, 5*time.Minute)
	o.UpstreamIdle = cmp.Or(o.UpstreamIdle, time.Minute)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, time.Hour)
	o.HeadTimeout = cmp.Or(o.HeadTimeout, time.Minute)
	o.Patience = cmp.Or(o.Patience, time.Second)
	o.Linger = cmp.Or(o.Linger, 5*time.Second)
	o.Budget = cmp.Or(o.Budget, 256<<20)
	if o.Keys == nil {
		o.Keys = func() jwt.Ring { return nil }
	}
	if o.Authorizer == nil {
		o.Authorizer = func(string) *extauthz.Client { return nil }
	}
}

// gathering is how much content a request may wait with: no more than may come
// without credit, which is announced by halves of the window.
func (o *Options) gathering() int {
	window := o.window()
	if w := int(o.HTTP2.StreamWindow); w > 0 {
		window = min(window, w)
	}
	return window/2 - 1 // and one byte more, to see that there is more
}

// window is what a plain connection to an endpoint may have uncredited: what a
// tunnel may.
func (o *Options) window() int {
	if o.HBONE.StreamWindow > 0 {
		return int(o.HBONE.StreamWindow)
	}
	return 256 << 10
}

// Serve accepts HBONE connections from ln until Shutdown, when it returns nil,
// or until accepting fails.
func (w *Waypoint) Serve(ln net.Listener) error { return w.server.Serve(ln) }

// published has every loop judge again what a change of configuration concerns:
// opaque tunnels, and CONNECTs that wait. Requests are judged as they come.
func (w *Waypoint) published(changes config.Changes) {
	for l, k := range w.workers {
		l.Do(func() { k.recheck(changes) })
	}
}

func (w *worker) recheck(changes config.Changes) {
	w.noteDetached(changes)
	w.retryWaiters()
	for s := range w.allSessions() {
		if o, ok := s.serving.(*opaque); ok && !o.over {
			if _, changed := changes.Destinations[o.dest]; changed {
				o.recheck()
			}
		}
	}
}

// Shutdown stops accepting, tells every client to go elsewhere (GOAWAY on HBONE
// connections and inside them, Connection: close on HTTP/1.1), and waits until
// everything in flight has ended or ctx is done; what is left then is cut off.
func (w *Waypoint) Shutdown(ctx context.Context) error {
	for l, k := range w.workers {
		l.Do(k.startDraining)
	}
	err := w.server.Shutdown(ctx)
	if err != nil {
		w.options.Log.Warn("shutdown: what was left was cut off", "error", err)
	}
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	for l, k := range w.workers {
		l.Do(k.stop)
		if e := k.pool.Shutdown(ctx); e != nil && err == nil {
			// No client is left: an endpoint that does not close is no loss.
			w.options.Log.Debug("shutdown: connections to endpoints were cut off", "error", e)
		}
	}
	return err
}

func (w *worker) startDraining() {
	w.draining = true
	for s := range w.allSessions() {
		if s.serving != nil {
			s.serving.drain()
		}
	}
}

// stop ends what is left: connections to endpoints, and the clock.
func (w *worker) stop() {
	w.stopped = true
	w.timer.Stop()
	w.endDials()
	for _, o := range w.origins {
		o.close()
	}
}
