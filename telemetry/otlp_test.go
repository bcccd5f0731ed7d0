package telemetry

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A receiver is an OTLP receiver of logs, by the generated code, in memory.
type receiver struct {
	collector.UnimplementedLogsServiceServer
	ln *bufconn.Listener

	mu     sync.Mutex
	got    []*logs.ResourceLogs
	answer func() (*collector.ExportLogsServiceResponse, error) // nil: all is well
	came   chan struct{}
}

func (r *receiver) Export(_ context.Context, req *collector.ExportLogsServiceRequest) (*collector.ExportLogsServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case r.came <- struct{}{}:
	default:
	}
	if r.answer != nil {
		if resp, err := r.answer(); resp != nil || err != nil {
			return resp, err
		}
	}
	r.got = append(r.got, req.ResourceLogs...)
	return &collector.ExportLogsServiceResponse{}, nil
}

func newReceiver(tb testing.TB) *receiver {
	tb.Helper()
	r := &receiver{ln: bufconn.Listen(1 << 20), came: make(chan struct{}, 1)}
	srv := grpc.NewServer()
	collector.RegisterLogsServiceServer(srv, r)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(r.ln) }()
	tb.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil {
			tb.Error(err)
		}
	})
	return r
}

func (r *receiver) options() OTLPOptions {
	return OTLPOptions{
		Endpoint: "collector:4317", Service: "waypoint.bookinfo", Node: "node-1", linger: -1, pause: time.Millisecond,
		dial: func(ctx context.Context, _ string) (net.Conn, error) { return r.ln.DialContext(ctx) },
	}
}

// records returns what has been received, after all that was reported has been
// sent.
func (r *receiver) records(tb testing.TB, t *Telemetry) (list []*logs.LogRecord) {
	tb.Helper()
	if err := t.exporter.queue.Flush(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, res := range r.got {
		for _, s := range res.ScopeLogs {
			list = append(list, s.LogRecords...)
		}
	}
	return list
}

// attributes returns them by key, and fails if one is there twice.
func attributes(tb testing.TB, list []*common.KeyValue) map[string]any {
	tb.Helper()
	m := map[string]any{}
	for _, kv := range list {
		if m[kv.Key] != nil {
			tb.Errorf("attribute %s is there twice", kv.Key)
		}
		switch v := kv.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			m[kv.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			m[kv.Key] = float64(v.IntValue) // as encoding/json has it
		case *common.AnyValue_BoolValue:
			m[kv.Key] = v.BoolValue
		default:
			tb.Errorf("attribute %s is a %T", kv.Key, v)
		}
	}
	return m
}

// wantFields checks that attributes have what a line of JSON has.
func wantFields(t *testing.T, line string, got map[string]any) {
	t.Helper()
	var want map[string]any
	if err := json.Unmarshal([]byte(line), &want); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	for k, v := range want {
		switch list, isList := v.([]any); {
		case k == "level" || k == "time" || k == "scope" || k == "message": // of the record itself
		case v == nil && got[k] != nil:
			t.Errorf("%s is %v, but null in the line", k, got[k])
		case isList && !json.Valid([]byte(fmt.Sprint(got[k]))):
			t.Errorf("%s is %v, want %v", k, got[k], list)
		case !isList && got[k] != v:
			t.Errorf("%s is %v, want %v", k, got[k], v)
		}
	}
}

func wantAttributes(t *testing.T, got map[string]any, want map[string]any) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %v, want %v", k, got[k], v)
		}
	}
}

// TestExchangesAreExported: a record has the fields of the line in JSON, the line
// of text as its body, and the names of the semantic conventions.
func TestExchangesAreExported(t *testing.T) {
	recv := newReceiver(t)
	r := newRig(t, Options{Keys: KeyNames(), OTLP: recv.options(), Version: "1.30"})
	rec := exchange()
	rec.UserAgent = "curl \"8\" \xff ü\n"
	rec.Decision = Decision{Rule: "ns[a]-policy[p]-rule[0]", Trials: []Trial{{"a/new", "a/old", true}}}
	r.Propagate(rec, carrier{"traceparent": "00-86e9aa3b1c2d4e5f60718293a4b5c6d7-0102030405060708-01"})
	r.HTTP(rec)
	got := recv.records(t, r.Telemetry)
	if len(got) != 1 {
		t.Fatalf("%d records, want 1", len(got))
	}
	a := attributes(t, got[0].Attributes)
	wantFields(t, r.lines(t), a)
	wantAttributes(t, a, map[string]any{
		"http.request.method": "GET", "url.path": "/reviews/0", "path": "/reviews/0?x=1",
		"http.response.status_code": 200.0, "http.response.body.size": 4183.0, "http.request.body.size": 12.0,
		"network.protocol.name": "http", "network.protocol.version": "1.1",
		"client.address": "10.244.1.24", "client.port": 48410.0,
		"server.address": "reviews.bookinfo.svc.cluster.local", "server.port": 9080.0,
		"user_agent.original": "curl \"8\" \ufffd ü\n", "error.type": nil,
		"trials": `[{"policy":"a/new","replaces":"a/old","result":"same"}]`,
	})
	if body := got[0].Body.GetStringValue(); !strings.HasPrefix(body, `[2023-08-28T10:39:33.716Z] "GET /reviews/0?x=1 HTTP/1.1" 200 - via_upstream`) {
		t.Errorf("body: %s", body)
	}
	if id := hex.EncodeToString(got[0].TraceId); id != "86e9aa3b1c2d4e5f60718293a4b5c6d7" {
		t.Errorf("trace %q", id)
	}
	if at := time.Unix(0, int64(got[0].TimeUnixNano)); !at.Equal(noon) || got[0].SeverityText != "INFO" || got[0].SeverityNumber != logs.SeverityNumber_SEVERITY_NUMBER_INFO {
		t.Errorf("at %v, %v", at, got[0].SeverityNumber)
	}
	wantAttributes(t, attributes(t, recv.got[0].Resource.Attributes), map[string]any{
		"service.name": "waypoint.bookinfo", "service.version": "1.30", "k8s.cluster.name": "Kubernetes", "k8s.node.name": "node-1",
	})
	if name := recv.got[0].ScopeLogs[0].Scope.Name; name != "access" {
		t.Errorf("scope %q", name)
	}
}

