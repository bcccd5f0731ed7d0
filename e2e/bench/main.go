// Command bench measures our proxies and what people would deploy instead, side by side
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
	if err := bench(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A command is what the flags say.
type command struct {
	root, bin, out   string
	only             *regexp.Regexp // nil: everything
	rounds           int
	duration, warmup time.Duration
	quick            bool
	render           string
}

func parse(args []string) (*command, error) {
	set := flag.NewFlagSet("bench", flag.ContinueOnError)
	c := new(command)
	set.StringVar(&c.root, "root", "..", "the project's directory")
	set.StringVar(&c.bin, "bin", "", "the directory of our programs (default bin in the project's directory)")
	set.StringVar(&c.out, "out", "bench/results", "the directory for report.md and report.json, and where notes.md is")
	set.IntVar(&c.rounds, "rounds", 5, "rounds of each scenario")
	set.DurationVar(&c.duration, "duration", 1500*time.Millisecond, "of each round")
	set.DurationVar(&c.warmup, "warmup", 400*time.Millisecond, "before each round")
	set.BoolVar(&c.quick, "quick", false, "one short round of each: to try, not to measure")
	set.StringVar(&c.render, "render", "", "write report.md anew from this report.json and the notes.md beside it, and measure nothing")
	only := set.String("only", "", "measure the scenarios and figures whose names match this regular expression alone, and keep what the report has of others")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if c.quick {
		c.rounds, c.duration, c.warmup = 1, 500*time.Millisecond, 200*time.Millisecond
	}
	if c.rounds < 1 || c.duration <= 0 || c.warmup < 0 {
		return nil, errors.New("flags -rounds, -duration and -warmup: there must be something to measure")
	}
	var err error
	if *only != "" {
		if c.only, err = regexp.Compile(*only); err != nil {
			return nil, fmt.Errorf("flag -only: %w", err)
		}
	}
	if c.root, err = filepath.Abs(c.root); err != nil {
		return nil, err
	}
	if c.bin == "" {
		c.bin = filepath.Join(c.root, "bin")
	}
	c.bin, err = filepath.Abs(c.bin)
	return c, err
}

// wants reports whether something of a name is to be measured.
func (c *command) wants(name string) bool { return c.only == nil || c.only.MatchString(name) }

func bench(ctx context.Context, args []string) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	if c.render != "" {
		return again(c.render)
	}
	dir, err := os.MkdirTemp("", "waystone-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	e, err := newEnv(dir, c.bin)
	if err != nil {
		return err
	}
	t := &tester{
		env: e, root: c.root, duration: c.duration, warmup: c.warmup,
		o:   options{Rounds: c.rounds, Duration: c.duration.String(), Warmup: c.warmup.String(), Quick: c.quick},
		say: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}
	t.report = newReport(t)
	store := results{dir: c.out}
	if c.only != nil {
		if old, err := store.read(); err == nil {
			t.report.keep(old, c.wants)
		}
	}
	if err := errors.Join(t.all(ctx, c), e.close()); ctx.Err() != nil {
		return errors.Join(errors.New("interrupted: nothing is written"), err)
	} else if err != nil {
		t.problem("everything", "%v", err)
	}
	return errors.Join(store.write(t.report), t.verdict())
}

// again writes a page from numbers that there are.
func again(path string) error {
	if filepath.Base(path) != "report.json" {
		return errors.New("flag -render: the file must be called report.json")
	}
	store := results{dir: filepath.Dir(path)}
	r, err := store.read()
	if err != nil {
		return err
	}
	return store.render(r)
}

// newReport returns an empty report about this machine.
func newReport(t *tester) *report {
	r := &report{
		Date: time.Now().UTC().Truncate(time.Second), Commit: "unknown", Machine: thisMachine(), Options: t.o,
		Versions: map[string]string{}, Lacks: map[string]string{}, Problems: []problem{},
	}
	if text, err := run("git", "-C", t.root, "describe", "--always", "--dirty"); err == nil {
		r.Commit = strings.TrimSpace(text)
	}
	return r
}

// A step is a scenario or a probe, as far as progress is concerned.
type step struct {
	name, title string
	takes       time.Duration
	run         func(context.Context) error
}

// all measures everything that is wanted.
func (t *tester) all(ctx context.Context, c *command) error {
	steps := slices.DeleteFunc(t.steps(), func(s step) bool { return !c.wants(s.name) })
	if len(steps) == 0 {
		return errors.New("flag -only: nothing is called that")
	}
	p := plan{began: time.Now()}
	for _, s := range steps {
		p.planned += s.takes
	}
	for i, s := range steps {
		t.say("%2d/%d  about %s left  %s: %s", i+1, len(steps), p.left(time.Now()).Round(10*time.Second), s.name, s.title)
		err := s.run(ctx)
		t.report.Took = time.Since(p.began).Seconds()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			t.problem(s.name, "%v", err)
		}
		p.done += s.takes
	}
	return nil
}

func (t *tester) steps() (all []step) {
	each := t.duration + t.warmup + overhead
	for _, s := range scenarios() {
		lanes := time.Duration(len(t.systemsOf(&s)))
		rounds := time.Duration(t.o.Rounds)
		if s.calls {
			rounds++
		}
		all = append(all, step{s.name, s.title, lanes*rounds*each + lanes*overhead, func(ctx context.Context) error {
			m, err := t.run(ctx, &s)
			if ctx.Err() == nil {
				t.report.put(m)
			}
			return err
		}})
	}
	for _, p := range probes() {
		all = append(all, step{p.name, p.title, time.Duration(p.rounds(t)) * p.round, func(ctx context.Context) error {
			figures, err := p.run(ctx, t)
			for _, f := range figures {
				t.report.add(f)
			}
			return err
		}})
	}
	return all
}

// verdict prints the table of targets, and fails if a system answered otherwise
// than it should have.
func (t *tester) verdict() error {
	fmt.Print(targetsTable(t.report))
	if n := len(t.report.Problems); n > 0 {
		return fmt.Errorf("%d unexpected answers, leaks, deaths or other failures: see the report", n)
	}
	return nil
}
