package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A Store takes resources in and gives snapshots out. Use NewStore. It is safe
// for concurrent use.
type Store struct {
	options Options // immutable
	current atomic.Pointer[Snapshot]
	ready   chan struct{} // closed by Synced

	mu       sync.Mutex
	builder  builder                // guarded by mu
	rejected map[mesh.Key]Rejection // guarded by mu
	timer    *time.Timer            // guarded by mu; publishes what waits
	oldest   time.Time              // guarded by mu: when the first change that waits was staged
	synced   bool                   // guarded by mu

	// notify is taken before mu is let go, so that those who are told are told
	// in the order of publication. Lock order: mu, notify.
	notify    sync.Mutex
	listeners []func(Changes) // guarded by notify
}

// NewStore returns a Store of an empty mesh.
func NewStore(o Options) *Store {
	o.TrustDomain = cmp.Or(o.TrustDomain, defaultTrustDomain)
	o.RootNamespace = cmp.Or(o.RootNamespace, defaultRootNamespace)
	o.MaxQuiet = cmp.Or(o.MaxQuiet, 10*o.Quiet)
	if o.Gateway != (mesh.Key{}) {
		o.Gateway.Kind = "Gateway"
	}
	s := &Store{options: o, ready: make(chan struct{}), rejected: map[mesh.Key]Rejection{}}
	s.builder.state, s.builder.tokenUses = newState(&s.options), uses{}
	s.current.Store(&Snapshot{mesh: s.builder.mesh})
	return s
}

// Options returns the options with their defaults filled in.
func (s *Store) Options() Options { return s.options }

// Snapshot returns what is in force now. It is never nil.
func (s *Store) Snapshot() *Snapshot { return s.current.Load() }

// Apply checks and stages a batch, and publishes it.
//
// A resource that does not compile is rejected and the previous version of it
// stays in force; the others take effect. A policy that was rejected and has no
// good version fails what it is attached to closed. The returned error joins
// one error per rejected resource, those that the source itself had rejected
// included, for a source that can tell the author.
//
// Batches that arrive within Quiet of one another are published together.
// With the zero Quiet, Apply publishes before it returns.
func (s *Store) Apply(updates []Update) error {
	s.mu.Lock()
	err := s.stageAllLocked(updates)
	if s.options.Quiet <= 0 {
		s.publishLocked() // lets go of mu
	} else {
		s.scheduleLocked()
		s.mu.Unlock()
	}
	return err
}

// Stage is the part of Apply that comes before it publishes: a batch that is too
// large to be in memory at once is staged in parts, and Apply, called with the
// last of them, publishes all. Who calls it must call Apply soon: some other Apply
// would publish what is only a part.
func (s *Store) Stage(updates []Update) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stageAllLocked(updates)
}

func (s *Store) stageAllLocked(updates []Update) error {
	var errs []error
	for _, u := range updates {
		if err := s.stageLocked(u); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// stageLocked stages one update.
func (s *Store) stageLocked(u Update) error {
	err := u.Err
	switch {
	case u.Key == mesh.Key{} && u.Value == nil:
		return errors.New("update: names no resource")
	case u.Key == mesh.Key{}:
		u.Key = u.Value.Key()
	case err == nil && u.Value != nil && u.Value.Key() != u.Key:
		err = fmt.Errorf("%s: update: its resource is %s", u.Key, u.Value.Key())
	}
	if err == nil && u.Value == nil {
		s.builder.remove(u.Key)
		delete(s.rejected, u.Key)
		return nil
	}
	if err == nil {
		err = s.builder.put(u.Value)
	}
	if err == nil {
		delete(s.rejected, u.Key)
		return nil
	}
	s.rejectLocked(u, err)
	return err
}

func (s *Store) rejectLocked(u Update, err error) {
	r := Rejection{Key: u.Key, Err: err, Since: time.Now()}
	if before, ok := s.rejected[u.Key]; ok {
		r.Since = before.Since
	}
	r.Closed = s.builder.shut(u)
	s.rejected[u.Key] = r
}

// scheduleLocked has what is staged published when no other batch has come for
// Quiet, and no later than MaxQuiet after the first that waits.
func (s *Store) scheduleLocked() {
	if !s.builder.staged() {
		return
	}
	now := time.Now()
	if s.oldest.IsZero() {
		s.oldest = now
	}
	wait := max(0, min(s.options.Quiet, s.oldest.Add(s.options.MaxQuiet).Sub(now)))
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.Flush)
	} else {
		s.timer.Reset(wait)
	}
}

// Flush publishes what is staged, without waiting for Quiet.
func (s *Store) Flush() {
	s.mu.Lock()
	s.publishLocked()
}

// publishLocked publishes what is staged, if anything is, lets go of mu, and
// tells the listeners.
func (s *Store) publishLocked() {
	if s.timer != nil {
		s.timer.Stop()
	}
	s.oldest = time.Time{}
	if !s.builder.staged() {
		s.mu.Unlock()
		return
	}
	next, changes := s.builder.build(s.current.Load())
	next.version = s.current.Load().version + 1
	s.current.Store(next)
	s.notify.Lock()
	s.mu.Unlock()
	defer s.notify.Unlock()
	for _, f := range s.listeners {
		f(changes)
	}
}

// OnPublish registers f, which is told after every publish which destinations
// and workloads changed. A loop checks again the tunnels that they concern.
//
// Calls are made one at a time, in the order of publication, on the goroutine
// that publishes; f must not block and must not call the Store but for
// Snapshot. The Changes are shared: f must not change them.
func (s *Store) OnPublish(f func(Changes)) {
	s.notify.Lock()
	defer s.notify.Unlock()
	s.listeners = append(s.listeners, f)
}

// Synced says that the source has applied all that there was when it began, and
// publishes it. Only the first call means anything more than Flush.
func (s *Store) Synced() {
	s.mu.Lock()
	first := !s.synced
	s.synced = true
	s.publishLocked()
	if first {
		close(s.ready)
	}
}

// Ready returns a channel that is closed when the first Snapshot that is whole
// has been published: before that, what is not found may only not have come.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// Rejected returns the resources that are rejected now, in the order of their
// keys.
func (s *Store) Rejected() []Rejection {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Rejection, 0, len(s.rejected))
	for _, r := range s.rejected {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Rejection) int {
		return cmp.Or(cmp.Compare(a.Key.Kind, b.Key.Kind), cmp.Compare(a.Key.Namespace, b.Key.Namespace), cmp.Compare(a.Key.Name, b.Key.Name))
	})
	return out
}
