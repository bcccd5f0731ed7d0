package telemetry

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// An accessLog is a waypoint's: one line for each exchange and each opaque
// tunnel, Istio's default in either of its encodings, and after that the keys
// that were asked for.
type accessLog struct {
	out    *Writer   // nil: none
	export *exporter // nil: none
	text   bool
	legacy bool // the client's address as Istio 1.18 printed it
	more   []column

	explains, traces bool // one of the columns tells of it
}

// A column is a further key, and how it is written before its value.
type column struct {
	name   string
	before string
	value  func(*line, logged)
}

// newAccessLog returns the access log that o asks for, or nil.
func newAccessLog(o *Options, export *exporter) (*accessLog, error) {
	keys, err := keysOf(o.Keys)
	if err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	if o.AccessLog == nil && export == nil {
		return nil, nil
	}
	l := &accessLog{
		out: o.AccessLog, export: export, text: o.Text, legacy: o.LegacyAddresses,
		explains: slices.Contains(o.Keys, explanationKey), traces: export != nil || slices.Contains(o.Keys, traceKey),
	}
	for _, k := range keys {
		b := line{json: !o.Text}
		b.key(k.name)
		l.more = append(l.more, column{k.name, string(b.b), k.value})
	}
	return l, nil
}

// accessKeys are the keys of the JSON line, in their order.
var accessKeys = [...]string{
	"start_time", "method", "path", "protocol", "authority", "user_agent",
	"x_forwarded_for", "request_id", "response_code", "response_code_details",
	"connection_termination_details", "response_flags", "bytes_received",
	"bytes_sent", "duration", "upstream_service_time", "upstream_host",
	"upstream_cluster", "upstream_local_address", "downstream_local_address",
	"downstream_remote_address", "requested_server_name", "route_name",
	"upstream_transport_failure_reason",
}

// internalAddress is what Envoy prints for its own end of a connection between
// its listeners. Parsers of Istio's logs expect it.
const internalAddress = "envoy://internal_client_address/"

// http writes the line of an exchange.
func (l *accessLog) http(rec *HTTP) { l.write(logged{&rec.Ends, &rec.Outcome, rec, nil}) }

// tcp writes the line of an opaque tunnel.
func (l *accessLog) tcp(rec *TCP) { l.write(logged{&rec.Ends, &rec.Outcome, nil, rec}) }

func (l *accessLog) write(r logged) {
	if l.export != nil {
		l.exported(r)
	}
	if l.out == nil {
		return
	}
	b := newLine(!l.text)
	if l.text {
		b.b = l.appendText(b.b, r.Ends, r.Outcome, r.http)
	} else {
		b.b = l.appendJSON(b.b, r.Ends, r.Outcome, r.http)
	}
	for i := range l.more {
		b.b = append(b.b, l.more[i].before...)
		l.more[i].value(b, r)
	}
	if !l.text {
		b.b = append(b.b, '}')
	}
	b.b = append(b.b, '\n')
	b.send(l.out)
}

// noHTTP is the HTTP part of what is not HTTP: every string of it is null.
var noHTTP HTTP

