package telemetry

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// buckets are the upper bounds of Istio's histograms, in milliseconds and in
// bytes alike.
var buckets = [...]float64{
	0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000,
	60000, 300000, 600000, 1800000, 3600000,
}

// microBuckets are buckets in thousandths, which fit integers.
var microBuckets = func() (b [len(buckets)]uint64) {
	for i, f := range buckets {
		b[i] = uint64(f * 1000)
	}
	return b
}()

// A histogram counts in atomics of its own rather than client_golang's: it
// takes a quarter of the time, since nobody needs exemplars or a sum that is
// consistent with the buckets to the last observation.
type histogram struct {
	counts [len(buckets) + 1]atomic.Uint64
	sum    atomic.Uint64 // in thousandths
}

// observe counts v, in thousandths.
func (h *histogram) observe(v uint64) {
	// Most values are small; a linear search takes a few predicted branches.
	i := 0
	for i < len(microBuckets) && v > microBuckets[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(v)
}

// total returns how many values were observed.
func (h *histogram) total() (n uint64) {
	for i := range h.counts {
		n += h.counts[i].Load()
	}
	return n
}

func (h *histogram) write(out *dto.Metric) {
	var n uint64
	list := make([]*dto.Bucket, len(buckets))
	for i := range buckets {
		n += h.counts[i].Load()
		list[i] = &dto.Bucket{UpperBound: &buckets[i], CumulativeCount: new(n)}
	}
	n += h.counts[len(buckets)].Load()
	sum := float64(h.sum.Load()) / 1000
	out.Histogram = &dto.Histogram{SampleCount: &n, SampleSum: &sum, Bucket: list}
}

// exchangeCounters are those of exchanges. istio_requests_total is the number
// of durations: one count less to keep.
type exchangeCounters struct {
	duration, request, response histogram
}

type messageCounters struct{ request, response atomic.Uint64 }

type connectionCounters struct {
	opened, closed, failed, received, sent atomic.Uint64
}

// A family is one metric of Istio's, without its labels.
type family struct {
	desc *prometheus.Desc
	kind kind
	// flagged says whether series with a response flag have it: a connection's
	// bytes, and its opening, are counted without one.
	flagged, unflagged bool
	write              func(*series, *dto.Metric)
}

func newFamily(k kind, name, help string, write func(*series, *dto.Metric)) family {
	return family{prometheus.NewDesc(name, help, nil, nil), k, true, true, write}
}

func counter(v uint64, out *dto.Metric) {
	f := float64(v)
	out.Counter = &dto.Counter{Value: &f}
}

// families are all that have the labels of both ends.
var families = func() []family {
	list := []family{
		newFamily(exchanges, "istio_requests_total", "Exchanges.",
			func(s *series, m *dto.Metric) { counter(s.exchange.duration.total(), m) }),
		newFamily(exchanges, "istio_request_duration_milliseconds", "Duration of exchanges, from the first byte of the request to the last of the response.",
			func(s *series, m *dto.Metric) { s.exchange.duration.write(m) }),
		newFamily(exchanges, "istio_request_bytes", "Size of requests, heads and framing included.",
			func(s *series, m *dto.Metric) { s.exchange.request.write(m) }),
		newFamily(exchanges, "istio_response_bytes", "Size of responses, heads and framing included.",
			func(s *series, m *dto.Metric) { s.exchange.response.write(m) }),
		newFamily(messages, "istio_request_messages_total", "gRPC messages from clients.",
			func(s *series, m *dto.Metric) { counter(s.message.request.Load(), m) }),
		newFamily(messages, "istio_response_messages_total", "gRPC messages to clients.",
			func(s *series, m *dto.Metric) { counter(s.message.response.Load(), m) }),
		newFamily(connections, "istio_tcp_connections_closed_total", "Connections closed.",
			func(s *series, m *dto.Metric) { counter(s.connection.closed.Load(), m) }),
	}
	plain := []family{
		newFamily(connections, "istio_tcp_connections_opened_total", "Connections opened.",
			func(s *series, m *dto.Metric) { counter(s.connection.opened.Load(), m) }),
		newFamily(connections, "istio_tcp_received_bytes_total", "Bytes from clients.",
			func(s *series, m *dto.Metric) { counter(s.connection.received.Load(), m) }),
		newFamily(connections, "istio_tcp_sent_bytes_total", "Bytes to clients.",
			func(s *series, m *dto.Metric) { counter(s.connection.sent.Load(), m) }),
	}
	for _, f := range plain {
		f.flagged = false
		list = append(list, f)
	}
	failed := newFamily(connections, "istio_tcp_connections_failed_total", "Connections that failed, by response flag.",
		func(s *series, m *dto.Metric) { counter(s.connection.failed.Load(), m) })
	failed.unflagged = false
	return append(list, failed)
}()

// Describe is empty: the labels of a family depend on who reports, which
// client_golang allows to collectors that announce nothing.
func (t *table) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (t *table) Collect(ch chan<- prometheus.Metric) {
	list := t.all()
	for i := range families {
		f := &families[i]
		for _, s := range list {
			if s.kind == f.kind && f.has(s) {
				ch <- sample{f, s}
			}
		}
	}
}

func (f *family) has(s *series) bool {
	if s.flagged {
		// ztunnel alone has the family of failures.
		return f.flagged && (f.unflagged || s.reporter != ByWaypoint)
	}
	return f.unflagged
}

// A sample is a series seen as a member of one family.
type sample struct {
	family *family
	series *series
}

func (s sample) Desc() *prometheus.Desc { return s.family.desc }

func (s sample) Write(out *dto.Metric) error {
	out.Label = s.series.labels
	s.family.write(s.series, out)
	return nil
}

// microseconds returns d for a histogram of milliseconds.
func microseconds(d time.Duration) uint64 { return uint64(max(d, 0).Microseconds()) }

// milliBytes returns n for a histogram of bytes.
func milliBytes(n uint64) uint64 {
	if n > math.MaxUint64/1000 {
		return math.MaxUint64
	}
	return n * 1000
}
