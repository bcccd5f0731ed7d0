package jwks

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/waystone-mesh/waystone/authz/jwt"
)

// firstRetry is how soon a source is tried again that has never told any keys.
const firstRetry = time.Second

// maxDoublings of a wait are enough to reach whatever it may become.
const maxDoublings = 20

// A follower keeps the keys of one source.
type follower struct {
	// Immutable.
	store  *Store
	source jwt.Source
	name   string
	cancel context.CancelFunc

	// Owned by run.
	uri, tag string // where keys came from, and their entity tag
	failures int    // in a row

	// Guarded by store.mu.
	keys    *jwt.Keys // nil: none that may be relied on
	skipped string
	fetched time.Time
	next    time.Time
	err     error
	tried   bool
}

// run fetches keys until ctx ends.
func (f *follower) run(ctx context.Context) {
	for {
		doc, err := f.attempt(ctx)
		if ctx.Err() != nil {
			return
		}
		timer := time.NewTimer(f.settle(ctx, doc, err))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// attempt fetches keys once, when it is its turn.
func (f *follower) attempt(ctx context.Context) (document, error) {
	s := f.store
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return document{}, ctx.Err()
	}
	s.mu.Lock()
	timeout, ok := s.wanted[f.source]
	s.mu.Unlock()
	if !ok || timeout <= 0 {
		timeout = jwt.DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return f.fetch(ctx)
}

// settle takes over what an attempt came to, and returns how long to wait for the
// next one.
func (f *follower) settle(ctx context.Context, doc document, err error) time.Duration {
	log := f.store.o.Log.With("source", f.name)
	if err != nil {
		wait, evicted := f.failed(ctx, err)
		if wait == 0 {
			return 0
		}
		log.Warn("jwks: not fetched", "error", err, "next", wait)
		if evicted {
			log.Warn("jwks: the keys are too old to be relied on")
		}
		return wait
	}
	wait, changed := f.succeeded(ctx, doc)
	if changed {
		log.Info("jwks: fetched", "keys", doc.keys.Len())
		if doc.skipped != "" {
			log.Warn("jwks: not all of the key set is of use here", "skipped", doc.skipped)
		}
		if doc.issuer != "" {
			log.Warn("jwks: the issuer calls itself by another name", "issuer", doc.issuer)
		}
	}
	return wait
}

// succeeded takes over keys, and reports whether they are new.
func (f *follower) succeeded(ctx context.Context, doc document) (wait time.Duration, changed bool) {
	s := f.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil { // no longer wanted: what was published last is without us
		return 0, false
	}
	wait = jitter(s.o.Refresh)
	f.tried, f.err, f.failures = true, nil, 0
	f.fetched = time.Now()
	f.next = f.fetched.Add(wait)
	if doc.unchanged {
		return wait, false
	}
	f.uri, f.tag, f.skipped = doc.uri, doc.tag, doc.skipped
	if f.keys == nil || !f.keys.Same(doc.keys) {
		f.keys, changed = doc.keys, true
		s.publishLocked()
	}
	return wait, changed
}

// failed counts a failure and forgets keys that are too old. While there never
// were any, the next attempt is after a second and then ever later, up to Retry;
// else after Retry and then up to Refresh.
func (f *follower) failed(ctx context.Context, err error) (wait time.Duration, evicted bool) {
	s := f.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return 0, false
	}
	wait, most := min(firstRetry, s.o.Retry), s.o.Retry
	if !f.fetched.IsZero() {
		wait, most = s.o.Retry, max(s.o.Retry, s.o.Refresh)
	}
	for range f.failures {
		wait = min(2*wait, most)
	}
	wait = jitter(wait)
	now := time.Now()
	f.tried, f.err = true, err
	f.failures = min(f.failures+1, maxDoublings)
	f.next = now.Add(wait)
	if evicted = f.keys != nil && now.Sub(f.fetched) >= s.o.Evict; evicted {
		f.keys, f.tag, f.skipped = nil, "", ""
		s.publishLocked()
	}
	return wait, evicted
}

// jitter takes up to a tenth off d, so that those who began together do not ask
// together for ever.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/10+1) }
