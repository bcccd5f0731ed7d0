package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func noH2load() string { return onPath("h2load", "nghttp2-client") }

// An h2load is a run of nghttp2's generator, with one thread.
type h2load struct {
	Clients  int // connections
	Streams  int // requests at a time on each; HTTP/1.1 has 1
	Rate     int // requests per second in all; 0 is as many as can be
	Duration time.Duration
	Path     string // one of files
	Times    bool   // also of each request, which costs the generator a little
}

// An h2result is what came of it. Every request that was made counts, from the
// first on: a run has no warm-up.
type h2result struct {
	By       string // the generator and its version
	Seconds  float64
	Requests int // that were answered
	Failed   int // that were not, or not with 2xx
	P50, P99 time.Duration
}

// run has h2load ask r.
func (h h2load) run(ctx context.Context, e *env, r *running) (*h2result, error) {
	path, err := lookPath("h2load")
	if err != nil {
		return nil, err
	}
	args, err := h.arguments(r)
	if err != nil {
		return nil, err
	}
	times := ""
	if h.Times {
		dir, err := e.directory("h2load")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		times = filepath.Join(dir, "times")
		args = append(args, "--log-file", times)
	}
	ctx, cancel := context.WithTimeout(ctx, h.Duration+30*time.Second)
	defer cancel()
	text, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("h2load: %w: %s", err, text)
	}
	result, err := readH2load(string(text))
	if err != nil {
		return nil, err
	}
	if result.By = output(path, "--version"); times == "" {
		return result, nil
	}
	return result, result.readTimes(times)
}

func (h h2load) arguments(r *running) ([]string, error) {
	url := "http://"
	args := []string{"-t", "1", "-c", strconv.Itoa(h.Clients), "-D", strconv.FormatInt(h.Duration.Milliseconds(), 10) + "ms"}
	switch r.transport {
	case "h2":
		url = "https://"
		args = append(args, "-m", strconv.Itoa(h.Streams))
	case "http1":
		args = append(args, "--h1")
	default:
		return nil, fmt.Errorf("h2load does not speak %s", r.transport)
	}
	if h.Rate > 0 {
		args = append(args, "--rps", strconv.FormatFloat(float64(h.Rate)/float64(h.Clients), 'f', -1, 64))
	}
	return append(args, url+r.connect+h.Path), nil
}

// readH2load reads what h2load prints:
//
//	finished in 2.00s, 52345.50 req/s, 3.50MB/s
//	requests: 104691 total, 104755 started, 104691 done, 104691 succeeded, 0 failed, 0 errored, 0 timeout
//	status codes: 104691 2xx, 0 3xx, 0 4xx, 0 5xx
func readH2load(text string) (*h2result, error) {
	var r h2result
	done := false
	for line := range strings.Lines(text) {
		key, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "finished": // in 2.00s,
			word := strings.TrimSuffix(strings.Fields(rest)[1], ",")
			d, err := time.ParseDuration(word)
			if err != nil {
				return nil, fmt.Errorf("h2load: %q: %w", line, err)
			}
			r.Seconds = d.Seconds()
		case "requests:":
			n := numbers(rest)
			r.Requests = n["succeeded"]
			r.Failed += n["failed"]
			done = true
		case "status":
			n := numbers(strings.TrimPrefix(rest, "codes:"))
			r.Failed += n["3xx"]
			r.Requests -= n["3xx"]
		}
	}
	if !done {
		return nil, fmt.Errorf("h2load says nothing of its requests: %s", text)
	}
	return &r, nil
}

// numbers reads "3 total, 2 done".
func numbers(text string) map[string]int {
	out := map[string]int{}
	for part := range strings.SplitSeq(text, ",") {
		words := strings.Fields(part)
		if len(words) == 2 {
			out[words[1]], _ = strconv.Atoi(words[0]) // what is no number is 0 of it
		}
	}
	return out
}

// readTimes reads h2load's log: start, status and duration, in microseconds.
func (r *h2result) readTimes(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var all []int
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) != 3 {
			return fmt.Errorf("h2load: %q is not start, status and duration", lines.Text())
		}
		micros, err := strconv.Atoi(words[2])
		if err != nil {
			return fmt.Errorf("h2load: %w", err)
		}
		all = append(all, micros)
	}
	if len(all) == 0 {
		return errors.Join(lines.Err(), errors.New("h2load: no request was timed"))
	}
	slices.Sort(all)
	at := func(share float64) time.Duration {
		return time.Duration(all[int(share*float64(len(all)-1))]) * time.Microsecond
	}
	r.P50, r.P99 = at(0.50), at(0.99)
	return lines.Err()
}
