package waypoint

import (
	"errors"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/telemetry"
)

// What can be wrong with an exchange without any value to report.
var (
	errOverloaded    = errors.New("waypoint: out of buffers")
	errNoDestination = errors.New("waypoint: the destination is no longer served here")
	errNoRoute       = errors.New("waypoint: no route matches")
	errNoBackend     = errors.New("waypoint: the route's backend does not exist")
	errNoWeight      = errors.New("waypoint: the route has no backend that takes requests")
	errNoEndpoint    = errors.New("waypoint: no ready endpoint")
	errClientClosed  = errors.New("waypoint: the client went away")
	errBadResponse   = errors.New("waypoint: the response cannot be passed on")
	errConnect       = errors.New("waypoint: CONNECT is not for use inside a tunnel")
)

// A badRequestError is a head that we will not pass on.
type badRequestError struct{ err error }

func (e *badRequestError) Error() string { return e.err.Error() }
func (e *badRequestError) Unwrap() error { return e.err }

// A deniedError is a verdict.
type deniedError struct{ verdict authz.Verdict }

func (e *deniedError) Error() string { return e.verdict.Details() }

// A consultedError is what the external authorizer said.
type consultedError struct{ err error }

func (e *consultedError) Error() string { return e.err.Error() }
func (e *consultedError) Unwrap() error { return e.err }

// A routeError is a route that names no usable backend.
type routeError struct{ reason string }

func (e *routeError) Error() string { return "waypoint: invalid backend: " + e.reason }

// A connectError is an endpoint that could not be reached: nothing was sent.
type connectError struct{ err error }

func (e *connectError) Error() string { return e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// An upstreamError is an endpoint that failed after it was handed the request.
type upstreamError struct{ err error }

func (e *upstreamError) Error() string { return e.err.Error() }
func (e *upstreamError) Unwrap() error { return e.err }

// A refusal is how an error looks from outside.
type refusal struct {
	status  int
	flag    telemetry.Flag
	details string // response_code_details
	body    string
	failure string // upstream_transport_failure_reason
}

// refusalFor is the only place where an error becomes a status and a flag.
func refusalFor(err error) refusal {
	var (
		denied    *deniedError
		consulted *consultedError
		bad       *badRequestError
		route     *routeError
		connect   *connectError
		upstream  *upstreamError
	)
	switch {
	case errors.As(err, &denied):
		return refusal{403, 0, denied.verdict.Details(), "RBAC: access denied", ""}
	case errors.As(err, &consulted):
		return refusal{403, telemetry.UAEX, "ext_authz_denied", "", ""}
	case errors.As(err, &bad):
		return refusal{400, telemetry.DPE, "http.invalid_request", "", ""}
	case errors.Is(err, errConnect):
		return refusal{405, telemetry.DPE, "http.connect_not_allowed", "", ""}
	case errors.Is(err, errOverloaded):
		return refusal{503, telemetry.OM, "overload", "envoy overloaded", ""}
	case errors.Is(err, errNoDestination), errors.Is(err, errNoRoute):
		return refusal{404, telemetry.NR, "route_not_found", "", ""}
	case errors.Is(err, errNoBackend):
		return refusal{500, telemetry.NC, "cluster_not_found", "", ""}
	case errors.As(err, &route), errors.Is(err, errNoWeight):
		return refusal{500, 0, "direct_response", "", ""}
	case errors.Is(err, errNoEndpoint):
		return refusal{503, telemetry.UH, "no_healthy_upstream", "no healthy upstream", ""}
	case errors.As(err, &connect):
		return refusal{503, telemetry.UF, "upstream_reset_before_response_started{connection_failure}",
			"upstream connect error or disconnect/reset before headers", transportFailure(err)}
	case errors.As(err, &upstream):
		return refusal{503, upstreamFlag(err), "upstream_reset_before_response_started{" + resetReason(err) + "}",
			"upstream connect error or disconnect/reset before headers", ""}
	}
	return refusal{500, 0, "internal_error", "", ""}
}

// transportFailure names the layer that failed, for the log: operators read
// there that the certificate was somebody else's or the port was closed.
func transportFailure(err error) string {
	var mismatch *identity.MismatchError
	var status *hbone.StatusError
	switch {
	case errors.As(err, &mismatch):
		return "TLS_error:|" + strings.ReplaceAll(mismatch.Error(), " ", "_") + ":TLS_error_end"
	case errors.As(err, &status):
		return "CONNECT_status_" + strconv.Itoa(status.Status)
	}
	return strings.ReplaceAll(err.Error(), " ", "_")
}

// refuse answers in the destination's place.
func (x *exchange) refuse() step {
	r := &x.refusal
	x.rec.Flag |= r.flag
	x.rec.Details = r.details
	x.rec.TransportFailure = r.failure
	x.rec.Status = r.status
	resp := l7.Response{Status: r.status}
	body := r.body
	if body != "" {
		resp.Fields = append(resp.Fields, l7.Field{Name: "content-type", Value: "text/plain"})
	}
	if x.req.IsGRPC() {
		// A gRPC client expects 200 and its own status in the trailers; with no
		// content, they are the head.
		code := grpcStatus(r.status)
		x.rec.Status, x.rec.GRPCStatus, x.rec.HasGRPCStatus = 200, code, true
		resp.Status = 200
		resp.Fields = l7.Fields{
			{Name: "content-type", Value: "application/grpc"},
			{Name: "grpc-status", Value: strconv.Itoa(code)},
		}
		if body != "" {
			resp.Fields = append(resp.Fields, l7.Field{Name: "grpc-message", Value: body})
		}
		body = ""
	}
	return x.reply(&resp, body)
}

// answer sends what a route says instead of asking a backend.
func (x *exchange) answer(resp *l7.Response) step {
	x.rec.Status = resp.Status
	x.rec.Details = "direct_response"
	return x.reply(resp, "")
}

// reply sends a response of our own and ends the exchange.
func (x *exchange) reply(resp *l7.Response, body string) step {
	resp.Length = int64(len(body))
	resp.Fields = append(resp.Fields, l7.Field{Name: "server", Value: "waystone"})
	if x.req.Method == "HEAD" {
		resp.Fields = append(resp.Fields, l7.Field{Name: "content-length", Value: strconv.Itoa(len(body))})
		body = ""
	}
	x.rec.Sent = uint64(len(body))
	x.responded, x.responseEnded = true, true
	c, unwanted := x.client, x.held.Len()+x.owed
	x.abandonUpstream(nil)
	x.finish()
	if !x.requestEnded && unwanted > 0 {
		c.Credit(unwanted)
	}
	if body == "" {
		_ = c.Respond(resp, true)
	} else if c.Respond(resp, false) == nil {
		c.Write([]byte(body))
		c.End(nil)
	}
	x.release()
	return stepNone
}

// grpcStatus maps an HTTP status to a gRPC one (grpc/doc/http-grpc-status-mapping.md).
func grpcStatus(http int) int {
	switch http {
	case 400:
		return 13 // INTERNAL
	case 401:
		return 16 // UNAUTHENTICATED
	case 403:
		return 7 // PERMISSION_DENIED
	case 404:
		return 12 // UNIMPLEMENTED
	case 429, 502, 503, 504:
		return 14 // UNAVAILABLE
	}
	return 2 // UNKNOWN
}
