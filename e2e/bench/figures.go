package main

import (
	"context"
	"errors"
	"time"
)

// A probe is something that is measured otherwise than by scenarios, and yields
// figures.
type probe struct {
	name, title string
	round       time.Duration // what one takes, about
	rounds      func(*tester) int
	run         func(context.Context, *tester) ([]figure, error)
}

// probes returns all of them, in the order in which they are run.
func probes() []probe {
	return []probe{
		{"idle", "memory of idle waypoints", 19 * time.Second, (*tester).memoryRounds, probeIdle},
		{"idle-tunnels", "memory of 10,000 idle tunnels", 35 * time.Second, (*tester).memoryRounds, probeIdleTunnels},
		{"tunnel-memory", "memory of node tunnels at 1,000 requests/s", 10 * time.Second, (*tester).memoryRounds, probeTunnelMemory},
		{"slow-readers", "memory while 100 slow readers read", 17 * time.Second, (*tester).memoryRounds, probeSlowReaders},
		{"start", "start to ready", time.Second, (*tester).rounds, probeStart},
		{"handshakes", "new connections", 4 * time.Second, (*tester).rounds, probeHandshakes},
		{"fairness", "63 connections beside a busy one", 32 * time.Second, (*tester).rounds, probeFairness},
	}
}

func (t *tester) rounds() int { return t.o.Rounds }

const (
	kib = 1 << 10
	mib = 1 << 20
)

// newFigure returns an empty one.
func newFigure(name, unit, title string) figure {
	return figure{Name: name, Title: title, Unit: unit, Values: map[string][]float64{}, Failed: map[string]string{}}
}

// add adds a round's value.
func (f *figure) add(system string, value float64) {
	f.Values[system] = append(f.Values[system], value)
}

// A course is what systems are put through for some figures: in each round each of
// them, started anew.
type course struct {
	e       *env
	kind    kind
	systems []system
	rounds  int
	do      func(context.Context, *running) ([]float64, error) // a value for each figure
}

// run returns a probe's figures with the values added. A system that fails, or is
// not there, has none; unless it is not there, that is a problem.
func (c *course) run(ctx context.Context, t *tester, about string, figures ...figure) ([]figure, error) {
	for round := range c.rounds {
		for i := range c.systems {
			x := c.systems[(i+round)%len(c.systems)]
			if _, failed := figures[0].Failed[x.name]; failed {
				continue
			}
			values, err := c.once(ctx, t, x)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			for i := range figures {
				figures[i].put(x.name, values, i, err)
			}
			if err != nil && x.missing() == "" {
				t.problem(about, "%s, round %d: %v", x.name, round+1, err)
			}
		}
	}
	return figures, nil
}

// put adds the i-th of the values of a round; or has none at all, for an error.
func (f *figure) put(system string, values []float64, i int, err error) {
	if err != nil {
		f.Failed[system] = err.Error()
		delete(f.Values, system)
		return
	}
	f.add(system, values[i])
}

// once starts a system and what it leads to.
func (c *course) once(ctx context.Context, t *tester, x system) (values []float64, err error) {
	if why := x.missing(); why != "" {
		return nil, errors.New(why)
	}
	t.note(x)
	back, err := c.e.startBackend(ctx, c.kind)
	if err != nil {
		return nil, err
	}
	r, err := x.start(ctx, c.e)
	if err == nil {
		values, err = c.do(ctx, r)
		err = errors.Join(err, forget(r), r.stop())
	}
	saw, berr := back.end()
	t.report.Checked.Served += saw.Requests
	return values, errors.Join(err, berr)
}

// one is a course for one figure.
func one(f func(context.Context, *running) (float64, error)) func(context.Context, *running) ([]float64, error) {
	return func(ctx context.Context, r *running) ([]float64, error) {
		x, err := f(ctx, r)
		return []float64{x}, err
	}
}

// checkedLoad is a load, all of whose answers must be as they should.
func (t *tester) checkedLoad(ctx context.Context, e *env, r *running, flags ...string) (*result, error) {
	res, err := e.load(ctx, r, flags...)
	return res, t.check(res, err)
}

// check reports what was not as it should be, and counts what was.
func (t *tester) check(res *result, err error) error {
	if err == nil {
		err = res.check()
	}
	if err == nil {
		t.report.Checked.Requests += res.Requests
		t.report.Checked.Bytes += res.BytesReceived + res.BytesSent
	}
	return err
}
