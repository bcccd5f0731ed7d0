package bench

import (
	"encoding/json"
	"slices"
	"testing"
	"time"
)

func TestLatencies(t *testing.T) {
	l := newLatencies()
	if got := l.summary(); got != (Latency{}) {
		t.Errorf("of nothing: %+v", got)
	}
	if got := l.buckets(); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
	for i := range 1000 {
		l.record(time.Duration(i+1) * time.Microsecond)
	}
	want := Latency{Min: 1, Mean: 500.5, P50: 500, P75: 750, P90: 900, P95: 950, P99: 990, P999: 999, Max: 1000}
	if got := l.summary(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	l.h.Reset()
	l.record(-1)
	l.record(0)
	l.record(1499 * time.Nanosecond)
	l.record(time.Hour)
	if got := l.summary(); got.Min != 1 || got.P75 != 1 || got.Max < 59.9e6 || got.Max > 60.1e6 {
		t.Errorf("what is out of range was not moved into it: %+v", got)
	}
}

func TestBuckets(t *testing.T) {
	l := newLatencies()
	for _, µs := range []int{3, 4, 4, 5, 6, 9} {
		l.record(time.Duration(µs) * time.Microsecond)
	}
	want := []Bucket{{3, 1}, {4, 2}, {5, 1}, {6, 1}, {7, 0}, {8, 0}, {10, 1}}
	if got := l.buckets(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for i := range 2000 {
		l.record(time.Duration(i*i) * time.Microsecond)
	}
	n, last := int64(0), int64(0)
	for _, b := range l.buckets() {
		if b.UpTo <= last {
			t.Errorf("a bucket up to %d follows one up to %d", b.UpTo, last)
		}
		n, last = n+b.Count, b.UpTo
	}
	if n != 2006 || float64(last) < l.summary().Max {
		t.Errorf("%d latencies up to %d, want 2006 up to %v", n, last, l.summary().Max)
	}
}

// TestResultJSON holds the names of the format, which others read.
func TestResultJSON(t *testing.T) {
	p, err := json.Marshal(&Result{Start: time.Unix(0, 0).UTC(), Errors: map[string]int64{"status 503": 1}, Histogram: []Bucket{{2, 1}}})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(p, &got); err != nil {
		t.Fatal(err)
	}
	delete(got, "load")
	p, _ = json.Marshal(got)
	const want = `{"bytesReceived":0,"bytesSent":0,"connections":0,"cpuSeconds":0,"errors":{"status 503":1},` +
		`"histogram":[{"count":1,"upTo":2}],"latency":{"max":0,"mean":0,"min":0,"p50":0,"p75":0,"p90":0,"p95":0,"p99":0,"p999":0},` +
		`"queuedMax":0,"rate":0,"requests":0,"seconds":0,"start":"1970-01-01T00:00:00Z","tunnels":0}`
	if string(p) != want {
		t.Errorf("got  %s\nwant %s", p, want)
	}
}
