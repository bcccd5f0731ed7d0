package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A tellerCA issues as a test tells it to.
type tellerCA struct {
	mu     sync.Mutex
	ca     *testCA
	life   time.Duration
	took   time.Duration
	err    error
	asked  []ID
	at     []time.Time
	most   int // at a time
	now    int
	closed bool
}

func (c *tellerCA) issue(ctx context.Context, id ID) (*issued, error) {
	c.mu.Lock()
	c.asked, c.at = append(c.asked, id), append(c.at, time.Now())
	c.now++
	c.most = max(c.most, c.now)
	ca, life, took, err := c.ca, c.life, c.took, c.err
	c.mu.Unlock()
	defer func() { c.mu.Lock(); c.now--; c.mu.Unlock() }()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	cert := ca.leaf(id, func(t *x509.Certificate) { t.NotBefore, t.NotAfter = time.Now(), time.Now().Add(life) })
	return &issued{cert, []*x509.Certificate{ca.cert}}, nil
}

func (c *tellerCA) close() error { c.closed = true; return nil }

func (c *tellerCA) tell(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *tellerCA) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.asked)
}

// inBubble runs f in a bubble with a source whose CA is c.
func inBubble(t *testing.T, f func(t *testing.T, s *Istio, c *tellerCA, log *logBuffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &tellerCA{ca: newTestCA(t), life: 24 * time.Hour, took: 10 * time.Millisecond}
		log := new(logBuffer)
		s := newIstio("identity: istio:test", Options{TrustDomain: "cluster.local", Aliases: []string{"old.local"}, Log: slog.New(slog.NewTextHandler(log, nil))}, c)
		defer func() {
			if err := s.Close(); err != nil || !c.closed {
				t.Errorf("close: %v, of the CA: %t", err, c.closed)
			}
		}()
		f(t, s, c, log)
	})
}

func mustCert(t *testing.T, s *Istio, id ID) *tls.Certificate {
	t.Helper()
	c, err := s.Certificate(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestIstioAsksOnceForEachIdentity(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Istio, c *tellerCA, log *logBuffer) {
		var waiting sync.WaitGroup
		for range 50 {
			for _, id := range []ID{web, items} {
				waiting.Go(func() { mustCert(t, s, id) })
			}
		}
		waiting.Wait()
		if got := c.count(); got != 2 {
			t.Errorf("asked %d times", got)
		}
		if got := mustCert(t, s, web); got != mustCert(t, s, web) {
			t.Error("another certificate, although nothing has changed")
		}
		state, cerr, serr := shake(ClientConfig(s, web, items), ServerConfig(s, items))
		if cerr != nil || serr != nil {
			t.Fatalf("client: %v, server: %v", cerr, serr)
		}
		if id, err := PeerID(state); err != nil || id != web {
			t.Errorf("peer: %v, %v", id, err)
		}
		noSecret(t, log.String(), mustCert(t, s, web))
	})
}

func TestIstioFirstHandshakeWaitsForRoots(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Istio, c *tellerCA, _ *logBuffer) {
		server := ServerConfig(fixed{c.ca.leaf(items, nil), c.ca.roots("cluster.local")}, items)
		if _, cerr, serr := shake(ClientConfig(s, web, items), server); cerr != nil || serr != nil {
			t.Errorf("client: %v, server: %v", cerr, serr)
		}
		other := ID{"other", "default", "web"}
		server2 := ServerConfig(fixed{c.ca.leaf(other, nil), c.ca.roots("other")}, other)
		if _, cerr, serr := shake(ClientConfig(s, other, other), server2); cerr != nil || serr != nil {
			t.Errorf("of another trust domain: client: %v, server: %v", cerr, serr)
		}
		empty := newIstio("identity: istio:empty", s.o, &tellerCA{ca: c.ca, err: errors.New("not today")})
		defer Close(empty)
		if _, cerr, _ := shake(ClientConfig(empty, web, items), server); cerr == nil || !strings.Contains(cerr.Error(), "not today") {
			t.Errorf("without roots: %v", cerr)
		}
	})
}

