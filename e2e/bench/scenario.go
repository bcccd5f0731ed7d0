package main

import (
	"context"
	"strconv"
	"strings"
	"time"
)

// A scenario is a load that several systems are put under in turn.
type scenario struct {
	name, title string
	kind        kind
	loops       int    // of each system; 0: 1
	rate        int    // requests per second; 0: as many as can be, a closed loop
	flags       string // further flags of our generator
	h2          *h2load

	systems []string // by name; nil: all of the kind
	calls   bool     // system calls are counted, in a round of their own
	logged  bool     // each request has a line in the access log
	bulk    bool     // CPU is told by content, not by request
}

// A kind says which systems a scenario is about.
type kind uint8

const (
	ofWaypoints kind = iota
	ofTunnels
	ofProxies
)

// What is compared with what.
const (
	ours   = "waystone"
	envoy  = "envoy"
	pump   = "haproxy pump"
	toTLS  = "haproxy tcp to TLS"
	direct = "no waypoint"
)

// scenarios returns everything that is measured in rounds. The load is 64 tunnels
// on 4 connections where nothing else is said, on one loop, worker or thread.
func scenarios() []scenario {
	three, four := []string{ours, envoy, pump}, []string{ours, envoy, pump, direct}
	const (
		messages = "--size 100 --send 100"
		calls    = messages + " --tunnels 8 --concurrency 8 --protocol grpc"
	)
	all := []scenario{
		{name: "get-0-1k", title: "GET, no content, 1,000/s", rate: 1000, systems: four, calls: true, logged: true},
		{name: "get-0-8k", title: "GET, no content, 8,000/s", rate: 8000, systems: four, calls: true, logged: true},
		{name: "get-0-30k", title: "GET, no content, 30,000/s", rate: 30_000, systems: four, calls: true, logged: true},
		{name: "get-0-closed", title: "GET, no content, closed loop", systems: four, calls: true, logged: true},
		{name: "get-1k-1k", title: "GET, 1 KiB responses, 1,000/s", rate: 1000, flags: "--size 1KiB", systems: three, logged: true},
		{name: "get-1k-8k", title: "GET, 1 KiB responses, 8,000/s", rate: 8000, flags: "--size 1KiB", systems: three, logged: true},
		{name: "get-1k-30k", title: "GET, 1 KiB responses, 30,000/s", rate: 30_000, flags: "--size 1KiB", systems: three, logged: true},
		{name: "get-1k-closed", title: "GET, 1 KiB responses, closed loop", flags: "--size 1KiB", systems: three, logged: true},
		{name: "get-64k", title: "GET, 64 KiB responses, 16 tunnels, closed loop", flags: "--size 64KiB --tunnels 16", systems: three, calls: true, logged: true},
		{name: "get-1m", title: "GET, 1 MiB responses, 16 tunnels, closed loop", flags: "--size 1MiB --tunnels 16", systems: three, logged: true},
		{name: "post-1k", title: "POST, 1 KiB each way, 8,000/s", rate: 8000, flags: "--send 1KiB --size 1KiB", systems: three, logged: true},
		{name: "post-64k", title: "POST, 64 KiB requests, 16 tunnels, closed loop", flags: "--send 64KiB --tunnels 16", systems: three, logged: true},
		{name: "grpc", title: "gRPC unary, 100 B each way, 8 calls at a time in each of 8 tunnels, 8,000/s", rate: 8000, flags: calls, systems: three, calls: true, logged: true},
		{name: "grpc-closed", title: "gRPC unary, likewise, closed loop", flags: calls, systems: three, logged: true},
		{name: "grpc-stream", title: "gRPC streams, messages of 100 B each way, 8 streams in each of 8 tunnels, 8,000/s", rate: 8000, flags: calls + "-stream", systems: three, calls: true},
		{name: "grpc-stream-closed", title: "gRPC streams, likewise, closed loop", flags: calls + "-stream", systems: three},
		{name: "websocket", title: "WebSocket, messages of 100 B each way, 8,000/s", rate: 8000, flags: messages + " --protocol websocket", systems: three},
		{name: "one", title: "GET, one tunnel, closed loop", flags: "--conns 1 --tunnels 1", systems: four, calls: true, logged: true},
		{name: "hot-2", title: "GET, 2 connections, 8,000/s, 2 loops, workers or threads", rate: 8000, flags: "--conns 2", loops: 2, systems: four, logged: true},
		{name: "tunnel-bulk", title: "Node tunnels: 8 MiB after 8 MiB on one connection", flags: "--protocol raw --tunnels 1 --conns 1 --size 8MiB", kind: ofTunnels, calls: true, bulk: true},
		{name: "tunnel-ping", title: "Node tunnels: 100 B there and back on each of 64 connections, closed loop", flags: "--protocol raw --tunnels 64 --conns 64 " + messages, kind: ofTunnels, calls: true},
	}
	for _, group := range []struct {
		name, between, title string
		h2load
	}{
		{"h2", " h2 to h2", "HTTP/2 to HTTP/2, 4 connections with 16 streams", h2load{Clients: 4, Streams: 16}},
		{"h2-h1", " h2 to http1", "HTTP/2 to HTTP/1.1, 4 connections with 16 streams", h2load{Clients: 4, Streams: 16}},
		{"h1", " http1 to http1", "HTTP/1.1 to HTTP/1.1, 64 connections", h2load{Clients: 64}},
	} {
		group.Path = "/items-0"
		s := scenario{kind: ofProxies, h2: &group.h2load, systems: []string{ours + group.between, "haproxy" + group.between, "nginx" + group.between}}
		s.name, s.title, s.rate = group.name+"-8k", "Reverse proxy, "+group.title+", 8,000/s by h2load", 8000
		all = append(all, s)
		s.name, s.title, s.rate = group.name+"-closed", "Reverse proxy, "+group.title+", as many as h2load can", 0
		all = append(all, s)
	}
	return all
}

// load puts a running system under it for a while, after another.
func (s *scenario) load(ctx context.Context, e *env, r *running, duration, warmup time.Duration) (*result, error) {
	if s.h2 != nil {
		return s.h2load(ctx, e, r, duration)
	}
	flags := append(strings.Fields(s.flags), "--rate", strconv.Itoa(s.rate), "--duration", duration.String(), "--warmup", warmup.String())
	return e.load(ctx, r, flags...)
}

// h2load has no warm-up: what counts is from the first request on, with the
// handshakes before it.
func (s *scenario) h2load(ctx context.Context, e *env, r *running, duration time.Duration) (*result, error) {
	h := *s.h2
	h.Rate, h.Duration, h.Times = s.rate, duration, s.rate > 0 // timing is for when there is time
	start := time.Now()
	x, err := h.run(ctx, e, r)
	if err != nil {
		return nil, err
	}
	res := &result{Start: start, Seconds: time.Since(start).Seconds(), Requests: int64(x.Requests), Rate: float64(x.Requests) / max(x.Seconds, 1e-9)}
	res.Latency.P50, res.Latency.P99 = micros(x.P50), micros(x.P99)
	if x.Failed > 0 {
		res.Errors = map[string]int64{"not 2xx": int64(x.Failed)}
	}
	return res, nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
