package main

import "fmt"

// A target is one line of what the project has promised itself.
type target struct {
	name  string
	of    string // what it is measured in: "×" of something else's, KiB, …
	limit float64
	least bool // the limit is a least rather than a most
	find  func(*report) (spread, bool)
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
	var all []target
	add := func(limit float64, name, of string, find func(*report) (spread, bool)) {
		all = append(all, target{name: name, of: of, limit: limit, find: find})
	}
	cpuOver := func(scenario, other string) func(*report) (spread, bool) {
		return ratioIn(scenario, ours, other, cpuOf)
	}
	for _, body := range []string{"0", "1k"} {
		for _, rate := range []string{"1k", "8k", "30k", "closed"} {
			add(0.35, fmt.Sprintf("CPU per request, %s content, %s", bodies[body], rates[rate]), "× Envoy", cpuOver("get-"+body+"-"+rate, envoy))
		}
	}
	add(0.5, "CPU per request, 64 KiB responses", "× Envoy", cpuOver("get-64k", envoy))
	add(0.5, "CPU per request, gRPC unary", "× Envoy", cpuOver("grpc", envoy))
	add(0.5, "CPU per message, gRPC streams", "× Envoy", cpuOver("grpc-stream", envoy))
	for _, s := range []struct{ name, title string }{{"get-0-8k", "8,000/s"}, {"hot-2", "8,000/s on 2 connections, 2 loops against 2 workers"}} {
		add(0.7, "p50, "+s.title, "× Envoy", ratioIn(s.name, ours, envoy, p50Of))
		add(0.5, "p99, "+s.title, "× Envoy", ratioIn(s.name, ours, envoy, p99Of))
	}
	add(1.2, "CPU per request, no content, 8,000/s", "× HAProxy pump", cpuOver("get-0-8k", pump))
	add(4, "CPU per request, no content, closed loop", "× HAProxy pump", cpuOver("get-0-closed", pump))
	add(1.3, "CPU per request, 64 KiB responses", "× HAProxy pump", cpuOver("get-64k", pump))
	add(1.2, "HTTP/2 proxying, CPU per request, 8,000/s", "× HAProxy", value("h2-8k"))
	add(1.5, "HTTP/2 proxying, CPU per request, saturated", "× HAProxy", value("h2-closed"))
	add(0.9, "node tunnels, both ends, CPU per GB", "× HAProxy tcp and TLS", ratioIn("tunnel-bulk", ours, toTLS, cpuPerGBOf))
	add(0.6, "node tunnels, CPU per ping, 64 connections", "× HAProxy tcp and TLS", ratioIn("tunnel-ping", ours, toTLS, cpuOf))
	add(0.1, "allocations per request, 64 tunnels on 4 connections, closed loop", "", value("allocations"))
	add(4, "reads and writes per request, 1 tunnel", "", value("calls-one"))
	add(0.3, "reads and writes per request, 64 tunnels on 4 connections, closed loop", "", value("calls-64"))
	add(4.5, "anonymous memory per idle tunnel, 10,000 on 10 connections", "KiB", value("idle-tunnel"))
	add(20, "anonymous memory of an idle waypoint", "MiB", value("idle"))
	add(0.5, "anonymous memory of an idle waypoint", "× Envoy", quotient("idle", "idle-envoy"))
	add(12, "anonymous memory of a node tunnel at 1,000 requests/s", "MiB", value("tunnel-memory"))
	add(100, "start to ready with 100 services from files", "ms", value("start"))
	all = append(all, target{name: "new HBONE connections per CPU-second, both ends", of: "× crypto/tls alone", limit: 0.9, least: true, find: value("handshakes")})
	add(2, "p99 of 63 connections with small requests beside one that sends 1 GiB", "× alone", value("fairness"))
	add(64, "memory while 100 slow readers each have a 1 GiB response", "MiB", value("slow-readers"))
	return all
}

var (
	bodies = map[string]string{"0": "no", "1k": "1 KiB"}
	rates  = map[string]string{"1k": "1,000/s", "8k": "8,000/s", "30k": "30,000/s", "closed": "closed loop"}
)

// ratioIn compares two systems in one scenario.
func ratioIn(scenario, a, b string, field func(*sample) float64) func(*report) (spread, bool) {
	return func(r *report) (spread, bool) {
		m := r.scenario(scenario)
		if m == nil {
			return spread{}, false
		}
		return ratio(m.of(a), m.of(b), field)
	}
}

// value is a figure as it is.
func value(name string) func(*report) (spread, bool) {
	return func(r *report) (spread, bool) {
		f, ok := r.Figures[name]
		return spread{f.Value, f.Value, f.Value}, ok && f.Failed == ""
	}
}

// quotient is one figure over another.
func quotient(a, b string) func(*report) (spread, bool) {
	return func(r *report) (spread, bool) {
		above, ok1 := value(a)(r)
		below, ok2 := value(b)(r)
		if !ok1 || !ok2 || below.Median == 0 {
			return spread{}, false
		}
		q := above.Median / below.Median
		return spread{q, q, q}, true
	}
}
