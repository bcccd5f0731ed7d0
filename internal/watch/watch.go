// Package watch tells when files in directories may have changed.
//
// It says "look again" and no more: what changed, and whether it did, is found
// out by looking. So nothing is lost if the kernel's notification is missing or
// overflows, as it does on network file systems and some volumes: polling comes
// to the same, later.
package watch

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// patience is how many times Settle a change may go on before it is told
// unfinished: something that writes all the time must not keep everything else
// from being read.
const patience = 5

// Options of a Watch. All but Concerns must be set.
type Options struct {
	// Settle is how long it must be quiet before a change is told: what is one
	// change to its author may be many to the kernel.
	Settle time.Duration

	// Poll is how often to look although nothing was said.
	Poll time.Duration

	// Concerns tells which of the paths that the kernel names matter; nil: all. A
	// directory may be watched for one file in it, and a log beside that would
	// have everything read anew with every line.
	Concerns func(path string) bool

	Log  *slog.Logger
	Name string // begins what is logged
}

// A Watch wakes its owner, the only one who may call its methods.
type Watch struct {
	o      Options
	w      *fsnotify.Watcher // nil: by polling alone
	events <-chan fsnotify.Event
	errs   <-chan error
	poll   *time.Ticker
}

// New returns a Watch of no directories. Where the kernel cannot notify it says
// so in the log, and polls.
func New(o Options) *Watch {
	w := &Watch{o: o, poll: time.NewTicker(o.Poll)}
	fw, err := fsnotify.NewWatcher()
	if err != nil {
		o.Log.Warn(o.Name+": no notification of changes, polling", "every", o.Poll, "error", err)
		return w
	}
	w.w, w.events, w.errs = fw, fw.Events, fw.Errors
	return w
}

// Add watches directories. Those that are watched already are not disturbed;
// one that was replaced by another has to be added anew, so it is best called
// with all of them whenever something may have changed.
//
// There is no way to remove one. A directory that goes, or goes elsewhere, takes
// its watch with it; and to remove the old name of one that was renamed would
// end the watch of the new.
func (w *Watch) Add(dirs []string) {
	if w.w == nil {
		return
	}
	for _, dir := range dirs {
		if err := w.w.Add(dir); err != nil {
			w.o.Log.Debug(w.o.Name+": polling a directory", "path", dir, "every", w.o.Poll, "error", err)
		}
	}
}

// Wait blocks until something may have changed and nothing more has for a
// while, and returns the base names of the files that were named. It returns
// false once ctx ends. With soon set it does not wait for longer than a short
// while.
func (w *Watch) Wait(ctx context.Context, soon bool) (named map[string]bool, ok bool) {
	named = map[string]bool{}
	var recheck <-chan time.Time
	if soon {
		t := time.NewTimer(patience * w.o.Settle)
		defer t.Stop()
		recheck = t.C
	}
	for told := false; !told; {
		select {
		case e := <-w.events:
			told = w.note(named, e)
		case <-w.errs: // an overflow: something was missed
			told = true
		case <-recheck:
			return named, true
		case <-w.poll.C:
			return named, true
		case <-ctx.Done():
			return nil, false
		}
	}
	limit := time.NewTimer(patience * w.o.Settle)
	defer limit.Stop()
	quiet := time.NewTimer(w.o.Settle)
	defer quiet.Stop()
	for {
		select {
		case e := <-w.events:
			if w.note(named, e) {
				quiet.Reset(w.o.Settle)
			}
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

// note adds what e names, and reports whether it matters.
func (w *Watch) note(named map[string]bool, e fsnotify.Event) bool {
	if w.o.Concerns != nil && !w.o.Concerns(e.Name) {
		return false
	}
	named[filepath.Base(e.Name)] = true
	return true
}

// Close ends the notification.
func (w *Watch) Close() {
	w.poll.Stop()
	if w.w != nil {
		_ = w.w.Close()
	}
}
