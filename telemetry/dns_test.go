package telemetry

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/script"
)

func TestQuestionsAreCountedAndLogged(t *testing.T) {
	r := newRig(t, Options{Program: Ztunnel})
	r.DNS(&DNS{Source: productpage, Name: "reviews.bookinfo.svc.cluster.local.", Type: "A", Result: "success", Answers: 1})
	r.DNS(&DNS{Source: productpage, Name: "reviews.", Type: "A", Result: "success", Answers: 1})
	r.DNS(&DNS{Source: productpage, Name: "example.com.", Type: "AAAA", TCP: true, Forwarded: true, Upstream: 20 * time.Millisecond, Result: "forwarded", Answers: 3})
	r.DNS(&DNS{Source: productpage, Name: "example.com.", Type: "AAAA", TCP: true, Forwarded: true, Upstream: 6 * time.Second, Result: "forwarding failed", Err: errors.New("timeout")})
	r.DNS(&DNS{Name: "x.", Result: "refused", Err: errors.New("unknown source")})

	var got []string
	for _, s := range gather(t, r.Telemetry) {
		if strings.HasPrefix(s, "istio_dns_") {
			got = append(got, s)
		}
	}
	script.Golden(t, "testdata/metrics_dns.golden", strings.Join(got, "\n")+"\n")
	var lines strings.Builder
	for line := range strings.Lines(r.out.take()) {
		_, line, _ = strings.Cut(line, "\t") // but for when
		lines.WriteString(line)
	}
	script.Golden(t, "testdata/dns_text.golden", lines.String())
	if n := value(t, r.Telemetry, "waystone_telemetry_series"); n != "3" {
		t.Errorf("%s series, want 3", n)
	}
}

func TestQuestionsOfManySourcesAreBounded(t *testing.T) {
	r := newRig(t, Options{Program: Ztunnel, MaxSeries: 20})
	for _, qtype := range []string{"A", "AAAA", "SRV", "MX", ""} {
		r.DNS(&DNS{Source: productpage, Type: qtype})
	}
	if n := value(t, r.Telemetry, "istio_dns_requests_total", `source_canonical_service="overflow"`); n != "3" {
		t.Errorf("%s questions without labels of their own, want 3", n)
	}
	if n := value(t, r.Telemetry, "waystone_telemetry_series_overflow_total"); n != "3" {
		t.Errorf("%s counted, want 3", n)
	}
}

func TestQuestionsThatCeaseAreForgotten(t *testing.T) {
	r := newRig(t, Options{Program: Ztunnel, Retain: time.Hour})
	r.DNS(&DNS{Source: productpage, Type: "A"})
	for _, after := range []time.Duration{0, time.Minute, 2 * time.Hour} {
		r.questions.sweep(noon.Add(after))
	}
	if n := r.questions.len(); n != 0 {
		t.Errorf("%d series are left", n)
	}
	r.DNS(&DNS{Source: productpage, Type: "A"})
	if n := value(t, r.Telemetry, "istio_dns_requests_total"); n != "1" {
		t.Errorf("%s questions since, want 1", n)
	}
}

func TestCountingAQuestionAllocatesNothing(t *testing.T) {
	log := newLog(t, LogOptions{Output: new(sink), Level: "info"})
	r := newRig(t, Options{Program: Ztunnel, Log: log})
	rec := &DNS{Source: productpage, Name: "reviews.", Type: "A", Result: "success"}
	r.DNS(rec)
	r.DNS(rec)
	if n := testing.AllocsPerRun(100, func() { r.DNS(rec) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
