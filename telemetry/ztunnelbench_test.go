package telemetry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// BenchmarkMetrics is metrics/{write,encode} of Istio's node tunnel
// (benches/throughput.rs): what a connection costs in metrics, and what a scrape
// does for the series of so many destinations.
func BenchmarkMetrics(b *testing.B) {
	b.Run("write", func(b *testing.B) {
		t, _ := newBench(b, false, false)
		rec := connection(BySource)
		b.ReportAllocs()
		for b.Loop() {
			t.Open(rec)
			rec.Received += 1024
			rec.Sent += 1024
			t.Flush(rec)
			t.Close(rec)
		}
	})
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint("encode/", n), func(b *testing.B) {
			t, _ := newBench(b, false, false)
			for i := range n {
				rec := connection(BySource)
				service := *rec.Service
				service.Hostname = fmt.Sprintf("s%d.default.svc.cluster.local", i)
				rec.Service = &service
				t.Open(rec)
				t.Flush(rec)
			}
			b.ReportAllocs()
			scrape := promhttp.HandlerFor(t.Metrics(), promhttp.HandlerOpts{})
			r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
			for b.Loop() {
				scrape.ServeHTTP(nowhere{}, r)
			}
		})
	}
}

// nowhere is where an answer is not kept.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}