// TestExportedRecordHasItsSpan: who traces finds the line from the span.
func TestExportedRecordHasItsSpan(t *testing.T) {
	recv := newReceiver(t)
	spans := tracetest.NewInMemoryExporter()
	r := newRig(t, Options{OTLP: recv.options(), trace: newTracerTo(TraceOptions{Percent: 100}, sdktrace.WithSyncer(spans))})
	rec := exchange()
	h := carrier{}
	r.Propagate(rec, h)
	r.HTTP(rec)
	want, _ := ParseTraceparent(h["traceparent"])
	got := recv.records(t, r.Telemetry)[0]
	if [8]byte(got.SpanId) != want.Span || [16]byte(got.TraceId) != want.ID || got.Flags != 1 {
		t.Errorf("trace %x span %x flags %d, want %+v", got.TraceId, got.SpanId, got.Flags, want)
	}
}

// TestTunnelsAreExported: with the fields of the node tunnel's line, though that is
// not written.
func TestTunnelsAreExported(t *testing.T) {
	recv := newReceiver(t)
	written := new(sink)
	log := newLog(t, LogOptions{Output: written, JSON: true})
	r := newRig(t, Options{Program: Ztunnel, OTLP: recv.options(), Log: log})
	good, bad, early := connection(BySource), connection(ByDestination), connection(ByDestination)
	for _, rec := range []*TCP{good, bad} {
		rec.Received, rec.Sent, rec.Duration = 10, 20, 12*time.Millisecond
		r.Open(rec)
	}
	bad.Err, bad.Flag = errors.New("http status: 503"), ConnectFailure
	early.Err = errors.New("ip mismatch")
	r.Close(good)
	r.Close(bad)
	r.Failed(early)
	lines := strings.Split(strings.TrimSpace(written.take()), "\n")
	got := recv.records(t, r.Telemetry)
	if len(got) != 3 || len(lines) != 3 {
		t.Fatalf("%d records, %d lines, want 3", len(got), len(lines))
	}
	for i, want := range []struct{ body, severity, flag string }{
		{"connection complete", "INFO", ""}, {"connection complete", "ERROR", "CONNECT"}, {"connection failed", "WARN", ""},
	} {
		a := attributes(t, got[i].Attributes)
		wantFields(t, lines[i], a)
		wantAttributes(t, a, map[string]any{"source.address": "10.244.1.24", "source.port": 48410.0, "destination.port": 15008.0, "network.transport": "tcp"})
		if got[i].Body.GetStringValue() != want.body || got[i].SeverityText != want.severity || a["error.type"] != any(want.flag) && want.flag != "" {
			t.Errorf("record %d: %v", i, got[i])
		}
		if id := hex.EncodeToString(got[i].SpanId); id != "0102030405060708" {
			t.Errorf("span %q", id)
		}
	}
	if err := log.SetLevel("access:off"); err != nil {
		t.Fatal(err)
	}
	r.Open(good)
	r.Close(good)
	if n := len(recv.records(t, r.Telemetry)); n != 4 || written.take() != "" {
		t.Errorf("%d records with the line off, want 4", n)
	}
}

// TestExportNeverHoldsUp has a receiver that does not answer: what there is no room
// for is dropped and counted, nobody waits, and the end comes in time.
func TestExportNeverHoldsUp(t *testing.T) {
	recv := newReceiver(t)
	o := recv.options()
	o.Queue = 16 << 10
	release := make(chan struct{})
	recv.answer = func() (*collector.ExportLogsServiceResponse, error) {
		<-release
		return nil, nil
	}
	r := newRig(t, Options{OTLP: o})
	const n = 1000
	for range n {
		r.HTTP(exchange())
	}
	dropped := r.exporter.queue.Dropped()
	if dropped < n/2 || value(t, r.Telemetry, "waystone_log_dropped_lines_total", `log="otlp"`, `reason="full"`) != fmt.Sprint(dropped) {
		t.Errorf("%d of %d dropped", dropped, n)
	}
	close(release)
	if got := len(recv.records(t, r.Telemetry)); uint64(got) != n-dropped {
		t.Errorf("%d records arrived, %d were dropped, of %d", got, dropped, n)
	}
}

