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

	// RegistryOnly refuses what pods send to addresses that nothing in the mesh
	// has (Istio's outboundTrafficPolicy REGISTRY_ONLY); else it passes.
	RegistryOnly bool

	// LocalhostAppTunnel hands who takes the PROXY protocol its connections on
	// its loopback address. It is for pods in network namespaces of their own.
	LocalhostAppTunnel bool

	// ConnectRetries is how many further endpoints are tried when one cannot be
	// reached, before any byte is sent; 0 is 2, negative is none.
	ConnectRetries int

	// MaxPerIdentity is how many connections each client's identity may have open
	// to one pod, MaxConnections how many may be open to the pods of the node, and
	// again from them. 0 is no limit.
	MaxPerIdentity, MaxConnections int

	// Resolve looks up a workload that is known by its host name only; nil is
	// Go's resolver, as this machine has it configured.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// Demand asks the control plane for what the Store has nothing of, by one of its
	// names (network/IP, or namespace/hostname), and returns once the Store has what
	// there is, which may be nothing. It is called often for one name, and remembers
	// answers; it may wait for as long as ctx lasts. A connection whose destination
	// it says nothing of is refused. Nil: the Store has everything.
	//
	// What RequireWaypoint looks at is not asked for.
	Demand func(ctx context.Context, name string) error

	// DemandTimeout is how long a connection waits for Demand, in all; 5 s.
	DemandTimeout time.Duration

	// InPod has pods served in their network namespaces, as Add and Remove say,
	// rather than at their addresses, as the Store says. Listen and Dial are then
	// not used. Nil: at their addresses.
	InPod *InPod

	// MeshOnly serves pods that speak HBONE and no others: istiod tells of those of
	// a waypoint or outside the mesh too, whose ports are not ours to take.
	MeshOnly bool

	// NoOriginalSource dials applications from the pod's own address rather than
	// from the client's.
	NoOriginalSource bool

	// GoneGrace is how long connections to a pod that is gone are left alone; 1 s.
	// One that was taken from manifests alone answers what it has been asked.
	GoneGrace time.Duration

	HBONE          h2.Options
	ConnectTimeout time.Duration // 10 s
	PoolIdle       time.Duration // 5 min, as ztunnel's
	PoolStreams    int           // tunnels that share a connection we open; 100

	// PoolSpread is to how many connections the tunnels between two pods are
	// spread when those there are busy (see [hbone.PoolOptions]); 4. 1 is one.
	PoolSpread int

	// LongConnection is how long a connection has lasted when its line in the log
	// says how the network was; 1 min. Negative: none does.
	LongConnection time.Duration
}

// A Ztunnel is the node tunnel of one node. All of its methods are safe for
// concurrent use.
type Ztunnel struct {
	options Options
	workers map[*loop.Loop]*worker

	changed chan struct{} // there may be other pods than before

	// Guarded by mu.
	mu       sync.Mutex
	pods     map[string]*pod     // by UID
	pending  map[string]*waiting // those that are not served yet, by UID
	self     *pod                // our own, if it is served
	synced   bool                // we were told of all pods
	ready    bool                // what InPod.Ready was told last
	draining bool

	serving sync.WaitGroup // listeners, pods that are retiring, dials

	names              *names
	receiving, sending count // connections that are open, to pods and from them

	askingTo, askingFrom count // connections that wait for Demand, to pods and from them
}

// A worker is what one loop owns.
type worker struct {
	*Ztunnel
	loop     *loop.Loop
	pools    map[*pod]*hbone.Pool
	greeters map[*greeter]struct{}
	inbound  map[*inbound]struct{}
	outbound map[*outbound]struct{}
	failed   *failed
	derived  derived
	hosts    hosts
	timer    loop.Timer
	idle     chan struct{} // not nil: draining; closed once nothing is open
	cutting  bool          // whatever is still begun is refused

	unlabelled time.Time // until when clients are not asked for: see labelPause
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
		pods: map[string]*pod{}, pending: map[string]*waiting{},
		changed: make(chan struct{}, 1), names: newNames(o.Resolve),
	}
	for _, l := range o.Loops.Loops() {
		z.workers[l] = newWorker(z, l)
	}
	o.Store.OnPublish(z.published)
	z.followRevocations()
	return z, nil
}

func newWorker(z *Ztunnel, l *loop.Loop) *worker {
	w := &worker{
		Ztunnel: z, loop: l, pools: map[*pod]*hbone.Pool{}, greeters: map[*greeter]struct{}{},
		inbound: map[*inbound]struct{}{}, outbound: map[*outbound]struct{}{},
		failed: newFailed(l.Now), derived: derived{},
	}
	w.timer.F = w.flush
	l.Do(func() { l.After(&w.timer, flushEvery) })
	return w
}

// pool returns the connections that carry a pod's tunnels. Each pod has its own,
// because they begin in its network namespace, and because two pods may have one
// address, one after the other or in two networks.
func (w *worker) pool(p *pod) *hbone.Pool {
	if pool := w.pools[p]; pool != nil {
		return pool
	}
	o := &w.options
	pool := hbone.NewPool(hbone.PoolOptions{
		Loop: w.loop, Identity: o.Identity, Dial: p.sockets.Dial, H2: o.HBONE,
		ConnectTimeout: o.ConnectTimeout, IdleRelease: o.PoolIdle, MaxStreams: o.PoolStreams, ResetIsEOF: true, Events: w.events(),
		Spread: o.PoolSpread,
	})
	w.pools[p] = pool
	return pool
}

// retirePool has a pod's tunnels from now on be on other connections.
func (w *worker) retirePool(p *pod) {
	if pool := w.pools[p]; pool != nil {
		pool.Retire(func(hbone.Key) bool { return true })
	}
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
	if o.InPod != nil {
		in := *o.InPod
		o.InPod = &in
		if in.Mark == 0 {
			in.Mark = socketMark
		}
	}
	if o.HBONEPort == 0 {
		o.HBONEPort = 15008
	}
	if o.SOCKSPort == 0 {
		o.SOCKSPort = 15080
	}
	if o.ConnectRetries == 0 {
		o.ConnectRetries = 2
	}
	if o.GoneGrace == 0 {
		o.GoneGrace = time.Second
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	if o.DemandTimeout == 0 {
		o.DemandTimeout = 5 * time.Second
	}
	if o.PoolIdle == 0 {
		o.PoolIdle = 5 * time.Minute
	}
	if o.PoolSpread == 0 {
		o.PoolSpread = 4
	}
	if o.LongConnection == 0 {
		o.LongConnection = longConnection
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

// waiting reports whether there are pods that are not served yet, or are about to
// go.
func (z *Ztunnel) waiting() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.draining {
		return false
	}
	for _, p := range z.pods {
		if p.inside != nil && p.inside.ends {
			return true
		}
	}
	return len(z.pending) > 0
}

// published is told of every change of configuration: pods may have come or
// gone, and what is open is judged again.
func (z *Ztunnel) published(changes config.Changes) {
	if len(changes.Workloads) > 0 {
		z.notice()
	}
	for l, w := range z.workers {
		l.Do(func() { w.recheck(changes) })
	}
}

// notice has Run reconcile.
func (z *Ztunnel) notice() {
	select {
	case z.changed <- struct{}{}:
	default: // there is a notice already
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
