package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A tester puts systems under load and notes what comes of it.
type tester struct {
	env      *env
	root     string // the project's directory
	o        options
	duration time.Duration
	warmup   time.Duration
	report   *report
	say      func(format string, args ...any)
}

// A lane is one system of a scenario.
type lane struct {
	system
	running *running
	before  footprint
	one     measuredOne
	failed  error // the last round's, if it did
	out     bool  // has failed twice in a row, and is left alone
}

// systemsOf returns the systems that a scenario is about.
func (t *tester) systemsOf(s *scenario) []system {
	var all []system
	switch s.kind {
	case ofWaypoints:
		all = waypoints(t.env)
	case ofTunnels:
		all = tunnels(t.env)
	case ofProxies:
		all = slices.Concat(proxies(t.env)...)
	}
	if s.systems == nil {
		return all
	}
	return slices.DeleteFunc(all, func(x system) bool { return !slices.Contains(s.systems, x.name) })
}

// run measures one scenario: in each round every system once, beginning with
// another one each time, so that whatever changes with time changes for all. Then
// it looks at what the systems have left.
func (t *tester) run(ctx context.Context, s *scenario) (m measured, err error) {
	m = measured{Name: s.name, Title: s.title, Asked: s.rate, Bulk: s.bulk, Missing: map[string]string{}, Failed: map[string]string{}}
	e := t.env.with(s.loops)
	back, err := e.startBackend(ctx, s.kind)
	if err != nil {
		return m, err
	}
	lanes := t.start(ctx, e, s, &m)
	for round := range t.o.Rounds {
		for i := range lanes {
			if l := lanes[(i+round)%len(lanes)]; !l.out && ctx.Err() == nil {
				l.failed = t.round(ctx, e, s, l, round+1)
			}
		}
	}
	for _, l := range lanes {
		if s.calls && !l.out {
			t.count(ctx, e, s, l)
		}
		if err := wantNoLeaks(ctx, l.running, l.before); err != nil && ctx.Err() == nil {
			t.problem(s.name, "%s: %v", l.name, err)
		}
		t.report.Checked.Systems++
		if err := l.running.stop(); err != nil {
			t.problem(s.name, "%s: %v", l.name, err)
		}
		if l.failed != nil && (l.out || len(l.one.Samples) == 0) {
			m.Failed[l.name] = l.failed.Error()
		}
		m.Systems = append(m.Systems, l.one)
	}
	saw, err := back.end()
	t.report.Checked.Served += saw.Requests
	return m, errors.Join(err, ctx.Err())
}

// start starts the systems of a scenario.
func (t *tester) start(ctx context.Context, e *env, s *scenario, m *measured) (lanes []*lane) {
	for _, x := range t.systemsOf(s) {
		if why := x.missing(); why != "" {
			m.Missing[x.name] = why
			continue
		}
		t.note(x)
		running, err := x.start(ctx, e)
		if err != nil {
			m.Failed[x.name] = err.Error()
			t.problem(s.name, "%s: %v", x.name, err)
			continue
		}
		l := &lane{system: x, running: running, one: measuredOne{Name: x.name}}
		if l.before, err = footprintOf(running); err != nil {
			t.problem(s.name, "%s: %v", x.name, err)
		}
		lanes = append(lanes, l)
	}
	return lanes
}

// note keeps a system's version and what it lacks.
func (t *tester) note(x system) {
	if _, known := t.report.Lacks[x.name]; !known {
		t.report.Lacks[x.name] = x.lacks
		if version := x.version(); version != "" {
			t.report.Versions[x.name] = version
		}
	}
}

// problem notes what was not as it should be, with a scenario or a probe.
func (t *tester) problem(about, format string, args ...any) {
	p := problem{about, fmt.Sprintf(format, args...)}
	t.report.Problems = append(t.report.Problems, p)
	t.say("PROBLEM: %s", p)
}

// round is one round of one system. What went wrong is told, and the round does
// not count: a system that does not answer costs nothing.
func (t *tester) round(ctx context.Context, e *env, s *scenario, l *lane, round int) error {
	res, m, err := t.metered(ctx, e, s, l, nil)
	if err == nil && s.logged && round == t.o.Rounds {
		err = t.logged(ctx, l, res)
	}
	err = errors.Join(err, forget(l.running))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		t.problem(s.name, "%s, round %d: %v", l.name, round, err)
		l.out = l.failed != nil
		return err
	}
	x := sampleOf(res, m)
	x.Round = round
	if x.Late > 0 && l.name == ours {
		t.problem(s.name, "%s, round %d: %d requests were not answered in time", l.name, round, x.Late)
	}
	l.one.Samples = append(l.one.Samples, x)
	return nil
}

// metered has a load and a meter run, and returns an error for whatever was not as
// it should be.
func (t *tester) metered(ctx context.Context, e *env, s *scenario, l *lane, calls *tally) (*result, *meter, error) {
	m := startMeter(l.running.pids, calls)
	res, err := s.load(ctx, e, l.running, t.duration, t.warmup)
	return res, m, errors.Join(t.check(res, err), m.end())
}

// late are the kinds of requests that were not answered in time, because a system
// did not keep up with the rate: it was slow, but not wrong.
var late = []string{"unfinished", "not sent"}

// check reports answers that were not as they should be.
func (r *result) check() error {
	for kind := range r.Errors {
		if !slices.Contains(late, kind) {
			return fmt.Errorf("unexpected answers: %s", kinds(r.Errors))
		}
	}
	if r.Requests == 0 {
		return errors.New("nothing was answered")
	}
	return nil
}

// kinds lists errors by kind.
func kinds(errs map[string]int64) string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(errs)) {
		all = append(all, fmt.Sprintf("%s, %d times", kind, errs[kind]))
	}
	return strings.Join(all, "; ")
}

// logged checks that a log was kept of all of a round's requests: otherwise
// systems are compared that do not do the same.
func (t *tester) logged(ctx context.Context, l *lane, res *result) error {
	if l.running.access == "" {
		return nil
	}
	n, err := wantLines(ctx, l.running.access, res.Requests)
	t.report.Checked.Logged += min(n, res.Requests)
	return err
}
