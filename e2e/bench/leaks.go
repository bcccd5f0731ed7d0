package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// A footprint is what processes hold.
type footprint struct {
	Files   int                // descriptors
	Holding map[string]float64 // by the names of their own counters: what must come to nothing, or back
}

// slack is how many descriptors and goroutines may be more than before: upstream
// connections are kept for later, which at Envoy is one for each of 64 tunnels, and
// there is something around each. What leaks with every round is more.
const slack = 80

// settling is how long what is left of a load has to go away: 3 s, which is more
// than Envoy's delayed close and than the destination gives tunnels.
const settling = 3 * time.Second

// footprintOf looks at a system.
func footprintOf(r *running) (footprint, error) {
	f := footprint{Holding: map[string]float64{}}
	for _, pid := range r.pids {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return f, err
		}
		f.Files += len(open)
	}
	if r.counters == nil {
		return f, nil
	}
	all, err := r.counters()
	if err != nil {
		return f, err
	}
	for name, n := range all {
		if held(name) {
			f.Holding[name] = n
		}
	}
	return f, nil
}

// held reports whether a counter is one of what is held: requests and connections
// that are under way at Envoy; goroutines, buffers and lost log lines of ours.
func held(name string) bool {
	switch name {
	case "go_goroutines", "waystone_buffer_bytes", droppedLines:
		return true
	}
	return strings.HasPrefix(name, "envoy_") && (strings.HasSuffix(name, "downstream_cx_active") || strings.HasSuffix(name, "rq_active"))
}

// droppedLines is not a leak, but a load at which the access log was not kept
// is not the load that was to be measured.
const droppedLines = "waystone_log_dropped_lines_total"

// leaks says what is held after a load that was not before it.
func leaks(before, after footprint) []string {
	var all []string
	if n := after.Files - before.Files; n > slack {
		all = append(all, fmt.Sprintf("%d more files are open than before", n))
	}
	for name, n := range after.Holding {
		more := n - before.Holding[name]
		allowed := 0.0
		if name == "go_goroutines" {
			allowed = slack
		}
		if more > allowed {
			all = append(all, fmt.Sprintf("%s is %g more than before", name, more))
		}
	}
	return all
}

// wantNoLeaks waits until what a load left is gone.
func wantNoLeaks(ctx context.Context, r *running, before footprint) error {
	for deadline := time.Now().Add(settling); ; {
		after, err := footprintOf(r)
		if err != nil {
			return err
		}
		left := leaks(before, after)
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("left after the load: %s", strings.Join(left, "; "))
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// forget empties an access log, which everybody appends to: a minute of a closed
// loop is gigabytes.
func forget(r *running) error {
	if r.access == "" {
		return nil
	}
	if err := os.Truncate(r.access, 0); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// wantLines waits until a log has as many lines, and returns how many it has.
func wantLines(ctx context.Context, path string, want int64) (int64, error) {
	for deadline := time.Now().Add(settling); ; {
		n, err := lines(path)
		if err != nil {
			return n, err
		}
		if n >= want {
			return n, nil
		}
		if time.Now().After(deadline) {
			return n, fmt.Errorf("the access log has %d lines of %d requests", n, want)
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return n, err
		}
	}
}

func lines(path string) (n int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for {
		k, err := f.Read(buf)
		n += int64(bytes.Count(buf[:k], []byte{'\n'}))
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
