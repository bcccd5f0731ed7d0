package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	samples []sample
	failed  error
}

// systemsOf returns the systems that a scenario is about.
func (t *tester) systemsOf(s *scenario) []system {
	all := waypoints(t.env)
	if s.kind == ofTunnels {
		all = tunnels(t.env)
	}
	if s.systems == nil {
		return all
	}
	return slices.DeleteFunc(all, func(x system) bool { return !slices.Contains(s.systems, x.name) })
}

// run measures one scenario: in each round every system once, beginning with
// another one each time, so that whatever changes with time changes for all.
func (t *tester) run(ctx context.Context, s *scenario) (m measured, err error) {
	m = measured{Name: s.name, Title: s.title, Missing: map[string]string{}, Failed: map[string]string{}}
	e := t.env.with(s.loops)
	var lanes []*lane
	defer func() {
		for _, l := range lanes {
			err = errors.Join(err, l.running.stop())
		}
	}()
	for _, x := range t.systemsOf(s) {
		t.note(x)
		if why := x.missing(); why != "" {
			m.Missing[x.name] = why
			continue
		}
		running, err := x.start(ctx, e)
		if err != nil {
			m.Failed[x.name] = err.Error()
			continue
		}
		lanes = append(lanes, &lane{system: x, running: running})
	}
	for round := range t.o.Rounds {
		for i := range lanes {
			l := lanes[(i+round)%len(lanes)]
			if l.failed != nil {
				continue
			}
			if ctx.Err() != nil {
				return m, ctx.Err()
			}
			sample, err := t.round(ctx, e, l.running, s)
			if err != nil {
				l.failed = err
				t.problem("%s, %s, round %d: %v", s.name, l.name, round+1, err)
				continue
			}
			l.samples = append(l.samples, sample)
		}
	}
	for _, l := range lanes {
		if l.failed != nil {
			m.Failed[l.name] = l.failed.Error()
		}
		m.Systems = append(m.Systems, measuredOne{l.name, l.samples})
	}
	return m, nil
}

// note keeps a system's version and what it lacks.
func (t *tester) note(x system) {
	if _, known := t.report.Versions[x.name]; !known && x.missing() == "" {
		t.report.Versions[x.name] = x.version()
		t.report.Lacks[x.name] = x.lacks
	}
}

func (t *tester) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	t.report.Problems = append(t.report.Problems, text)
	t.say("PROBLEM: %s", text)
}

// round is one round of one system.
func (t *tester) round(ctx context.Context, e *env, r *running, s *scenario) (sample, error) {
	m := startMeter(r.pids)
	res, err := e.load(ctx, r, append([]string{"--duration", t.duration.String(), "--warmup", t.warmup.String()}, s.flags...)...)
	if err = errors.Join(err, m.end()); err != nil {
		return sample{}, err
	}
	return sampleOf(res, m, s.bulk)
}

// sampleOf puts together what the generator and the meter saw. What went wrong
// is an error: a system that does not answer costs nothing.
func sampleOf(res *result, m *meter, bulk bool) (sample, error) {
	if len(res.Errors) > 0 {
		return sample{}, fmt.Errorf("unexpected answers: %s", counts(res.Errors))
	}
	if res.Requests == 0 {
		return sample{}, errors.New("nothing was answered")
	}
	from, to := m.at(res.Start), m.at(res.end())
	n := float64(res.Requests)
	x := sample{
		Requests: res.Requests, Rate: res.Rate,
		P50: res.Latency.P50, P90: res.Latency.P90, P99: res.Latency.P99, P999: res.Latency.P999,
		CPU:      float64((to.CPU - from.CPU).Nanoseconds()) / 1e3 / n,
		Switches: float64(to.Switches-from.Switches) / n,
		RSS:      m.peak(res.Start, res.end()),
	}
	if bulk {
		x.CPUPerGB = (to.CPU - from.CPU).Seconds() / (float64(res.BytesReceived+res.BytesSent) / 1e9)
	}
	return x, nil
}

// counts lists errors by kind.
func counts(errs map[string]int64) string {
	text := ""
	for _, kind := range slices.Sorted(maps.Keys(errs)) {
		text += fmt.Sprintf(" %s ×%d", kind, errs[kind])
	}
	return text[1:]
}
