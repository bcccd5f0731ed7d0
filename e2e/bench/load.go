package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A result is what the generator says; see the Result of internal/bench.
type result struct {
	Start         time.Time        `json:"start"`
	Seconds       float64          `json:"seconds"`
	Requests      int64            `json:"requests"`
	Rate          float64          `json:"rate"`
	Errors        map[string]int64 `json:"errors"`
	BytesSent     int64            `json:"bytesSent"`
	BytesReceived int64            `json:"bytesReceived"`
	Latency       struct {
		P50, P90, P99, P999 float64
	} `json:"latency"`
	CPUSeconds float64 `json:"cpuSeconds"`
}

func (r *result) end() time.Time {
	return r.Start.Add(time.Duration(r.Seconds * float64(time.Second)))
}

// load runs the generator against a running system with further flags. What went
// wrong for a request is in the result.
func (e *env) load(ctx context.Context, r *running, flags ...string) (*result, error) {
	dir, err := e.directory("load")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "result.json")
	protocol := "http1"
	if i := slices.Index(flags, "--protocol"); i >= 0 {
		protocol = flags[i+1]
	}
	args := []string{
		"bench", "load", "--quiet", "--json", out, "--connect", r.connect, "--transport", r.transport, "--authority", r.to(protocol),
	}
	if r.transport == "hbone" {
		args = append(args, "--identity", e.certs.source(), "--as", "default/"+clientAccount, "--peer", r.peer)
	}
	cmd := exec.CommandContext(ctx, e.program("waystone"), append(args, flags...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = shutdown
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("waystone %s: %w\n%s", strings.Join(cmd.Args[1:], " "), err, text)
	}
	x := new(result)
	return x, readJSON(out, x)
}

func readJSON(path string, to any) error {
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, to)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return nil
}

// A served is what a destination says when it ends; see Served of internal/bench.
type served struct {
	Requests      int64            `json:"requests"`
	BytesReceived int64            `json:"bytesReceived"`
	BytesSent     int64            `json:"bytesSent"`
	Open          int64            `json:"open"`
	Errors        map[string]int64 `json:"errors"`
}

// A backend is what systems lead to.
type backend struct {
	e    *env
	c    *child // the destination; nil: origins
	out  string
	stop func() error // origins; nil: a destination
}

// startBackend starts what systems of a kind lead to: the destination over HBONE or
// over TCP, or the servers behind reverse proxies.
func (e *env) startBackend(ctx context.Context, k kind) (*backend, error) {
	b := &backend{e: e}
	if k == ofProxies {
		var err error
		b.stop, err = startOrigins(ctx, e)
		return b, err
	}
	dir, err := e.directory("destination")
	if err != nil {
		return nil, err
	}
	said := filepath.Join(dir, "log")
	b.out = filepath.Join(dir, "served.json")
	args := []string{"bench", "dest", "--json", b.out}
	if k == ofTunnels {
		args = append(args, "--transport", "tcp", "--listen", e.destination.Plain.String())
	} else {
		args = append(args, "--transport", "hbone", "--listen", e.destination.HBONE.String(), "--identity", e.certs.source(), "--as", "default/"+serverAccount)
	}
	if b.c, err = e.family.start("destination", said, e.program("waystone"), args...); err != nil {
		return nil, err
	}
	if err := b.c.await(ctx, listens(said)); err != nil {
		return nil, errors.Join(err, e.family.end(syscall.SIGINT, b.c))
	}
	return b, nil
}

// listens returns a function that reports whether a destination has said that it
// listens. To try a connection would be a failed handshake.
func listens(said string) func(context.Context) error {
	return func(context.Context) error {
		if text, err := os.ReadFile(said); err != nil || !strings.Contains(string(text), "listening") {
			return errors.New("it does not listen yet")
		}
		return nil
	}
}

// end stops it, after the systems that lead to it, and returns what it has seen.
// It is an error if that is not in order: content that was not what had been sent,
// or tunnels that nobody closed.
func (b *backend) end() (*served, error) {
	s := new(served)
	if b.stop != nil {
		return s, b.stop()
	}
	if err := b.e.family.end(syscall.SIGINT, b.c); err != nil {
		return s, err
	}
	if err := readJSON(b.out, s); err != nil {
		return s, err
	}
	return s, s.check()
}

func (s *served) check() error {
	var errs []error
	for _, kind := range []string{"crc", "length", "malformed"} {
		if n := s.Errors[kind]; n > 0 {
			errs = append(errs, fmt.Errorf("the destination counts %d errors of kind %s", n, kind))
		}
	}
	if s.Open > 0 {
		errs = append(errs, fmt.Errorf("%d tunnels were left open at the destination", s.Open))
	}
	return errors.Join(errs...)
}
