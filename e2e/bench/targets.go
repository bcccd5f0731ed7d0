package main

import "fmt"

// A target is one line of what the project has promised itself.
type target struct {
	name  string // for notes
	title string
	of    string // what the limit is in: KiB, or another's
	limit float64
	least bool // the limit is a least rather than a most
	find  func(*report) finding
}

// A finding is what a report says about a target.
type finding struct {
	spread
	missing string // why there is none; "" if there is
	remark  string
}

// met reports whether a measured value is within the limit.
func (t *target) met(value float64) bool {
	if t.least {
		return value >= t.limit
	}
	return value <= t.limit
}

// targets returns the table.
func targets() []target {
	const (
		timesEnvoy = "× Envoy"
		timesPump  = "× HAProxy pump"
		timesH2    = "× HAProxy"
		timesTLS   = "× HAProxy tcp and TLS"
	)
	const cpu = "Waypoint CPU per request, "
	return []target{
		{"cpu-0-1k", cpu + "no content, 1,000/s", timesEnvoy, 0.35, false, cpuRatio("get-0-1k", envoy)},
		{"cpu-0-8k", cpu + "no content, 8,000/s", timesEnvoy, 0.35, false, cpuRatio("get-0-8k", envoy)},
		{"cpu-0-30k", cpu + "no content, 30,000/s", timesEnvoy, 0.35, false, cpuRatio("get-0-30k", envoy)},
		{"cpu-0-closed", cpu + "no content, closed loop", timesEnvoy, 0.35, false, cpuRatio("get-0-closed", envoy)},
		{"cpu-1k-1k", cpu + "1 KiB, 1,000/s", timesEnvoy, 0.35, false, cpuRatio("get-1k-1k", envoy)},
		{"cpu-1k-8k", cpu + "1 KiB, 8,000/s", timesEnvoy, 0.35, false, cpuRatio("get-1k-8k", envoy)},
		{"cpu-1k-30k", cpu + "1 KiB, 30,000/s", timesEnvoy, 0.35, false, cpuRatio("get-1k-30k", envoy)},
		{"cpu-1k-closed", cpu + "1 KiB, closed loop", timesEnvoy, 0.35, false, cpuRatio("get-1k-closed", envoy)},
		{"cpu-64k", cpu + "64 KiB", timesEnvoy, 0.5, false, cpuRatio("get-64k", envoy)},
		{"cpu-grpc", cpu + "gRPC unary, 8,000/s", timesEnvoy, 0.5, false, cpuRatio("grpc", envoy)},
		{"cpu-grpc-stream", cpu + "gRPC streams, a message, 8,000/s", timesEnvoy, 0.5, false, cpuRatio("grpc-stream", envoy)},
		{"p50", "Waypoint p50, 8,000/s", timesEnvoy, 0.7, false, ratioIn("get-0-8k", ours, envoy, p50Of)},
		{"p99", "Waypoint p99, 8,000/s", timesEnvoy, 0.7, false, ratioIn("get-0-8k", ours, envoy, p99Of)},
		{"p50-hot", "Waypoint p50, 8,000/s on 2 connections, 2 loops against 2 workers", timesEnvoy, 0.5, false, ratioIn("hot-2", ours, envoy, p50Of)},
		{"p99-hot", "Waypoint p99, 8,000/s on 2 connections, 2 loops against 2 workers", timesEnvoy, 0.5, false, ratioIn("hot-2", ours, envoy, p99Of)},
		{"pump-8k", cpu + "no content, 8,000/s", timesPump, 1.2, false, cpuRatio("get-0-8k", pump)},
		{"pump-closed", cpu + "no content, closed loop", timesPump, 4, false, cpuRatio("get-0-closed", pump)},
		{"pump-64k", cpu + "64 KiB", timesPump, 1.3, false, cpuRatio("get-64k", pump)},
		{"h2-8k", "HTTP/2 proxying, CPU per request, 8,000/s", timesH2, 1.2, false, ratioIn("h2-8k", ours+" h2 to h2", "haproxy h2 to h2", cpuOf)},
		{"h2-closed", "HTTP/2 proxying, CPU per request, saturated", timesH2, 1.5, false, ratioIn("h2-closed", ours+" h2 to h2", "haproxy h2 to h2", cpuOf)},
		{"tunnel-bulk", "Node tunnels, both ends, CPU per GB", timesTLS, 0.9, false, ratioIn("tunnel-bulk", ours, toTLS, cpuPerGBOf)},
		{"tunnel-ping", "Node tunnels, both ends, CPU per ping, 64 connections", timesTLS, 0.6, false, cpuRatio("tunnel-ping", toTLS)},
		{"allocations", "Allocations per request, 64 tunnels on 4 connections, closed loop", "", 0.1, false, allocationsIn("get-0-closed")},
		{"calls-1", "Reads and writes on connections per request, 1 tunnel", "", 4, false, movesIn("one")},
		{"calls-64", "Reads and writes on connections per request, 64 tunnels on 4 connections, closed loop", "", 0.3, false, movesIn("get-0-closed")},
		{"memory-tunnel", "Anonymous memory per idle tunnel", "KiB", 4.5, false, valueOf("idle-tunnels", ours)},
		{"memory-idle", "Anonymous memory of an idle waypoint", "MiB", 20, false, valueOf("idle", ours)},
		{"memory-envoy", "Anonymous memory of an idle waypoint", timesEnvoy, 0.5, false, quotient("idle", ours, "idle", envoy)},
		{"memory-ztunnel", "Anonymous memory of a node tunnel at 1,000 requests/s", "MiB", 12, false, valueOf("tunnel-memory", ours)},
		{"start", "Start to ready with 100 services in a file", "ms", 100, false, valueOf("start", ours)},
		{"handshakes", "New HBONE connections per CPU-second, both ends", "× crypto/tls alone", 0.9, true, quotient("handshakes", bare, "handshakes", ours)},
		{"fairness", "p99 of 63 connections beside one that sends 1 GiB", "× alone", 2, false, fairness},
		{"slow-readers", "Anonymous memory while 100 slow readers each have a 1 GiB response", "MiB", 64, false, valueOf("slow-readers", ours)},
	}
}

