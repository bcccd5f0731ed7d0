package waypoint

import (
	"errors"
	"strconv"
	"time"

	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

// ends are the two ends of whatever the session carries.
func (s *session) ends() telemetry.Ends {
	e := telemetry.Ends{
		Reporter: telemetry.ByWaypoint, Source: s.source, SourceID: s.from.Peer, LocalID: s.worker.options.Self,
		Target: s.authority, SourceAddr: s.from.Source, LocalAddr: s.address(),
	}
	if s.dest != nil {
		e.Service = s.dest.Service
	}
	return e
}

// recordRequest notes what the head says, before anything changes it.
func (x *exchange) recordRequest() {
	w := x.session.worker
	x.rec.Ends = x.session.ends()
	x.rec.Start = w.loop.Now()
	x.rec.Method, x.rec.Path, x.rec.Authority = x.req.Method, x.rawPath, x.req.Authority
	x.rec.Protocol = x.req.Protocol.String()
	x.rec.GRPC = x.req.IsGRPC()
	x.rec.ReceivedWire = headSize(x.req.Fields) + len64(x.req.Method, x.req.Path, x.req.Authority)
	for i := range x.req.Fields {
		f := &x.req.Fields[i]
		switch f.Name {
		case "user-agent":
			x.rec.UserAgent = f.Value
		case "x-forwarded-for":
			x.rec.ForwardedFor = f.Value
		case "x-request-id":
			x.rec.RequestID = f.Value
		}
	}
	if x.rec.RequestID == "" {
		x.rec.RequestID = x.arena.Bytes(w.requestID())
		x.req.Fields = append(x.req.Fields, l7.Field{Name: "x-request-id", Value: x.rec.RequestID})
	}
	if !x.req.Fields.Has("x-forwarded-proto") {
		x.req.Fields = append(x.req.Fields, l7.Field{Name: "x-forwarded-proto", Value: "http"})
	}
	w.options.Telemetry.Propagate(&x.rec, (*traceContext)(&x.req))
}

// A traceContext is a request as telemetry's carrier of trace context.
type traceContext l7.Request

func (c *traceContext) Get(name string) string { return c.Fields.Get(name) }
func (c *traceContext) Set(name, value string) { c.Fields = c.Fields.Set(name, value) }

// recordEndpoint notes which endpoint was chosen.
func (x *exchange) recordEndpoint() {
	e := x.endpoint
	x.rec.Dest = e.Workload
	x.rec.Upstream = e.Addr
	x.rec.UpstreamTunnelled = e.Workload.Tunnel == mesh.HBONE
	x.rec.Cluster = clusterOf(x.dest.Service, x.dest.Port, x.dest.Attached)
}

// clusterOf names a destination as Istio names it to Envoy.
func clusterOf(s *mesh.Service, p *mesh.Port, attached bool) telemetry.Cluster {
	switch {
	case s == nil:
		return telemetry.Cluster{Kind: telemetry.Encap}
	case !attached:
		return telemetry.Cluster{Kind: telemetry.Outbound, Port: p.Service, Host: s.Hostname}
	}
	subset := "http"
	if isOpaque(p) {
		subset = "tcp"
	}
	return telemetry.Cluster{Kind: telemetry.InboundVIP, Port: p.Service, Subset: subset, Host: s.Hostname}
}

// recordResponse notes the final head.
func (x *exchange) recordResponse(r *l7.Response) {
	x.rec.Status = r.Status
	x.rec.Details = "via_upstream"
	x.rec.ServiceTime = x.session.worker.loop.Now().Sub(x.sentAt)
	x.rec.SentWire += headSize(r.Fields)
	if x.rec.GRPC {
		x.recordTrailers(r.Fields) // a call that fails at once has its status here
	}
}

// recordTrailers notes the status of a gRPC call.
func (x *exchange) recordTrailers(f l7.Fields) {
	if !x.rec.GRPC || len(f) == 0 {
		return
	}
	if code, err := strconv.Atoi(f.Get("grpc-status")); err == nil {
		x.rec.GRPCStatus, x.rec.HasGRPCStatus = code, true
	}
}

// recordClientGone notes that the client took no answer, or not all of it.
func (x *exchange) recordClientGone(err error) {
	if x.reported {
		return
	}
	var broken *h1.Error
	if errors.As(err, &broken) {
		x.rec.Status = broken.Status
		x.rec.Flag |= telemetry.DPE
		x.rec.Details = "http1.codec_error"
		return
	}
	if !x.responded {
		x.rec.Status = 0
	}
	x.rec.Flag |= telemetry.DC
	x.rec.Details = "downstream_remote_disconnect"
}

// recordUpstreamGone notes that a response was cut short.
func (x *exchange) recordUpstreamGone(err error) {
	x.rec.Flag |= upstreamFlag(err)
	x.rec.Details = "upstream_reset_after_response_started{" + resetReason(err) + "}"
}

// finish hands the record over, once, on every path.
func (x *exchange) finish() {
	if x.reported {
		return
	}
	x.reported = true
	x.step = stepNone
	x.owed = 0
	x.dropReplay()
	x.held.Clear()
	x.leaveEndpoint()
	x.rec.Duration = x.session.worker.loop.Now().Sub(x.rec.Start)
	x.rec.ReceivedWire += x.rec.Received
	x.rec.SentWire += x.rec.Sent
	x.rec.Attempts = x.attempts
	x.keepDecision()
	x.session.worker.options.Telemetry.HTTP(&x.rec)
}

// recordMalformed reports a request that the codec refused before it became one.
func (s *session) recordMalformed(status int, err error) {
	now := s.worker.loop.Now()
	rec := telemetry.HTTP{Ends: s.ends()}
	rec.Start, rec.Duration = now, 0
	rec.Protocol = l7.HTTP11.String()
	rec.Status, rec.Flag, rec.Details = status, telemetry.DPE, "http1.codec_error"
	s.worker.options.Log.Debug("malformed request", "peer", s.from.Peer.String(), "error", err)
	s.worker.options.Telemetry.HTTP(&rec)
}

// recordRefused reports a CONNECT that was refused before anything was known.
func (s *session) recordRefused(status int) {
	rec := telemetry.HTTP{Ends: s.ends()}
	rec.Start = s.worker.loop.Now()
	rec.Method, rec.Protocol, rec.Authority = "CONNECT", l7.HTTP2.String(), s.authority.String()
	rec.Status, rec.Flag, rec.Details = status, telemetry.NR, "route_not_found"
	s.worker.options.Telemetry.ConnectRefused(&rec)
}

// record notes what is known of an opaque tunnel from the start.
func (o *opaque) record() {
	o.rec.Ends = o.s.ends()
	o.rec.Start = o.s.worker.loop.Now()
	o.rec.HBONE = true
	o.flushed = o.rec.Start
}

// open counts the tunnel as opened: it has an endpoint.
func (o *opaque) open() {
	e := o.endpoint
	o.rec.Dest = e.Workload
	o.rec.Upstream, o.rec.UpstreamTunnelled = e.Addr, e.Workload.Tunnel == mesh.HBONE
	o.rec.Cluster = clusterOf(o.dest.Service, o.dest.Port, o.dest.Attached)
	o.s.worker.options.Telemetry.Open(&o.rec)
	o.opened = true
}

// tick brings the counters of a long tunnel up to date.
func (o *opaque) tick(now time.Time) {
	if !o.opened || now.Sub(o.flushed) < flushEvery {
		return
	}
	o.flushed = now
	o.rec.Received, o.rec.Sent = o.pair.Bytes()
	o.s.worker.options.Telemetry.Flush(&o.rec)
}

// report closes the record.
func (o *opaque) report() {
	if !o.opened {
		o.s.worker.options.Telemetry.Open(&o.rec)
	}
	o.rec.Received, o.rec.Sent = o.pair.Bytes()
	o.rec.Duration = o.s.worker.loop.Now().Sub(o.rec.Start)
	o.s.worker.options.Telemetry.Close(&o.rec)
}

// upstreamFlag says who ended an exchange that went wrong upstream.
func upstreamFlag(err error) telemetry.Flag {
	var stream *h2.StreamError
	var broken *h1.Error
	switch {
	case errors.As(err, &broken), errors.Is(err, errBadResponse):
		return telemetry.UPE
	case errors.As(err, &stream) && stream.Remote:
		return telemetry.UR
	}
	return telemetry.UC
}

// resetReason is upstreamFlag in the words of response_code_details.
func resetReason(err error) string {
	switch upstreamFlag(err) {
	case telemetry.UPE:
		return "protocol_error"
	case telemetry.UR:
		return "remote_reset"
	}
	return "connection_termination"
}

func isStreamError(err error) bool {
	var stream *h2.StreamError
	return errors.As(err, &stream)
}

// headSize is about what fields take on the wire: name, value and four bytes.
func headSize(f l7.Fields) (n uint64) {
	for i := range f {
		n += uint64(len(f[i].Name) + len(f[i].Value) + 4)
	}
	return n
}

func len64(s ...string) (n uint64) {
	for i := range s {
		n += uint64(len(s[i]))
	}
	return n
}