// TestExportTriesAgain: what the receiver cannot take now is sent again, what it
// will not take is counted.
func TestExportTriesAgain(t *testing.T) {
	recv := newReceiver(t)
	tries := 0
	recv.answer = func() (*collector.ExportLogsServiceResponse, error) {
		if tries++; tries == 1 {
			return nil, status.Error(codes.Unavailable, "not yet")
		}
		return nil, nil
	}
	r := newRig(t, Options{OTLP: recv.options()})
	r.HTTP(exchange())
	if got := len(recv.records(t, r.Telemetry)); got != 1 || tries != 2 {
		t.Errorf("%d records in %d tries", got, tries)
	}
	lost := func(reason string) string {
		return value(t, r.Telemetry, "waystone_log_dropped_lines_total", `log="otlp"`, `reason="`+reason+`"`)
	}
	recv.answer = func() (*collector.ExportLogsServiceResponse, error) {
		return nil, status.Error(codes.InvalidArgument, "not like this")
	}
	r.HTTP(exchange())
	if recv.records(t, r.Telemetry); lost("error") != "1" {
		t.Errorf("%s lost, want 1", lost("error"))
	}
	recv.answer = func() (*collector.ExportLogsServiceResponse, error) {
		return &collector.ExportLogsServiceResponse{PartialSuccess: &collector.ExportLogsPartialSuccess{RejectedLogRecords: 1, ErrorMessage: "too old"}}, nil
	}
	r.HTTP(exchange())
	if recv.records(t, r.Telemetry); lost("rejected") != "1" {
		t.Errorf("%s rejected, want 1", lost("rejected"))
	}
	if out := r.out.take(); strings.Count(out, "were not exported") != 1 { // they are one run of failures
		t.Errorf("said:\n%s", out)
	}
}

// TestExportEndsWithoutReceiver: there is nobody there, and Shutdown does not wait
// for somebody.
func TestExportEndsWithoutReceiver(t *testing.T) {
	tel, err := New(Options{OTLP: OTLPOptions{
		Endpoint: "collector:4317", last: 10 * time.Millisecond,
		dial: func(ctx context.Context, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
	}})
	if err != nil {
		t.Fatal(err)
	}
	tel.HTTP(exchange())
	began := time.Now()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if n := tel.exporter.failed.Load(); n != 1 {
		t.Errorf("%d counted as lost, want 1", n)
	}
}

// TestRequestsAreOfBoundedSize: a long queue goes out in several.
func TestRequestsAreOfBoundedSize(t *testing.T) {
	recv := newReceiver(t)
	r := newRig(t, Options{OTLP: recv.options()})
	rec := newLogRecord(noon, 0)
	rec.str("x", strings.Repeat("x", 300<<10))
	var all []byte
	for range 7 {
		all = protowire.AppendBytes(protowire.AppendTag(all, scopeLogsRecords, protowire.BytesType), rec.b[lead:])
	}
	if _, err := r.exporter.queue.Write(all); err != nil {
		t.Fatal(err)
	}
	if got := len(recv.records(t, r.Telemetry)); got != 7 {
		t.Errorf("%d records, want 7", got)
	}
	if n := len(recv.got); n != 3 { // three to a request
		t.Errorf("%d requests, want 3", n)
	}
}

func FuzzExportResponse(f *testing.F) {
	f.Add([]byte{0x0a, 0x06, 0x08, 0x03, 0x12, 0x02, 'n', 'o'})
	f.Add([]byte{0x0a, 0x7f})
	f.Add([]byte{0x08, 0x01, 0x0a, 0x02, 0x08, 0x80})
	f.Fuzz(func(t *testing.T, p []byte) { parseResponse(p) })
}

// FuzzRecordFields: whatever a line has, its record is one that a receiver reads.
func FuzzRecordFields(f *testing.F) {
	f.Add([]byte(`{"a":"b","n":null,"i":-12,"d":1.5,"t":true,"l":[{"x":"],"}],"e":"\u0001\"\\"`))
	f.Add([]byte(`,"src.addr":"10.0.0.1:80","x":`))
	f.Add([]byte(`{"a":"`))
	f.Add([]byte("{\"a\":\"\xff\"}"))
	f.Fuzz(func(t *testing.T, p []byte) {
		r := newLogRecord(noon, 0)
		r.body(p)
		r.fields(p)
		x := exporter{}
		x.describe(OTLPOptions{Service: string(p)}, "", "")
		var got collector.ExportLogsServiceRequest
		record := protowire.AppendBytes(protowire.AppendTag(nil, scopeLogsRecords, protowire.BytesType), r.b[lead:])
		if err := proto.Unmarshal(x.request(record), &got); err != nil {
			t.Fatal(err)
		}
		if len(got.ResourceLogs) != 1 || len(got.ResourceLogs[0].ScopeLogs[0].LogRecords) != 1 {
			t.Errorf("got %v", &got)
		}
	})
}
