package main

import (
	"cmp"
	"slices"
)

// A sample is one round of one system under one load. Whatever is "per request"
// is of the requests of the measured part.
type sample struct {
	Requests int64   `json:"requests"`
	Rate     float64 `json:"rate"` // requests per second
	CPU      float64 `json:"cpu"`  // µs per request, of the system alone
	CPUPerGB float64 `json:"cpuPerGB,omitempty"`
	Switches float64 `json:"switches"` // of threads that went to sleep, per request
	P50      float64 `json:"p50"`      // µs
	P90      float64 `json:"p90"`
	P99      float64 `json:"p99"`
	P999     float64 `json:"p999"`
	RSS      int64   `json:"rss"` // anonymous memory at its highest, bytes
}

// A spread is a median and what it is the median of lies between.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	return spread{Median: (s[(n-1)/2] + s[n/2]) / 2, Min: s[0], Max: s[n-1]}
}

// over returns one field of samples.
func over(samples []sample, field func(*sample) float64) spread {
	values := make([]float64, len(samples))
	for i := range samples {
		values[i] = field(&samples[i])
	}
	return spreadOf(values)
}

// ratio compares two systems round by round: what disturbs a round disturbs both.
func ratio(a, b []sample, field func(*sample) float64) (spread, bool) {
	var values []float64
	for i := range min(len(a), len(b)) {
		if below := field(&b[i]); below > 0 {
			values = append(values, field(&a[i])/below)
		}
	}
	return spreadOf(values), len(values) > 0
}

func cpuOf(s *sample) float64      { return s.CPU }
func cpuPerGBOf(s *sample) float64 { return s.CPUPerGB }
func p50Of(s *sample) float64      { return s.P50 }
func p99Of(s *sample) float64      { return s.P99 }

// A scenario is a load that several systems are put under in turn.
type scenario struct {
	name    string
	title   string
	kind    kind
	loops   int      // of each system; 0: 1
	flags   []string // of the generator
	systems []string // by name; nil: all of the kind
	bulk    bool     // CPU is also told per gigabyte of content
}

// A kind says which systems a scenario is about.
type kind uint8

const (
	ofWaypoints kind = iota
	ofTunnels
)

// What is compared with what.
const (
	ours   = "waystone"
	envoy  = "envoy"
	pump   = "haproxy pump"
	toTLS  = "haproxy tcp to TLS"
	direct = "no waypoint"
	plain  = "no tunnel"
)

