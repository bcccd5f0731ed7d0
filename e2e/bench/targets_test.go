package main

import (
	"math"
	"strings"
	"testing"
)

func TestTargetsOfAReport(t *testing.T) {
	const slow = "envoy did not keep up: 6000/s. "
	r := testReport(t)
	want := map[string]struct {
		spread
		met    bool
		remark string
	}{
		// 20/100, 30/120, 22/110; rounds are not in order there.
		"cpu-0-8k": {spread{0.2, 0.2, 0.25}, true, slow},
		"p50":      {spread{0.11, 0.1, 0.5}, true, slow},
		"p99":      {spread{0.4, 0.1, 0.5}, true, slow},
		// Two rounds: 20/16 and 30/15.
		"pump-8k":      {spread{1.625, 1.25, 2}, false, ""},
		"tunnel-bulk":  {spread{0.8, 0.8, 0.8}, true, ""},
		"allocations":  {spread{0.04, 0.04, 0.04}, true, ""},
		"calls-64":     {spread{0.25, 0.25, 0.25}, true, "the kernel counts 0.275, with the log and wake-ups"},
		"memory-idle":  {spread{6.5, 6, 7}, true, ""},
		"memory-envoy": {spread{0.5, 0.375, 0.5}, true, ""},
		"handshakes":   {spread{0.85, 0.8, 0.9}, false, ""},
	}
	why := map[string]string{
		"cpu-0-closed": "no envoy on the path", "pump-closed": "it has\n| died", "cpu-0-1k": "not measured", "calls-1": "not measured",
		"memory-ztunnel": "not measured", "slow-readers": "it has died", "fairness": "not measured",
	}
	for _, target := range targets() {
		f := target.find(r)
		w, ok := want[target.name]
		if !ok {
			if f.missing == "" {
				t.Errorf("%s: got %v of nothing", target.name, f.spread)
			}
			if text := why[target.name]; text != "" && f.missing != text {
				t.Errorf("%s: got %q, want %q", target.name, f.missing, text)
			}
			continue
		}
		if f.missing != "" || math.Abs(f.Median-w.Median)+math.Abs(f.Min-w.Min)+math.Abs(f.Max-w.Max) > 1e-9 {
			t.Errorf("%s: got %v, %q, want %v", target.name, f.spread, f.missing, w.spread)
		}
		if got := target.met(f.Median); got != w.met {
			t.Errorf("%s: met is %v", target.name, got)
		}
		if f.remark != w.remark {
			t.Errorf("%s: remark %q, want %q", target.name, f.remark, w.remark)
		}
	}
}

func TestFairness(t *testing.T) {
	r := &report{Figures: []figure{
		{Name: "fairness-beside", Values: map[string][]float64{ours: {300, 100}, direct: {400}, pump: {1}}},
		{Name: "fairness-alone", Values: map[string][]float64{ours: {100, 100}, direct: {100}}},
	}}
	if got := fairness(r); got.spread != (spread{2, 1, 3}) || got.remark != "no waypoint: 4. " {
		t.Errorf("got %+v", got)
	}
}

func TestMet(t *testing.T) {
	most, least := target{limit: 0.35}, target{limit: 0.9, least: true}
	if !most.met(0.35) || most.met(0.3501) || !least.met(0.9) || least.met(0.8999) {
		t.Error("a limit is what may just be")
	}
}

func TestWhoDidNotKeepUpIsRemarked(t *testing.T) {
	r := &report{Scenarios: []measured{{Name: "x", Asked: 8000, Systems: []measuredOne{
		{Name: "a", Samples: []sample{{Round: 1, CPU: 1, Rate: 7900}}},
		{Name: "b", Samples: []sample{{Round: 1, CPU: 2, Rate: 7700}}},
	}}}}
	if got := ratioIn("x", "a", "b", cpuOf)(r); got.remark != "b did not keep up: 7700/s. " || got.Median != 0.5 {
		t.Errorf("got %+v", got)
	}
}

// TestEveryTargetHasItsSource fills in every scenario and figure that a run makes:
// a target that finds nothing then asks for something that nobody measures.
func TestEveryTargetHasItsSource(t *testing.T) {
	tester := &tester{env: testEnv(t)}
	r := &report{}
	n := 1.0
	for _, s := range scenarios() {
		m := measured{Name: s.name}
		for _, x := range tester.systemsOf(&s) {
			one := measuredOne{Name: x.name, Samples: []sample{{Round: 1, CPU: 1, CPUPerGB: 1, P50: 1, P99: 1}}}
			if s.calls {
				one.Calls, one.Allocs, one.Moves = callsOf{every: 1}, &n, &n
			}
			m.Systems = append(m.Systems, one)
		}
		r.Scenarios = append(r.Scenarios, m)
	}
	for _, name := range []string{"idle", "idle-tunnels", "tunnel-memory", "slow-readers", "start", "handshakes", "fairness-alone", "fairness-beside"} {
		r.Figures = append(r.Figures, figure{Name: name, Values: map[string][]float64{ours: {1}, envoy: {1}, bare: {1}}})
	}
	seen := map[string]bool{}
	for _, target := range targets() {
		if f := target.find(r); f.missing != "" {
			t.Errorf("%s: %s", target.name, f.missing)
		}
		if seen[target.name] || strings.ContainsAny(target.name, ", ") {
			t.Errorf("%q: notes could not name it", target.name)
		}
		seen[target.name] = true
	}
}
