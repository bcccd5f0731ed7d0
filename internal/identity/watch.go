package identity

import (
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// pollEvery is how often a directory is read although nothing was said:
	// network file systems and some volumes say nothing. Reading a hundred
	// identities takes a few milliseconds.
	pollEvery = 10 * time.Second

	// settle is how long to wait for the rest of a change: a certificate and its
	// key are two files.
	settle = 50 * time.Millisecond
)

// A watch wakes its owner when directories may have changed. It works, later,
// even where the kernel's notification does not.
type watch struct {
	w      *fsnotify.Watcher // nil: by polling alone
	events <-chan fsnotify.Event
	errs   <-chan error
	poll   *time.Ticker
	log    *slog.Logger
	added  map[string]bool
}

func newWatch(log *slog.Logger) *watch {
	w := &watch{poll: time.NewTicker(pollEvery), log: log, added: map[string]bool{}}
	fw, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("identity: no notification of changes, polling", "every", pollEvery, "err", err)
		return w
	}
	w.w, w.events, w.errs = fw, fw.Events, fw.Errors
	return w
}

// add makes dirs, and no others, what is watched. A directory that was replaced
// must be added anew, which fsnotify does not do by itself: so all are.
func (w *watch) add(dirs []string) {
	if w.w == nil {
		return
	}
	next := make(map[string]bool, len(dirs))
	for _, dir := range dirs {
		next[dir] = true
		if err := w.w.Add(dir); err != nil {
			w.log.Debug("identity: polling a directory", "path", dir, "every", pollEvery, "err", err)
		}
	}
	for dir := range w.added {
		if !next[dir] {
			_ = w.w.Remove(dir) // it may have gone by itself
		}
	}
	w.added = next
}

// wait blocks until something may have changed, and returns false once stop is
// closed.
func (w *watch) wait(stop <-chan struct{}) bool {
	select {
	case <-w.events:
	case <-w.errs: // an overflow: something was missed
	case <-w.poll.C:
		return true
	case <-stop:
		return false
	}
	quiet := time.NewTimer(settle)
	defer quiet.Stop()
	for {
		select {
		case <-w.events:
		case <-w.errs:
		case <-quiet.C:
			return true
		case <-stop:
			return false
		}
	}
}

func (w *watch) close() {
	w.poll.Stop()
	if w.w != nil {
		_ = w.w.Close()
	}
}
