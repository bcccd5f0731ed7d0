package main

import "slices"

// A sample is one round of one system under one load. Whatever is per request is
// of the requests of the measured part.
type sample struct {
	Round    int     `json:"round"` // from 1
	Requests int64   `json:"requests"`
	Rate     float64 `json:"rate"` // requests per second

	// Of the system alone.
	CPU       float64 `json:"cpu"` // µs per request
	User      float64 `json:"user"`
	Kernel    float64 `json:"kernel"`
	CPUPerGB  float64 `json:"cpuPerGB"`  // s, of content either way; 0 without any
	Waits     float64 `json:"waits"`     // times a thread went to sleep, per request
	Preempted float64 `json:"preempted"` // times one had to make room, per request
	Faults    float64 `json:"faults"`    // of pages, per request
	Memory    float64 `json:"memory"`    // anonymous and resident, at its highest, bytes

	// Latency, µs, as the generator saw it.
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`

	Late      int64   `json:"late"`      // requests that were not answered in time; see late
	Generator float64 `json:"generator"` // its CPU, µs per request; 0: not known
}

// A spread is a median and what it is the median of lies between.
type spread struct {
	Median, Min, Max float64
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	return spread{Median: (s[(n-1)/2] + s[n/2]) / 2, Min: s[0], Max: s[n-1]}
}

// An aspect is one number of a sample.
type aspect func(*sample) float64

func cpuOf(s *sample) float64      { return s.CPU }
func cpuPerGBOf(s *sample) float64 { return s.CPUPerGB }
func rateOf(s *sample) float64     { return s.Rate }
func p50Of(s *sample) float64      { return s.P50 }
func p90Of(s *sample) float64      { return s.P90 }
func p99Of(s *sample) float64      { return s.P99 }
func p999Of(s *sample) float64     { return s.P999 }

// over returns one aspect of samples.
func over(samples []sample, of aspect) spread {
	values := make([]float64, len(samples))
	for i := range samples {
		values[i] = of(&samples[i])
	}
	return spreadOf(values)
}

// ratio compares two systems round by round, because what disturbs a round
// disturbs both, and reports whether there was a round with both.
func ratio(a, b []sample, of aspect) (spread, bool) {
	var values []float64
	for i := range a {
		j := slices.IndexFunc(b, func(s sample) bool { return s.Round == a[i].Round })
		if j < 0 {
			continue
		}
		if below := of(&b[j]); below > 0 {
			values = append(values, of(&a[i])/below)
		}
	}
	return spreadOf(values), len(values) > 0
}

// sampleOf puts together what the generator and the meter saw.
func sampleOf(res *result, m *meter) sample {
	from, to := res.Start, res.end()
	used := m.between(from, to)
	n := float64(res.Requests)
	per := func(x float64) float64 { return x / n }
	x := sample{
		Requests: res.Requests, Rate: res.Rate,
		CPU:   per(used[cpuTime] * 1e6),
		Waits: per(used[waits]), Preempted: per(used[preempted]), Faults: per(used[faults]),
		Memory: m.peak(from, to),
		P50:    res.Latency.P50, P90: res.Latency.P90, P99: res.Latency.P99, P999: res.Latency.P999,
		Generator: per(res.CPUSeconds * 1e6),
	}
	for _, kind := range late {
		x.Late += res.Errors[kind]
	}
	// The ticks say how the time divides, the clock how much it is.
	if ticks := used[userTime] + used[kernelTime]; ticks > 0 {
		x.User = x.CPU * used[userTime] / ticks
		x.Kernel = x.CPU - x.User
	}
	if bytes := res.BytesReceived + res.BytesSent; bytes > 0 {
		x.CPUPerGB = used[cpuTime] / (float64(bytes) / 1e9)
	}
	return x
}
