package identity

import (
	"context"
	"crypto/x509"
	"math/rand/v2"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// asking is how many certificates are asked for at a time: a node that starts
	// with two hundred identities must not be two hundred requests at once.
	asking = 8

	askTimeout = 15 * time.Second

	firstRetry = 500 * time.Millisecond
	lastRetry  = 150 * time.Second
)

// run starts requests when they are due, as long as ctx lasts.
func (s *Istio) run(ctx context.Context) {
	defer close(s.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if next := s.start(ctx); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// start starts the requests that are due, the most urgent first, as many as there
// may be; and returns when there will be another, if that is known.
func (s *Istio) start(ctx context.Context) (next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for s.running < asking {
		k, later := s.nextLocked(now)
		if k == nil {
			return later
		}
		if !k.wanted && !k.used && k.urgency != waitedFor {
			s.lapseLocked(k, now)
			continue
		}
		k.asking, k.used, k.lapsed = true, false, false
		s.running++
		s.work.Go(func() { s.ask(ctx, k) })
	}
	return time.Time{} // until one of them ends
}

// nextLocked returns what to ask about now, or when there will be something.
func (s *Istio) nextLocked(now time.Time) (best *kept, later time.Time) {
	for _, k := range s.keeping {
		switch {
		case k.asking:
		case k.due.After(now):
			if later.IsZero() || k.due.Before(later) {
				later = k.due
			}
		case best == nil || k.urgency > best.urgency || k.urgency == best.urgency && k.due.Before(best.due):
			best = k
		}
	}
	return best, later
}

// lapseLocked gives up an identity that nobody has used since it was last asked
// for: what is still valid is kept as long as it is, and renewed if it is used
// again.
func (s *Istio) lapseLocked(k *kept, now time.Time) {
	if k.valid(now) {
		k.lapsed, k.due = true, k.now.cert.Leaf.NotAfter
		return
	}
	s.dropLocked(k)
	s.o.Log.Info("identity: forgot certificate", "source", s.name, "id", k.id.String())
}

// ask asks the CA about k.
func (s *Istio) ask(ctx context.Context, k *kept) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	got, err := s.ca.issue(ctx, k.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	select {
	case s.wake <- struct{}{}: // there is room for another
	default:
	}
	if s.keeping[k.id] != k {
		return // forgotten meanwhile
	}
	now := time.Now()
	k.asking, k.urgency = false, renewal
	if err != nil {
		s.failedLocked(k, err, now)
	} else {
		k.now, k.err, k.failures = got, nil, 0
		k.due = renewAt(got.cert.Leaf, now)
		s.publishLocked()
		s.o.Log.Info("identity: received certificate", "source", s.name, "id", k.id.String(), "expires", got.cert.Leaf.NotAfter, "renewal", k.due)
	}
	close(k.settled)
	k.settled = make(chan struct{})
}

// failedLocked notes that the CA has refused, or was not there.
func (s *Istio) failedLocked(k *kept, err error, now time.Time) {
	k.err = err
	k.failures++
	wait := retryAfter(k.failures)
	k.due = now.Add(wait)
	attrs := []any{"source", s.name, "id", k.id.String(), "error", err, "next", wait}
	if k.valid(now) {
		if end := k.now.cert.Leaf.NotAfter; k.due.After(end) {
			k.due = end // when it is of use at last
		}
		attrs = append(attrs, "valid until", k.now.cert.Leaf.NotAfter)
	}
	s.o.Log.Warn("identity: no certificate from the CA", attrs...)
}

// retryAfter returns how long to wait after so many failures in a row, give or
// take a fifth.
func retryAfter(failures int) time.Duration {
	d := lastRetry
	if shift := failures - 1; shift < 9 { // 2^9 × 0.5 s is more than the last
		d = min(d, firstRetry<<shift)
	}
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// renewAt returns when a certificate is to be renewed: at half of its life, less
// up to a tenth of that, so that what was issued together is not renewed
// together. One that had a shorter life than that when it came is renewed when
// half of what is left is over.
func renewAt(leaf *x509.Certificate, now time.Time) time.Time {
	half := leaf.NotAfter.Sub(leaf.NotBefore) / 2
	at := leaf.NotBefore.Add(half - time.Duration(float64(half)*0.1*rand.Float64()))
	if !at.After(now) {
		at = now.Add(max(leaf.NotAfter.Sub(now)/2, firstRetry))
	}
	return at
}

// publishLocked makes the roots those of all certificates.
func (s *Istio) publishLocked() {
	old, set := s.roots.Load(), x509bundle.NewSet()
	for _, k := range s.keeping {
		if k.now == nil {
			continue
		}
		td := spiffeid.RequireTrustDomainFromString(k.id.TrustDomain) // it has been parsed
		bundle, ok := set.Get(td)
		if !ok {
			bundle = x509bundle.New(td)
			set.Add(bundle)
		}
		for _, c := range k.now.roots {
			bundle.AddX509Authority(c) // once, if it is there already
		}
	}
	if set = s.o.aliased(set); sameBundles(old, set) {
		return
	}
	s.roots.Store(set)
	s.o.Log.Info("identity: roots", "source", s.name, "trust domains", set.Len())
}

// sameBundles reports whether nothing would change.
func sameBundles(a, b *x509bundle.Set) bool {
	if a.Len() != b.Len() {
		return false
	}
	for _, x := range a.Bundles() {
		if y, ok := b.Get(x.TrustDomain()); !ok || !x.Equal(y) {
			return false
		}
	}
	return true
}
