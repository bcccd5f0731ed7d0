package waypoint

import (
	"errors"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
	"github.com/waystone-mesh/waystone/telemetry"
)

// maxAttempts is how many endpoints are tried for one request: the first and two
// more, Istio's default.
const maxAttempts = 1 + routing.DefaultRetries

// originate chooses an endpoint and gets a connection to it: one at hand, or one
// to wait for.
func (x *exchange) originate() step {
	w := x.session.worker
	if x.endpoint = x.choose(); x.endpoint == nil {
		return x.fail(errNoEndpoint)
	}
	if x.attempts == 0 {
		x.dest.Retries.Request()
	}
	x.endpoint.Load.Add(1)
	x.tried[x.attempts] = x.endpoint.Workload
	x.attempts++
	x.recordEndpoint()
	o := w.origin(x.dest.Service, x.endpoint, x.upstreamHTTP2())
	if x.up = o.take(x); x.up != nil {
		return stepForward
	}
	t := x.park()
	x.cancel = o.open(t)
	return x.step
}

// connected resumes an exchange with the connection it waited for.
func (t ticket) connected(up upstream) {
	t.x.up = up
	t.resume(stepForward)
}

// failed resumes an exchange whose connection did not come about. Nothing was
// sent, so another endpoint may be tried.
func (t ticket) failed(err error) {
	if t.stale() {
		return
	}
	x := t.x
	if x.retry(&connectError{err}) {
		t.resume(stepOriginate)
		return
	}
	t.resume(x.fail(&connectError{err}))
}

// retry reports whether the request may go to another endpoint, and if so
// forgets this one. It may when the endpoint has done nothing about it, and all
// that went upstream is still at hand.
func (x *exchange) retry(err error) bool {
	failure := failureOf(err)
	if !failure.Retryable(false) || !x.keepReplay {
		return false
	}
	// An endpoint that is not there costs the others nothing: only attempts that
	// add to somebody's load are budgeted.
	free := failure == routing.ConnectFailure && x.hasUntried()
	switch {
	case x.attempts == maxAttempts:
		x.rec.Flag |= telemetry.URX
		return false
	case !free && !x.dest.Retries.Retry():
		x.rec.Flag |= telemetry.UO
		return false
	}
	x.leaveEndpoint()
	return true
}

// failureOf says how far an attempt that failed had got.
func failureOf(err error) routing.Failure {
	var connect *connectError
	switch {
	case errors.As(err, &connect):
		return routing.ConnectFailure
	case h2.Refused(err):
		return routing.RefusedStream
	}
	return routing.Reset
}

func (x *exchange) leaveEndpoint() {
	if x.endpoint != nil {
		x.endpoint.Load.Add(-1)
		x.endpoint = nil
	}
}

// choose picks the less loaded of two ready endpoints, leaving out those that
// were tried unless there is no other.
func (x *exchange) choose() *mesh.Endpoint {
	w := x.session.worker
	if x.dest.Workload != nil {
		return x.session.direct(x.dest.Workload)
	}
	all := x.dest.Endpoints
	if x.attempts == 0 {
		return routing.LeastLoaded(all, w.random())
	}
	fresh := make([]mesh.Endpoint, 0, len(all)) // a retry may allocate
	for i := range all {
		if !x.wasTried(all[i].Workload) {
			fresh = append(fresh, all[i])
		}
	}
	if len(fresh) == 0 {
		fresh = all
	}
	return routing.LeastLoaded(fresh, w.random())
}

func (x *exchange) hasUntried() bool {
	for i := range x.dest.Endpoints {
		if !x.wasTried(x.dest.Endpoints[i].Workload) {
			return true
		}
	}
	return false
}

func (x *exchange) wasTried(w *mesh.Workload) bool {
	for _, t := range x.tried[:x.attempts] {
		if t == w {
			return true
		}
	}
	return false
}

// upstreamHTTP2 reports whether the endpoint is spoken to in HTTP/2: where the
// port says so, and where nothing is said and the client does.
func (x *exchange) upstreamHTTP2() bool {
	if x.req.Upgrade != "" {
		return false
	}
	if p := x.dest.Port; p != nil {
		switch p.Protocol {
		case mesh.HTTP2, mesh.GRPC:
			return true
		case mesh.HTTP1:
			return false
		}
	}
	_, http2 := x.client.(*h2Client)
	return http2
}