// appendJSON appends the line of h, or of a connection when h is nil, up to where
// further keys go. It is written out, field by field: a table of functions would
// read better and cost twice as much.
func (l *accessLog) appendJSON(b []byte, e *Ends, o *Outcome, h *HTTP) []byte {
	proto := "http"
	if h == nil {
		h, proto = &noHTTP, "tcp"
	}
	b = append(b, `{"start_time":"`...)
	b = appendTime(b, o.Start, 3)
	b = append(b, `","method":`...)
	b = appendOrNull(b, h.Method)
	b = append(b, `,"path":`...)
	b = appendOrNull(b, h.Path)
	b = append(b, `,"protocol":`...)
	b = appendOrNull(b, h.Protocol)
	b = append(b, `,"authority":`...)
	b = appendOrNull(b, h.Authority)
	b = append(b, `,"user_agent":`...)
	b = appendOrNull(b, h.UserAgent)
	b = append(b, `,"x_forwarded_for":`...)
	b = appendOrNull(b, h.ForwardedFor)
	b = append(b, `,"request_id":`...)
	b = appendOrNull(b, h.RequestID)
	b = append(b, `,"response_code":`...)
	b = strconv.AppendInt(b, int64(h.Status), 10)
	b = append(b, `,"response_code_details":`...)
	b = appendDetailsJSON(b, o.Details)
	b = append(b, `,"connection_termination_details":`...)
	b = appendDetailsJSON(b, o.Termination)
	b = append(b, `,"response_flags":"`...)
	b = o.Flag.appendTo(b)
	b = append(b, `","bytes_received":`...)
	b = strconv.AppendUint(b, o.Received, 10)
	b = append(b, `,"bytes_sent":`...)
	b = strconv.AppendUint(b, o.Sent, 10)
	b = append(b, `,"duration":`...)
	b = strconv.AppendInt(b, o.Duration.Milliseconds(), 10)
	b = append(b, `,"upstream_service_time":`...)
	b = appendQuoted(b, h.ServiceTime != 0, func(b []byte) []byte { return appendMillis(b, h.ServiceTime) })
	b = append(b, `,"upstream_host":`...)
	b = appendQuoted(b, o.Upstream.IsValid(), o.appendUpstream)
	b = append(b, `,"upstream_cluster":`...)
	b = appendName(b, o.Cluster.Kind != NoCluster, func(b []byte) []byte { return appendCluster(b, &o.Cluster, proto) })
	b = append(b, `,"upstream_local_address":`...)
	b = appendQuoted(b, o.hasUpstreamLocal(), o.appendUpstreamLocal)
	b = append(b, `,"downstream_local_address":`...)
	b = appendQuoted(b, e.hasLocal(), e.appendLocal)
	b = append(b, `,"downstream_remote_address":`...)
	b = appendQuoted(b, l.legacy || e.SourceAddr.IsValid(), func(b []byte) []byte { return l.appendRemote(b, e.SourceAddr) })
	b = append(b, `,"requested_server_name":`...)
	b = appendOrNull(b, o.SNI)
	b = append(b, `,"route_name":`...)
	b = appendOrNull(b, o.RouteName)
	b = append(b, `,"upstream_transport_failure_reason":`...)
	return appendOrNull(b, o.TransportFailure)
}

// appendText appends the default line of text, which Kiali reads, up to its end.
func (l *accessLog) appendText(b []byte, e *Ends, o *Outcome, h *HTTP) []byte {
	proto := "http"
	if h == nil {
		h, proto = &noHTTP, "tcp"
	}
	b = append(b, '[')
	b = appendTime(b, o.Start, 3)
	b = append(b, `] "`...)
	b = append(appendOrDash(b, h.Method), ' ')
	b = append(appendOrDash(b, h.Path), ' ')
	b = append(appendOrDash(b, h.Protocol), `" `...)
	b = append(strconv.AppendInt(b, int64(h.Status), 10), ' ')
	b = append(o.Flag.appendTo(b), ' ')
	b = append(appendDetails(b, o.Details), ' ')
	b = append(appendDetails(b, o.Termination), ` "`...)
	b = append(appendOrDash(b, o.TransportFailure), `" `...)
	b = append(strconv.AppendUint(b, o.Received, 10), ' ')
	b = append(strconv.AppendUint(b, o.Sent, 10), ' ')
	b = append(strconv.AppendInt(b, o.Duration.Milliseconds(), 10), ' ')
	b = append(appendIf(b, h.ServiceTime != 0, func(b []byte) []byte { return appendMillis(b, h.ServiceTime) }), ` "`...)
	b = append(appendOrDash(b, h.ForwardedFor), `" "`...)
	b = append(appendOrDash(b, h.UserAgent), `" "`...)
	b = append(appendOrDash(b, h.RequestID), `" "`...)
	b = append(appendOrDash(b, h.Authority), `" "`...)
	b = append(appendIf(b, o.Upstream.IsValid(), o.appendUpstream), `" `...)
	b = append(appendIf(b, o.Cluster.Kind != NoCluster, func(b []byte) []byte { return appendCluster(b, &o.Cluster, proto) }), ' ')
	b = append(appendIf(b, o.hasUpstreamLocal(), o.appendUpstreamLocal), ' ')
	b = append(appendIf(b, e.hasLocal(), e.appendLocal), ' ')
	b = append(appendIf(b, l.legacy || e.SourceAddr.IsValid(), func(b []byte) []byte { return l.appendRemote(b, e.SourceAddr) }), ' ')
	b = append(appendDetails(b, o.SNI), ' ')
	return appendDetails(b, o.RouteName)
}

