package waypointcmd

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/opa"
	"github.com/waystone-mesh/waystone/telemetry"
)

// authorizerOptions is what the authorizers stand on. All but Log and Lookup must
// be set.
type authorizerOptions struct {
	Self          identity.ID // who we are to them
	Identity      identity.Source
	Store         *config.Store
	Loop          *loop.Loop // has the tunnels to those that are in the mesh
	Network       string
	ClusterDomain string
	HBONE         h2.Options
	Dial          func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error)
	Lookup        func(ctx context.Context, host string) ([]netip.Addr, error) // nil: in DNS
	Log           *slog.Logger
}

// The authorizers are those who can be asked now: a client for each provider of
// MeshConfig, which they follow. A provider that stays the same keeps its client;
// one that was replaced or has gone is asked no more, and closed when what it was
// asked has been answered. Nothing of that is waited for where it is published.
type authorizers struct {
	// Immutable.
	o     authorizerOptions
	reach *reach
	ctx   context.Context // done when they are to close
	stop  context.CancelFunc

	current atomic.Pointer[map[string]*authorizer] // by the names of their providers

	leaving sync.WaitGroup // those who are to be closed

	mu     sync.Mutex
	closed bool                    // guarded by mu
	logs   map[string]*decisionLog // guarded by mu: decision logs, by path
}

// An authorizer is one provider and its client.
type authorizer struct {
	provider *authz.Provider
	client   *extauthz.Client
	opa      *opa.Authorizer // nil: it is asked over the network
	log      *decisionLog    // of its decisions; nil: none
}

// A decisionLog is what one or several providers log their decisions to.
type decisionLog struct {
	*telemetry.Writer
	users int
}

// newAuthorizers returns the clients of the providers that there are, and follows
// the store from then on.
func newAuthorizers(o authorizerOptions) *authorizers {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Lookup == nil {
		o.Lookup = lookupDNS
	}
	a := &authorizers{o: o, logs: map[string]*decisionLog{}}
	a.ctx, a.stop = context.WithCancel(context.Background())
	a.current.Store(&map[string]*authorizer{})
	a.reach = &reach{
		open: map[place]int{}, snapshot: o.Store.Snapshot, self: o.Self, network: o.Network, clusterDomain: o.ClusterDomain, dial: o.Dial, lookup: o.Lookup,
		pool: hbone.NewPool(hbone.PoolOptions{Loop: o.Loop, Identity: o.Identity, Dial: o.Dial, H2: o.HBONE, ConnectTimeout: reachTimeout}),
	}
	o.Store.OnPublish(func(config.Changes) { a.follow() })
	a.follow()
	a.settle()
	return a
}

// settleTime is how long policies that are large may take to be read before we go
// on without them: 10 s.
const settleTime = 10 * time.Second

// settle waits until the policies that there are in the beginning have been read:
// who asks earlier would wait, and for so long as an answer may take.
func (a *authorizers) settle() {
	late := time.After(settleTime)
	for _, x := range *a.current.Load() {
		if x.opa == nil {
			continue
		}
		select {
		case <-x.opa.Read():
		case <-late:
			return
		}
	}
}

// client returns who is asked for a provider, or nil if there is no such
// provider. It may be called from anywhere, loops too.
func (a *authorizers) client(provider string) *extauthz.Client {
	if x := (*a.current.Load())[provider]; x != nil {
		return x.client
	}
	return nil
}

// follow takes over what the snapshot that is in force says.
func (a *authorizers) follow() {
	a.mu.Lock()
	defer a.mu.Unlock()
	providers, now := a.o.Store.Snapshot().Mesh().Providers, *a.current.Load()
	if a.closed || maps.EqualFunc(providers, now, func(p *authz.Provider, x *authorizer) bool { return p == x.provider }) {
		return
	}
	next := make(map[string]*authorizer, len(providers))
	for name, p := range providers {
		if x := now[name]; x != nil && x.provider == p {
			next[name] = x
			continue
		}
		x, err := a.openLocked(p, now[name])
		if err != nil { // it is refused whatever it would be asked about
			a.o.Log.Error("no authorizer: what it is to be asked about is refused", "provider", name, "error", err)
			continue
		}
		next[name] = x
	}
	a.current.Store(&next)
	for name, x := range now {
		if next[name] != x {
			a.leaving.Go(func() { a.leave(x) })
		}
	}
}

// openLocked makes the client of p, which takes the place of before, or of none.
func (a *authorizers) openLocked(p *authz.Provider, before *authorizer) (*authorizer, error) {
	x := &authorizer{provider: p}
	o := extauthz.Options{Dial: func(ctx context.Context) (net.Conn, error) {
		return a.reach.connect(ctx, p.Service, uint16(p.Port))
	}}
	if p.Kind == authz.OPA {
		policy := opa.Options{Logger: a.o.Log}
		if before != nil {
			policy.After = before.opa
		}
		if x.log = a.logLocked(p); x.log != nil {
			policy.Log = x.log
		}
		x.opa = opa.New(p, policy)
		o = extauthz.Options{Ask: x.opa.Ask}
	}
	var err error
	x.client, err = extauthz.New(p, o)
	return x, err
}

