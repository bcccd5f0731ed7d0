package telemetry

import (
	"encoding/hex"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A tunnelLog writes ztunnel's access lines into the program's log, and at
// debug level the lines that ztunnel wrote in ambient's first year, which tell
// the steps of a connection as it takes them.
type tunnelLog struct {
	// Immutable.
	log               *Log
	access            *scope
	outbound, inbound *scope
	steps             slog.Level // of the older lines
	export            *exporter  // nil: none
}

// The scopes of the older lines.
const (
	outboundScope = "ztunnel::proxy::outbound"
	inboundScope  = "ztunnel::proxy::inbound"
)

func newTunnelLog(l *Log, steps slog.Level, export *exporter) *tunnelLog {
	return &tunnelLog{l, l.scope("access"), l.scope(outboundScope), l.scope(inboundScope), steps, export}
}

// opened tells of a connection whose destination is known but not yet reached.
func (l *tunnelLog) opened(rec *TCP) {
	now := l.log.now()
	if s := l.stepScope(rec); s.enabled(l.steps) && (rec.Reporter == BySource || rec.HBONE) {
		l.step(now, s, rec, func(b []byte) []byte { return appendStep(b, rec) })
	}
	if l.access.enabled(slog.LevelDebug) {
		l.line(now, slog.LevelDebug, "connection opened", rec, appendConnection)
	}
}

// closed tells how a connection ended.
func (l *tunnelLog) closed(rec *TCP) {
	now := l.log.now()
	if s := l.stepScope(rec); rec.Reporter == BySource && rec.Err == nil && s.enabled(l.steps) {
		l.step(now, s, rec, func(b []byte) []byte { return appendRustDuration(append(b, "complete dur="...), rec.Duration) })
	}
	level := slog.LevelInfo
	if rec.Err != nil {
		level = slog.LevelError
	}
	const message = "connection complete"
	if l.access.enabled(level) {
		l.line(now, level, message, rec, appendComplete)
	}
	if l.export != nil {
		l.exported(now, level, message, rec, appendComplete)
	}
}

// failed tells of a connection that was refused before its ends were known.
func (l *tunnelLog) failed(rec *TCP) {
	const message, level = "connection failed", slog.LevelWarn
	now := l.log.now()
	if l.access.enabled(level) {
		l.line(now, level, message, rec, appendFailed)
	}
	if l.export != nil {
		l.exported(now, level, message, rec, appendFailed)
	}
}

func (l *tunnelLog) line(now time.Time, level slog.Level, message string, rec *TCP, fields func(*line, *TCP)) {
	b := newLine(l.log.json)
	from := b.head(now, level, l.access.name, message)
	fields(b, rec)
	b.end(from)
	b.send(l.log.out)
}

func appendFailed(b *line, rec *TCP) {
	b.addr("src.addr", rec.SourceAddr)
	b.addr("dst.addr", rec.dialled())
	b.str("direction", rec.direction())
	b.failure(rec.Err)
}

func appendConnection(b *line, rec *TCP) {
	b.addr("src.addr", rec.SourceAddr)
	b.workload("src", rec.Source)
	b.identity("src.identity", rec.SourceID)
	b.cluster("src.cluster", rec.Source)
	b.addr("dst.addr", rec.dialled())
	if rec.HBONE && rec.Target.Port != 0 {
		b.key("dst.hbone_addr")
		b.bare(func(p []byte) []byte { return appendAuthority(p, rec.Target) })
	}
	if rec.Service != nil {
		b.optional("dst.service", rec.Service.Hostname)
	} else {
		b.optional("dst.service", rec.ServiceHost.Host)
	}
	b.workload("dst", rec.Dest)
	b.identity("dst.identity", rec.DestID)
	b.cluster("dst.cluster", rec.Dest)
	b.str("direction", rec.direction())
}

func appendComplete(b *line, rec *TCP) {
	appendConnection(b, rec)
	// From where the workload stands that the tunnel serves.
	sent, received := rec.Received, rec.Sent
	if rec.Reporter == ByDestination {
		sent, received = received, sent
	}
	b.uint("bytes_sent", sent)
	b.uint("bytes_recv", received)
	b.millis("duration", rec.Duration)
	b.failure(rec.Err)
	if l := rec.Link; l != nil {
		b.micros("tcp.rtt", l.RTT)
		if l.MinRTT > 0 {
			b.micros("tcp.min_rtt", l.MinRTT)
		}
		b.uint("tcp.retransmits", uint64(l.Retransmits))
		b.uint("tcp.lost", uint64(l.Lost))
	}
}

// workload appends the name of a pod, not of what owns it, since Kiali looks
// for its lines by that, and its namespace.
func (l *line) workload(side string, w *mesh.Workload) {
	if w == nil {
		return
	}
	l.key(side + ".workload")
	l.b = appendJSONString(l.b, w.Name)
	l.key(side + ".namespace")
	l.b = appendJSONString(l.b, w.Namespace)
}

func (l *line) identity(k string, id identity.ID) {
	if id.IsZero() {
		return
	}
	l.key(k)
	l.b = append(l.b, '"')
	l.b = appendID(l.b, id) // certificates hold nothing in it to escape
	l.b = append(l.b, '"')
}

func (l *line) cluster(k string, w *mesh.Workload) {
	if w != nil {
		l.optional(k, w.ClusterID)
	}
}

func (l *line) failure(err error) {
	if err != nil {
		l.str("error", err.Error())
	}
}

func appendID(b []byte, id identity.ID) []byte {
	b = append(b, "spiffe://"...)
	b = append(b, id.TrustDomain...)
	b = append(b, "/ns/"...)
	b = append(b, id.Namespace...)
	b = append(b, "/sa/"...)
	return append(b, id.ServiceAccount...)
}

func appendAuthority(b []byte, a mesh.Authority) []byte {
	if a.IP.IsValid() {
		return a.AddrPort().AppendTo(b)
	}
	b = appendPlain(b, a.Host)
	b = append(b, ':')
	return strconv.AppendUint(b, uint64(a.Port), 10)
}

// dialled returns the address at the other end of the connection the tunnel
// made, or of the one it took.
func (r *TCP) dialled() netip.AddrPort {
	if r.Reporter == ByDestination || !r.Upstream.IsValid() {
		return r.LocalAddr
	}
	return r.Upstream
}

func (r *TCP) direction() string {
	if r.Reporter == ByDestination {
		return "inbound"
	}
	return "outbound"
}

func (l *tunnelLog) stepScope(rec *TCP) *scope {
	if rec.Reporter == ByDestination {
		return l.inbound
	}
	return l.outbound
}

// step writes a line in the form of ztunnel of ambient's first year:
//
//	2023-08-28T10:39:33.716634Z  INFO outbound{id=86e9…}: ztunnel::proxy::outbound: proxy to …
func (l *tunnelLog) step(now time.Time, s *scope, rec *TCP, message func([]byte) []byte) {
	b := newLine(l.log.json)
	if l.log.json {
		var text [256]byte
		from := b.head(now, l.steps, s.name, string(message(text[:0])))
		b.span(rec)
		b.end(from)
	} else {
		b.b = appendTime(b.b, now, 6)
		level := strings.ToUpper(levelName(l.steps))
		b.b = append(b.b, "      "[:6-len(level)]...)
		b.b = append(b.b, level...)
		b.b = append(b.b, ' ')
		b.b = append(b.b, rec.direction()...)
		b.b = append(b.b, '{')
		from := len(b.b)
		b.span(rec)
		b.b = append(b.b[:from], b.b[min(from+1, len(b.b)):]...) // the blank before the first
		b.b = append(b.b, "}: "...)
		b.b = append(b.b, s.name...)
		b.b = append(b.b, ": "...)
		b.b = append(message(b.b), '\n')
	}
	b.send(l.log.out)
}

// span appends what identifies the connection.
func (l *line) span(rec *TCP) {
	l.key("id")
	l.bare(func(b []byte) []byte { return hex.AppendEncode(b, rec.Trace.ID[:]) })
	if rec.Reporter != ByDestination {
		return
	}
	l.key("peer_ip")
	l.bare(func(b []byte) []byte { return rec.SourceAddr.Addr().AppendTo(b) })
	if !rec.SourceID.IsZero() {
		l.key("peer_id")
		l.bare(func(b []byte) []byte { return appendID(b, rec.SourceID) })
	}
}

func appendStep(b []byte, rec *TCP) []byte {
	if rec.Reporter == ByDestination {
		return appendAuthority(append(b, "got CONNECT request to "...), rec.Target)
	}
	b = append(b, "proxy to "...)
	if rec.Target.Port != 0 {
		b = appendAuthority(b, rec.Target)
	} else {
		b = rec.LocalAddr.AppendTo(b)
	}
	b = append(b, " using "...)
	if rec.HBONE {
		b = append(b, "HBONE"...)
	} else {
		b = append(b, "TCP"...)
	}
	b = append(b, " via "...)
	b = rec.dialled().AppendTo(b)
	b = append(b, " type "...)
	return append(b, rec.Hop.String()...)
}

// appendRustDuration appends d as ztunnel prints one: like Go, but in seconds
// however many there are.
func appendRustDuration(b []byte, d time.Duration) []byte {
	if d < time.Minute {
		return append(b, d.String()...)
	}
	return append(strconv.AppendFloat(b, d.Seconds(), 'f', -1, 64), 's')
}
