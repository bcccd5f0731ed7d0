package telemetry

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// DNS is a question that a workload of a node tunnel's asked, once it is
// answered.
type DNS struct {
	Source    *mesh.Workload // nil: not known
	Name      string         // that was asked for
	Type      string         // of record: "A"; "" is one that has no name
	TCP       bool
	Forwarded bool          // to another server
	Upstream  time.Duration // how long that took
	Result    string        // in a word or two
	Answers   int           // records
	Err       error         // why it was refused or failed
}

// DNS counts a question, and logs it at debug level in the scope "dns".
func (t *Telemetry) DNS(rec *DNS) {
	t.questions.count(rec)
	if t.questionLog != nil && t.questionLog.Enabled(context.Background(), slog.LevelDebug) {
		t.questionLog.Debug("question answered", rec.attributes()...)
	}
}

func (rec *DNS) attributes() []any {
	name, namespace := unknown, unknown
	if rec.Source != nil {
		name, namespace = rec.Source.Name, rec.Source.Namespace
	}
	list := []any{
		"src.workload", name, "src.namespace", namespace, "query", cmp.Or(rec.Type, unknown),
		"domain", rec.Name, "result", rec.Result, "endpoints", rec.Answers,
	}
	if rec.Err != nil {
		list = append(list, "error", rec.Err)
	}
	return list
}

// dnsBuckets are the upper bounds of ztunnel's histogram, in seconds.
var dnsBuckets = [...]float64{0.0005, 0.001, 0.01, 0.1, 1, 5}

// dnsFamilies are ztunnel's, by its names.
var dnsFamilies = func() (d struct{ requests, forwarded, failed, duration *prometheus.Desc }) {
	labels := []string{"source_canonical_service", "source_canonical_revision", "request_query_type", "request_protocol"}
	d.requests = prometheus.NewDesc("istio_dns_requests_total", "Questions of workloads in DNS.", labels, nil)
	d.forwarded = prometheus.NewDesc("istio_dns_upstream_requests_total", "Questions that were forwarded.", labels, nil)
	d.failed = prometheus.NewDesc("istio_dns_upstream_failures_total", "Questions that were forwarded and got no answer.", labels, nil)
	d.duration = prometheus.NewDesc("istio_dns_upstream_request_duration_seconds", "How long the answer to a forwarded question took.", labels, nil)
	return d
}()

// A questions counts questions in DNS. There are as many series as canonical
// services and types of record.
type questions struct {
	ledger[asker, asked, *asked]
}

// An asker is what a series of questions has for labels.
type asker struct {
	service, revision, qtype string
	tcp                      bool
}

type asked struct {
	use
	requests, forwarded, failed atomic.Uint64
	buckets                     [len(dnsBuckets) + 1]atomic.Uint64
	nanoseconds                 atomic.Int64
}

func (q *questions) count(rec *DNS) {
	k := asker{service: unknown, revision: unknown, qtype: cmp.Or(rec.Type, unknown), tcp: rec.TCP}
	if w := rec.Source; w != nil {
		k.service, k.revision = canonicalName(w), canonicalRevision(w)
	}
	q.at(&k).add(rec)
}

func (k asker) clone() asker {
	return asker{strings.Clone(k.service), strings.Clone(k.revision), strings.Clone(k.qtype), k.tcp}
}

// overflow has no source and no type: there are two.
func (k asker) overflow() asker { return asker{"overflow", "overflow", "overflow", k.tcp} }

func (a *asked) add(rec *DNS) {
	a.requests.Add(1)
	if !rec.Forwarded {
		return
	}
	a.forwarded.Add(1)
	if rec.Err != nil {
		a.failed.Add(1)
	}
	i, seconds := 0, rec.Upstream.Seconds()
	for i < len(dnsBuckets) && seconds > dnsBuckets[i] {
		i++
	}
	a.buckets[i].Add(1)
	a.nanoseconds.Add(int64(rec.Upstream))
}

// Describe implements [prometheus.Collector].
func (q *questions) Describe(ch chan<- *prometheus.Desc) {
	d := &dnsFamilies
	for _, desc := range [...]*prometheus.Desc{d.requests, d.forwarded, d.failed, d.duration} {
		ch <- desc
	}
}

// Collect implements [prometheus.Collector].
func (q *questions) Collect(ch chan<- prometheus.Metric) {
	q.mu.Lock()
	var list []prometheus.Metric
	for k, a := range q.entries {
		list = append(list, a.samples(k)...)
	}
	q.mu.Unlock()
	for _, m := range list {
		ch <- m
	}
}

func (a *asked) samples(k asker) []prometheus.Metric {
	protocol := "udp"
	if k.tcp {
		protocol = "tcp"
	}
	labels := []string{label(k.service, unknown), label(k.revision, unknown), strings.ToLower(k.qtype), protocol}
	counter := func(d *prometheus.Desc, n *atomic.Uint64) prometheus.Metric {
		return prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n.Load()), labels...)
	}
	list := []prometheus.Metric{counter(dnsFamilies.requests, &a.requests)}
	if a.forwarded.Load() == 0 {
		return list
	}
	var n uint64
	buckets := make(map[float64]uint64, len(dnsBuckets))
	for i, bound := range dnsBuckets {
		n += a.buckets[i].Load()
		buckets[bound] = n
	}
	n += a.buckets[len(dnsBuckets)].Load()
	sum := time.Duration(a.nanoseconds.Load()).Seconds()
	return append(list, counter(dnsFamilies.forwarded, &a.forwarded), counter(dnsFamilies.failed, &a.failed),
		prometheus.MustNewConstHistogram(dnsFamilies.duration, n, sum, buckets, labels...))
}