// logLocked opens the decision log of p, if it has one. Without it, decisions are
// made all the same.
func (a *authorizers) logLocked(p *authz.Provider) *decisionLog {
	path := p.OPA.DecisionLog
	if path == "" {
		return nil
	}
	l := a.logs[path]
	if l == nil {
		w, err := telemetry.NewWriter(telemetry.WriterOptions{Path: path})
		if err != nil {
			a.o.Log.Error("decisions are not logged", "provider", p.Name, "error", err)
			return nil
		}
		l = &decisionLog{Writer: w}
		a.logs[path] = l
	}
	l.users++
	return l
}

// leaveTime is how long those who had hold of a client may take to ask it, after
// it was replaced: 1 s, a thousand times what a loop needs.
const leaveTime = time.Second

// leave closes x when whatever it was asked has been answered.
func (a *authorizers) leave(x *authorizer) {
	select {
	case <-time.After(leaveTime):
	case <-a.ctx.Done():
	}
	_ = x.client.Shutdown(a.ctx) // the error is that we do not wait any longer
	if x.opa != nil {
		x.opa.Close()
	}
	if x.log != nil {
		a.release(x.log)
	}
}

// release closes a decision log that nobody writes any more.
func (a *authorizers) release(l *decisionLog) {
	a.mu.Lock()
	l.users--
	last := l.users == 0
	if last {
		maps.DeleteFunc(a.logs, func(_ string, x *decisionLog) bool { return x == l })
	}
	a.mu.Unlock()
	if last {
		_ = l.Close(context.Background()) // it writes what it has: a file, or a pipe that is read
	}
}

// reopen reopens the decision logs, which have been renamed.
func (a *authorizers) reopen(ctx context.Context) {
	a.mu.Lock()
	logs := slices.Collect(maps.Values(a.logs))
	a.mu.Unlock()
	for _, l := range logs {
		if err := l.Reopen(ctx); err != nil {
			a.o.Log.Error("decision log was not reopened", "error", err)
		}
	}
}

// close gives up what is being asked, and returns when all is closed. Clients are
// handed out no more.
func (a *authorizers) close(ctx context.Context) error {
	a.mu.Lock()
	now := *a.current.Load()
	if !a.closed {
		a.closed = true
		a.current.Store(&map[string]*authorizer{})
		for _, x := range now {
			a.leaving.Go(func() { a.leave(x) })
		}
	}
	a.mu.Unlock()
	a.stop()
	a.leaving.Wait()
	if err := a.reach.pool.Shutdown(ctx); err != nil {
		return fmt.Errorf("connections to authorizers: %w", err)
	}
	return nil
}

// An authorizerStatus is a provider as /config_dump shows it.
type authorizerStatus struct {
	Provider string `json:"provider"`
	Kind     string `json:"kind"`
	Service  string `json:"service,omitempty"`

	// Of the questions so far, and those that are open.
	Asked  uint64 `json:"asked"`
	Failed uint64 `json:"failed"`
	Open   int    `json:"open"`

	// LastError is why there was no answer, the last time that there was none.
	LastError string     `json:"lastError,omitempty"`
	LastAt    *time.Time `json:"lastErrorAt,omitempty"`

	Policy *policyStatus `json:"policy,omitempty"`
}

// A policyStatus is the policy of a provider that is asked in this process.
type policyStatus struct {
	Loaded   *time.Time `json:"loaded,omitempty"` // when what is in force was read; none: nothing is
	Revision string     `json:"revision,omitempty"`
	Error    string     `json:"error,omitempty"` // why what is there now is not in force
}

// status tells of every provider, in the order of their names.
func (a *authorizers) status() []authorizerStatus {
	out := []authorizerStatus{}
	now := *a.current.Load()
	for _, name := range slices.Sorted(maps.Keys(now)) {
		x := now[name]
		c := x.client.Status()
		s := authorizerStatus{
			Provider: name, Kind: x.provider.Kind.String(), Service: x.provider.Service,
			Asked: c.Asked, Failed: c.Failed, Open: c.Open,
		}
		if c.LastError != nil {
			s.LastError, s.LastAt = c.LastError.Error(), &c.LastAt
		}
		if x.opa != nil {
			s.Policy = statusOf(x.opa)
		}
		out = append(out, s)
	}
	return out
}

func statusOf(o *opa.Authorizer) *policyStatus {
	p := o.Status()
	s := &policyStatus{Revision: p.Revision}
	if !p.Loaded.IsZero() {
		s.Loaded = &p.Loaded
	}
	if p.Err != nil {
		s.Error = p.Err.Error()
	}
	return s
}
