package waypoint

import (
	"errors"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/h1"
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

// An unaskedError is a question that there is nobody to ask.
type unaskedError struct{ question *authz.Question }

func (e *unaskedError) Error() string {
	return "denied: there is no authorizer " + e.question.Provider + " to ask by " + e.question.ID
}

// An unauthorizedError is an authorizer's refusal, or that it has not answered
// one that passes only if it does.
type unauthorizedError struct {
	question *authz.Question
	answer   *extauthz.Answer
}

func (e *unauthorizedError) Error() string {
	if e.answer.Err != nil {
		return "denied, for want of an answer by " + e.question.ID + ": " + e.answer.Err.Error()
	}
	return "denied by the authorizer " + e.question.Provider + ", asked by " + e.question.ID
}
func (e *unauthorizedError) Unwrap() error { return e.answer.Err }

// A tooLargeError is a request with more content than the authorizer takes that
// is to be asked about it.
type tooLargeError struct{ question *authz.Question }

func (e *tooLargeError) Error() string {
	return "denied: there is more content than the authorizer " + e.question.Provider + " takes, to be asked by " + e.question.ID
}

// A tokenError is a token that is not valid here. It holds nothing of the token.
type tokenError struct {
	status             int
	reason             string
	details, challenge string
}

func (e *tokenError) Error() string { return "denied: " + e.reason }

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
	details string    // response_code_details
	body    string    // text/plain, unless the fields say otherwise
	fields  l7.Fields // further ones of the response
	failure string    // upstream_transport_failure_reason

	// Of a refusal by policy: by what, the rule as the log names it, and its
	// policy.
	by           telemetry.Reason
	rule, policy string

	err error
}

// refusalFor is the only place where an error becomes a status and a flag.
func refusalFor(err error) refusal {
	r := refusal{status: 500, details: "internal_error", err: err}
	var (
		denied       *deniedError
		unasked      *unaskedError
		unauthorized *unauthorizedError
		tooLarge     *tooLargeError
		token        *tokenError
		bad          *badRequestError
		route        *routeError
		connect      *connectError
		upstream     *upstreamError
	)
	switch {
	case errors.As(err, &denied):
		r.status, r.details, r.body = 403, denied.verdict.Details(), accessDenied
		v := &denied.verdict
		r.by, r.rule, r.policy = telemetry.Reason(v.Reason()), v.ID(), v.Name() // they are spelled alike
	case errors.As(err, &unasked):
		r.asked(unasked.question, telemetry.ByNoProvider)
		r.status, r.details, r.body = 403, "rbac_access_denied_matched_policy["+r.rule+"-deny-due-to-bad-CUSTOM-action]", accessDenied
	case errors.As(err, &unauthorized):
		r.unauthorized(unauthorized)
	case errors.As(err, &token):
		r.status, r.details, r.body, r.by = token.status, token.details, token.reason, telemetry.ByToken
		r.fields = l7.Fields{{Name: "www-authenticate", Value: token.challenge}}
	case errors.As(err, &tooLarge):
		r.asked(tooLarge.question, telemetry.ByProvider)
		r.status, r.details, r.body = 413, "request_payload_too_large", "Payload Too Large"
	case errors.As(err, &bad):
		r.status, r.flag, r.details = 400, telemetry.DPE, "http.invalid_request"
	case errors.Is(err, errConnect):
		r.status, r.flag, r.details = 405, telemetry.DPE, "http.connect_not_allowed"
	case errors.Is(err, errOverloaded):
		r.status, r.flag, r.details, r.body = 503, telemetry.OM, "overload", "envoy overloaded"
	case errors.Is(err, errNoDestination), errors.Is(err, errNoRoute):
		r.status, r.flag, r.details = 404, telemetry.NR, "route_not_found"
	case errors.Is(err, errNoBackend):
		r.flag, r.details = telemetry.NC, "cluster_not_found"
	case errors.As(err, &route), errors.Is(err, errNoWeight):
		r.details = "direct_response"
	case errors.Is(err, errNoEndpoint):
		r.status, r.flag, r.details, r.body = 503, telemetry.UH, "no_healthy_upstream", "no healthy upstream"
	case errors.As(err, &connect):
		r.status, r.flag, r.details, r.body = 503, telemetry.UF, "upstream_reset_before_response_started{connection_failure}", noUpstream
		r.failure = transportFailure(err)
	case errors.As(err, &upstream):
		r.status, r.flag, r.body = 503, upstreamFlag(err), noUpstream
		r.details = "upstream_reset_before_response_started{" + resetReason(err) + "}"
	}
	return r
}

