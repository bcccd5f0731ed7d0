package bench

import (
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Result is what a run measured. It counts what completed within the measured
// part. Its JSON is a format that others read: a field's meaning does not
// change.
type Result struct {
	Load    Load      `json:"load"`
	Start   time.Time `json:"start"` // of the measured part
	Seconds float64   `json:"seconds"`

	// Requests were answered as they should be, Rate of them per second. With
	// Hold they are those before the measured part, which has no rate.
	Requests int64   `json:"requests"`
	Rate     float64 `json:"rate"`

	// Errors counts everything else by kind; see [Run].
	Errors map[string]int64 `json:"errors"`

	// BytesSent and BytesReceived are content.
	BytesSent     int64 `json:"bytesSent"`
	BytesReceived int64 `json:"bytesReceived"`

	// Latency and Histogram are of Requests, and of those unfinished.
	Latency   Latency  `json:"latency"`
	Histogram []Bucket `json:"histogram"`

	// Connections and Tunnels were open at the end; with Protocol connect they
	// are those that were made.
	Connections int64 `json:"connections"`
	Tunnels     int64 `json:"tunnels"`

	QueuedMax  int     `json:"queuedMax"`  // requests that waited for a tunnel at a time, at most
	CPUSeconds float64 `json:"cpuSeconds"` // of the generator, user and system
}

// Failed returns how many errors there were in all.
func (r *Result) Failed() int64 { return total(r.Errors) }

func total(errs map[string]int64) (n int64) {
	for _, k := range errs {
		n += k
	}
	return n
}

// A Latency is a distribution in microseconds.
type Latency struct {
	Min  float64 `json:"min"`
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P75  float64 `json:"p75"`
	P90  float64 `json:"p90"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// A Bucket counts latencies of at most UpTo microseconds that are beyond the
// bucket before it.
type Bucket struct {
	UpTo  int64 `json:"upTo"`
	Count int64 `json:"count"`
}

// slowest is the longest latency that is told from longer ones, and fastest the
// shortest that is told from none.
const (
	slowest = 60 * time.Second
	fastest = time.Microsecond
)

// latencies gathers them in microseconds, to three digits.
type latencies struct{ h *hdrhistogram.Histogram }

func newLatencies() latencies {
	return latencies{hdrhistogram.New(1, slowest.Microseconds(), 3)}
}

func (l latencies) record(d time.Duration) {
	d = min(max(d, fastest), slowest)
	_ = l.h.RecordValue((d + fastest/2).Microseconds()) // it is in range
}

// take moves what is in from to l.
func (l latencies) take(from latencies) {
	l.h.Merge(from.h)
	from.h.Reset()
}

func (l latencies) at(percentile float64) time.Duration {
	return time.Duration(l.h.ValueAtPercentile(percentile)) * time.Microsecond
}

func (l latencies) summary() Latency {
	if l.h.TotalCount() == 0 {
		return Latency{}
	}
	at := func(percentile float64) float64 { return float64(l.h.ValueAtPercentile(percentile)) }
	return Latency{
		Min: float64(l.h.Min()), Mean: math.Round(l.h.Mean()*10) / 10,
		P50: at(50), P75: at(75), P90: at(90), P95: at(95), P99: at(99), P999: at(99.9), Max: float64(l.h.Max()),
	}
}

// buckets returns the histogram in steps of a quarter of an octave, or of a
// microsecond, from the first that is not empty to the last.
func (l latencies) buckets() []Bucket {
	all := []Bucket{}
	upTo := int64(1)
	for _, bar := range l.h.Distribution() {
		if bar.Count == 0 {
			continue
		}
		for upTo < bar.To {
			upTo = max(upTo+1, int64(math.Round(float64(upTo)*quarter)))
			if len(all) > 0 {
				all = append(all, Bucket{UpTo: upTo})
			}
		}
		if len(all) == 0 {
			all = append(all, Bucket{UpTo: upTo})
		}
		all[len(all)-1].Count += bar.Count
	}
	return all
}

// quarter is a quarter of an octave.
const quarter = 1.189207115002721 // 2^(1/4)
