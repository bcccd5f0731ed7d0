// Package file feeds a Store from Kubernetes manifests on disk, and keeps it
// up to date as they change.
//
//	files → manifest.Decode → manifest.Index → Store.Apply
//
// The path is a file, or a directory of .yaml, .yml and .json files; directories
// in it are not read. MeshConfig may be in a file of its own. A file that is
// written shows within about 10 ms. A file that is replaced by renaming, as most
// editors and the mount of a ConfigMap do it, is never seen half-written; prefer
// it to writing in place.
//
// What is wrong is reported and stays as it was: an object that is refused
// keeps its last good version, and a file that cannot be read, or has a document
// that cannot be told, keeps every object that it had. An object goes when it
// is no longer in a readable file.
package file

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/watch"
)

// Options say what to read and how.
type Options struct {
	Path     string // a file or a directory
	Manifest manifest.Options

	// MeshConfig is a file that is MeshConfig, or a ConfigMap that holds it, which
	// then goes before a ConfigMap among the manifests; "" is none.
	MeshConfig string

	Logger *slog.Logger // nil: silent

	// Settle is how long to wait for the rest of a change; 0 is 10 ms.
	Settle time.Duration

	// Poll is how often to look although nothing was said; 0 is 5 s. Network
	// file systems and some volumes say nothing.
	Poll time.Duration

	// OnRead is told after every look at the files that changed something, and
	// after the first. It is called on the goroutine of Run and must not block.
	OnRead func(Report)
}

const (
	// settle is longer than the pause between the truncation of a file and its
	// writing, and short enough that an edit is in force within 100 ms.
	settle = 10 * time.Millisecond

	poll = 5 * time.Second
)

// A Report says what one look at the files came to.
type Report struct {
	Files   int // that changed
	Updates int // that were applied

	// Problems is everything that is wrong now, old and new, by file and line.
	Problems []Problem
}

// A Problem is an object, a document or a file that could not be used.
type Problem struct {
	Err   *manifest.Error
	Since time.Time
}

// A Source reads manifests. Make one with New.
type Source struct {
	o Options

	// Owned by Run.
	files   map[string]*read
	owners  map[mesh.Key]*manifest.Object // as last given to the index
	unknown map[string]bool               // kinds that have been reported
	ignored map[string]bool               // parts of MeshConfig that have been reported
	missing bool                          // the path itself cannot be read

	followed []string // base names of the path itself, and of what it links to

	mu       sync.Mutex
	index    *manifest.Index // Guarded by mu.
	problems []Problem       // Guarded by mu.
}

// New returns a Source that has read nothing yet.
func New(o Options) *Source {
	o.Settle = cmp.Or(o.Settle, settle)
	o.Poll = cmp.Or(o.Poll, poll)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Source{
		o:       o,
		files:   map[string]*read{},
		owners:  map[mesh.Key]*manifest.Object{},
		unknown: map[string]bool{},
		ignored: map[string]bool{},
		index:   manifest.NewIndex(o.Manifest),
	}
}

// Run reads the files into the store, tells it that it is in sync, and follows
// changes until ctx ends. The error is that of a path that cannot be read at
// all when it begins; later, such a path keeps what it had.
//
// What is wrong in the files is no error: it is logged, kept for Problems and
// given to OnRead.
func (s *Source) Run(ctx context.Context, store *config.Store) error {
	w := watch.New(watch.Options{Settle: s.o.Settle, Poll: s.o.Poll, Concerns: s.concerns, Log: s.o.Logger, Name: "config"})
	defer w.Close()
	w.Add(s.directories())
	names, err := s.list()
	if err != nil {
		return fmt.Errorf("config %s: %w", s.o.Path, err)
	}
	if s.o.MeshConfig != "" {
		if _, err := os.Stat(s.o.MeshConfig); err != nil {
			return fmt.Errorf("mesh config: %w", err)
		}
	}
	again := s.look(store, names, nil, true)
	store.Synced()
	for {
		named, ok := w.Wait(ctx, again)
		if !ok {
			return nil
		}
		w.Add(s.directories())
		names, err := s.list()
		if err != nil {
			s.unreadable(err)
			continue
		}
		again = s.look(store, names, named, s.missing)
		s.missing = false
	}
}

// Problems returns everything that is wrong now, by file and line.
func (s *Source) Problems() []Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.problems)
}

// Ingress returns what an ingress that is the Gateway has to serve, or nil if
// there is no such Gateway.
func (s *Source) Ingress(gateway mesh.Key) *manifest.Ingress {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index.Ingress(gateway)
}

// unreadable notes that the path itself cannot be read: nothing changes.
func (s *Source) unreadable(err error) {
	problems := s.settleProblems([]*manifest.Error{{File: s.o.Path, Reason: plain(err)}})
	if !s.missing && s.o.OnRead != nil {
		s.o.OnRead(Report{Problems: problems})
	}
	s.missing = true
}

// settleProblems makes errs what is wrong now, and logs what is new.
func (s *Source) settleProblems(errs []*manifest.Error) []Problem {
	slices.SortStableFunc(errs, func(a, b *manifest.Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Field, b.Field))
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	since := map[manifest.Error]time.Time{}
	for _, p := range s.problems {
		since[*p.Err] = p.Since
	}
	now := time.Now()
	s.problems = nil
	for _, e := range errs {
		at, old := since[*e]
		if !old {
			at = now
			s.o.Logger.Error("config: refused", "error", e)
		}
		s.problems = append(s.problems, Problem{e, at})
	}
	return slices.Clone(s.problems)
}