func TestIstioRenewsAtHalfOfALife(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Istio, c *tellerCA, _ *logBuffer) {
		start := time.Now()
		var ids []ID
		for i := range 20 {
			ids = append(ids, ID{"cluster.local", "default", fmt.Sprint("sa", i)})
			s.Prefetch(ids[i])
		}
		time.Sleep(time.Minute)
		if got := c.count(); got != 20 {
			t.Fatalf("asked %d times, want 20", got)
		}
		before := mustCert(t, s, ids[0])
		time.Sleep(12*time.Hour + time.Minute)
		if got := c.count(); got != 40 {
			t.Errorf("asked %d times in 12 hours, want 40", got)
		}
		var earliest, latest time.Duration
		c.tell(func() { earliest, latest = c.at[20].Sub(start), c.at[39].Sub(start) })
		if earliest < 10*time.Hour+48*time.Minute || latest > 12*time.Hour+time.Second {
			t.Errorf("renewed after %v to %v", earliest, latest)
		}
		if latest-earliest < 10*time.Minute {
			t.Errorf("all are renewed at once: within %v", latest-earliest)
		}
		if mustCert(t, s, ids[0]) == before {
			t.Error("the certificate is the old one")
		}
	})
}

func TestIstioServesWhatIsValidWhileRenewalFails(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Istio, c *tellerCA, log *logBuffer) {
		s.Prefetch(web)
		first := mustCert(t, s, web)
		c.tell(func() { c.err = errors.New("the CA is on holiday") })
		time.Sleep(23 * time.Hour)
		if got := mustCert(t, s, web); got != first {
			t.Error("another certificate")
		}
		// Between 12 h and 23 h at most every 120 s.
		if got := c.count(); got < 200 || got > 400 {
			t.Errorf("asked %d times in 23 hours", got)
		}
		time.Sleep(time.Hour + time.Minute)
		_, err := s.Certificate(t.Context(), web)
		for _, want := range []string{"identity: istio:test", web.String(), "expired at ", "the CA is on holiday"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("after it has expired: %v, want %q in it", err, want)
			}
		}
		c.tell(func() { c.err = nil })
		time.Sleep(lastRetry * 2)
		if got := mustCert(t, s, web); got == first {
			t.Error("the expired certificate")
		}
		noSecret(t, log.String(), first)
	})
}

func TestIstioTellsAtOnceWhyThereIsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Istio, c *tellerCA, _ *logBuffer) {
		c.tell(func() { c.err = errors.New("no such pod here") })
		for range 3 {
			start := time.Now()
			_, err := s.Certificate(t.Context(), web)
			if err == nil || !strings.Contains(err.Error(), "no such pod here") {
				t.Errorf("got %v", err)
			}
			if took := time.Since(start); took > 10*time.Millisecond {
				t.Errorf("told after %v", took)
			}
		}
		if got := c.count(); got != 1 {
			t.Errorf("asked %d times for what was just refused", got)
		}
		c.tell(func() { c.err = nil })
		time.Sleep(firstRetry * 2)
		mustCert(t, s, web)

		c.tell(func() { c.took = time.Hour })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Certificate(ctx, items); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while the CA thinks: %v", err)
		}
		for _, id := range []ID{{"Not One", "a", "b"}, {"cluster.local", "a b", "c"}, {}} {
			if _, err := s.Certificate(t.Context(), id); err == nil || strings.Contains(err.Error(), "again") {
				t.Errorf("%v: %v", id, err)
			}
			s.Prefetch(id)
		}
		if got := c.count(); got > 3 {
			t.Errorf("asked %d times: for what no CA can issue", got)
		}
	})
}

func TestIstioAsksFirstForWhatIsWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Istio, c *tellerCA, _ *logBuffer) {
		c.tell(func() { c.took = time.Second })
		for i := range 40 {
			s.Prefetch(ID{"cluster.local", "default", fmt.Sprint("sa", i)})
		}
		time.Sleep(time.Millisecond)
		start := time.Now()
		mustCert(t, s, web)
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("waited for %v behind those that nobody waits for", took)
		}
		start = time.Now()
		mustCert(t, s, ID{"cluster.local", "default", "sa39"}) // which is among them
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("waited for %v", took)
		}
		time.Sleep(time.Minute)
		most := 0
		c.tell(func() { most = c.most })
		if most != asking || c.count() != 41 {
			t.Errorf("%d at a time, %d in all; want %d and 41", most, c.count(), asking)
		}
	})
}

