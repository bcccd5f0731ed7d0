package watch

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

func open(t *testing.T, dirs ...string) *Watch {
	t.Helper()
	w := New(Options{Settle: 10 * time.Millisecond, Poll: time.Hour, Log: slog.New(slog.DiscardHandler), Name: "test"})
	t.Cleanup(w.Close)
	if w.w == nil {
		t.Skip("the kernel cannot notify")
	}
	w.Add(dirs)
	return w
}

func put(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// told waits until w has named all that is wanted.
func told(t *testing.T, w *Watch, want ...string) {
	t.Helper()
	for len(want) > 0 {
		named, ok := w.Wait(t.Context(), false)
		if !ok {
			t.Fatalf("the test ended before %q changed", want)
		}
		want = slices.DeleteFunc(want, func(name string) bool { return named[name] })
	}
}

func TestWaitNamesWhatChanged(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	w := open(t, a, b)
	put(t, filepath.Join(a, "1"))
	put(t, filepath.Join(b, "2"))
	told(t, w, "1", "2")
}

func TestWhatDoesNotConcernUsIsNotTold(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	w.o.Concerns = func(path string) bool { return filepath.Base(path) != "log" }
	put(t, filepath.Join(dir, "log"))
	put(t, filepath.Join(dir, "1"))
	named, ok := w.Wait(t.Context(), false)
	if want := map[string]bool{"1": true}; !ok || !maps.Equal(named, want) {
		t.Errorf("Wait named %v, want %v", named, want)
	}
}

func TestAddAnew(t *testing.T) {
	root := t.TempDir()
	dir, old := filepath.Join(root, "dir"), filepath.Join(root, "old")
	for _, name := range []string{dir, old} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w := open(t, root, dir, filepath.Join(root, "missing"))
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(old, dir); err != nil {
		t.Fatal(err)
	}
	told(t, w, "dir", "old")
	w.Add([]string{root, dir})
	put(t, filepath.Join(dir, "1"))
	told(t, w, "1")
}

// fake returns a Watch whose kernel is the test. It belongs in a bubble.
func fake(poll time.Duration) (w *Watch, events chan fsnotify.Event, errs chan error) {
	events, errs = make(chan fsnotify.Event), make(chan error)
	return &Watch{o: Options{Settle: 10 * time.Millisecond, Poll: poll}, events: events, errs: errs, poll: time.NewTicker(poll)}, events, errs
}

func TestWaitTakesAsLong(t *testing.T) {
	const settle = 10 * time.Millisecond
	for _, tt := range []struct {
		name  string
		soon  bool
		every time.Duration // something is written; 0: never
		times int
		took  time.Duration
		named string
	}{
		{name: "as a poll", took: time.Second},
		{name: "a short while", soon: true, took: patience * settle},
		{name: "as it is quiet", every: settle / 2, times: 3, took: 3*settle/2 + settle, named: "f"},
		{name: "as it is patient", every: settle * 3 / 4, times: 1000, took: settle*3/4 + patience*settle, named: "f"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, events, _ := fake(time.Second)
				defer w.Close()
				var writer sync.WaitGroup
				defer writer.Wait()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				writer.Go(func() {
					for range tt.times {
						time.Sleep(tt.every)
						select {
						case events <- fsnotify.Event{Name: "/dir/f"}:
						case <-ctx.Done():
							return
						}
					}
				})
				start := time.Now()
				named, ok := w.Wait(ctx, tt.soon)
				got := strings.Join(slices.Collect(maps.Keys(named)), " ")
				if took := time.Since(start); !ok || took != tt.took || got != tt.named {
					t.Errorf("got %q, %t after %v, want %q after %v", got, ok, took, tt.named, tt.took)
				}
			})
		})
	}
}

func TestOverflowIsAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, errs := fake(time.Hour)
		defer w.Close()
		go func() { errs <- errors.New("overflow") }()
		start := time.Now()
		if named, ok := w.Wait(t.Context(), false); !ok || len(named) > 0 || time.Since(start) > time.Second {
			t.Errorf("got %v, %t after %v, want nothing named, at once", named, ok, time.Since(start))
		}
	})
}

func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, events, _ := fake(time.Hour)
		defer w.Close()
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			events <- fsnotify.Event{Name: "f"}
			cancel() // while it settles
		}()
		for range 2 {
			if named, ok := w.Wait(ctx, false); ok {
				t.Errorf("got %v, true after the context ended", named)
			}
		}
	})
}
