// Bench measures our proxies and what people would deploy instead, side by side
// on one machine: Envoy as Istio configures a waypoint, and HAProxy as the least
// that anything can cost. It writes a report, and the numbers behind it.
//
// Everything has the same generator, destination, certificates and bytes, and one
// loop, worker or thread. CPU time is the system's own, over the requests that it
// answered; systems take turns within each round, and ratios are made round by
// round: what disturbs a shared machine then disturbs both.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, args []string) error {
	set := flag.NewFlagSet("bench", flag.ContinueOnError)
	var (
		root     = set.String("root", "..", "the project's directory, with bin/ in it")
		out      = set.String("out", "bench/results", "the directory for report.md and report.json")
		only     = set.String("only", "", "measure the scenarios and readings that match this regular expression alone, and keep what the report has of others")
		rounds   = set.Int("rounds", 5, "rounds of each scenario")
		duration = set.Duration("duration", 1500*time.Millisecond, "of each round")
		warmup   = set.Duration("warmup", 400*time.Millisecond, "before each round")
		quick    = set.Bool("quick", false, "one short round of each: to try, not to measure")
		render   = set.Bool("render", false, "write report.md anew from report.json and notes.md, and measure nothing")
	)
	if err := set.Parse(args); err != nil {
		return err
	}
	if *quick {
		*rounds, *duration, *warmup = 1, 500*time.Millisecond, 200*time.Millisecond
	}
	match, err := regexp.Compile(*only)
	switch {
	case err != nil:
		return fmt.Errorf("flag -only: %w", err)
	case *rounds < 1 || *duration <= 0 || *warmup < 0:
		return errors.New("flags -rounds, -duration: must be positive")
	}
	store := results{dir: *out}
	if *render {
		r, err := store.read()
		if err != nil {
			return err
		}
		return store.write(r)
	}

	dir, err := os.MkdirTemp("", "waystone-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	abs, err := filepath.Abs(*root)
	if err != nil {
		return err
	}
	e, err := newEnv(dir, filepath.Join(abs, "bin"))
	if err != nil {
		return err
	}
	t := &tester{
		env: e, root: abs, duration: *duration, warmup: *warmup,
		o:   options{Rounds: *rounds, Duration: duration.String(), Warmup: warmup.String()},
		say: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}
	t.report = newReport(t)
	if *only != "" {
		if old, err := store.read(); err == nil {
			t.report.keep(old)
		}
	}
	return errors.Join(t.all(ctx, match), store.write(t.report), t.verdict(), e.close())
}

// all measures everything that matches.
func (t *tester) all(ctx context.Context, match *regexp.Regexp) error {
	b, err := t.env.startBackend(ctx)
	if err != nil {
		return err
	}
	todo := slices.DeleteFunc(scenarios(), func(s scenario) bool { return !match.MatchString(s.name) })
	rest := slices.DeleteFunc(readings(), func(r reading) bool { return !match.MatchString(r.name) })
	began := time.Now()
	for i, s := range todo {
		t.say("[%s] %d/%d %s: %s", time.Since(began).Round(time.Second), i+1, len(todo)+len(rest), s.name, s.title)
		m, err := t.run(ctx, &s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			t.problem("%s: %v", s.name, err)
		}
		t.report.put(m)
	}
	for i, r := range rest {
		t.say("[%s] %d/%d %s", time.Since(began).Round(time.Second), len(todo)+i+1, len(todo)+len(rest), r.name)
		figures, err := r.take(ctx, t)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for name, value := range figures {
			t.report.Figures[name] = figure{Value: value}
		}
		if err != nil {
			t.report.Figures[r.name] = figure{Failed: err.Error()}
			t.say("%s: %v", r.name, err)
		}
	}
	if err := b.end(); err != nil {
		t.problem("%v", err)
	}
	return nil
}

// verdict prints the table of targets, and fails if a system answered otherwise
// than it should have.
func (t *tester) verdict() error {
	fmt.Println(strings.TrimSpace(targetsTable(t.report)))
	if n := len(t.report.Problems); n > 0 {
		return fmt.Errorf("%d unexpected answers, leaks or deaths; they are in the report", n)
	}
	return nil
}

// results is where a report is kept.
type results struct{ dir string }

func (s results) path(name string) string { return filepath.Join(s.dir, name) }

func (s results) read() (*report, error) {
	text, err := os.ReadFile(s.path("report.json"))
	if err != nil {
		return nil, err
	}
	r := new(report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", s.path("report.json"), err)
	}
	return r, nil
}

func (s results) write(r *report) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	notes, err := os.ReadFile(s.path("notes.md"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return errors.Join(
		os.WriteFile(s.path("report.json"), append(text, '\n'), 0o644),
		os.WriteFile(s.path("report.md"), []byte(markdown(r, string(notes))), 0o644))
}
