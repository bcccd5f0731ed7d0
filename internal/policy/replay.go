package policy

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

// ReplayOptions say what a log is held against.
type ReplayOptions struct {
	// New are the policies in question. Base are those that were in force; nil:
	// what was decided is what the log says.
	New, Base *Mesh

	// By are the columns by which changes are counted: see Columns.
	By []string

	Workers int // 0 is one a core

	// Progress is told how far it is, from several goroutines; nil: nobody is.
	Progress func(lines, bytes int64)
}

// A Log is an access log to be read.
type Log struct {
	Name string
	io.Reader
}

const (
	chunkSize = 1 << 20 // 1 MiB: a thousand lines; no line may be longer

	// How many chunks may wait for each worker: what bounds the memory.
	chunksAhead = 2
)

// A chunk is whole lines of a log.
type chunk struct {
	log   string
	line  int64 // number of the first
	text  string
	tooBy bool // it is the beginning of a line that is too long
}

// Replay says what would become of the requests of logs if New were in force. It
// reads them once, whatever their length; a log may be compressed by gzip. The
// error is that of a log that cannot be read on: what has been read is in the
// Outcome.
func Replay(ctx context.Context, o ReplayOptions, logs ...Log) (*Outcome, error) {
	if err := checkColumns(o.By); err != nil {
		return nil, err
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	chunks := make(chan chunk, o.Workers*chunksAhead)
	tallies := make([]*tally, o.Workers)
	shared := newComparison(&o)
	var workers sync.WaitGroup
	var lines, size atomic.Int64
	for i := range tallies {
		r := newReplayer(shared)
		tallies[i] = r.tally
		workers.Go(func() {
			for c := range chunks {
				n := r.chunk(&c)
				if done, all := lines.Add(n), size.Add(int64(len(c.text))); o.Progress != nil {
					o.Progress(done, all)
				}
			}
		})
	}
	var errs []error
	for _, l := range logs {
		if err := split(ctx, l, chunks); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.Name, err))
		}
	}
	close(chunks)
	workers.Wait()
	out := shared.outcome(tallies)
	return out, errors.Join(errs...)
}

// split cuts a log into chunks of whole lines.
func split(ctx context.Context, l Log, chunks chan<- chunk) error {
	in, err := unzip(l.Reader)
	if err != nil {
		return err
	}
	buf, have := make([]byte, chunkSize), 0
	line, skipping := int64(1), false
	for {
		n, err := fill(in, buf[have:])
		text := string(buf[:have+n])
		have = 0
		if err == nil {
			if i := strings.LastIndexByte(text, '\n'); i >= 0 {
				have = copy(buf, text[i+1:])
				text = text[:i+1]
			}
		}
		if skipping {
			if i := strings.IndexByte(text, '\n'); i >= 0 {
				text, skipping = text[i+1:], false
				line++
			} else {
				text = ""
			}
		}
		c := chunk{log: l.Name, line: line, text: text, tooBy: err == nil && text != "" && !strings.HasSuffix(text, "\n")}
		skipping = skipping || c.tooBy
		line += int64(strings.Count(text, "\n"))
		if text != "" {
			select {
			case chunks <- c:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// fill reads until buf is full or there is an error: a log that is cut short has
// another than io.EOF, which io.ReadFull would not tell apart.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var more int
		more, err = r.Read(buf[n:])
		n += more
	}
	if n == len(buf) {
		err = nil
	}
	return n, err
}

// unzip returns what r says, uncompressed.
func unzip(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	if magic, err := b.Peek(2); err != nil || magic[0] != 0x1f || magic[1] != 0x8b { // RFC 1952, section 2.3.1
		return b, nil
	}
	return gzip.NewReader(b)
}
