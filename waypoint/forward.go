package waypoint

import (
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/telemetry"
)

// maxReplay is how much request content is kept for a retry: 16 KiB, half a
// large buffer. A request that has sent more is not tried again.
const maxReplay = 16 << 10

// maxIgnored is how much content of a request that was already answered is
// dropped before its client is cut off: 1 MiB.
const maxIgnored = 1 << 20

// forward sends the head upstream and whatever content has come.
func (x *exchange) forward() step {
	w := x.session.worker
	x.sentAt = w.loop.Now()
	x.step = stepStreams
	whole := x.requestEnded && x.held.Len() == 0 && x.replay.Len() == 0 && x.trailers == nil
	if err := x.up.Request(&x.req, whole); err != nil {
		x.up.Abort(err)
		x.up = nil
		return x.fail(&badRequestError{err})
	}
	x.rec.ReceivedWire += headSize(x.req.Fields) + len64(x.req.Method, x.req.Path, x.req.Authority)
	if whole {
		return x.step
	}
	x.sendReplay()
	for x.held.Len() > 0 && x.up != nil {
		p := x.held.Front()
		x.send(p)
		x.held.Consume(len(p))
	}
	if x.requestEnded && x.up != nil {
		x.up.End(x.trailers)
	}
	return x.step
}

// sendReplay sends again what a refused attempt was sent. Most of it has been
// credited to the client already and must not be credited twice.
func (x *exchange) sendReplay() {
	if x.replay.Len() == 0 {
		return
	}
	queued := 0
	x.replay.Each(func(p []byte) { queued += x.up.Write(p) })
	if gone := x.owed - queued; gone > 0 {
		x.owed -= gone
		x.client.Credit(gone)
	}
	x.stale = max(0, queued-x.owed)
}

// send writes p, fresh request content, upstream.
func (x *exchange) send(p []byte) {
	if x.keepReplay {
		if x.replay.Len()+len(p) > maxReplay {
			x.dropReplay()
		} else {
			x.replay.Append(p)
		}
	}
	queued := x.up.Write(p)
	x.owed += queued
	if gone := len(p) - queued; gone > 0 {
		x.client.Credit(gone)
	}
}

func (x *exchange) dropReplay() {
	x.keepReplay = false
	x.replay.Clear()
}

// clientContent, clientEnd, clientSent and clientGone are what the client does.
func (x *exchange) clientContent(p []byte) {
	x.rec.Received += uint64(len(p))
	if x.rec.GRPC {
		x.rec.Requests.Read(p)
	}
	switch {
	case x.reported: // answered already: drop it, up to a point
		if x.owed += len(p); x.owed > maxIgnored {
			x.abortClient(errAnswered)
			return
		}
		x.client.Credit(len(p))
	case x.step == stepStreams && x.up != nil:
		x.send(p)
	default:
		x.held.Append(p)
		x.gathered()
	}
}

func (x *exchange) clientEnd(trailers l7.Fields) {
	x.requestEnded = true
	switch {
	case x.reported:
		x.release()
	case x.step == stepStreams && x.up != nil:
		x.up.End(trailers)
		if x.responseEnded {
			x.complete()
		}
	default:
		x.trailers = trailers.Clone()
		x.gathered()
	}
}

// gathered resumes an exchange that waited for content.
func (x *exchange) gathered() {
	if !x.gathering || x.step != stepParked {
		return
	}
	if x.requestEnded || x.held.Len() >= x.session.worker.options.Consultant.Content {
		x.gathering = false
		ticket{x, x.gen}.resume(stepConsult)
	}
}

func (x *exchange) clientSent(n int) {
	if x.up != nil {
		x.up.Credit(n)
	}
}

// clientGone ends the exchange: its client will take no answer.
func (x *exchange) clientGone(err error) {
	x.client = gone{}
	x.abandonUpstream(errClientClosed)
	x.recordClientGone(err)
	x.finish()
	x.requestEnded = true
	x.release()
}

// upstreamHead, upstreamContent, upstreamEnd, upstreamSent and upstreamGone are
// what the upstream does.
func (x *exchange) upstreamHead(r *l7.Response, end bool) {
	if r.Status < 200 && r.Status != 101 {
		if x.client.Respond(r, false) != nil {
			x.abortClient(errBadResponse)
		}
		return
	}
	x.dropReplay()
	x.recordResponse(r)
	x.backend.ApplyResponse(r)
	x.rule.ApplyResponse(r)
	x.responded = true
	x.upgraded = r.Status == 101
	if err := x.client.Respond(r, end); err != nil {
		x.abandonUpstream(err)
		x.rec.Flag |= telemetry.UPE
		x.abortClient(err)
		return
	}
	if end {
		x.responseEnded = true
		x.complete()
	}
}

func (x *exchange) upstreamContent(p []byte) {
	x.rec.Sent += uint64(len(p))
	if x.rec.GRPC {
		x.rec.Responses.Read(p)
	}
	if left := len(p) - x.client.Write(p); left > 0 && x.up != nil {
		x.up.Credit(left)
	}
}

func (x *exchange) upstreamEnd(trailers l7.Fields) {
	x.recordTrailers(trailers)
	x.responseEnded = true
	if !x.upgraded {
		x.leaveUpstream()
	}
	c := x.client
	if x.upgraded && !x.requestEnded {
		c.End(trailers)
		return
	}
	x.finish()
	c.End(trailers)
	x.over()
}

func (x *exchange) upstreamSent(n int) {
	k := min(n, x.stale)
	x.stale -= k
	if n -= k; n > 0 {
		x.owed -= n
		x.client.Credit(n)
	}
}

// upstreamGone is told that the upstream failed, after it was handed over.
func (x *exchange) upstreamGone(err error) {
	x.up = nil
	if !x.responded && x.retry(err) {
		x.step = stepOriginate
		x.run()
		return
	}
	if x.responded {
		x.recordUpstreamGone(err)
		x.abortClient(err)
		return
	}
	x.step = x.fail(&upstreamError{err})
	x.run()
}

// complete ends an exchange whose response is wholly written.
func (x *exchange) complete() {
	x.leaveUpstream()
	x.finish()
	x.over()
}

// leaveUpstream gives the upstream back: to be used again if both messages are
// complete, to be reset if the request is not.
func (x *exchange) leaveUpstream() {
	if up := x.up; up != nil {
		x.up = nil
		up.release(x.requestEnded)
	}
}

// abandonUpstream stops whatever is going on upstream.
func (x *exchange) abandonUpstream(err error) {
	x.gen++ // whoever holds a ticket is too late
	if cancel := x.cancel; cancel != nil {
		x.cancel = nil
		cancel()
	}
	if up := x.up; up != nil {
		x.up = nil
		up.Abort(err)
	}
}

// abortClient resets the client's side: it must see that the response is not
// whole.
func (x *exchange) abortClient(err error) {
	c := x.client
	x.client = gone{}
	x.abandonUpstream(err)
	x.finish()
	x.requestEnded = true
	c.Abort(err)
	x.release()
}

// gone is the client of an exchange whose client has gone.
type gone struct{}

func (gone) Respond(*l7.Response, bool) error { return nil }
func (gone) Write([]byte) int                 { return 0 }
func (gone) End(l7.Fields)                    {}
func (gone) Credit(int)                       {}
func (gone) Abort(error)                      {}
