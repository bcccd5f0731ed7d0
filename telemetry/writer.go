package telemetry

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// WriterOptions configure a Writer.
type WriterOptions struct {
	// Path is a file, which is appended to and created when it is not there.
	// "", "-" and "/dev/stdout" are standard output, "/dev/stderr" is standard
	// error; they are never reopened.
	Path string

	// Output, when not nil, is written to instead of Path.
	Output io.Writer

	// Queue is how many bytes of lines may wait. 0 is 4 MiB, some 6,000 lines: as
	// many as a core of requests writes while the goroutine that writes them is
	// kept from running for a few hundredths of a second.
	Queue int

	// Linger is the least time between two writes, so that a busy proxy writes
	// many lines at a time. The first line after a pause does not wait. 0 is 100
	// ms, which nobody who reads a log notices; 10 ms cost a wake-up for every ten
	// requests at 1,000 a second. Below 0 is none.
	Linger time.Duration
}

// A Writer is where log lines go. Its queue is bounded and it has one goroutine
// that writes: when the disk or whoever reads the pipe is too slow, lines are
// dropped and counted. Traffic never waits for a log.
//
// The queue is one slice that grows to its bound and is swapped with another
// when it is written; a channel of lines would cost an allocation or a pool
// access for each, and a wake-up.
//
// A nil Writer swallows what it is given.
type Writer struct {
	// Immutable.
	path   string
	queue  int
	linger time.Duration
	wake   chan struct{} // there are lines; capacity 1
	full   chan struct{} // there is a batch: stop lingering; capacity 1
	asked  chan request
	done   chan struct{} // closed when the goroutine has ended

	// Guarded by mu.
	mu      sync.Mutex
	pending []byte
	lines   int
	closed  bool

	// Owned by the goroutine.
	out  io.Writer
	file *os.File // out, when we opened it

	dropped atomic.Uint64 // for want of room
	failed  atomic.Uint64 // because writing failed
}

// batch is how much is written at once when there is much to write: 64 KiB is
// some 90 lines, so the system call costs each little, and stays in the cache.
const batch = 64 << 10

// keep is the largest storage of the queue that is used again: 1 MiB, many times
// what there is of it unless the disk was slow.
const keep = 1 << 20

// A request asks the goroutine for more than to write.
type request struct {
	reopen, end bool
	answer      chan error // capacity 1
}

// NewWriter opens the log and starts its goroutine, which Close ends.
func NewWriter(o WriterOptions) (*Writer, error) {
	w := &Writer{
		path: o.Path, queue: o.Queue, linger: o.Linger, out: o.Output,
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1),
		asked: make(chan request), done: make(chan struct{}),
	}
	if w.queue <= 0 {
		w.queue = 4 << 20
	}
	if w.linger == 0 {
		w.linger = 100 * time.Millisecond
	}
	if w.out == nil {
		if err := w.open(); err != nil {
			return nil, err
		}
	}
	go w.run()
	return w, nil
}

// Write queues p, which is one or more whole lines, or drops it. It never
// blocks, keeps nothing of p, and its error is always nil.
func (w *Writer) Write(p []byte) (int, error) {
	if w == nil {
		return len(p), nil
	}
	w.mu.Lock()
	first := len(w.pending) == 0
	if w.closed || len(w.pending)+len(p) > w.queue {
		w.mu.Unlock()
		w.dropped.Add(1)
		return len(p), nil
	}
	w.pending = append(w.pending, p...)
	w.lines++
	full := len(w.pending) > min(batch, w.queue/2)
	w.mu.Unlock()
	if first {
		notify(w.wake)
	}
	if full {
		notify(w.full)
	}
	return len(p), nil
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Dropped returns how many lines were lost because the queue was full or the
// Writer closed.
func (w *Writer) Dropped() uint64 {
	if w == nil {
		return 0
	}
	return w.dropped.Load()
}

// Failed returns how many lines were lost because writing failed.
func (w *Writer) Failed() uint64 {
	if w == nil {
		return 0
	}
	return w.failed.Load()
}

// Reopen closes the file and opens it anew under its name, after what is queued
// was written to the old one: what SIGUSR1 asks for once a log was renamed. If
// that fails the old file stays in use. Of standard output and of an Output it
// does nothing.
func (w *Writer) Reopen(ctx context.Context) error { return w.ask(ctx, request{reopen: true}) }

// Flush returns when everything queued before the call was written.
func (w *Writer) Flush(ctx context.Context) error { return w.ask(ctx, request{}) }

// Close writes what is queued and ends the goroutine. What is written to a
// closed Writer is dropped.
func (w *Writer) Close(ctx context.Context) error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	return w.ask(ctx, request{end: true})
}

func (w *Writer) ask(ctx context.Context, r request) error {
	if w == nil {
		return nil
	}
	r.answer = make(chan error, 1)
	select {
	case w.asked <- r:
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("log: write %s: %w", w.name(), ctx.Err())
	}
	select {
	case err := <-r.answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("log: write %s: %w", w.name(), ctx.Err())
	}
}

// run is the goroutine that writes.
func (w *Writer) run() {
	defer close(w.done)
	var spare []byte
	for {
		var r request
		select {
		case <-w.wake:
		case r = <-w.asked:
		}
		spare = w.write(spare)
		if r.answer != nil {
			r.answer <- w.obey(r)
			if r.end {
				return
			}
			continue
		}
		if w.linger <= 0 {
			continue
		}
		timer := time.NewTimer(w.linger)
		select {
		case <-timer.C:
		case <-w.full:
		case r = <-w.asked:
			spare = w.write(spare)
			r.answer <- w.obey(r)
			if r.end {
				return
			}
		}
		timer.Stop()
	}
}

// write writes what is queued, leaving spare as the queue's storage, and
// returns the slice that is now unused.
func (w *Writer) write(spare []byte) []byte {
	w.mu.Lock()
	p, lines := w.pending, w.lines
	w.pending, w.lines = spare[:0], 0
	w.mu.Unlock()
	if len(p) == 0 {
		return p
	}
	if _, err := w.out.Write(p); err != nil {
		w.failed.Add(uint64(lines))
	}
	if cap(p) > keep {
		return nil
	}
	return p
}

func (w *Writer) obey(r request) error {
	switch {
	case r.end && w.file != nil:
		return w.file.Close()
	case r.reopen && w.file != nil:
		return w.open()
	}
	return nil
}

// open opens the path and makes it the output.
func (w *Writer) open() error {
	switch w.path {
	case "", "-", "/dev/stdout":
		w.out = os.Stdout
		return nil
	case "/dev/stderr":
		w.out = os.Stderr
		return nil
	}
	f, err := os.OpenFile(w.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	old := w.file
	w.out, w.file = f, f
	if old != nil {
		return old.Close()
	}
	return nil
}

func (w *Writer) name() string {
	if w.path == "" {
		return "output"
	}
	return w.path
}
