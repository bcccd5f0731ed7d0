package identity

import (
	"bytes"
	"context"
	"path/filepath"
	"time"

	"github.com/waystone-mesh/waystone/internal/watch"
)

const (
	// rootsSettle is how long a change of the roots that vouch for the CA must be
	// over: 2 s, as Istio's.
	rootsSettle = 2 * time.Second
	rootsPoll   = 30 * time.Second
)

// followRoots has the CA asked again at once when the file of the roots that vouch
// for it has become another, for whoever got no certificate: it may have been for
// that, and the next attempt minutes away. The connection is made anew, by those
// roots, when something is asked.
func (s *Istio) followRoots(ctx context.Context, path string, settle time.Duration) {
	w := watch.New(watch.Options{Settle: settle, Poll: rootsPoll, Log: s.o.Log, Name: "identity"})
	defer w.Close()
	w.Add([]string{filepath.Dir(path)})
	text, _ := s.o.Istiod.RootsText() // none: they may come
	for {
		if _, ok := w.Wait(ctx, false); !ok {
			return
		}
		w.Add([]string{filepath.Dir(path)})
		now, err := s.o.Istiod.RootsText()
		if err != nil || bytes.Equal(now, text) {
			continue // a request that needs them says what is wrong
		}
		text = now
		s.o.Log.Info("identity: roots of the CA have changed", "source", s.name, "path", path)
		s.askAgain(time.Now())
	}
}

// askAgain has the CA asked now about everything that it was asked for in vain.
func (s *Istio) askAgain(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.keeping {
		if k.err != nil {
			k.failures = 0
			s.askLocked(k, k.urgency, now)
		}
	}
}
