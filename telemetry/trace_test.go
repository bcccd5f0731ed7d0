package telemetry

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/waystone-mesh/waystone/internal/script"
)

type carrier map[string]string

func (c carrier) Get(name string) string { return c[name] }
func (c carrier) Set(name, value string) { c[name] = value }

const (
	traceHex = "4bf92f3577b34da6a3ce929d0e0e4736"
	spanHex  = "00f067aa0ba902b7"
)

func TestParseTraceparent(t *testing.T) {
	for _, row := range []struct {
		in      string
		ok, yes bool
	}{
		{"00-" + traceHex + "-" + spanHex + "-01", true, true},
		{"00-" + traceHex + "-" + spanHex + "-00", true, false},
		{"00-" + traceHex + "-" + spanHex + "-03", true, true},
		{"01-" + traceHex + "-" + spanHex + "-01", true, true},
		{"01-" + traceHex + "-" + spanHex + "-01-what-comes", true, true},
		{"01-" + traceHex + "-" + spanHex + "-01.", false, false},
		{"00-" + traceHex + "-" + spanHex + "-01-what-comes", false, false},
		{"ff-" + traceHex + "-" + spanHex + "-01", false, false},
		{"00-" + strings.ToUpper(traceHex) + "-" + spanHex + "-01", false, false},
		{"00-" + strings.Repeat("0", 32) + "-" + spanHex + "-01", false, false},
		{"00-" + traceHex + "-" + strings.Repeat("0", 16) + "-01", false, false},
		{"00-" + traceHex + "-" + spanHex + "-0", false, false},
		{"00-" + traceHex + "-" + spanHex + "_01", false, false},
		{"00-" + traceHex[1:] + "g-" + spanHex + "-01", false, false},
		{"", false, false},
	} {
		got, ok := ParseTraceparent(row.in)
		if ok != row.ok || got.Sampled != row.yes || ok == got.IsZero() {
			t.Errorf("%q: %+v, %v; want sampled %v, %v", row.in, got, ok, row.yes, row.ok)
		}
		if ok && got.Traceparent()[3:52] != row.in[3:52] {
			t.Errorf("%q is printed %q", row.in, got.Traceparent())
		}
	}
}

func FuzzTraceContext(f *testing.F) {
	f.Add("00-"+traceHex+"-"+spanHex+"-01", traceHex+"-"+spanHex+"-d-"+spanHex, traceHex[:16], spanHex)
	f.Add("01-"+traceHex+"-"+spanHex+"-01-x", "0", "", "")
	f.Add("", traceHex[16:]+"-"+spanHex, strings.ToUpper(traceHex), spanHex)
	f.Fuzz(func(t *testing.T, parent, single, id, span string) {
		c := carrier{"traceparent": parent, "b3": single, "x-b3-traceid": id, "x-b3-spanid": span}
		got, _ := extract(c)
		if got.IsZero() {
			return
		}
		inject(c, got, true)
		again, d := extract(c)
		if again != got || d == undecided {
			t.Errorf("%+v became %+v", got, again)
		}
	})
}

func TestNewTraceIsNewAndUnsampled(t *testing.T) {
	a, b := NewTrace(), NewTrace()
	if a.IsZero() || a.ID == b.ID || a.Span == b.Span || a.Sampled {
		t.Errorf("%+v, then %+v", a, b)
	}
	if got, ok := ParseTraceparent(a.Traceparent()); !ok || got != a {
		t.Errorf("%q reads as %+v", a.Traceparent(), got)
	}
	if got := (Trace{}).Traceparent(); got != "" {
		t.Errorf("the zero Trace is %q", got)
	}
}

