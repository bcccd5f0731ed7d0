package file

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// A watch wakes its owner when files may have changed. It works, later, even
// where the kernel's notification does not.
type watch struct {
	w      *fsnotify.Watcher // nil: by polling alone
	events <-chan fsnotify.Event
	errs   <-chan error
	poll   *time.Ticker
	settle time.Duration
	log    *slog.Logger
}

func newWatch(o Options) *watch {
	w := &watch{poll: time.NewTicker(o.Poll), settle: o.Settle, log: o.Logger}
	fw, err := fsnotify.NewWatcher()
	if err != nil {
		w.log.Warn("config: no notification of changes, polling", "every", o.Poll, "err", err)
		return w
	}
	w.w, w.events, w.errs = fw, fw.Events, fw.Errors
	return w
}

// add watches directories. Those that are watched already are not disturbed;
// one that was replaced by another has to be added anew.
func (w *watch) add(dirs []string) {
	if w.w == nil {
		return
	}
	for _, dir := range dirs {
		if err := w.w.Add(dir); err != nil {
			w.log.Debug("config: polling a directory", "path", dir, "err", err)
		}
	}
}

// wait blocks until something may have changed and nothing more has for a
// while, and returns the base names of the files that were named. It returns
// false once ctx ends. With soon set it does not wait for longer than a short
// while.
func (w *watch) wait(ctx context.Context, soon bool) (named map[string]bool, ok bool) {
	named = map[string]bool{}
	var recheck <-chan time.Time
	if soon {
		t := time.NewTimer(patience * w.settle)
		defer t.Stop()
		recheck = t.C
	}
	select {
	case e := <-w.events:
		named[filepath.Base(e.Name)] = true
	case <-w.errs: // an overflow: something was missed
	case <-recheck:
		return named, true
	case <-w.poll.C:
		return named, true
	case <-ctx.Done():
		return nil, false
	}
	limit := time.NewTimer(patience * w.settle)
	defer limit.Stop()
	quiet := time.NewTimer(w.settle)
	defer quiet.Stop()
	for {
		select {
		case e := <-w.events:
			named[filepath.Base(e.Name)] = true
			quiet.Reset(w.settle)
		case <-w.errs:
		case <-quiet.C:
			return named, true
		case <-limit.C:
			return named, true
		case <-ctx.Done():
			return nil, false
		}
	}
}

func (w *watch) close() {
	w.poll.Stop()
	if w.w != nil {
		_ = w.w.Close()
	}
}
