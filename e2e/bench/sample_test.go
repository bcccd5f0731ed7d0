package main

import (
	"math"
	"testing"
	"time"
)

func TestSpread(t *testing.T) {
	for _, row := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{9, 1, 2}, spread{2, 1, 9}},
		{[]float64{8, 1, 2, 4}, spread{3, 1, 8}},
	} {
		if got := spreadOf(row.values); got != row.want {
			t.Errorf("%v: got %v, want %v", row.values, got, row.want)
		}
	}
}

// TestRatio has one system disturbed in one round and the other in another: the
// median of ratios is not the ratio of medians.
func TestRatio(t *testing.T) {
	a := []sample{{Round: 1, CPU: 10}, {Round: 2, CPU: 30}, {Round: 3, CPU: 12}}
	b := []sample{{Round: 3, CPU: 40}, {Round: 1, CPU: 100}, {Round: 4, CPU: 1}, {Round: 2, CPU: 60}}
	got, ok := ratio(a, b, cpuOf)
	if want := (spread{0.3, 0.1, 0.5}); !ok || math.Abs(got.Median-want.Median)+math.Abs(got.Min-want.Min)+math.Abs(got.Max-want.Max) > 1e-9 {
		t.Errorf("got %v, %v, want %v", got, ok, want)
	}
	if got, ok := ratio(a, []sample{{Round: 9, CPU: 1}, {Round: 2}}, cpuOf); ok {
		t.Errorf("of no round: got %v", got)
	}
}

// TestSampleOf has a generator whose measured part is from 1 s to 3 s, between
// readings.
func TestSampleOf(t *testing.T) {
	epoch := time.Unix(1000, 0)
	at := func(s float64) time.Time { return epoch.Add(time.Duration(s * float64(time.Second))) }
	m := &meter{all: []reading{
		{at(0), []float64{0, 0, 0, 0, 0, 0, 0}, 90},
		{at(0.5), []float64{1, 1, 0, 100, 10, 1, 0}, 50},
		{at(1.5), []float64{2, 2, 0.5, 200, 20, 3, 1000}, 60},
		{at(2.9), []float64{4, 3, 1, 300, 30, 4, 3800}, 70},
		{at(3.1), []float64{5, 4, 1.5, 400, 40, 4, 4000}, 30},
		{at(9), []float64{9, 9, 9, 900, 90, 9, 9000}, 99},
	}}
	res := &result{Start: at(1), Seconds: 2, Requests: 1000, Rate: 500, BytesSent: 1e9, BytesReceived: 2e9, CPUSeconds: 0.004}
	res.Latency.P50, res.Latency.P99 = 11, 22
	// At 1 s: 1.5, 1.5, 0.25, 150, 15, 2, 500; at 3 s: 4.5, 3.5, 1.25, 350, 35, 4, 3900.
	got := sampleOf(res, m)
	want := sample{
		Requests: 1000, Rate: 500, CPU: 3000, User: 2000, Kernel: 1000, CPUPerGB: 1,
		Waits: 0.2, Preempted: 0.02, Faults: 0.002, Memory: 70, P50: 11, P99: 22, Generator: 4,
	}
	for _, x := range []struct {
		name      string
		got, want float64
	}{
		{"CPU", got.CPU, want.CPU}, {"user", got.User, want.User}, {"kernel", got.Kernel, want.Kernel}, {"CPU per GB", got.CPUPerGB, want.CPUPerGB},
		{"waits", got.Waits, want.Waits}, {"preempted", got.Preempted, want.Preempted}, {"faults", got.Faults, want.Faults},
		{"memory", got.Memory, want.Memory}, {"p50", got.P50, want.P50}, {"p99", got.P99, want.P99}, {"generator", got.Generator, want.Generator},
	} {
		if math.Abs(x.got-x.want) > 1e-9 {
			t.Errorf("%s: got %v, want %v", x.name, x.got, x.want)
		}
	}
	calls := (&tally{names: []string{every}}).perRequest(m.between(res.Start, res.end()), 1000)
	if n := calls[every]; math.Abs(n-3.4) > 1e-9 {
		t.Errorf("system calls: got %v, want 3.4", n)
	}
}
