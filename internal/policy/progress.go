package policy

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// A Progress tells how far something long is, on one line of a terminal.
type Progress struct {
	out   io.Writer
	shown bool
	began time.Time

	mu   sync.Mutex
	last time.Time // Guarded by mu.
}

// NewProgress returns a Progress that says nothing unless it is shown.
func NewProgress(out io.Writer, shown bool, now time.Time) *Progress {
	return &Progress{out: out, shown: shown, began: now, last: now}
}

// progressEvery is how often the line is written: what an eye can follow.
const progressEvery = 200 * time.Millisecond

// Tell says how many lines and bytes have been read. It is safe for concurrent
// use.
func (p *Progress) Tell(lines, bytes int64) {
	if !p.shown {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.last) < progressEvery {
		return
	}
	p.last = now
	seconds := now.Sub(p.began).Seconds()
	fmt.Fprintf(p.out, "\r%d lines, %d MiB, %.0f lines/s \x1b[K", lines, bytes>>20, float64(lines)/seconds)
}

// End takes the line away.
func (p *Progress) End() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}
