package bench

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// resultForTest is like what a busy run gives.
func resultForTest() *Result {
	r := &Result{
		Seconds: 10.02, Requests: 1_234_567, Rate: 123_210.3, BytesSent: 3 << 20, BytesReceived: 5 << 30, Connections: 1000, Tunnels: 10_000,
		QueuedMax: 17, CPUSeconds: 8.126, Errors: map[string]int64{kindReset: 2, "status 503": 40, kindCRC: 2},
		Latency: Latency{Min: 24, Mean: 512.3, P50: 169, P75: 406, P90: 999, P95: 1130, P99: 36_842, P999: 544_000, Max: 59_965_439},
	}
	up := 20.0
	for i, n := range []int64{1, 3, 250, 2000, 4000, 1000, 800, 600, 0, 0, 200, 100} {
		r.Histogram = append(r.Histogram, Bucket{UpTo: int64(up), Count: n * int64(1+i%3)})
		up *= 2.5
	}
	return r
}

func TestResultIsPrinted(t *testing.T) {
	const want = `1234567 requests in 10.0 s, 123210 a second
10000 tunnels on 1000 connections; up to 17 requests waited for a tunnel
content: 5.0 GiB received, 3.0 MiB sent; generator: 8.13 s of CPU
errors: status 503 ×40, crc ×2, reset ×2

latency  min     mean    p50     p75     p90     p95     p99     p99.9   max
         24µs    512µs   169µs   406µs   999µs   1.13ms  36.8ms  544ms   59.97s

`
	got := resultForTest().String()
	if head, _, _ := strings.Cut(got, "≤"); strings.TrimRight(head, " ") != want {
		t.Errorf("got\n%s\nwant\n%s", head, want)
	}
	for line := range strings.Lines(got) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 || strings.HasSuffix(line, " \n") {
			t.Errorf("%d columns: %q", n, line)
		}
	}
}

func TestResultOfNothingIsPrinted(t *testing.T) {
	const want = `0 requests in 1.0 s, 0.0 a second
64 tunnels on 4 connections
content: 0 B received, 0 B sent; generator: 0.00 s of CPU
errors: none
`
	if got := (&Result{Seconds: 1, Tunnels: 64, Connections: 4}).String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestHistogramIsDrawn(t *testing.T) {
	const want = `    ≤20µs   0.01% ▇
    ≤50µs   0.04% ▇
   ≤125µs   5.15% ▇▇▇▇▇
   ≤312µs  13.74% ▇▇▇▇▇▇▇▇▇▇▇▇▇
   ≤781µs  54.96% ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇
  ≤1.95ms  20.61% ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇
  ≤4.88ms   5.50% ▇▇▇▇▇
`
	if got := histogram(resultForTest().Histogram[:7]); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := histogram(nil); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}

// TestHistogramIsNoLongerThanAScreen puts neighbours together, and loses none.
func TestHistogramIsNoLongerThanAScreen(t *testing.T) {
	for _, n := range []int64{1, maxBars, maxBars + 1, 2*maxBars + 1, 100} {
		var buckets []Bucket
		for i := range n {
			buckets = append(buckets, Bucket{i + 1, 1})
		}
		got := histogram(buckets)
		lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
		if len(lines) > maxBars || n <= maxBars && len(lines) != int(n) {
			t.Errorf("%d buckets make %d lines", n, len(lines))
		}
		if last := "≤" + microseconds(float64(n)) + " "; !strings.Contains(lines[len(lines)-1], last) {
			t.Errorf("%d buckets end with %q, want %s", n, lines[len(lines)-1], last)
		}
	}
}

func TestServedIsPrinted(t *testing.T) {
	s := &Served{Requests: 7, BytesReceived: 1023, BytesSent: 1 << 20, Connections: 2, Accepted: 64, Open: 1, Errors: map[string]int64{kindCRC: 3}}
	const want = "7 requests over 64 tunnels on 2 connections; 1 tunnels open at the end\ncontent: 1023 B received, 1.0 MiB sent\nerrors: crc ×3\n"
	if got := s.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTimesHaveThreeDigits(t *testing.T) {
	for us, want := range map[float64]string{
		0: "0µs", 9: "9µs", 999: "999µs", 999.6: "1.00ms", 1000: "1.00ms", 9996: "10.0ms", 99_960: "100ms", 999_600: "1.00s", 1.5e6: "1.50s", 6e7: "60.00s",
	} {
		if got := microseconds(us); got != want {
			t.Errorf("%v: got %s, want %s", us, got, want)
		}
	}
}

func TestProgressIsOneLine(t *testing.T) {
	for want, p := range map[string]Progress{
		"opening 3s/1m0s: 12 tunnels":                                 {Phase: "opening", Elapsed: 3 * time.Second, Of: time.Minute, Tunnels: 12},
		"warmup 1s/2s: 0.0/s":                                         {Phase: "warmup", Elapsed: time.Second, Of: 2 * time.Second},
		"measuring 3s/10s: 8000/s p50 172µs p99 1.20ms":               {Phase: "measuring", Elapsed: 3 * time.Second, Of: 10 * time.Second, Rate: 8000, P50: 172 * time.Microsecond, P99: 1200 * time.Microsecond},
		"measuring 3s/10s: 8000/s p50 1µs p99 2µs errors 3 waiting 4": {Phase: "measuring", Elapsed: 3 * time.Second, Of: 10 * time.Second, Rate: 8000, P50: time.Microsecond, P99: 2 * time.Microsecond, Errors: 3, Queued: 4},
	} {
		if got := p.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestScreenIsOneLineAndLeavesNone(t *testing.T) {
	var out bytes.Buffer
	s := NewScreen(&out, true)
	s.Clear()
	s.Progress(Progress{Phase: "opening"})
	s.Progress(Progress{Phase: "opening", Tunnels: 1})
	s.Clear()
	if got, want := out.String(), "\r\x1b[Kopening: 0 tunnels\r\x1b[Kopening: 1 tunnels\r\x1b[K"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	out.Reset()
	s.Progress(Progress{Phase: "measuring", Elapsed: 100 * time.Hour, Of: 100 * time.Hour, Rate: 9e6, P50: time.Minute, P99: time.Minute, Errors: math.MaxUint32, Queued: maxQueue})
	if n := utf8.RuneCountInString(strings.TrimPrefix(out.String(), clearLine)); n >= columns {
		t.Errorf("%d columns: %s", n, out.String())
	}
	out.Reset()
	s = NewScreen(&out, false)
	s.Progress(Progress{})
	s.Clear()
	if out.Len() > 0 {
		t.Errorf("a screen that is off shows %q", out.String())
	}
}
