// Package jwks fetches the keys that tokens are verified with, and keeps them
// fresh.
//
//	Follow → one goroutine per source → Snapshot
//
// A source is the URI of a key set or an issuer, which is asked for that URI by
// OpenID Connect Discovery. What a Store follows it fetches at once and every 20
// minutes from then on; what cannot be fetched it asks for again, at first after a
// second, since until then every token of that source is refused, and later after
// a minute and ever more. Keys stay in force while their source is away, but not
// for longer than a week. Requests are checked against a Snapshot: they never
// wait, and there is nothing on their path that could.
//
// A source is whatever a policy's author wrote, which need not be what this
// process may reach on their behalf. So link-local addresses and those where
// clouds tell secrets are not dialled, whichever name or redirect leads there; a
// source is not left for one without TLS; and of what it says nothing is logged
// but what is wrong with it as a key set.
//
// Keys that are written in a policy are read where that is compiled, in package
// jwt: they need no fetching, and nothing has to wait for them.
//
// Of HTTP's caching an entity tag is used, to be spared a key set that is the same.
// How long it is fresh is not asked: a rotation is seen within 20 minutes, as in
// Istio.
package jwks

import (
	"context"
	"crypto/x509"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waystone-mesh/waystone/authz/jwt"
)

// Options of a Store. All have a zero meaning.
type Options struct {
	Refresh  time.Duration // between fetches; 0: 20 min
	Retry    time.Duration // after a fetch that failed, for a start; 0: 1 min
	Evict    time.Duration // how long keys may go without a refresh; 0: 7 days
	MaxBytes int64         // of a key set or a discovery document; 0: 1 MiB

	// Roots are who vouches for sources; nil: those of the system.
	Roots *x509.CertPool

	// Dial opens connections; nil: over TCP, or by the proxy that the environment
	// names, but not to addresses that no source has any business at.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	Log *slog.Logger // nil: none
}

// A Snapshot is the keys of all sources at one time. It is immutable.
type Snapshot struct {
	Version uint64 // grows with every change
	Keys    jwt.Ring
}

// A Store follows sources. Its methods may be called from anywhere.
type Store struct {
	// Immutable.
	o      Options
	client *http.Client
	wake   chan struct{} // what is wanted has changed
	slots  chan struct{} // one for each fetch under way

	current atomic.Pointer[Snapshot]

	// Guarded by mu.
	mu        sync.Mutex
	wanted    map[jwt.Source]time.Duration
	followers map[jwt.Source]*follower
}

// maxFetches are under way at a time: a push of a thousand policies must not be
// a thousand connections.
const maxFetches = 8

// New returns a Store that follows nothing.
func New(o Options) *Store {
	if o.Refresh == 0 {
		o.Refresh = 20 * time.Minute
	}
	if o.Retry == 0 {
		o.Retry = time.Minute
	}
	if o.Evict == 0 {
		o.Evict = 7 * 24 * time.Hour
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 1 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{o: o, client: client(&o), wake: make(chan struct{}, 1), slots: make(chan struct{}, maxFetches), followers: map[jwt.Source]*follower{}}
	s.current.Store(&Snapshot{})
	return s
}

// Snapshot returns the keys there are.
func (s *Store) Snapshot() *Snapshot { return s.current.Load() }

// Follow has s follow sources, each of which may take so long to fetch, and
// nothing else any more. The keys of a source that is new are in a Snapshot some
// time later; those of one that is gone are forgotten.
func (s *Store) Follow(sources map[jwt.Source]time.Duration) {
	s.mu.Lock()
	s.wanted = maps.Clone(sources)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run fetches keys until ctx ends, and returns nil then.
func (s *Store) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for {
		s.reconcile(ctx, group)
		select {
		case <-s.wake:
		case <-ctx.Done():
			return group.Wait()
		}
	}
}

// reconcile starts and ends followers so that they are of what is wanted.
func (s *Store) reconcile(ctx context.Context, group *errgroup.Group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	forgotten := false
	for source, f := range s.followers {
		if _, ok := s.wanted[source]; !ok {
			f.cancel()
			delete(s.followers, source)
			forgotten = forgotten || f.keys != nil
		}
	}
	if forgotten {
		s.publishLocked()
	}
	for source := range s.wanted {
		if s.followers[source] != nil {
			continue
		}
		f := &follower{store: s, source: source, name: name(source)}
		var follow context.Context
		follow, f.cancel = context.WithCancel(ctx)
		s.followers[source] = f
		group.Go(func() error { f.run(follow); return nil })
	}
}

// publishLocked makes a Snapshot of what the followers have.
func (s *Store) publishLocked() {
	next := &Snapshot{Version: s.current.Load().Version + 1, Keys: jwt.Ring{}}
	for source, f := range s.followers {
		if f.keys != nil {
			next.Keys[source] = f.keys
		}
	}
	s.current.Store(next)
}

// Settled reports whether every source that is to be followed has been tried. A
// proxy that begins to serve earlier refuses tokens that it could have taken.
func (s *Store) Settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for source := range s.wanted {
		if f := s.followers[source]; f == nil || !f.tried {
			return false
		}
	}
	return true
}

// A Status is how a source fares.
type Status struct {
	Source  string    `json:"source"`            // without what may be secret in a URI
	Keys    []string  `json:"keys,omitempty"`    // their IDs, "" for one without
	Fetched time.Time `json:"fetched,omitzero"`  // when they were last known to be the source's
	Error   string    `json:"error,omitempty"`   // of the last attempt
	Skipped string    `json:"skipped,omitempty"` // what of the key set is of no use here
	Next    time.Time `json:"next,omitzero"`     // when it is tried again
}

// Status returns how each source fares.
func (s *Store) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Status, 0, len(s.followers))
	for _, f := range s.followers {
		st := Status{Source: f.name, Fetched: f.fetched, Next: f.next, Skipped: f.skipped}
		if f.keys != nil {
			st.Keys = f.keys.IDs()
		}
		if f.err != nil {
			st.Error = f.err.Error()
		}
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Source, b.Source) })
	return out
}