// appendQuoted appends a value that needs no escaping, or null.
func appendQuoted(b []byte, ok bool, value func([]byte) []byte) []byte {
	if !ok {
		return append(b, "null"...)
	}
	return append(value(append(b, '"')), '"')
}

// appendName is appendQuoted for names from the configuration, in which there
// should be nothing to escape.
func appendName(b []byte, ok bool, value func([]byte) []byte) []byte {
	from := len(b)
	b = appendQuoted(b, ok, value)
	for _, c := range b[min(from+1, len(b)) : len(b)-1] {
		if !jsonSafe[c] {
			return appendJSONString(b[:from], string(b[from+1:len(b)-1]))
		}
	}
	return b
}

// appendIf appends a value, or a dash.
func appendIf(b []byte, ok bool, value func([]byte) []byte) []byte {
	if !ok {
		return append(b, '-')
	}
	return value(b)
}

func appendOrNull(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return appendJSONString(b, s)
}

// appendOrDash appends a value that may hold blanks. Envoy escapes nothing
// here; we do not let a client forge a line, a column or the end of a quotation.
func appendOrDash(b []byte, s string) []byte {
	if s == "" {
		return append(b, '-')
	}
	from := len(b)
	b = appendPlain(b, s)
	for i := from; i < len(b); i++ {
		if b[i] == '"' {
			b[i] = '\''
		}
	}
	return b
}

// appendDetails appends a value of which Envoy turns blanks into underscores,
// because in a line of text it stands unquoted.
func appendDetails(b []byte, s string) []byte {
	from := len(b)
	b = appendOrDash(b, s)
	for i := from; i < len(b); i++ {
		if b[i] == ' ' {
			b[i] = '_'
		}
	}
	return b
}

func appendDetailsJSON(b []byte, s string) []byte {
	from := len(b)
	b = appendOrNull(b, s)
	for i := from; i < len(b); i++ {
		if b[i] == ' ' { // escapes hold none
			b[i] = '_'
		}
	}
	return b
}

func appendMillis(b []byte, d time.Duration) []byte {
	return strconv.AppendInt(b, d.Milliseconds(), 10)
}

func (o *Outcome) appendUpstream(b []byte) []byte {
	if o.UpstreamTunnelled {
		b = append(b, "envoy://connect_originate/"...)
	}
	return o.Upstream.AppendTo(b)
}

func (o *Outcome) hasUpstreamLocal() bool {
	return o.Upstream.IsValid() && (o.UpstreamTunnelled || o.UpstreamLocal.IsValid())
}

func (o *Outcome) appendUpstreamLocal(b []byte) []byte {
	if o.UpstreamTunnelled {
		return append(b, internalAddress...)
	}
	return o.UpstreamLocal.AppendTo(b)
}

func (e *Ends) hasLocal() bool {
	return e.LocalAddr.IsValid() || e.Target.Port != 0
}

func (e *Ends) appendLocal(b []byte) []byte {
	if e.LocalAddr.IsValid() {
		return e.LocalAddr.AppendTo(b)
	}
	return appendAuthority(b, e.Target)
}

func (l *accessLog) appendRemote(b []byte, a netip.AddrPort) []byte {
	if l.legacy {
		return append(b, internalAddress...)
	}
	return a.AppendTo(b)
}

// appendCluster appends the name that Istio gives the destination. proto is
// "http" or "tcp".
func appendCluster(b []byte, c *Cluster, proto string) []byte {
	switch c.Kind {
	case Encap:
		return append(b, "encap"...)
	case InboundVIP:
		b = append(b, "inbound-vip|"...)
		b = strconv.AppendUint(b, uint64(c.Port), 10)
		b = append(b, '|')
		b = append(b, proto...)
		if c.Subset != "" {
			b = append(b, '/')
			b = append(b, c.Subset...)
		}
	case Outbound:
		b = append(b, "outbound|"...)
		b = strconv.AppendUint(b, uint64(c.Port), 10)
		b = append(b, '|')
		b = append(b, c.Subset...)
	default:
		return b
	}
	b = append(b, '|')
	return append(b, c.Host...)
}
