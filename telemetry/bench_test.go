package telemetry

import (
	"context"
	"io"
	"testing"
)

// newBench returns a Telemetry that writes its access log to nowhere, and the
// log; without one when log is false.
func newBench(tb testing.TB, log, text bool, keys ...string) (*Telemetry, *Writer) {
	tb.Helper()
	o := Options{Text: text, Keys: keys, sweep: never}
	if log {
		w, err := NewWriter(WriterOptions{Output: io.Discard})
		if err != nil {
			tb.Fatal(err)
		}
		o.AccessLog = w
	}
	t, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		t.Shutdown(context.Background())
		o.AccessLog.Close(context.Background())
	})
	return t, o.AccessLog
}

// BenchmarkRecord is the cost of telling what happened: metrics, and with a log
// its line. It excludes writing the line to a file, which another goroutine does
// for many at a time.
func BenchmarkRecord(b *testing.B) {
	for _, v := range []struct {
		name      string
		log, text bool
	}{{"http/metrics", false, false}, {"http/json", true, false}, {"http/text", true, true}} {
		b.Run(v.name, func(b *testing.B) {
			t, w := newBench(b, v.log, v.text)
			rec := exchange()
			b.ReportAllocs()
			for b.Loop() {
				t.HTTP(rec)
			}
			b.ReportMetric(float64(w.Dropped())/float64(b.N), "drops/op")
		})
	}
	for _, v := range []struct {
		name      string
		log, text bool
		keys      []string
	}{
		{"http/metrics/decided", false, false, nil},
		{"http/json/decided", true, false, nil},
		{"http/json/keys", true, false, KeyNames()},
		{"http/text/keys", true, true, KeyNames()},
	} {
		b.Run(v.name, func(b *testing.B) {
			t, _ := newBench(b, v.log, v.text, v.keys...)
			rec := decisionCases()[0].(*HTTP)
			b.ReportAllocs()
			for b.Loop() {
				t.HTTP(rec)
			}
		})
	}
	b.Run("http/json/parallel", func(b *testing.B) {
		t, _ := newBench(b, true, false)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for rec := exchange(); pb.Next(); {
				t.HTTP(rec)
			}
		})
	})
	b.Run("tcp/flush", func(b *testing.B) {
		t, _ := newBench(b, false, false)
		rec := connection(BySource)
		t.Open(rec)
		b.ReportAllocs()
		for b.Loop() {
			rec.Received += 1024
			rec.Sent += 4096
			t.Flush(rec)
		}
		t.Close(rec)
	})
	b.Run("tcp/openclose", func(b *testing.B) {
		t, _ := newBench(b, false, false)
		log, err := NewLog(LogOptions{})
		if err != nil {
			b.Fatal(err)
		}
		t.tunnels = newTunnelLog(log, LevelTrace, nil)
		rec := connection(BySource)
		b.ReportAllocs()
		for b.Loop() {
			t.Open(rec)
			t.Close(rec)
		}
	})
}

func TestRecordAllocatesNothing(t *testing.T) {
	for _, text := range []bool{false, true} {
		tel, _ := newBench(t, true, text, KeyNames()...)
		for i, rec := range decisionCases() {
			rec, ok := rec.(*HTTP)
			if !ok {
				continue
			}
			tel.HTTP(rec)
			if got := testing.AllocsPerRun(2000, func() { tel.HTTP(rec) }); got > 0.05 {
				t.Errorf("HTTP %d, text %v: %v allocations, want 0", i, text, got)
			}
		}
		tcp := connection(ByWaypoint)
		if got := testing.AllocsPerRun(2000, func() { tel.Open(tcp); tel.Flush(tcp); tel.Close(tcp) }); got > 0.05 {
			t.Errorf("TCP, text %v: %v allocations, want 0", text, got)
		}
	}
}
