package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPerRequest(t *testing.T) {
	at := func(objects, reads, writes, requests float64) look {
		return look{allocatedObjects: objects, loopReads: reads, loopWrites: writes, servedRequests: requests}
	}
	// A look allocates 100, at first more; 2,000 requests allocate 500 more than that.
	looks := [5]look{at(1000, 10, 10, 0), at(9000, 11, 11, 0), at(9100, 12, 11, 0), at(15000, 5000, 6000, 1000), at(15600, 9001, 9000, 3000)}
	objects, moves := perRequest(looks)
	if objects == nil || *objects != 0.25 || moves == nil || *moves != 3.5 {
		t.Errorf("got %v, %v, want 0.25, 3.5", objects, moves)
	}
	looks[4] = looks[3]
	if objects, moves := perRequest(looks); objects != nil || moves != nil {
		t.Error("there were no requests")
	}
}

func TestPlan(t *testing.T) {
	p := plan{began: time.Unix(0, 0), planned: 100 * time.Second}
	if got := p.left(time.Unix(5, 0)); got != 100*time.Second {
		t.Errorf("before anything: got %v", got)
	}
	p.done = 20 * time.Second
	if got := p.left(time.Unix(30, 0)); got != 120*time.Second { // it takes half as long again
		t.Errorf("got %v, want 2m", got)
	}
}

func TestLeaks(t *testing.T) {
	before := footprint{10, map[string]float64{"go_goroutines": 20, "waystone_buffer_bytes": 0, "envoy_http_downstream_cx_active": 1}}
	for _, row := range []struct {
		name  string
		after footprint
		want  string
	}{
		{"nothing", before, ""},
		{"connections that are kept", footprint{10 + slack, map[string]float64{"go_goroutines": 20 + slack}}, ""},
		{"files", footprint{11 + slack, nil}, "81 more files are open than before"},
		{"goroutines", footprint{10, map[string]float64{"go_goroutines": 21 + slack}}, "go_goroutines is 81 more than before"},
		{"a buffer", footprint{10, map[string]float64{"waystone_buffer_bytes": 16384}}, "waystone_buffer_bytes is 16384 more than before"},
		{"a request", footprint{10, map[string]float64{"envoy_http_downstream_rq_active": 1}}, "envoy_http_downstream_rq_active is 1 more than before"},
	} {
		if got := strings.Join(leaks(before, row.after), "; "); got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

func TestHeld(t *testing.T) {
	for name, want := range map[string]bool{
		"go_goroutines": true, "waystone_buffer_bytes": true, droppedLines: true,
		"envoy_http_downstream_cx_active": true, "envoy_cluster_upstream_rq_active": true,
		"envoy_cluster_upstream_cx_active": false, // kept for later
		"envoy_http_downstream_rq_total":   false, "istio_requests_total": false,
	} {
		if got := held(name); got != want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	text := strings.Repeat("a line\n", 300_000) + "half of one"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := lines(path); err != nil || n != 300_000 {
		t.Errorf("got %d, %v", n, err)
	}
	if err := forget(&running{access: path}); err != nil {
		t.Error(err)
	}
	if n, err := lines(path); err != nil || n != 0 {
		t.Errorf("forgotten: got %d, %v", n, err)
	}
}

func TestWhatIsWrongIsAnError(t *testing.T) {
	if err := (&result{Requests: 1}).check(); err != nil {
		t.Error(err)
	}
	if err := (&result{}).check(); err == nil {
		t.Error("nothing was answered")
	}
	err := (&result{Requests: 9, Errors: map[string]int64{"status 503": 2, "crc": 1}}).check()
	if err == nil || err.Error() != "unexpected answers: crc, 1 times; status 503, 2 times" {
		t.Errorf("got %v", err)
	}
	slow := &result{Errors: map[string]int64{"unfinished": 100}}
	if err := slow.checkSlow(); err != nil {
		t.Error(err)
	}
	slow.Errors["reset"] = 1
	if err := slow.checkSlow(); err == nil {
		t.Error("a reset is not slowness")
	}
	if err := (&served{Requests: 9, Errors: map[string]int64{"reset": 3}}).check(); err != nil {
		t.Error(err) // a generator ends when it likes
	}
	if err := (&served{Open: 1}).check(); err == nil {
		t.Error("a tunnel was left")
	}
	if err := (&served{Errors: map[string]int64{"crc": 1}}).check(); err == nil {
		t.Error("content was not what was sent")
	}
}

func TestScenarios(t *testing.T) {
	e := testEnv(t)
	tester := &tester{env: e}
	seen := map[string]bool{}
	for _, s := range scenarios() {
		if seen[s.name] || s.title == "" {
			t.Errorf("%s: there are two, or it has no title", s.name)
		}
		seen[s.name] = true
		found := tester.systemsOf(&s)
		for _, name := range s.systems {
			if !slices.ContainsFunc(found, func(x system) bool { return x.name == name }) && !strings.HasPrefix(name, "nginx") {
				t.Errorf("%s: there is no system %q", s.name, name)
			}
		}
		if len(found) < 2 {
			t.Errorf("%s compares nothing", s.name)
		}
	}
	for _, p := range probes() {
		if seen[p.name] {
			t.Errorf("%s: there are two", p.name)
		}
		seen[p.name] = true
	}
}

func TestBenchmarked(t *testing.T) {
	const text = "goos: linux\nBenchmarkConnect-2 \t 608\t 2067776 ns/op\t 483.6 conns/s\t 2028.5 cpu-µs/op\t 173518 B/op\nPASS\n"
	if got, ok := benchmarked(text, "BenchmarkConnect"); !ok || got != 2028.5 {
		t.Errorf("got %v, %v", got, ok)
	}
	if _, ok := benchmarked(text, "BenchmarkHandshake"); ok {
		t.Error("another benchmark's was taken")
	}
}
