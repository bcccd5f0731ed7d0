package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A reading is something that is measured otherwise than in rounds, and yields
// figures.
type reading struct {
	name string
	take func(context.Context, *tester) (map[string]float64, error)
}

func readings() []reading {
	return []reading{
		{"idle", readIdle},
		{"idle-tunnel", readIdleTunnel},
		{"tunnel-memory", readTunnelMemory},
		{"start", readStart},
		{"calls", readCalls},
		{"handshakes", readHandshakes},
		{"fairness", readFairness},
		{"slow-readers", readSlowReaders},
		{"h2", readHTTP2},
	}
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// settled is how long a process is left alone before its idle memory is read:
// 3 s, in which a garbage collector gives back what starting took.
const settled = 3 * time.Second

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// whileRunning starts a system for f, and stops it.
func whileRunning(ctx context.Context, e *env, x system, f func(*running) error) error {
	if why := x.missing(); why != "" {
		return errors.New(why)
	}
	r, err := x.start(ctx, e)
	if err != nil {
		return err
	}
	return errors.Join(f(r), r.stop())
}

// readIdle is the memory of a waypoint that nobody uses, ours and Envoy.
func readIdle(ctx context.Context, t *tester) (map[string]float64, error) {
	figures := map[string]float64{}
	var errs []error
	for name, x := range map[string]system{"idle": waystoneWaypoint(t.env), "idle-envoy": envoyWaypoint()} {
		errs = append(errs, whileRunning(ctx, t.env, x, func(r *running) error {
			if err := pause(ctx, settled); err != nil {
				return err
			}
			u, err := use(r.pids)
			figures[name] = float64(u.RSS) / mib
			return err
		}))
	}
	return figures, errors.Join(errs...)
}

// readIdleTunnel is the memory of 10,000 tunnels on 10 connections that have had
// one request each: what they add to an idle waypoint, over their number.
func readIdleTunnel(ctx context.Context, t *tester) (map[string]float64, error) {
	const tunnels = 10_000
	figures := map[string]float64{}
	e := t.env.with(1)
	e.args = []string{"--max-streams", "1000", "--pool-max-streams", "1000"}
	err := whileRunning(ctx, e, waystoneWaypoint(e), func(r *running) error {
		if err := pause(ctx, settled); err != nil {
			return err
		}
		idle, err := use(r.pids)
		if err != nil {
			return err
		}
		m := startMeter(r.pids)
		res, err := e.load(ctx, r, "--hold", "--tunnels", number(tunnels), "--conns", "10", "--duration", "12s")
		if err = errors.Join(err, m.end()); err != nil {
			return err
		}
		if len(res.Errors) > 0 {
			return fmt.Errorf("unexpected answers: %s", counts(res.Errors))
		}
		held := m.at(res.end().Add(-time.Second))
		figures["idle-tunnel"] = float64(held.RSS-idle.RSS) / tunnels / kib
		return nil
	})
	return figures, err
}

// readTunnelMemory is the memory of the larger of two node tunnels under 1,000
// requests a second.
func readTunnelMemory(ctx context.Context, t *tester) (map[string]float64, error) {
	figures := map[string]float64{}
	err := whileRunning(ctx, t.env, waystoneTunnels(t.env), func(r *running) error {
		m := startMeter(r.pids)
		res, err := t.env.load(ctx, r, "--rate", "1000", "--duration", "8s", "--size", "1KiB")
		if err = errors.Join(err, m.end()); err != nil {
			return err
		}
		if len(res.Errors) > 0 {
			return fmt.Errorf("unexpected answers: %s", counts(res.Errors))
		}
		figures["tunnel-memory"] = float64(m.peak(res.Start, res.end())) / mib
		return nil
	})
	return figures, err
}

// readStart is how long a waypoint with 100 services takes from its start until
// it is ready: the median of nine.
func readStart(ctx context.Context, t *tester) (map[string]float64, error) {
	e := t.env.with(1)
	e.services = 100
	var took []float64
	for range 9 {
		if err := whileRunning(ctx, e, waystoneWaypoint(e), func(r *running) error {
			took = append(took, float64(r.took.Microseconds())/1e3)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return map[string]float64{"start": spreadOf(took).Median}, nil
}

// readCalls is what a waypoint allocates, reads and writes for each request, as
// it counts itself.
func readCalls(ctx context.Context, t *tester) (map[string]float64, error) {
	figures := map[string]float64{}
	err := whileRunning(ctx, t.env, waystoneWaypoint(t.env), func(r *running) error {
		for _, x := range []struct {
			figure string
			flags  []string
		}{
			{"calls-one", []string{"--tunnels", "1", "--conns", "1"}},
			{"calls-64", nil},
		} {
			before, err := r.counters()
			if err != nil {
				return err
			}
			res, err := t.env.load(ctx, r, append([]string{"--warmup", "0s", "--duration", "4s"}, x.flags...)...)
			if err != nil {
				return err
			}
			after, err := r.counters()
			if err != nil {
				return err
			}
			per := func(names ...string) (sum float64) {
				for _, name := range names {
					sum += after[name] - before[name]
				}
				return sum / float64(max(res.Requests, 1))
			}
			figures[x.figure] = per("waystone_loop_reads_total", "waystone_loop_writes_total")
			if x.figure == "calls-64" {
				figures["allocations"] = per("go_memstats_mallocs_total")
			}
			if _, counted := after["waystone_loop_reads_total"]; !counted {
				return errors.New("the waypoint does not count its reads")
			}
		}
		return nil
	})
	return figures, err
}

// readHandshakes compares connections made by both our ends with TLS handshakes
// alone, by the benchmarks of internal/hbone.
func readHandshakes(ctx context.Context, t *tester) (map[string]float64, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^(BenchmarkConnect|BenchmarkHandshake)$", "-benchtime", "2s", "-count", number(min(t.o.Rounds, 5)), "./internal/hbone")
	cmd.Dir = t.root
	text, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test: %w\n%s", err, text)
	}
	connect, bare := benchmarked(string(text), "BenchmarkConnect"), benchmarked(string(text), "BenchmarkHandshake")
	if len(connect) == 0 || len(bare) == 0 {
		return nil, fmt.Errorf("no figures in\n%s", text)
	}
	return map[string]float64{"handshakes": spreadOf(bare).Median / spreadOf(connect).Median}, nil
}

var cpuMetric = regexp.MustCompile(`([0-9.]+) cpu-µs/op`)

// benchmarked returns the CPU time per operation of each run of a benchmark.
func benchmarked(text, name string) (values []float64) {
	for line := range strings.Lines(text) {
		if m := cpuMetric.FindStringSubmatch(line); m != nil && strings.HasPrefix(line, name) {
			if x, err := strconv.ParseFloat(m[1], 64); err == nil {
				values = append(values, x)
			}
		}
	}
	return values
}

// readFairness is how much later 63 connections are answered while another sends
// 1 GiB after the other. Both are one generator's work, and all of them share
// two cores: the same without a waypoint says how much of it is that.
func readFairness(ctx context.Context, t *tester) (map[string]float64, error) {
	figures := map[string]float64{}
	var errs []error
	for name, x := range map[string]system{"fairness": waystoneWaypoint(t.env), "fairness-direct": noWaypoint()} {
		errs = append(errs, whileRunning(ctx, t.env, x, func(r *running) error {
			var ratios []float64
			for range min(t.o.Rounds, 5) {
				alone, err := t.small(ctx, r)
				if err != nil {
					return err
				}
				beside, err := t.beside(ctx, r)
				if err != nil {
					return err
				}
				ratios = append(ratios, beside.Latency.P99/max(alone.Latency.P99, 1))
			}
			figures[name] = spreadOf(ratios).Median
			return nil
		}))
	}
	return figures, errors.Join(errs...)
}

// small has 63 connections ask for little.
func (t *tester) small(ctx context.Context, r *running) (*result, error) {
	res, err := t.env.load(ctx, r, "--tunnels", "63", "--conns", "63", "--rate", "1000", "--duration", "3s")
	if err == nil && len(res.Errors) > 0 {
		err = fmt.Errorf("unexpected answers: %s", counts(res.Errors))
	}
	return res, err
}

// beside does that while another generator sends a gibibyte at a time.
func (t *tester) beside(ctx context.Context, r *running) (*result, error) {
	sending, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := t.env.load(sending, r, "--tunnels", "1", "--conns", "1", "--send", "1GiB", "--warmup", "0s", "--duration", "60s")
		done <- err
	}()
	err := pause(ctx, 2*time.Second) // it has content to make first
	var res *result
	if err == nil {
		res, err = t.small(ctx, r)
	}
	stop()
	if sent := <-done; err == nil && sent != nil && sending.Err() == nil {
		err = sent
	}
	return res, err
}

// readSlowReaders is the most memory that a waypoint has while 100 tunnels each
// read 64 KiB a second of a response of 1 GiB.
func readSlowReaders(ctx context.Context, t *tester) (map[string]float64, error) {
	figures := map[string]float64{}
	err := whileRunning(ctx, t.env, waystoneWaypoint(t.env), func(r *running) error {
		m := startMeter(r.pids)
		_, err := t.env.load(ctx, r, "--tunnels", "100", "--conns", "10", "--size", "1GiB", "--read-rate", "64KiB", "--warmup", "0s", "--duration", "8s")
		if err = errors.Join(err, m.end()); err != nil {
			return err
		}
		figures["slow-readers"] = float64(m.peak(m.all[0].At, m.all[len(m.all)-1].At)) / mib
		return nil
	})
	return figures, err
}

// readHTTP2 is plain HTTP/2 proxying under h2load.
func readHTTP2(context.Context, *tester) (map[string]float64, error) {
	return nil, errors.New("there is nothing yet that puts our codecs behind plain TLS")
}
