package telemetry

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// A Telemetry turns records into metrics, log lines and spans. It is safe for
// concurrent use, provided that each record is used by one goroutine at a time.
type Telemetry struct {
	// Immutable.
	registry    *prometheus.Registry
	table       *table
	tally       *tally
	questions   *questions   // in DNS
	lookups     *lookups     // on behalf of connections
	questionLog *slog.Logger // nil without a log
	access      *accessLog   // nil without an access log
	tunnels     *tunnelLog   // nil without a log
	tracer      *tracer      // nil without tracing
	exporter    *exporter    // of log records; nil without
	now         func() time.Time
	writer      *Writer
	stop        func()
	swept       chan struct{} // closed when the sweeper has ended

	sockets    [3]atomic.Int64 // open connections, by Reporter
	handshakes atomic.Uint64   // failed
	revoked    revocations

	// ztunnel's count of the workloads it serves.
	active, pending  atomic.Int64
	started, stopped atomic.Uint64
}

// New returns a Telemetry, whose goroutine Shutdown ends.
func New(o Options) (*Telemetry, error) {
	o.Program = cmp.Or(o.Program, Waypoint)
	o.Version = cmp.Or(o.Version, unknown)
	o.ClusterID = cmp.Or(o.ClusterID, "Kubernetes")
	o.MaxSeries = cmp.Or(o.MaxSeries, 10_000)
	o.Retain = cmp.Or(o.Retain, time.Hour)
	o.sweep = cmp.Or(o.sweep, max(o.Retain/4, time.Second))
	if o.now == nil {
		o.now = time.Now
	}
	t := &Telemetry{
		registry:  prometheus.NewRegistry(),
		table:     newTable(o.MaxSeries, o.Retain, o.Live, o.ClusterID),
		tally:     new(tally),
		questions: new(questions),
		lookups:   new(lookups),
		now:       o.now,
		writer:    o.AccessLog,
		tracer:    o.trace,
		swept:     make(chan struct{}),
	}
	t.tally.open(max(o.MaxSeries/10, 1), o.Retain)
	t.questions.open(max(o.MaxSeries/10, 1), o.Retain)
	t.lookups.open(max(o.MaxSeries/10, 1), o.Retain)
	if err := t.start(o); err != nil {
		return nil, errors.Join(err, t.exporter.close(context.Background()))
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.stop = cancel
	go t.sweepEvery(ctx, o.sweep)
	return t, nil
}

// start opens what o asks for.
func (t *Telemetry) start(o Options) (err error) {
	log, exporting := slog.New(slog.DiscardHandler), slog.New(slog.DiscardHandler)
	if o.Log != nil {
		log, exporting = o.Log.Scope("tracing"), o.Log.Scope("otlp")
		t.questionLog = o.Log.Scope("dns")
	}
	if t.exporter, err = newExporter(o.OTLP, o.Version, o.ClusterID, exporting); err != nil {
		return err
	}
	if t.access, err = newAccessLog(&o, t.exporter); err != nil {
		return err
	}
	if o.Log != nil {
		steps := slog.LevelDebug
		if o.Steps {
			steps = slog.LevelInfo
		}
		t.tunnels = newTunnelLog(o.Log, steps, t.exporter)
	}
	if t.tracer == nil {
		if t.tracer, err = newTracer(o.Trace, log); err != nil {
			return err
		}
	}
	return t.register(o)
}

// Metrics returns what a scrape is served from.
func (t *Telemetry) Metrics() prometheus.Gatherer { return t.registry }

// HTTP reports an exchange, once, when it is over: its metrics, its line in the
// access log, and the end of its span.
func (t *Telemetry) HTTP(rec *HTTP) {
	k := rec.key(exchanges)
	k.mtls = rec.mtls()
	k.flag = rec.Flag
	k.status = int16(min(max(rec.Status, 0), math.MaxInt16))
	k.grpcStatus = -1
	if rec.GRPC {
		k.grpc = 1
		if rec.HasGRPCStatus {
			k.grpcStatus = int8(min(max(rec.GRPCStatus, 0), math.MaxInt8))
		}
		t.FlushHTTP(rec)
	}
	c := t.table.find(&k).exchange
	c.request.observe(milliBytes(rec.ReceivedWire))
	c.response.observe(milliBytes(rec.SentWire))
	c.duration.observe(microseconds(rec.Duration))
	t.tally.enforce(&rec.Decision)
	t.tally.rehearse(&rec.Decision)
	if rec.peers != nil {
		rec.peers.open.Add(-1)
		rec.peers = nil
	}
	if t.access != nil {
		t.access.http(rec)
	}
	if rec.span != nil {
		t.tracer.end(rec)
	}
}

// FlushHTTP reports the gRPC messages of an exchange that goes on: every five
// seconds, say. HTTP reports the rest.
func (t *Telemetry) FlushHTTP(rec *HTTP) {
	if rec.Requests.Count == rec.counts.requests && rec.Responses.Count == rec.counts.responses {
		return
	}
	if rec.peers == nil {
		k := rec.key(messages)
		rec.peers = t.table.find(&k)
		rec.peers.open.Add(1)
	}
	rec.peers.message.request.Add(rec.Requests.Count - rec.counts.requests)
	rec.peers.message.response.Add(rec.Responses.Count - rec.counts.responses)
	rec.counts = messageCounts{rec.Requests.Count, rec.Responses.Count}
}

// ConnectRefused writes the access line of a CONNECT that a waypoint answered
// with an error. It counts nothing but what policy decided: a tunnel is not an
// exchange.
func (t *Telemetry) ConnectRefused(rec *HTTP) {
	t.tally.enforce(&rec.Decision)
	t.tally.rehearse(&rec.Decision)
	if t.access != nil {
		t.access.http(rec)
	}
}

// Propagate begins the span of an exchange, as the trace context in its request
// says, and writes the context that the destination must see into the request.
// Call it once, before the request goes out, when rec has its Start. Without
// tracing it leaves the request as it is.
func (t *Telemetry) Propagate(rec *HTTP, c Carrier) {
	switch {
	case t.tracer != nil:
		t.tracer.start(rec, c)
	case t.access != nil && t.access.traces:
		theirs, _ := extract(c)
		rec.trace = theirs.ID
	}
}

// Open reports a connection: for a client's tunnel before it dials, for a
// destination's before it checks policy, for a waypoint when the endpoint is
// known. Close must follow.
func (t *Telemetry) Open(rec *TCP) {
	k := rec.key(connections)
	k.mtls = rec.mtls()
	rec.series = t.table.find(&k)
	rec.series.open.Add(1)
	rec.series.connection.opened.Add(1)
	rec.received, rec.sent = 0, 0
	t.sockets[rec.Reporter].Add(1)
	t.rehearse(rec)
	if t.tunnels != nil && rec.Reporter != ByWaypoint {
		t.tunnels.opened(rec)
	}
}

// Flush counts the bytes that a connection has carried since the last time.
func (t *Telemetry) Flush(rec *TCP) {
	if rec.series == nil {
		return
	}
	t.rehearse(rec)
	c := rec.series.connection
	if n := rec.Received - rec.received; n != 0 {
		c.received.Add(n)
		rec.received = rec.Received
	}
	if n := rec.Sent - rec.sent; n != 0 {
		c.sent.Add(n)
		rec.sent = rec.Sent
	}
}

// rehearse counts what was tried on a connection, once, as soon as it is known: a
// tunnel may be open for days, and who means to enforce a policy tomorrow must not
// have to wait for its end.
func (t *Telemetry) rehearse(rec *TCP) {
	if d := &rec.Decision; !rec.rehearsed && (d.DryAllow.Result != "" || d.DryDeny.Result != "" || len(d.Trials) > 0) {
		rec.rehearsed = true
		t.tally.rehearse(d)
	}
}

// Close reports the end of a connection: what Flush has not, and its line. It
// must be called once after Open; further calls do nothing.
func (t *Telemetry) Close(rec *TCP) {
	if rec.series == nil {
		return
	}
	t.Flush(rec)
	t.tally.enforce(&rec.Decision)
	end := rec.series
	if rec.Flag != 0 {
		// Only here do flags show: bytes of one connection that two tunnels
		// count under different labels would look like those of two.
		k := rec.key(connections)
		k.mtls = rec.mtls()
		k.flag = rec.Flag
		end = t.table.find(&k)
		end.connection.failed.Add(1)
	}
	end.connection.closed.Add(1)
	rec.series.open.Add(-1)
	rec.series = nil
	t.sockets[rec.Reporter].Add(-1)
	switch {
	case rec.Reporter == ByWaypoint:
		if t.access != nil {
			t.access.tcp(rec)
		}
	case t.tunnels != nil:
		t.tunnels.closed(rec)
	}
}

// Failed writes the line of a connection that a node tunnel refused before Open:
// of rec only Reporter, the addresses and Err matter. It counts nothing.
func (t *Telemetry) Failed(rec *TCP) {
	if t.tunnels != nil {
		t.tunnels.failed(rec)
	}
}

// Explains reports whether Decision.Why is of use: an opt-in key of the access log
// asks for it. To say why takes longer than to decide, so it is not for every
// refusal otherwise.
func (t *Telemetry) Explains() bool { return t.access != nil && t.access.explains }

// HandshakeFailed counts a connection to us whose TLS handshake failed.
func (t *Telemetry) HandshakeFailed() { t.handshakes.Add(1) }

// Reopen reopens the access log under its name.
func (t *Telemetry) Reopen(ctx context.Context) error { return t.writer.Reopen(ctx) }

// Shutdown exports the spans and log records that are waiting and writes the access
// log out. It closes neither the log nor the writer, which others may share. Records
// may still be reported, but their spans and log records are lost. It is called
// once.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	t.stop()
	<-t.swept
	var err error
	if t.tracer != nil {
		err = t.tracer.provider.Shutdown(ctx)
	}
	return errors.Join(err, t.writer.Flush(ctx), t.exporter.close(ctx))
}

// sweepEvery is the goroutine that removes idle series.
func (t *Telemetry) sweepEvery(ctx context.Context, every time.Duration) {
	defer close(t.swept)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			now := t.now()
			t.table.sweep(now)
			t.tally.sweep(now)
			t.questions.sweep(now)
			t.lookups.sweep(now)
		case <-ctx.Done():
			return
		}
	}
}

// key returns the key of what e tells, without an outcome.
func (e *Ends) key(k kind) key {
	c := key{
		kind: k, reporter: e.Reporter,
		source: e.Source, dest: e.Dest, sourceID: e.SourceID, destID: e.DestID,
		service: e.Service,
	}
	if e.Service == nil {
		c.serviceHost = e.ServiceHost
	}
	return c
}

// mtls reports whether both sides proved who they are.
func (e *Ends) mtls() bool {
	other := e.DestID
	if e.Reporter == ByWaypoint {
		other = e.LocalID
	}
	return e.SourceID != identity.ID{} && other != identity.ID{}
}
