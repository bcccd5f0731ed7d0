package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// settled is how long a process is left alone before its idle memory is read: 6 s,
// in which ours looks twice whether there is memory to give back.
const settled = 6 * time.Second

// memoryRounds is how often memory is measured: it hardly differs between rounds.
func (t *tester) memoryRounds() int { return min(t.o.Rounds, 3) }

// memoryOf returns the anonymous memory of a system that is idle, bytes.
func memoryOf(ctx context.Context, r *running) (float64, error) {
	if err := pause(ctx, settled); err != nil {
		return 0, err
	}
	u, err := read(r.pids, nil)
	return u.rss, err
}

// probeIdle is the memory of waypoints that nobody uses.
func probeIdle(ctx context.Context, t *tester) ([]figure, error) {
	c := course{e: t.env, rounds: t.memoryRounds(), systems: []system{waystoneWaypoint(t.env), envoyWaypoint(), haproxyPump()}}
	c.do = one(func(ctx context.Context, r *running) (float64, error) {
		bytes, err := memoryOf(ctx, r)
		return bytes / mib, err
	})
	return c.run(ctx, t, "idle", newFigure("idle", "MiB", "Anonymous memory of an idle waypoint"))
}

// probeIdleTunnels is the memory of 10,000 tunnels on 10 connections that have had
// one request each and are open: what they add to an idle waypoint, over their
// number. Envoy has a tenth of them: it takes 100 on a connection, and begins a
// connection upstream for nearly every one of those that come at once.
func probeIdleTunnels(ctx context.Context, t *tester) ([]figure, error) {
	f := newFigure("idle-tunnels", "KiB", "Anonymous memory for each of 10,000 idle tunnels (Envoy: 1,000) on 10 connections, less that of an idle waypoint")
	e := t.env.with(1)
	e.args = []string{"--max-streams", "1000", "--pool-max-streams", "1000"} // by default 200 and 100
	c := course{e: e, rounds: t.memoryRounds(), systems: []system{waystoneWaypoint(e)}, do: one(t.idleTunnels(e, 10_000))}
	figures, err := c.run(ctx, t, "idle-tunnels", f)
	if err != nil {
		return nil, err
	}
	c = course{e: e, rounds: t.memoryRounds(), systems: []system{envoyWaypoint()}, do: one(t.idleTunnels(e, 1000))}
	return c.run(ctx, t, "idle-tunnels", figures...)
}

func (t *tester) idleTunnels(e *env, tunnels int) func(context.Context, *running) (float64, error) {
	const hold = settled + time.Second // and a second to look
	return func(ctx context.Context, r *running) (float64, error) {
		idle, err := memoryOf(ctx, r)
		if err != nil {
			return 0, err
		}
		m := startMeter(r.pids, nil)
		res, err := t.checkedLoad(ctx, e, r, "--hold", "--tunnels", strconv.Itoa(tunnels), "--conns", "10", "--duration", hold.String())
		if err = errors.Join(err, m.end()); err != nil {
			return 0, err
		}
		held := m.peak(res.end().Add(-time.Second), res.end().Add(-metered))
		return (held - idle) / float64(tunnels) / kib, nil
	}
}

// probeTunnelMemory is the memory of the larger of two node tunnels under 1,000
// requests a second.
func probeTunnelMemory(ctx context.Context, t *tester) ([]figure, error) {
	c := course{e: t.env, kind: ofTunnels, rounds: t.memoryRounds(), systems: []system{waystoneTunnels(t.env), haproxyTunnels()}}
	c.do = one(func(ctx context.Context, r *running) (float64, error) {
		m := startMeter(r.pids, nil)
		_, err := t.checkedLoad(ctx, c.e, r, "--rate", "1000", "--size", "1KiB", "--duration", "3s")
		if err = errors.Join(err, m.end()); err != nil {
			return 0, err
		}
		return m.most() / mib, nil
	})
	return c.run(ctx, t, "tunnel-memory", newFigure("tunnel-memory", "MiB",
		"Anonymous memory of a node tunnel, the larger of two, at its highest under 1,000 requests/s of 1 KiB on 64 connections"))
}

// probeSlowReaders is the most memory that a waypoint has while 100 tunnels each
// read 64 KiB a second of a response of 1 GiB.
func probeSlowReaders(ctx context.Context, t *tester) ([]figure, error) {
	c := course{e: t.env, rounds: t.memoryRounds(), systems: []system{waystoneWaypoint(t.env), envoyWaypoint(), haproxyPump()}}
	c.do = one(func(ctx context.Context, r *running) (float64, error) {
		m := startMeter(r.pids, nil)
		res, err := c.e.load(ctx, r, "--tunnels", "100", "--conns", "10", "--size", "1GiB", "--read-rate", "64KiB", "--warmup", "0s", "--duration", "4s")
		if err = errors.Join(err, m.end()); err == nil {
			err = res.checkSlow()
		}
		if err != nil {
			return 0, err
		}
		return m.most() / mib, nil
	})
	return c.run(ctx, t, "slow-readers", newFigure("slow-readers", "MiB",
		"Anonymous memory at its highest, while 100 tunnels on 10 connections read 64 KiB/s each of a response of 1 GiB"))
}

// checkSlow reports what must not happen to responses that never end: anything
// but that they are unfinished.
func (r *result) checkSlow() error {
	for kind := range r.Errors {
		if kind != "unfinished" {
			return fmt.Errorf("unexpected answers: %s", kinds(r.Errors))
		}
	}
	return nil
}
