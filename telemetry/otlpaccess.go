package telemetry

import (
	"cmp"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// exported sends what a waypoint's line says as a log record: the fields of the
// JSON line under their names, those for which OpenTelemetry has names under these
// as well, and the line of text as the body, which is what Istio's provider of
// that kind sends.
func (l *accessLog) exported(r logged) {
	rec := newLogRecord(r.Start, slog.LevelInfo)
	rec.line.b = l.appendText(rec.line.b, r.Ends, r.Outcome, r.http)
	rec.body(rec.line.b)
	rec.line.b = l.appendJSON(rec.line.b[:0], r.Ends, r.Outcome, r.http)
	for i := range l.more {
		rec.line.key(l.more[i].name)
		l.more[i].value(&rec.line, r)
	}
	rec.fields(rec.line.b)
	rec.address("client", r.SourceAddr)
	if r.http != nil {
		rec.exchange(r.http)
	} else {
		rec.str("network.transport", "tcp")
		rec.of(r.tcp.Trace.ID, r.tcp.Trace.Span, r.tcp.Trace.Sampled)
	}
	rec.send(l.export.queue)
}

// exchange appends what the semantic conventions of HTTP have a name for.
func (r *logRecord) exchange(h *HTTP) {
	r.str("http.request.method", h.Method)
	path, _, _ := strings.Cut(h.Path, "?")
	r.str("url.path", path)
	r.str("user_agent.original", h.UserAgent)
	if name, version, ok := strings.Cut(h.Protocol, "/"); ok {
		r.str("network.protocol.name", strings.ToLower(name))
		r.str("network.protocol.version", version)
	}
	if h.Service != nil {
		r.str("server.address", h.Service.Hostname)
	} else {
		r.str("server.address", h.ServiceHost.Host)
	}
	if port := cmp.Or(h.LocalAddr.Port(), h.Target.Port); port != 0 {
		r.int("server.port", int64(port))
	}
	r.int("http.request.body.size", int64(h.Received))
	r.int("http.response.body.size", int64(h.Sent))
	if h.Status != 0 {
		r.int("http.response.status_code", int64(h.Status))
	}
	if h.Status >= 500 {
		r.str("error.type", strconv.Itoa(h.Status))
	} else if h.Status == 0 {
		r.str("error.type", h.Flag.String())
	}
	if h.span == nil {
		r.of(h.trace, [8]byte{}, false)
		return
	}
	s := h.span.SpanContext()
	r.of(s.TraceID(), s.SpanID(), s.IsSampled())
}

// exported sends what a line of a node tunnel's says, likewise; the body is the
// message.
func (l *tunnelLog) exported(now time.Time, level slog.Level, message string, rec *TCP, fields func(*line, *TCP)) {
	r := newLogRecord(now, level)
	r.body([]byte(message))
	fields(&r.line, rec)
	r.fields(r.line.b)
	r.address("source", rec.SourceAddr)
	r.address("destination", rec.dialled())
	r.str("network.transport", "tcp")
	if rec.Flag != 0 {
		r.str("error.type", rec.Flag.String())
	}
	r.of(rec.Trace.ID, rec.Trace.Span, rec.Trace.Sampled)
	r.send(l.export.queue)
}
