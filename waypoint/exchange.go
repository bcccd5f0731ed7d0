package waypoint

import (
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/decisions"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
	"github.com/waystone-mesh/waystone/telemetry"
)

// A step is where an exchange is on its way.
type step uint8

const (
	stepNone step = iota // free, or over
	stepAdmit
	stepConsult
	stepAuthenticate
	stepAuthorize
	stepRoute
	stepOriginate
	stepForward
	stepRefuse
	stepParked  // waits for somebody who holds a ticket
	stepStreams // content flows; events carry it from here
)

// An exchange is one request and its response. It belongs to its session's
// worker, and goes back to that worker's free list when both sides are done.
type exchange struct {
	session *session
	client  client
	up      upstream
	step    step
	gen     uint32 // counts waits and lives: a ticket of another generation is stale
	cancel  func() // what to call to stop waiting, or nil

	req     l7.Request
	arena   l7.Arena // owns the strings of req
	rawPath string   // the path as it came, for the log

	asked    *authz.Question     // the last question that was answered with yes
	answers  []extauthz.Edit     // what those who were asked want in the response
	token    *authz.Token        // the valid one, or nil
	decision *decisions.Decision // to be kept when the exchange is over, or nil

	slot     **exchange // where its owner keeps it
	rule     *routing.Rule
	backend  *routing.Backend
	dest     *config.Destination // what it was admitted to; once it is routed, whose endpoints serve it
	endpoint *mesh.Endpoint
	attempts int
	tried    [maxAttempts]*mesh.Workload // endpoints that failed before anything was sent
	failure  error                       // that is to be refused

	held       bufs.Queue // request content that waits for an upstream, not credited
	replay     bufs.Queue // request content that went upstream, kept for a retry
	keepReplay bool       // replay holds all that went upstream
	owed       int        // bytes written upstream and not yet credited to the client
	stale      int        // bytes queued upstream that are credited already: a replay
	trailers   l7.Fields  // of the request, when they came before the upstream

	requestEnded  bool // the client has sent everything
	responded     bool // a final head went to the client
	responseEnded bool // and the whole response was written
	upgraded      bool // 101: raw bytes both ways until both ends are closed
	reported      bool
	gathering     int32 // parked until so much content is held for an authorizer; 0: not

	rec    telemetry.HTTP
	sentAt time.Time // when the head went upstream
}

// A ticket lets whoever an exchange waits for resume it: once, and only while it
// still waits.
type ticket struct {
	x   *exchange
	gen uint32
}

// park makes the exchange wait for whoever gets the ticket.
func (x *exchange) park() ticket {
	x.gen++
	x.step = stepParked
	return ticket{x, x.gen}
}

func (t ticket) stale() bool { return t.x.gen != t.gen || t.x.step != stepParked }

// resume continues the exchange at s. It runs on the exchange's loop; a stale
// ticket does nothing.
func (t ticket) resume(s step) {
	if t.stale() {
		return
	}
	t.x.gen++
	t.x.cancel = nil
	t.x.step = s
	t.x.run()
}

// begin takes a request head from a client, which is lent, and runs it.
func (x *exchange) begin(r *l7.Request, end bool) {
	x.req = x.arena.Request(r)
	x.rawPath = x.req.Path
	x.requestEnded = end
	x.keepReplay = true
	x.recordRequest()
	x.step = stepAdmit
	x.run()
}

// run carries a request from its head to its upstream, from the step it is at.
// It runs on the loop and never blocks: a step that must wait parks the
// exchange, and whoever was waited for resumes it here.
func (x *exchange) run() {
	for {
		switch x.step {
		case stepAdmit:
			x.step = x.admit()
		case stepConsult:
			x.step = x.consult()
		case stepAuthenticate:
			x.step = x.authenticate()
		case stepAuthorize:
			x.step = x.authorize()
		case stepRoute:
			x.step = x.route()
		case stepOriginate:
			x.step = x.originate()
		case stepForward:
			x.step = x.forward()
		case stepRefuse:
			x.step = x.refuse()
		default:
			return
		}
	}
}

// route finds the rule that applies and does to the head what it says.
func (x *exchange) route() step {
	w := x.session.worker
	if x.rule = x.dest.Routes.Match(&x.req); x.rule == nil {
		return x.fail(errNoRoute)
	}
	x.rec.RouteName = x.rule.Name
	if resp, ok := x.rule.Redirect(&x.req, x.session.address().Port()); ok {
		return x.answer(resp)
	}
	x.backend = x.rule.PickBackend(w.random())
	switch {
	case x.backend == nil:
		return x.fail(errNoWeight)
	case x.backend.Invalid != "":
		return x.fail(&routeError{x.backend.Invalid})
	}
	x.rule.ApplyRequest(&x.req)
	x.backend.ApplyRequest(&x.req)
	if x.backend.Service != (mesh.Hostname{}) {
		switch d := w.options.Store.Snapshot().Backend(x.backend.Service, x.backend.Port); {
		case d != nil:
			x.dest = d
		case !x.session.lingering: // its routes are history, and so may their backends be
			return x.fail(errNoBackend)
		}
	}
	return stepOriginate
}

// fail makes err the answer.
func (x *exchange) fail(err error) step {
	x.failure = err
	return stepRefuse
}
