package ztunnel

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/telemetry"
)

// Options is what a Ztunnel is made of. The fields of the first group are
// required; the zero value of each other field means its default.
type Options struct {
	Node      string // whose pods are ours: the name of a Node
	Identity  identity.Source
	Store     *config.Store // in the node tunnel's view
	Telemetry *telemetry.Telemetry
	Loops     *loop.Group

	Log     *slog.Logger // discards
	Aliases []string     // further trust domains that mean ours
	Network string       // the network we are in

	ClusterDomain string // of services' names; cluster.local

	// Listen and Dial are how pods are reached: TCP on this machine. Dial binds
	// to src when it is valid. A pod's sockets in its own network namespace will
	// come in here.
	Listen func(addr netip.AddrPort) (net.Listener, error)
	Dial   func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error)

	HBONEPort uint16 // 15008
	SOCKSPort uint16 // where pods hand us their connections; 15080

	// RequireWaypoint refuses, with 401, whoever comes to a pod behind a
	// waypoint without having been through it, as ambient's first release did.
	RequireWaypoint bool

	// MeshOnly serves pods that speak HBONE and no others: istiod tells of those of
	// a waypoint or outside the mesh too, whose ports are not ours to take.
	MeshOnly bool

	// NoOriginalSource dials applications from the pod's own address rather than
	// from the client's.
	NoOriginalSource bool

	HBONE          h2.Options
	ConnectTimeout time.Duration // 10 s
	PoolIdle       time.Duration // 5 min, as ztunnel's
	PoolStreams    int           // tunnels that share a connection we open; 100
}

// A Ztunnel is the node tunnel of one node. All of its methods are safe for
// concurrent use.
type Ztunnel struct {
	options Options
	workers map[*loop.Loop]*worker

	changed chan struct{} // there may be other pods than before

	mu       sync.Mutex
	pods     map[string]*pod   // by UID; guarded by mu
	pending  map[string]string // those that are not served yet, by UID: why; guarded by mu
	draining bool              // guarded by mu

	serving sync.WaitGroup // listeners, pods that are retiring, dials
}

// A worker is what one loop owns.
type worker struct {
	*Ztunnel
	loop     *loop.Loop
	pool     *hbone.Pool
	greeters map[*greeter]struct{}
	inbound  map[*inbound]struct{}
	outbound map[*outbound]struct{}
	timer    loop.Timer
	idle     chan struct{} // not nil: draining; closed once nothing is open
	cutting  bool          // whatever is still begun is refused
}

// flushEvery is how often the counters of long connections are brought up to
// date: 5 s, a third of the usual scrape interval.
const flushEvery = 5 * time.Second

// New returns a Ztunnel that serves no pod yet.
func New(o Options) (*Ztunnel, error) {
	if o.Node == "" || o.Identity == nil || o.Store == nil || o.Telemetry == nil || o.Loops == nil {
		return nil, errors.New("ztunnel: Options.Node, Identity, Store, Telemetry and Loops are required")
	}
	o.setDefaults()
	z := &Ztunnel{
		options: o, workers: map[*loop.Loop]*worker{},
		pods: map[string]*pod{}, pending: map[string]string{},
		changed: make(chan struct{}, 1),
	}
	for _, l := range o.Loops.Loops() {
		z.workers[l] = newWorker(z, l)
	}
	o.Store.OnPublish(z.published)
	return z, nil
}

func newWorker(z *Ztunnel, l *loop.Loop) *worker {
	o := &z.options
	w := &worker{
		Ztunnel: z, loop: l, greeters: map[*greeter]struct{}{},
		inbound: map[*inbound]struct{}{}, outbound: map[*outbound]struct{}{},
	}
	w.pool = hbone.NewPool(hbone.PoolOptions{
		Loop: l, Identity: o.Identity, Dial: o.Dial, H2: o.HBONE,
		ConnectTimeout: o.ConnectTimeout, IdleRelease: o.PoolIdle, MaxStreams: o.PoolStreams, ResetIsEOF: true,
	})
	w.timer.F = w.flush
	l.Do(func() { l.After(&w.timer, flushEvery) })
	return w
}

func (o *Options) setDefaults() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Listen == nil {
		o.Listen = func(addr netip.AddrPort) (net.Listener, error) {
			return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
		}
	}
	if o.Dial == nil {
		o.Dial = DialTCP
	}
	if o.ClusterDomain == "" {
		o.ClusterDomain = "cluster.local"
	}
	if o.HBONEPort == 0 {
		o.HBONEPort = 15008
	}
	if o.SOCKSPort == 0 {
		o.SOCKSPort = 15080
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	if o.PoolIdle == 0 {
		o.PoolIdle = 5 * time.Minute
	}
}

// DialTCP connects from src, or from wherever the kernel likes when src is not
// valid.
func DialTCP(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 180 * time.Second, Interval: 180 * time.Second, Count: 9}}
	if src.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0))
	}
	return d.DialContext(ctx, "tcp", dst.String())
}

// retryEvery is how often it is tried again to serve a pod whose ports could not
// be opened: its address may come up any moment, and no change tells.
const retryEvery = time.Second

// Run serves the pods of the node as they come and go, until ctx is done. What
// is open then stays open: see Shutdown.
func (z *Ztunnel) Run(ctx context.Context) error {
	for {
		z.Reconcile()
		var again <-chan time.Time
		if z.waiting() {
			again = time.After(retryEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-z.changed:
		case <-again:
		}
	}
}

// waiting reports whether there are pods that are not served yet.
func (z *Ztunnel) waiting() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return len(z.pending) > 0 && !z.draining
}

// published is told of every change of configuration: pods may have come or
// gone, and what is open is judged again.
func (z *Ztunnel) published(changes config.Changes) {
	if len(changes.Workloads) > 0 {
		select {
		case z.changed <- struct{}{}:
		default: // there is a notice already
		}
	}
	for l, w := range z.workers {
		l.Do(func() { w.recheck(changes) })
	}
}

// flush brings the counters of what is open up to date.
func (w *worker) flush() {
	for in := range w.inbound {
		in.flush()
	}
	for out := range w.outbound {
		out.flush()
	}
	w.loop.After(&w.timer, flushEvery)
}
