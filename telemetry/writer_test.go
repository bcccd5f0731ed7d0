package telemetry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A gate is an output that is stuck until it is opened.
type gate struct {
	sink
	entered chan struct{}
	open    chan struct{}
}

func (g *gate) Write(p []byte) (int, error) {
	g.entered <- struct{}{}
	<-g.open
	return g.sink.Write(p)
}

func newWriter(tb testing.TB, o WriterOptions) *Writer {
	tb.Helper()
	w, err := NewWriter(o)
	if err != nil {
		tb.Fatal(err)
	}
	return w
}

func write(tb testing.TB, w *Writer, line string) {
	tb.Helper()
	if n, err := w.Write([]byte(line)); n != len(line) || err != nil {
		tb.Errorf("Write = %d, %v; want %d, nil", n, err, len(line))
	}
}

func TestWriterDropsWhenTheOutputIsStuck(t *testing.T) {
	g := &gate{entered: make(chan struct{}, 100), open: make(chan struct{})}
	w := newWriter(t, WriterOptions{Output: g, Queue: 100, Linger: -1})
	write(t, w, "first\n")
	<-g.entered
	for i := range 30 { // ten lines of ten bytes fit
		write(t, w, fmt.Sprintf("line %04d\n", i))
	}
	if got := w.Dropped(); got != 20 {
		t.Errorf("%d dropped, want 20", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Flush of a stuck output: %v, want canceled", err)
	}
	close(g.open)
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := g.take(); !strings.HasPrefix(got, "first\nline 0000\n") || !strings.HasSuffix(got, "line 0009\n") || strings.Count(got, "\n") != 11 {
		t.Errorf("written: %q", got)
	}
	write(t, w, "late\n")
	if got := w.Dropped(); got != 21 {
		t.Errorf("%d dropped after Close, want 21", got)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestWriterDropsAreAMetric(t *testing.T) {
	g := &gate{entered: make(chan struct{}, 100), open: make(chan struct{})}
	w := newWriter(t, WriterOptions{Output: g, Queue: 1000, Linger: -1})
	tel, err := New(Options{AccessLog: w, sweep: never})
	if err != nil {
		t.Fatal(err)
	}
	tel.HTTP(exchange())
	<-g.entered
	for range 5 {
		tel.HTTP(exchange())
	}
	if got := value(t, tel, "waystone_log_dropped_lines_total", `reason="full"`); got != "4" {
		t.Errorf("dropped lines: %s, want 4", got)
	}
	close(g.open)
	if err := errors.Join(tel.Shutdown(t.Context()), w.Close(t.Context())); err != nil {
		t.Error(err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriterCountsWhatCouldNotBeWritten(t *testing.T) {
	w := newWriter(t, WriterOptions{Output: broken{}})
	write(t, w, "a\n")
	write(t, w, "b\n")
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := w.Failed(); got != 2 {
		t.Errorf("%d failed, want 2", got)
	}
}

func TestWriterReopens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	w := newWriter(t, WriterOptions{Path: path})
	read := func(p string) string {
		t.Helper()
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	write(t, w, "old\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := w.Reopen(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, w, "new\n")
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := read(path + ".1"); got != "old\n" {
		t.Errorf("renamed log: %q", got)
	}
	if got := read(path); got != "new\n" {
		t.Errorf("reopened log: %q", got)
	}
	// When it cannot be opened the old file stays.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := w.Reopen(t.Context()); err == nil {
		t.Error("Reopen of a directory succeeded")
	}
	write(t, w, "lost to the eye\n")
	if err := w.Close(t.Context()); err != nil || w.Failed() != 0 {
		t.Errorf("Close: %v, %d failed", err, w.Failed())
	}
	if _, err := NewWriter(WriterOptions{Path: path}); err == nil {
		t.Error("NewWriter on a directory succeeded")
	}
}

func TestWriterGathersLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sizes []int
		w := newWriter(t, WriterOptions{Linger: 10 * time.Millisecond, Output: writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			sizes = append(sizes, len(p))
			return len(p), nil
		})})
		write(t, w, "1\n")
		synctest.Wait() // written at once
		write(t, w, "2\n")
		write(t, w, "3\n")
		synctest.Wait() // lingering
		mu.Lock()
		if fmt.Sprint(sizes) != "[2]" {
			t.Errorf("writes of %v bytes before the linger was over, want [2]", sizes)
		}
		mu.Unlock()
		if err := w.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if fmt.Sprint(sizes) != "[2 4]" {
			t.Errorf("writes of %v bytes, want [2 4]", sizes)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestNilWriterSwallows(t *testing.T) {
	var w *Writer
	write(t, w, "x\n")
	if err := errors.Join(w.Flush(t.Context()), w.Reopen(t.Context()), w.Close(t.Context())); err != nil {
		t.Error(err)
	}
	if w.Dropped() != 0 || w.Failed() != 0 {
		t.Error("a nil Writer counts")
	}
}

func TestWriterConcurrently(t *testing.T) {
	var out sink
	w := newWriter(t, WriterOptions{Output: &out})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 500 {
				write(t, w, fmt.Sprintf("line of %d\n", i))
			}
		})
	}
	all.Wait()
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
	got := out.take()
	if n := strings.Count(got, "\n") + int(w.Dropped()); n != 4000 {
		t.Errorf("%d lines, want 4000", n)
	}
	for l := range strings.Lines(got) {
		if len(l) != len("line of 0\n") {
			t.Fatalf("torn line %q", l)
		}
	}
}