// scenarios returns everything that is measured in rounds. The load is 64 tunnels
// on 4 connections where nothing else is said, on one loop, worker or thread.
func scenarios() []scenario {
	all := []scenario{}
	add := func(s scenario) { all = append(all, s) }
	for _, body := range []struct {
		name, title string
		flags       []string
	}{{"0", "no content", nil}, {"1k", "1 KiB responses", []string{"--size", "1KiB"}}} {
		for _, rate := range []struct {
			name, title string
			flags       []string
		}{
			{"1k", "1,000/s", []string{"--rate", "1000"}}, {"8k", "8,000/s", []string{"--rate", "8000"}},
			{"30k", "30,000/s", []string{"--rate", "30000"}}, {"closed", "closed loop", nil},
		} {
			add(scenario{name: "get-" + body.name + "-" + rate.name, title: "GET, " + body.title + ", " + rate.title, flags: slices.Concat(body.flags, rate.flags)})
		}
	}
	add(scenario{name: "get-64k", title: "GET, 64 KiB responses, 16 tunnels, closed loop", flags: []string{"--size", "64KiB", "--tunnels", "16"}})
	add(scenario{name: "get-1m", title: "GET, 1 MiB responses, 16 tunnels, closed loop", flags: []string{"--size", "1MiB", "--tunnels", "16"}})
	add(scenario{name: "post-64k", title: "POST, 64 KiB requests, 16 tunnels, closed loop", flags: []string{"--send", "64KiB", "--tunnels", "16"}})
	add(scenario{name: "grpc", title: "gRPC unary, 100 B each way, 8 calls at a time in 8 tunnels, 8,000/s", flags: []string{"--protocol", "grpc", "--tunnels", "8", "--concurrency", "8", "--size", "100", "--send", "100", "--rate", "8000"}})
	add(scenario{name: "grpc-stream", title: "gRPC streams, messages of 100 B each way, 64 streams, 8,000/s", flags: []string{"--protocol", "grpc-stream", "--tunnels", "8", "--concurrency", "8", "--size", "100", "--send", "100", "--rate", "8000"}})
	add(scenario{name: "websocket", title: "WebSocket, messages of 100 B each way, 8,000/s", flags: []string{"--protocol", "websocket", "--size", "100", "--send", "100", "--rate", "8000"}})
	add(scenario{name: "one", title: "GET, one tunnel, closed loop", flags: []string{"--conns", "1", "--tunnels", "1"}})
	add(scenario{name: "hot-2", title: "GET, 2 connections, 8,000/s, 2 loops or workers", loops: 2, flags: []string{"--conns", "2", "--rate", "8000"}})
	add(scenario{name: "tunnel-bulk", title: "Node tunnels: 64 MiB to and fro on one connection", kind: ofTunnels, bulk: true, flags: []string{"--protocol", "raw", "--tunnels", "1", "--conns", "1", "--size", "64MiB"}})
	add(scenario{name: "tunnel-ping", title: "Node tunnels: 100 B there and back, 64 connections, closed loop", kind: ofTunnels, flags: []string{"--protocol", "raw", "--tunnels", "64", "--conns", "64", "--size", "100", "--send", "100"}})
	return all
}

// measured is what came of a scenario.
type measured struct {
	Name    string             `json:"name"`
	Title   string             `json:"title"`
	Systems []measuredOne      `json:"systems"`
	Missing map[string]string  `json:"missing,omitempty"` // systems that were not run, and why
	Failed  map[string]string  `json:"failed,omitempty"`  // systems that failed, and how
	Calls   map[string]callsOf `json:"calls,omitempty"`   // system calls per request, by system
}

// callsOf is system calls per request by name.
type callsOf map[string]float64

type measuredOne struct {
	Name    string   `json:"name"`
	Samples []sample `json:"samples"`
}

// of returns a system's samples.
func (m *measured) of(name string) []sample {
	if i := slices.IndexFunc(m.Systems, func(o measuredOne) bool { return o.Name == name }); m != nil && i >= 0 {
		return m.Systems[i].Samples
	}
	return nil
}

// A figure is one number that is not from rounds.
type figure struct {
	Value  float64 `json:"value"`
	Failed string  `json:"failed,omitempty"` // why there is none
}

// A report is everything that a run has found.
type report struct {
	Date      string            `json:"date"`
	Machine   machine           `json:"machine"`
	Versions  map[string]string `json:"versions"`
	Lacks     map[string]string `json:"lacks"` // what systems leave out
	Options   options           `json:"options"`
	Scenarios []measured        `json:"scenarios"`
	Figures   map[string]figure `json:"figures"`
	Problems  []string          `json:"problems"` // unexpected answers, leaks, deaths
}

func (r *report) scenario(name string) *measured {
	if i := slices.IndexFunc(r.Scenarios, func(m measured) bool { return m.Name == name }); i >= 0 {
		return &r.Scenarios[i]
	}
	return nil
}

// options are what a run was told.
type options struct {
	Rounds   int    `json:"rounds"`
	Duration string `json:"duration"`
	Warmup   string `json:"warmup"`
}

// byName sorts scenarios as they are defined.
func byName(order []scenario) func(a, b measured) int {
	at := map[string]int{}
	for i, s := range order {
		at[s.name] = i
	}
	return func(a, b measured) int { return cmp.Compare(at[a.Name], at[b.Name]) }
}