func TestExtract(t *testing.T) {
	w3c := "00-" + traceHex + "-" + spanHex + "-01"
	for _, row := range []struct {
		name   string
		fields carrier
		trace  string // ID, or "" for none
		want   decision
	}{
		{"nothing", carrier{}, "", undecided},
		{"traceparent", carrier{"traceparent": w3c}, traceHex, sampled},
		{"traceparent, not sampled", carrier{"traceparent": w3c[:53] + "00"}, traceHex, unsampled},
		{"traceparent before b3", carrier{"traceparent": w3c, "b3": strings.Repeat("1", 32) + "-" + spanHex + "-0"}, traceHex, sampled},
		{"broken traceparent, b3", carrier{"traceparent": "x", "b3": traceHex + "-" + spanHex + "-1"}, traceHex, sampled},
		{"b3 of 64 bits", carrier{"b3": traceHex[16:] + "-" + spanHex + "-1"}, strings.Repeat("0", 16) + traceHex[16:], sampled},
		{"b3 with parent", carrier{"b3": traceHex + "-" + spanHex + "-0-" + spanHex}, traceHex, unsampled},
		{"b3 debug", carrier{"b3": traceHex + "-" + spanHex + "-d"}, traceHex, sampled},
		{"b3 undecided", carrier{"b3": traceHex + "-" + spanHex}, traceHex, undecided},
		{"b3 of a decision", carrier{"b3": "0"}, "", unsampled},
		{"b3 broken", carrier{"b3": traceHex + "-zz-1"}, "", undecided},
		{"b3 with a word for a decision", carrier{"b3": traceHex + "-" + spanHex + "-maybe"}, "", undecided},
		{"multi", carrier{"x-b3-traceid": traceHex, "x-b3-spanid": spanHex, "x-b3-sampled": "1"}, traceHex, sampled},
		{"multi in capitals", carrier{"x-b3-traceid": strings.ToUpper(traceHex), "x-b3-spanid": spanHex}, traceHex, undecided},
		{"multi, true", carrier{"x-b3-traceid": traceHex, "x-b3-spanid": spanHex, "x-b3-sampled": "true"}, traceHex, sampled},
		{"multi, debug", carrier{"x-b3-traceid": traceHex, "x-b3-spanid": spanHex, "x-b3-flags": "1"}, traceHex, sampled},
		{"multi, a decision only", carrier{"x-b3-sampled": "0"}, "", unsampled},
		{"multi of a wrong length", carrier{"x-b3-traceid": traceHex[1:], "x-b3-spanid": spanHex}, "", undecided},
	} {
		got, d := extract(row.fields)
		id := ""
		if !got.IsZero() {
			id = got.Traceparent()[3:35]
		}
		if id != row.trace || d != row.want || got.Sampled != (d == sampled && id != "") {
			t.Errorf("%s: %q, decision %d; want %q, %d", row.name, id, d, row.trace, row.want)
		}
	}
}

// traced returns a rig with tracing, and where its spans end up.
func traced(t *testing.T, o TraceOptions) (*rig, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	return newRig(t, Options{trace: newTracerTo(o, sdktrace.WithSyncer(spans))}), spans
}

func TestPropagation(t *testing.T) {
	w3c := "00-" + traceHex + "-" + spanHex
	for _, row := range []struct {
		name    string
		options TraceOptions
		in      carrier
		keep    bool // the trace is the caller's
		spans   int
		out     []string // the fields that go out
	}{
		{"sampled", TraceOptions{Percent: -1}, carrier{"traceparent": w3c + "-01", "tracestate": "a=b"}, true, 1, []string{"traceparent", "tracestate"}},
		{"not sampled", TraceOptions{Percent: 100}, carrier{"traceparent": w3c + "-00"}, true, 0, []string{"traceparent"}},
		{"root, all", TraceOptions{Percent: 100}, carrier{}, false, 1, []string{"traceparent"}},
		{"root, none", TraceOptions{Percent: -1}, carrier{}, false, 0, []string{"traceparent"}},
		{"b3", TraceOptions{Percent: -1}, carrier{"b3": traceHex + "-" + spanHex + "-1"}, true, 1, []string{"b3", "traceparent"}},
		{"b3 undecided, all", TraceOptions{Percent: 100}, carrier{"b3": traceHex + "-" + spanHex}, true, 1, []string{"b3", "traceparent"}},
		{"b3 undecided, none", TraceOptions{Percent: -1}, carrier{"b3": traceHex + "-" + spanHex}, true, 0, []string{"b3", "traceparent"}},
		{"b3 says no", TraceOptions{Percent: 100}, carrier{"b3": "0"}, false, 0, []string{"b3", "traceparent"}},
		{"b3 says yes", TraceOptions{Percent: -1}, carrier{"b3": "1"}, false, 1, []string{"b3", "traceparent"}},
		{"multi", TraceOptions{Percent: -1}, carrier{"x-b3-traceid": traceHex, "x-b3-spanid": spanHex, "x-b3-sampled": "1"}, true, 1,
			[]string{"traceparent", "x-b3-parentspanid", "x-b3-sampled", "x-b3-spanid", "x-b3-traceid"}},
		{"b3 asked for", TraceOptions{Percent: 100, B3: true}, carrier{}, false, 1,
			[]string{"traceparent", "x-b3-sampled", "x-b3-spanid", "x-b3-traceid"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r, spans := traced(t, row.options)
			rec, out := exchange(), maps.Clone(row.in)
			r.Propagate(rec, out)
			got, ok := ParseTraceparent(out["traceparent"])
			if !ok || got.Sampled != (row.spans > 0) {
				t.Errorf("traceparent %q, want sampled %v", out["traceparent"], row.spans > 0)
			}
			if id := got.Traceparent()[3:35]; (id == traceHex) != row.keep {
				t.Errorf("trace %s, want the caller's: %v", id, row.keep)
			}
			if got.Traceparent()[36:52] == spanHex {
				t.Error("the span is the caller's")
			}
			if names := slices.Sorted(maps.Keys(out)); !slices.Equal(names, row.out) {
				t.Errorf("fields %v, want %v", names, row.out)
			}
			if again, _ := extract(carrier{"b3": out["b3"], "x-b3-traceid": out["x-b3-traceid"], "x-b3-spanid": out["x-b3-spanid"],
				"x-b3-sampled": out["x-b3-sampled"]}); !again.IsZero() && again != got {
				t.Errorf("B3 says %+v, traceparent %+v", again, got)
			}
			r.HTTP(rec)
			if n := len(spans.GetSpans()); n != row.spans {
				t.Errorf("%d spans, want %d", n, row.spans)
			}
		})
	}
}

