package identity

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystone-mesh/waystone/internal/watch"
)

const (
	crlSettle = 2 * time.Second
	crlPoll   = 30 * time.Second

	// maxCRL is the longest file that is read: 16 MiB, of which a ConfigMap holds
	// one. That is some 400,000 certificates.
	maxCRL = 16 << 20
)

// ErrRevocations is why Open fails when it is for the file of revocation lists.
var ErrRevocations = errors.New("revocation lists")

// Revocations are the certificate revocation lists of a file, which is followed.
//
// A file that becomes unreadable or wrong is logged, and what it said before
// stays in force, as when it goes. A list that is past its time stays in force
// too, with a warning: what it says is revoked has not become good.
type Revocations struct {
	// Immutable.
	path    string
	log     *slog.Logger
	stop    context.CancelFunc
	stopped chan struct{}
	looked  func() // for tests: the file has been read again

	now atomic.Pointer[map[string][]*crl] // by issuer

	// Owned by the watching goroutine, once it runs.
	text   []byte
	warned string
	stale  map[*crl]bool // which have been said to be past their time

	mu     sync.Mutex
	change []func() // guarded by mu
}

// openRevocations reads the file at path and follows it. A file that is not there
// may come yet: a ConfigMap may be made later than the pod.
func openRevocations(path string, settle time.Duration, log *slog.Logger) (*Revocations, error) {
	return followRevocations(path, log, cmp.Or(settle, crlSettle), func() {})
}

func followRevocations(path string, log *slog.Logger, settle time.Duration, looked func()) (*Revocations, error) {
	r := &Revocations{path: path, log: log, stopped: make(chan struct{}), looked: looked, stale: map[*crl]bool{}}
	r.now.Store(&map[string][]*crl{})
	switch err := r.load(); {
	case errors.Is(err, fs.ErrNotExist):
		log.Warn("identity: there are no revocation lists yet", "path", path)
	case err != nil:
		return nil, fmt.Errorf("identity: %w: %s: %w", ErrRevocations, path, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	w := watch.New(watch.Options{Settle: settle, Poll: crlPoll, Log: log, Name: "identity"})
	w.Add([]string{filepath.Dir(path)})
	go r.run(ctx, w)
	return r, nil
}

// Close ends the following of the file.
func (r *Revocations) Close() {
	r.stop()
	<-r.stopped
}

// OnChange registers f, which is called whenever the lists have become others:
// connections that are open should be looked at again, with [CheckRevoked].
func (r *Revocations) OnChange(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.change = append(r.change, f)
}

func (r *Revocations) run(ctx context.Context, w *watch.Watch) {
	defer close(r.stopped)
	defer w.Close()
	for {
		if _, ok := w.Wait(ctx, false); !ok {
			return
		}
		w.Add([]string{filepath.Dir(r.path)})
		err := r.load()
		if err != nil && err.Error() != r.warned {
			r.log.Error("identity: revocation lists that were read before stay in force", "path", r.path, "error", err)
		}
		r.warned = ""
		if err != nil {
			r.warned = err.Error()
		}
		r.looked()
	}
}

// load reads the file. What is the same as before changes nothing.
func (r *Revocations) load() error {
	text, err := readCRL(r.path)
	if err != nil {
		return err
	}
	if r.text != nil && bytes.Equal(text, r.text) {
		r.complainOfAge(time.Now())
		return nil
	}
	lists, err := parseCRLs(text)
	if err != nil {
		return err
	}
	r.text = text
	by, count := map[string][]*crl{}, 0
	for _, l := range lists {
		by[l.issuer] = append(by[l.issuer], l)
		count += len(l.serials)
	}
	r.now.Store(&by)
	r.stale = map[*crl]bool{}
	r.complainOfAge(time.Now())
	r.log.Info("identity: read revocation lists", "path", r.path, "lists", len(lists), "revoked", count)
	r.mu.Lock()
	change := r.change
	r.mu.Unlock()
	for _, f := range change {
		f()
	}
	return nil
}

// complainOfAge says once of each list that there should be a newer one.
func (r *Revocations) complainOfAge(now time.Time) {
	for _, lists := range *r.now.Load() {
		for _, l := range lists {
			if !l.next.IsZero() && now.After(l.next) && !r.stale[l] {
				r.stale[l] = true
				r.log.Warn("identity: a revocation list is past its time, and stays in force", "path", r.path, "issuer", l.name, "next update", l.next)
			}
		}
	}
}

// readCRL reads a file that may not be longer than maxCRL. It is never nil without
// an error.
func readCRL(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCRL+1))
	if err == nil && len(text) > maxCRL {
		err = fmt.Errorf("is longer than %d bytes", maxCRL)
	}
	return text, err
}
