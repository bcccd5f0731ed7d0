package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// probeStart is how long a waypoint with 100 services in a file takes from its
// start until it is ready.
func probeStart(ctx context.Context, t *tester) ([]figure, error) {
	e := t.env.with(1)
	e.services = 100
	c := course{e: e, rounds: 2 * t.o.Rounds, systems: []system{waystoneWaypoint(e)}}
	c.do = one(func(_ context.Context, r *running) (float64, error) {
		return float64(r.took) / float64(time.Millisecond), nil
	})
	return c.run(ctx, t, "start", newFigure("start", "ms", "From the start of the process until it is ready, with 100 services in a file"))
}

// bare is TCP and crypto/tls with the same certificates.
const bare = "crypto/tls alone"

// probeHandshakes is what connections cost, both ends in one process, by the
// benchmarks of internal/hbone.
func probeHandshakes(ctx context.Context, t *tester) ([]figure, error) {
	f := newFigure("handshakes", "µs", "CPU for a new HBONE connection, both ends together: TCP, a full mTLS handshake, and a CONNECT; or a byte there and back")
	dir, err := t.env.directory("handshakes")
	if err != nil {
		return nil, err
	}
	program := filepath.Join(dir, "hbone.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, "./internal/hbone")
	build.Dir = t.root
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go test -c ./internal/hbone: %w\n%s", err, text)
	}
	for range t.o.Rounds {
		for name, benchmark := range map[string]string{bare: "BenchmarkHandshake", ours: "BenchmarkConnect"} {
			cmd := exec.CommandContext(ctx, program, "-test.run", "^$", "-test.bench", "^"+benchmark+"$", "-test.benchtime", max(t.duration, 200*time.Millisecond).String())
			cmd.Dir = dir
			text, err := cmd.CombinedOutput()
			if err != nil {
				return nil, fmt.Errorf("%s: %w\n%s", benchmark, err, text)
			}
			cost, ok := benchmarked(string(text), benchmark)
			if !ok {
				return nil, fmt.Errorf("%s says nothing of CPU time:\n%s", benchmark, text)
			}
			f.add(name, cost)
		}
	}
	return []figure{f}, nil
}

var cpuMetric = regexp.MustCompile(`\s([0-9.]+) cpu-µs/op`)

// benchmarked returns the CPU time per operation of a benchmark.
func benchmarked(text, name string) (float64, bool) {
	for line := range strings.Lines(text) {
		if m := cpuMetric.FindStringSubmatch(line); m != nil && strings.HasPrefix(line, name) {
			x, err := strconv.ParseFloat(m[1], 64)
			return x, err == nil
		}
	}
	return 0, false
}

// probeFairness is how long 63 connections wait for answers to small requests,
// alone and while another connection sends content as fast as it can. Generators,
// system and destination share the machine's cores: with nothing between, the
// same says how much of it is that.
func probeFairness(ctx context.Context, t *tester) ([]figure, error) {
	c := course{e: t.env, rounds: t.o.Rounds, systems: []system{waystoneWaypoint(t.env), envoyWaypoint(), haproxyPump(), noWaypoint()}}
	c.do = func(ctx context.Context, r *running) ([]float64, error) {
		alone, err := t.small(ctx, r)
		if err != nil {
			return nil, err
		}
		beside, sent, err := t.beside(ctx, r)
		if err != nil {
			return nil, err
		}
		return []float64{beside.Latency.P99, alone.Latency.P99, float64(sent.BytesSent) / mib}, nil
	}
	return c.run(ctx, t, "fairness",
		newFigure("fairness-beside", "µs", "p99 of 63 connections with 1,000 small requests/s in all, while another sends 16 MiB after 16 MiB"),
		newFigure("fairness-alone", "µs", "The same while no other does"),
		newFigure("fairness-sent", "MiB", "What the other has sent meanwhile"))
}

// small has 63 connections ask for little.
func (t *tester) small(ctx context.Context, r *running) (*result, error) {
	return t.checkedLoad(ctx, t.env, r, "--tunnels", "63", "--conns", "63", "--rate", "1000", "--duration", t.duration.String(), "--warmup", t.warmup.String())
}

// beside does that while another generator sends, from a second before to about a
// second after.
func (t *tester) beside(ctx context.Context, r *running) (small, large *result, err error) {
	const lead = time.Second
	var largeErr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		large, largeErr = t.env.load(ctx, r, "--tunnels", "1", "--conns", "1", "--send", "16MiB", "--warmup", "0s",
			"--duration", (lead + t.warmup + t.duration + lead).String())
	}()
	if err = pause(ctx, lead); err == nil {
		small, err = t.small(ctx, r)
	}
	<-done
	return small, large, errors.Join(err, t.check(large, largeErr))
}