// cpuRatio is our CPU per request over another's.
func cpuRatio(scenario, other string) func(*report) finding {
	return ratioIn(scenario, ours, other, cpuOf)
}

// ratioIn compares two systems in one scenario. That one of them could not keep up
// with what was asked is remarked: its latency is then that of a queue that grows,
// and its CPU what a request costs when there is always another one.
func ratioIn(scenario, a, b string, of aspect) func(*report) finding {
	return func(r *report) finding {
		m := r.scenario(scenario)
		if m == nil {
			return finding{missing: "not measured"}
		}
		for _, name := range []string{a, b} {
			if one := m.of(name); one == nil || len(one.Samples) == 0 {
				return finding{missing: m.why(name)}
			}
		}
		var f finding
		ok := false
		if f.spread, ok = ratio(m.of(a).Samples, m.of(b).Samples, of); !ok {
			return finding{missing: "there is no round with both"}
		}
		for _, name := range []string{a, b} {
			if rate := over(m.of(name).Samples, rateOf).Median; behind(m.Asked, rate) {
				f.remark += fmt.Sprintf("%s did not keep up: %s/s. ", name, digits(rate))
			}
		}
		return f
	}
}

// behind reports whether a rate is less than was asked: by more than 2 %, which is
// the jitter of a short round.
func behind(asked int, rate float64) bool { return rate < 0.98*float64(asked) }

// oursIn returns our part of a scenario, or why there is none.
func oursIn(r *report, scenario string) (*measuredOne, string) {
	m := r.scenario(scenario)
	if m == nil {
		return nil, "not measured"
	}
	if one := m.of(ours); one != nil {
		return one, ""
	}
	return nil, m.why(ours)
}

func allocationsIn(scenario string) func(*report) finding {
	return func(r *report) finding {
		one, why := oursIn(r, scenario)
		switch {
		case one == nil:
			return finding{missing: why}
		case one.Allocs == nil:
			return finding{missing: "not counted"}
		}
		return finding{spread: spreadOf([]float64{*one.Allocs})}
	}
}

// movesIn are the reads and writes on connections, as our loops count them. Beside
// them stands what the kernel counts, which has the log and wake-ups in it.
func movesIn(scenario string) func(*report) finding {
	return func(r *report) finding {
		one, why := oursIn(r, scenario)
		switch {
		case one == nil:
			return finding{missing: why}
		case one.Moves == nil:
			return finding{missing: "not counted"}
		}
		f := finding{spread: spreadOf([]float64{*one.Moves}), remark: "system calls were not counted: " + one.NotCalled}
		if one.Calls != nil {
			reads, writes := one.Calls.moves()
			f.remark = fmt.Sprintf("the kernel counts %s, with the log and wake-ups", digits(reads+writes))
		}
		return f
	}
}

// valueOf is a system's figure as it is.
func valueOf(name, system string) func(*report) finding {
	return func(r *report) finding {
		f := r.figure(name)
		if f == nil {
			return finding{missing: "not measured"}
		}
		if len(f.Values[system]) == 0 {
			return finding{missing: f.why(system)}
		}
		return finding{spread: spreadOf(f.Values[system])}
	}
}

func (f *figure) why(system string) string {
	if text, ok := f.Failed[system]; ok {
		return text
	}
	return system + " was not part of it"
}

// quotient is one figure over another, round by round.
func quotient(name1, system1, name2, system2 string) func(*report) finding {
	return func(r *report) finding {
		above, below := valueOf(name1, system1)(r), valueOf(name2, system2)(r)
		switch {
		case above.missing != "":
			return above
		case below.missing != "":
			return below
		}
		var values []float64
		a, b := r.figure(name1).Values[system1], r.figure(name2).Values[system2]
		for i := range min(len(a), len(b)) {
			if b[i] > 0 {
				values = append(values, a[i]/b[i])
			}
		}
		if len(values) == 0 {
			return finding{missing: "there is nothing to divide by"}
		}
		return finding{spread: spreadOf(values)}
	}
}

// fairness is our p99 beside a busy connection over that alone. What the same is
// with nothing between is what the machine's cores are shared for.
func fairness(r *report) finding {
	const beside, alone = "fairness-beside", "fairness-alone"
	f := quotient(beside, ours, alone, ours)(r)
	for _, other := range []string{direct, pump, envoy} {
		if x := quotient(beside, other, alone, other)(r); f.missing == "" && x.missing == "" {
			f.remark += fmt.Sprintf("%s: %s. ", other, spreadText(x.spread))
		}
	}
	return f
}
