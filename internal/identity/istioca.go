package identity

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
)

// An Istio source asks istiod's CA (istio.v1.auth.IstioCertificateService) for a
// certificate of whoever it is asked for, and keeps it fresh: it is renewed at
// half of its life. While a renewal fails, the valid certificate is given out
// and the CA asked again, less and less often.
//
// Certificates that somebody waits for are asked for first, then those of
// Prefetch, then renewals. A key is made for each certificate, and never leaves
// memory.
//
// Of which trust domain an identity is, the control plane says, and not
// Options.TrustDomain. The roots of a trust domain are those that came with the
// certificates of it: all of them, so that while the CA changes its own, the peers
// of either are taken.
type Istio struct {
	// Immutable.
	name  string // as errors say it
	o     Options
	ca    issuer
	wake  chan struct{} // has one if there is something new to do
	stop  context.CancelFunc
	ended chan struct{}

	stopping context.Context // done once stop has been called

	roots atomic.Pointer[x509bundle.Set]

	mu      sync.Mutex
	keeping map[ID]*kept // guarded by mu
	running int          // requests; guarded by mu
	work    sync.WaitGroup
}

// An issuer issues certificates. There are two: istiod, and one that a test
// decides about.
type issuer interface {
	issue(context.Context, ID) (*issued, error)
	close() error
}

// An issued is a certificate and the roots that came with it.
type issued struct {
	cert  *tls.Certificate
	roots []*x509.Certificate
}

// An urgency orders requests.
type urgency uint8

const (
	renewal urgency = iota
	prefetch
	waitedFor
)

// A kept is an identity and where it stands. Guarded by Istio's mu.
type kept struct {
	id     ID
	wanted bool // by Prefetch, until Forget
	used   bool // since the last request

	now *issued // nil: none yet
	err error   // of the last request, if it failed

	due      time.Time // when to ask the CA; of what is being asked for, nothing
	urgency  urgency
	asking   bool
	lapsed   bool // nobody used it when it was to be renewed
	failures int
	settled  chan struct{} // closed when the request that is due or under way has ended
}

// openIstio returns a source that asks the CA at addr when somebody wants a
// certificate.
func openIstio(addr string, o Options) (*Istio, error) {
	o.Istiod.Address = addr
	if err := o.Istiod.Check(); err != nil {
		return nil, fmt.Errorf("identity: istio:%s: %w", addr, err)
	}
	if o.Istiod.Plain() {
		return nil, fmt.Errorf("identity: istio:%s: whom we trust must not come over a connection that is not protected: want https", addr)
	}
	s := newIstio("identity: istio:"+addr, o, &istioCA{o: o.Istiod, impersonate: o.Impersonate, ttl: o.TTL})
	if path, ok := o.Istiod.RootsFile(); ok {
		s.work.Go(func() { s.followRoots(s.stopping, path, cmp.Or(o.rootsSettleForTest, rootsSettle)) })
	}
	return s, nil
}

func newIstio(name string, o Options, ca issuer) *Istio {
	s := &Istio{name: name, o: o, ca: ca, wake: make(chan struct{}, 1), ended: make(chan struct{}), keeping: map[ID]*kept{}}
	s.roots.Store(x509bundle.NewSet())
	s.stopping, s.stop = context.WithCancel(context.Background())
	go s.run(s.stopping)
	return s
}

// Close ends the requests and the renewing.
func (s *Istio) Close() error {
	s.stop()
	<-s.ended
	s.work.Wait()
	return s.ca.close()
}

// Roots implements [Source]. The set is empty before the first certificate.
func (s *Istio) Roots() *x509bundle.Set { return s.roots.Load() }

// Terms implements [Source].
func (s *Istio) Terms() *Terms { return &s.o.Terms }

// Certificate implements [Source]. Of an identity that is new it waits for the
// CA's answer. When the CA has refused or was not there, it returns the reason at
// once until it is time to ask again.
func (s *Istio) Certificate(ctx context.Context, id ID) (*tls.Certificate, error) {
	if err := issuable(id); err != nil {
		return nil, fmt.Errorf("%s: %q: %w", s.name, id, err)
	}
	for {
		cert, settled, err := s.current(id)
		switch {
		case cert != nil:
			return cert, nil
		case err != nil:
			return nil, fmt.Errorf("%s: %q: %w", s.name, id, err)
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %q: the CA has not answered: %w", s.name, id, ctx.Err())
		case <-s.ended:
			return nil, fmt.Errorf("%s: %q: %w", s.name, id, context.Canceled)
		}
	}
}

// issuable reports whether there is any point in asking for id.
func issuable(id ID) error {
	if got, err := Parse(id.String()); err != nil || got != id {
		return errors.New("not a SPIFFE ID of a service account")
	}
	return nil
}

// current returns a certificate that is valid, or what to wait for, or why there
// is nothing to wait for.
func (s *Istio) current(id ID) (*tls.Certificate, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keepLocked(id, waitedFor)
	k.used = true
	now := time.Now()
	if k.valid(now) {
		if k.lapsed {
			s.askLocked(k, renewal, now)
		}
		return k.now.cert, nil, nil
	}
	if k.err == nil || k.asking || !k.due.After(now) {
		s.askLocked(k, waitedFor, now)
		return nil, k.settled, nil
	}
	err := k.err
	if k.now != nil {
		err = fmt.Errorf("the certificate expired at %s: %w", k.now.cert.Leaf.NotAfter.Format(time.RFC3339), err)
	}
	return nil, nil, fmt.Errorf("%w (to be asked again in %s)", err, k.due.Sub(now).Round(time.Millisecond))
}

// valid reports whether there is a certificate that has not expired.
func (k *kept) valid(now time.Time) bool { return k.now != nil && now.Before(k.now.cert.Leaf.NotAfter) }

// Prefetch asks for the certificate of an identity that will be wanted, and keeps
// it fresh until Forget.
func (s *Istio) Prefetch(id ID) {
	if err := issuable(id); err != nil {
		s.o.Log.Error("identity: not asked for", "source", s.name, "id", id.String(), "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keepLocked(id, prefetch)
	k.wanted = true
	if k.lapsed {
		s.askLocked(k, renewal, time.Now())
	}
}

// Forget drops the certificate and key of an identity, because nobody here has it
// any more. An answer that is still to come is dropped too.
func (s *Istio) Forget(id ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.keeping[id]; k != nil {
		s.dropLocked(k)
		s.o.Log.Info("identity: forgot certificate", "source", s.name, "id", id.String())
	}
}

func (s *Istio) dropLocked(k *kept) {
	delete(s.keeping, k.id)
	select {
	case <-k.settled:
	default:
		close(k.settled) // who waits looks again, and asks anew
	}
}

// keepLocked returns where id stands; what is new is to be asked for.
func (s *Istio) keepLocked(id ID, u urgency) *kept {
	k := s.keeping[id]
	if k == nil {
		k = &kept{id: id, settled: make(chan struct{})}
		s.keeping[id] = k
		s.askLocked(k, u, time.Now())
	}
	return k
}

// askLocked has the CA asked about k now, unless it is being asked.
func (s *Istio) askLocked(k *kept, u urgency, now time.Time) {
	if k.asking {
		return
	}
	k.urgency = max(k.urgency, u)
	if k.due.IsZero() || k.due.After(now) {
		k.due = now
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
