package admin

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Ready is what a program waits for before it takes traffic: a list of tasks,
// each by name. The zero Ready is ready; it is safe for concurrent use.
type Ready struct {
	mu       sync.Mutex
	pending  []string
	stopping bool
}

// Task adds a task. The program is not ready until done was called, which may
// be called again, in vain.
func (r *Ready) Task(name string) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = append(r.pending, name)
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		i := slices.Index(r.pending, name)
		r.pending = slices.Delete(r.pending, i, i+1)
	})
}

// Stop makes the program not ready for good: it is shutting down.
func (r *Ready) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopping = true
}

// Pending returns the tasks still to be done, in the order in which they were
// added. It is empty when the program is ready.
func (r *Ready) Pending() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		return append(slices.Clone(r.pending), "shutting down")
	}
	return slices.Clone(r.pending)
}

// ServeHTTP answers 200 when ready, and else 500, as ztunnel does, with the
// pending tasks, one a line.
func (r *Ready) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	pending := r.Pending()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if len(pending) > 0 {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "not ready, pending:\n%s\n", strings.Join(pending, "\n"))
		return
	}
	fmt.Fprintln(w, "ready")
}