func TestWithoutTracingContextPassesThrough(t *testing.T) {
	r := newRig(t, Options{})
	c := carrier{"traceparent": "whatever", "b3": "1"}
	rec := exchange()
	r.Propagate(rec, c)
	r.HTTP(rec)
	if len(c) != 2 || c["traceparent"] != "whatever" || c["b3"] != "1" {
		t.Errorf("fields became %v", c)
	}
}

func TestSpan(t *testing.T) {
	r, spans := traced(t, TraceOptions{Percent: 100, Service: "waypoint.bookinfo", NodeID: "waypoint~10.0.0.1~waypoint-x.bookinfo~bookinfo.svc.cluster.local"})
	rec := exchange()
	rec.Status, rec.Flag = 503, UF
	rec.GRPC, rec.GRPCStatus, rec.HasGRPCStatus = true, 14, true
	rec.Decision.DryAllow = Rehearsal{Result: "denied"}
	rec.Decision.DryDeny = Rehearsal{"denied", "ns[bookinfo]-policy[no-put]-rule[0]", "bookinfo/no-put"}
	r.Propagate(rec, carrier{"traceparent": "00-" + traceHex + "-" + spanHex + "-01"})
	r.HTTP(rec)
	if len(spans.GetSpans()) != 1 {
		t.Fatalf("%d spans, want 1", len(spans.GetSpans()))
	}
	s := spans.GetSpans()[0]
	var b strings.Builder
	b.WriteString("name " + s.Name + "\nkind " + s.SpanKind.String() + "\nstatus " + s.Status.Code.String() + " " + s.Status.Description + "\n")
	b.WriteString("took " + s.EndTime.Sub(s.StartTime).String() + "\nparent " + s.Parent.SpanID().String() + "\n")
	var lines []string
	for _, kv := range slices.Concat(s.Attributes, s.Resource.Attributes()) {
		lines = append(lines, string(kv.Key)+" = "+kv.Value.String())
	}
	slices.Sort(lines)
	script.Golden(t, "testdata/span.golden", b.String()+strings.Join(lines, "\n")+"\n")
	if !s.StartTime.Equal(noon) || s.EndTime.Sub(s.StartTime) != rec.Duration {
		t.Errorf("span from %v to %v", s.StartTime, s.EndTime)
	}

	rec = exchange()
	rec.Service, rec.Dest, rec.Source = nil, nil, nil
	r.Propagate(rec, carrier{})
	r.HTTP(rec)
	if got := spans.GetSpans()[1].Name; got != "10.96.12.4:9080/*" {
		t.Errorf("name of a span without a service: %q", got)
	}
}

// A collector that is not there delays neither the start nor, past its context,
// the end.
func TestMissingCollectorHoldsNothingUp(t *testing.T) {
	tel, err := New(Options{sweep: never, Trace: TraceOptions{Endpoint: "127.0.0.1:1", Percent: 100}})
	if err != nil {
		t.Fatal(err)
	}
	rec := exchange()
	tel.Propagate(rec, carrier{})
	tel.HTTP(rec)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := tel.Shutdown(ctx); err == nil {
		t.Error("Shutdown reported nothing of spans that were lost")
	}
}
