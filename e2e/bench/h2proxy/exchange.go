package main

import (
	"net/netip"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/telemetry"
)

// A client is the side of an exchange that asked.
type client interface {
	Respond(r *l7.Response, end bool) error
	Write(p []byte) (queued int)
	End(trailers l7.Fields)
	Credit(n int)
	Abort(err error)
}

// An upstream is the side that answers.
type upstream interface {
	Request(x *exchange, end bool) error
	Write(p []byte) (queued int)
	End(trailers l7.Fields)
	Credit(n int)
	Abort(err error)
	release(whole bool) // with what is not whole, it is reset
}

// An exchange is one request and its response. It goes back to its worker's free
// list when both sides are done with it.
type exchange struct {
	w      *worker
	client client // nil: gone
	up     upstream

	// What the sides keep here, so that they need nothing of their own.
	from   *h2Client // with stream: an HTTP/2 client
	stream *h2.Stream
	http1  *h1Client // an HTTP/1.1 client
	origin *h2Origin // with asked: an HTTP/2 server
	asked  *h2.Stream

	req      l7.Request
	arena    l7.Arena   // owns the strings of req
	held     bufs.Queue // request content that came before there was an upstream
	trailers l7.Fields

	requestEnded bool
	responded    bool // the final head has come
	rec          telemetry.HTTP
	sentAt       time.Time
}

func (w *worker) newExchange() *exchange {
	n := len(w.free)
	if n == 0 {
		return &exchange{w: w}
	}
	x := w.free[n-1]
	w.free = w.free[:n-1]
	return x
}

// begin takes a request head, which is lent, and sends it on if it may pass.
func (x *exchange) begin(r *l7.Request, end bool, source netip.AddrPort) {
	w := x.w
	x.req = x.arena.Request(r)
	x.requestEnded = end
	x.record(source)
	w.input.Peer, w.input.Source, w.input.HTTP = w.peer, source.Addr(), &x.req
	if v := w.policies.Check(&w.input); !v.Allowed {
		x.refuse(403, v.Details(), 0)
		return
	}
	rule := w.routes.Match(&x.req)
	if rule == nil {
		x.refuse(404, "route_not_found", telemetry.NR)
		return
	}
	x.rec.RouteName = rule.Name
	rule.ApplyRequest(&x.req)
	w.connect(x)
}

func (x *exchange) record(source netip.AddrPort) {
	w := x.w
	x.rec.Ends = telemetry.Ends{
		Reporter: telemetry.ByWaypoint, Source: w.source, Dest: w.endpoint, Service: w.service,
		SourceID: w.peer, LocalID: w.peer, SourceAddr: source,
	}
	x.rec.Start, x.rec.Upstream = w.loop.Now(), w.upstream
	x.rec.Method, x.rec.Path, x.rec.Authority, x.rec.Protocol = x.req.Method, x.req.Path, x.req.Authority, x.req.Protocol.String()
	x.rec.UserAgent, x.rec.RequestID = x.req.Fields.Get("user-agent"), x.req.Fields.Get("x-request-id")
}

// forward sends what there is of the request upstream.
func (x *exchange) forward() {
	x.sentAt = x.w.loop.Now()
	whole := x.requestEnded && x.held.Len() == 0 && x.trailers == nil
	if err := x.up.Request(x, whole); err != nil {
		x.up = nil
		x.refuse(503, "upstream_reset_before_response_started", telemetry.UC)
		return
	}
	for x.held.Len() > 0 && x.up != nil {
		p := x.held.Front()
		x.send(p)
		x.held.Consume(len(p))
	}
	if x.requestEnded && !whole && x.up != nil {
		x.up.End(x.trailers)
	}
}

// send writes request content upstream, and credits what has left.
func (x *exchange) send(p []byte) {
	if left := len(p) - x.up.Write(p); left > 0 {
		x.client.Credit(left)
	}
}

// clientContent and what follows are what the client does.
func (x *exchange) clientContent(p []byte) {
	x.rec.Received += uint64(len(p))
	if x.up == nil {
		x.held.Append(p)
		return
	}
	x.send(p)
}

func (x *exchange) clientEnd(trailers l7.Fields) {
	x.requestEnded = true
	if x.up == nil {
		x.trailers = trailers.Clone()
		return
	}
	x.up.End(trailers)
}

func (x *exchange) clientSent(n int) {
	if x.up != nil {
		x.up.Credit(n)
	}
}

func (x *exchange) clientGone() {
	x.rec.Flag |= telemetry.DC
	x.rec.Details = "downstream_remote_disconnect"
	x.client = nil
	if x.up == nil {
		return // whoever it waits for finds it gone
	}
	x.up.Abort(nil)
	x.release()
}

// upstreamHead and what follows are what the server does.
func (x *exchange) upstreamHead(r *l7.Response, end bool) {
	if r.Status >= 200 {
		x.responded = true
		x.rec.Status, x.rec.Details = r.Status, "via_upstream"
		x.rec.ServiceTime = x.w.loop.Now().Sub(x.sentAt)
	}
	if end {
		x.leave()
	}
	if err := x.client.Respond(r, end); err != nil {
		x.upstreamGone(err)
		return
	}
	if end {
		x.release()
	}
}

func (x *exchange) upstreamContent(p []byte) {
	x.rec.Sent += uint64(len(p))
	if left := len(p) - x.client.Write(p); left > 0 {
		x.up.Credit(left)
	}
}

func (x *exchange) upstreamEnd(trailers l7.Fields) {
	x.leave()
	x.client.End(trailers)
	x.release()
}

func (x *exchange) upstreamSent(n int) { x.client.Credit(n) }

// upstreamGone ends an exchange whose upstream has failed, or is of no use.
func (x *exchange) upstreamGone(err error) {
	if up := x.up; up != nil {
		x.up = nil
		up.Abort(err)
	}
	if !x.responded {
		x.refuse(503, "upstream_reset_before_response_started", telemetry.UC)
		return
	}
	x.rec.Flag |= telemetry.UC
	x.client.Abort(err)
	x.release()
}

// refuse answers in the server's place.
func (x *exchange) refuse(status int, details string, flag telemetry.Flag) {
	x.rec.Status, x.rec.Details, x.rec.Flag, x.rec.Dest = status, details, flag, nil
	if err := x.client.Respond(&l7.Response{Status: status}, true); err != nil {
		x.client.Abort(err)
	}
	x.release()
}

// leave gives the upstream back.
func (x *exchange) leave() {
	up := x.up
	x.up = nil
	up.release(x.requestEnded)
}

// release hands the record over, and the exchange back. Nobody has it any more.
func (x *exchange) release() {
	x.rec.Duration = x.w.loop.Now().Sub(x.rec.Start)
	x.rec.ReceivedWire, x.rec.SentWire = x.rec.Received, x.rec.Sent
	x.w.telemetry.HTTP(&x.rec)
	if x.stream != nil {
		x.stream.Value = nil
	}
	if x.asked != nil {
		x.asked.Value = nil
	}
	if x.http1 != nil && x.http1.x == x { // it may have the next already
		x.http1.x = nil
	}
	x.arena.Reset()
	x.held.Clear()
	*x = exchange{w: x.w, arena: x.arena, held: x.held}
	x.w.free = append(x.w.free, x)
}