func TestIstioForgets(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Istio, c *tellerCA, _ *logBuffer) {
		s.Prefetch(web)
		first := mustCert(t, s, web)
		s.Forget(web)
		s.Forget(items) // which it never knew
		time.Sleep(48 * time.Hour)
		if got := c.count(); got != 1 {
			t.Errorf("asked %d times for what was forgotten", got)
		}
		if mustCert(t, s, web) == first {
			t.Error("the certificate that was forgotten")
		}

		// Forgotten while it is asked for: who waits is served all the same.
		c.tell(func() { c.took = time.Second })
		var waiting sync.WaitGroup
		waiting.Go(func() { mustCert(t, s, items) })
		time.Sleep(500 * time.Millisecond)
		s.Forget(items)
		waiting.Wait()
	})
}

func TestIstioDoesNotRenewWhatIsNotUsed(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Istio, c *tellerCA, _ *logBuffer) {
		first := mustCert(t, s, web)
		time.Sleep(13 * time.Hour) // it was used: renewed once
		if got := c.count(); got != 2 {
			t.Fatalf("asked %d times, want 2", got)
		}
		time.Sleep(12 * time.Hour) // and not since: not again
		if got := c.count(); got != 2 {
			t.Fatalf("asked %d times, want 2", got)
		}
		second := mustCert(t, s, web) // but it is still valid, and now wanted again
		time.Sleep(time.Minute)
		if got := c.count(); got != 3 || second == first {
			t.Errorf("asked %d times, want 3", got)
		}
		time.Sleep(72 * time.Hour)
		s.mu.Lock()
		left := len(s.keeping)
		s.mu.Unlock()
		if left != 0 {
			t.Errorf("%d identities are kept for nobody", left)
		}
	})
}

func TestIstioRootsRotate(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Istio, c *tellerCA, _ *logBuffer) {
		old, next := c.ca, newTestCA(t)
		roots := func() (out []string) {
			set := s.Roots()
			for _, b := range set.Bundles() {
				for _, a := range b.X509Authorities() {
					switch {
					case a.Equal(old.cert):
						out = append(out, b.TrustDomain().Name()+" old")
					case a.Equal(next.cert):
						out = append(out, b.TrustDomain().Name()+" new")
					}
				}
			}
			slices.Sort(out)
			return out
		}
		if got := roots(); len(got) != 0 {
			t.Errorf("at first: %q", got)
		}
		s.Prefetch(web)
		mustCert(t, s, web)
		c.tell(func() { c.ca = next })
		s.Prefetch(items)
		mustCert(t, s, items)
		// The peer's certificate may be of either.
		if got, want := roots(), []string{"cluster.local new", "cluster.local old", "old.local new", "old.local old"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if _, cerr, serr := shake(ClientConfig(s, web, items), ServerConfig(s, items)); cerr != nil || serr != nil {
			t.Errorf("across the rotation: client: %v, server: %v", cerr, serr)
		}
		// Another trust domain is the control plane's to have.
		s.Prefetch(ID{"other", "a", "b"})
		mustCert(t, s, ID{"other", "a", "b"})
		if got := roots(); len(got) != 5 || got[4] != "other new" {
			t.Errorf("with another trust domain: got %q", got)
		}
		s.Forget(ID{"other", "a", "b"})
		time.Sleep(13 * time.Hour)
		if got, want := roots(), []string{"cluster.local new", "old.local new"}; !slices.Equal(got, want) {
			t.Errorf("when all are renewed: got %q, want %q", got, want)
		}
	})
}

func TestIstioBackoff(t *testing.T) {
	for n, want := range map[int]time.Duration{1: firstRetry, 2: 2 * firstRetry, 9: 128 * time.Second, 10: lastRetry, 1000: lastRetry} {
		for range 100 {
			if got := retryAfter(n); got < want*8/10 || got > want*12/10 {
				t.Errorf("after %d failures: %v, want about %v", n, got, want)
			}
		}
	}
	// A certificate that is half over when it comes is not renewed in a loop.
	now := time.Now()
	for _, left := range []time.Duration{time.Millisecond, time.Second, time.Hour} {
		leaf := &x509.Certificate{NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(left)}
		if at := renewAt(leaf, now); at.Sub(now) < firstRetry {
			t.Errorf("with %v left it is renewed after %v", left, at.Sub(now))
		}
	}
}
