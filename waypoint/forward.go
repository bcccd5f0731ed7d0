package waypoint

import (
	"errors"
	"fmt"

	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// maxReplay is how much request content is kept for a retry: 16 KiB, half a
// large buffer. A request that has sent more is not tried again.
const maxReplay = 16 << 10

// forward sends the head upstream and whatever content has come.
func (x *exchange) forward() step {
	w := x.session.worker
	x.sentAt = w.loop.Now()
	x.step = stepStreams
	whole := x.requestEnded && x.held.Len() == 0 && x.replay.Len() == 0 && x.trailers == nil
	if err := x.up.Request(&x.req, whole); err != nil {
		return x.unsent(err)
	}
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

// unsent says what to do about a head of which nothing was written: it cannot be
// written, or the connection has ended since it was chosen.
func (x *exchange) unsent(err error) step {
	if errors.Is(err, h1.ErrInvalid) || errors.Is(err, h2.ErrHeaderList) {
		up := x.up
		x.up = nil
		up.release(true)
		return x.fail(&badRequestError{err})
	}
	x.abandonUpstream(err)
	if err = (&connectError{err}); x.retry(err) {
		return stepOriginate
	}
	return x.fail(err)
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
	c := x.client
	queued := x.up.Write(p)
	x.owed += queued
	if gone := len(p) - queued; gone > 0 {
		c.Credit(gone)
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
	if x.step == stepStreams && x.up != nil {
		x.send(p)
		return
	}
	x.held.Append(p)
	x.gathered()
}

func (x *exchange) clientEnd(trailers l7.Fields) {
	x.requestEnded = true
	streaming := x.step == stepStreams && x.up != nil
	if len(trailers) > 0 && (x.keepReplay || !streaming) {
		x.trailers = trailers.Clone()
	}
	if !streaming {
		x.gathered()
		return
	}
	x.up.End(trailers)
	if x.responseEnded { // of an upgrade: both directions are over
		x.complete()
	}
}

// gathered resumes an exchange that waited for content.
func (x *exchange) gathered() {
	if x.gathering == 0 || x.step != stepParked {
		return
	}
	if x.requestEnded || x.held.Len() >= int(x.gathering) {
		x.gathering = 0
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
	x.release()
}

// upstreamHead, upstreamContent, upstreamEnd, upstreamSent and upstreamGone are
// what the upstream does.
func (x *exchange) upstreamHead(r *l7.Response, end bool) {
	if r.Status < 200 && r.Status != 101 {
		_ = x.client.Respond(r, false) // one that cannot be written is left out
		return
	}
	x.dropReplay()
	x.recordResponse(r)
	x.backend.ApplyResponse(r)
	x.rule.ApplyResponse(r)
	r.Fields = extauthz.Apply(r.Fields, x.answers)
	x.responded = true
	if r.Status == 101 {
		x.upgraded, x.requestEnded = true, false // what comes now ends anew
	}
	if end {
		// The upstream first: once the client has its answer, its next request may
		// be announced, and wants this connection.
		x.leaveUpstream()
	}
	if err := x.client.Respond(r, end); err != nil {
		x.responded, x.upgraded = false, false
		x.abandonUpstream(err)
		x.step = x.fail(&upstreamError{fmt.Errorf("%w: %w", errBadResponse, err)})
		x.run()
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
	c := x.client
	if x.upgraded && !x.requestEnded {
		c.End(nil)
		return
	}
	x.leaveUpstream()
	x.finish()
	c.End(trailers)
	x.release()
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
	x.release()
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