// What Envoy says.
const (
	accessDenied = "RBAC: access denied"
	noUpstream   = "upstream connect error or disconnect/reset before headers"
)

// asked says that a CUSTOM rule is what refuses.
func (r *refusal) asked(q *authz.Question, by telemetry.Reason) {
	r.by, r.rule, r.policy = by, q.ID, q.Policy.Namespace+"/"+q.Policy.Name
}

// unauthorized passes on what an authorizer said: all of it, for a browser may be
// on its way to a page where to log in.
func (r *refusal) unauthorized(e *unauthorizedError) {
	a := e.answer
	r.asked(e.question, telemetry.ByProvider)
	r.flag = telemetry.UAEX
	if r.status = a.Status; r.status < 200 || r.status > 599 {
		r.status = 403
	}
	if a.Err != nil {
		r.details = "ext_authz_error"
		return
	}
	r.details, r.body = "ext_authz_denied", string(a.Body)
	for _, f := range a.Fields {
		if (extauthz.Edit{Name: f.Name, Value: f.Value}).Valid() {
			r.fields = append(r.fields, f)
		}
	}
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
	r := refusalFor(x.failure)
	x.rec.Flag |= r.flag
	x.rec.Details = r.details
	x.rec.TransportFailure = r.failure
	x.rec.Status = r.status
	x.explainRefused(&r)
	resp, body := l7.Response{Status: r.status, Fields: r.fields}, r.body
	if x.req.IsGRPC() {
		// A gRPC client expects 200 and its own status in the trailers; with no
		// content, they are the head.
		resp.Status, resp.Fields, body = 200, r.forGRPC(), ""
		code, _ := strconv.Atoi(resp.Fields.Get("grpc-status"))
		x.rec.Status, x.rec.GRPCStatus, x.rec.HasGRPCStatus = 200, code, true
	} else if body != "" && !resp.Fields.Has("content-type") {
		resp.Fields = append(resp.Fields, l7.Field{Name: "content-type", Value: "text/plain"})
	}
	return x.reply(&resp, body)
}

// forGRPC returns the fields of r as gRPC has them. What an authorizer says for
// itself counts, its own grpc-status too.
func (r *refusal) forGRPC() l7.Fields {
	f := l7.Fields{
		{Name: "content-type", Value: "application/grpc"},
		{Name: "grpc-status", Value: strconv.Itoa(grpcStatus(r.status))},
	}
	if r.body != "" {
		f = append(f, l7.Field{Name: "grpc-message", Value: percentEncode(r.body)})
	}
	for _, other := range r.fields {
		switch other.Name {
		case "content-type":
		case "grpc-status", "grpc-message":
			f = f.Set(other.Name, other.Value)
		default:
			f = append(f, other)
		}
	}
	return f
}

// percentEncode writes a message as gRPC has it in a field (grpc/doc/PROTOCOL-HTTP2.md).
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c < 0x7f && c != '%' {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}

// answer sends what a route says instead of asking a backend.
func (x *exchange) answer(resp *l7.Response) step {
	x.rec.Status = resp.Status
	x.rec.Details = "direct_response"
	return x.reply(resp, "")
}

// reply sends a response of our own and ends the exchange.
func (x *exchange) reply(resp *l7.Response, body string) step {
	if resp.Status == 204 || resp.Status == 304 {
		body = "" // they have none (RFC 9110, sections 15.3.5 and 15.4.5)
	}
	resp.Length = int64(len(body))
	resp.Fields = extauthz.Apply(resp.Fields, x.answers)
	if !resp.Fields.Has("server") {
		resp.Fields = append(resp.Fields, l7.Field{Name: "server", Value: "waystone"})
	}
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
	err := c.Respond(resp, body == "")
	if errors.Is(err, h1.ErrInvalid) { // a field that an authorizer made up: without them, then
		resp.Fields = nil
		err = c.Respond(resp, body == "")
	}
	if err == nil && body != "" {
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
