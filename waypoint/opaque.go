package waypoint

import (
	"errors"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
	"github.com/waystone-mesh/waystone/telemetry"
)

// flushEvery is how often the counters of a long tunnel are brought up to date:
// 5 s, as Istio's.
const flushEvery = 5 * time.Second

var errPolicyChanged = errors.New("waypoint: closed due to policy change")

// An opaque is a tunnel that is not HTTP: it is authorized as a connection, once
// whoever CUSTOM policies have asked has been, copied, and authorized again
// whenever configuration that concerns it changes. Nobody is asked again then.
type opaque struct {
	s        *session
	dest     *config.Destination
	input    authz.Input
	named    bool            // the server name was looked for
	asked    *authz.Question // the last question that was answered with yes
	endpoint *mesh.Endpoint
	tried    []*mesh.Workload
	cancel   func()
	early    flow.Early // what came before there was an upstream
	pair     flow.Pair
	copying  bool
	opened   bool // counted as a connection
	over     bool
	rec      telemetry.TCP
	flushed  time.Time
}

// serveOpaque judges the session's tunnel, connects it and copies. first is what
// has been read of it. A CONNECT that is not answered yet is answered with what
// came of that; unless it is for the server name to say.
func (s *session) serveOpaque(first []byte, eof bool) {
	if s.looksIntoTLS() {
		s.greet(first, eof)
		return
	}
	s.beginOpaque(first, eof, "", nil)
}

// beginOpaque is serveOpaque once it is known which server is meant, or why it is
// not.
func (s *session) beginOpaque(first []byte, eof bool, server string, err error) {
	o := &opaque{s: s, dest: s.destination(), input: s.input(), named: s.looksIntoTLS()}
	o.input.SNI, o.rec.SNI = server, server
	s.serving = o
	o.early.Gone = func(err error) { o.finish(telemetry.DC, err) }
	if o.early.Data(first); eof {
		o.early.EOF()
	}
	o.record()
	if s.tunnel != nil {
		s.tunnel.SetReceiver(&o.early)
	} else {
		s.in.OnCancel(func() { o.finish(telemetry.DC, errClientClosed) })
	}
	if bufs.InUse() > s.worker.options.Budget {
		o.refuse(503, telemetry.OM, errOverloaded)
		return
	}
	switch {
	case o.dest == nil: // since the CONNECT was answered
		o.refuse(404, telemetry.NR, errNoDestination)
	case err != nil:
		o.rec.Termination = err.Error()
		o.refuse(403, telemetry.DPE, err)
	default:
		o.consult()
	}
}

// consult asks the providers of the CUSTOM policies that match, as a request's
// exchange does. What the tunnel carries meanwhile waits, uncredited.
func (o *opaque) consult() {
	s := o.s
	q := o.dest.Policies.Ask(&o.input, o.asked)
	if q == nil {
		o.authorize()
		return
	}
	if o.asked == nil {
		if v := o.dest.Policies.Check(&o.input); v.Ask == nil {
			o.deny(&deniedError{v}) // by a rule whose provider is not configured
			return
		}
	}
	client := s.worker.options.Authorizer(q.Provider)
	if client == nil {
		o.deny(&unaskedError{q})
		return
	}
	loop := s.worker.loop
	r := &extauthz.Request{Source: s.from.Source, Dest: s.address(), Peer: s.from.Peer, Self: s.worker.options.Self, At: o.rec.Start}
	o.cancel = s.worker.ask(client, r, func(a extauthz.Answer) {
		loop.Do(func() { o.answered(q, &a) })
	})
}

// answered goes on with what an authorizer said. Nothing of it but yes or no is
// for a connection.
func (o *opaque) answered(q *authz.Question, a *extauthz.Answer) {
	if o.over {
		return
	}
	o.cancel = nil
	if !a.Allowed {
		o.deny(&unauthorizedError{q, a})
		return
	}
	o.asked = q
	o.consult()
}

// authorize asks the policies of the other actions, and connects.
func (o *opaque) authorize() {
	v := o.dest.Policies.Decide(&o.input)
	recordVerdict(&o.rec.Decision, &v)
	if !v.Allowed {
		o.deny(&deniedError{v})
		return
	}
	o.explainAllowed()
	o.connect()
}

// drain has nothing to do: there is no way to tell either side, and it is cut at
// the deadline.
func (o *opaque) drain() {}

// connect opens the way to one endpoint after another until one answers.
func (o *opaque) connect() {
	w := o.s.worker
	if o.endpoint = o.choose(); o.endpoint == nil {
		o.refuse(503, telemetry.UH, errNoEndpoint)
		return
	}
	o.endpoint.Load.Add(1)
	o.tried = append(o.tried, o.endpoint.Workload)
	o.cancel = w.origin(o.dest.Service, o.endpoint, false).dial(o.connected)
}

func (o *opaque) choose() *mesh.Endpoint {
	w := o.s.worker
	if o.dest.Workload != nil {
		return o.s.direct(o.dest.Workload)
	}
	fresh := untried(o.dest.Endpoints, o.tried)
	if len(fresh) == 0 && len(o.tried) > 0 {
		return nil
	}
	return routing.LeastLoaded(fresh, w.random())
}

func (o *opaque) connected(leg flow.Stream, attach func(flow.Receiver), err error) {
	o.cancel = nil
	switch {
	case o.over: // the client went away meanwhile
		if leg != nil {
			leg.Reset(nil)
		}
		return
	case err != nil:
		o.endpoint.Load.Add(-1)
		if len(o.tried) < maxAttempts && untried(o.dest.Endpoints, o.tried) != nil {
			o.connect()
			return
		}
		o.rec.TransportFailure = transportFailure(err)
		o.endpoint = nil
		o.refuse(503, telemetry.UF, err)
		return
	}
	s := o.s
	if s.tunnel == nil {
		s.accept()
	}
	o.open()
	o.pair.Join(s.tunnel, leg, o.done)
	o.copying = true
	attach(o.pair.B())
	s.tunnel.SetReceiver(o.pair.A())
	o.early.HandTo(o.pair.A())
}

// recheck judges the tunnel again. It is called when configuration that concerns
// it has changed. One that is to be judged by its server name, and was not before,
// has said it by then, and nobody was listening.
func (o *opaque) recheck() {
	dest := o.s.destination()
	if dest != nil && (o.named || !o.s.looksIntoTLS()) {
		server := o.input.SNI
		o.dest, o.input = dest, o.s.input()
		o.input.SNI = server
		v := dest.Policies.Decide(&o.input)
		if v.Allowed {
			return
		}
		recordVerdict(&o.rec.Decision, &v)
		o.explainRefused(&deniedError{v})
	}
	o.rec.Flag |= telemetry.UC
	if o.copying {
		o.pair.Reset(errPolicyChanged)
		return
	}
	o.refuse(403, 0, errPolicyChanged)
}

// deny ends a tunnel that policy refuses. One that is answered already can only be
// reset; to one that is not an authorizer's own status would mean nothing.
func (o *opaque) deny(err error) {
	o.refuse(403, o.explainRefused(err).flag, err)
}

// refuse ends a tunnel that has no upstream.
func (o *opaque) refuse(status int, flag telemetry.Flag, err error) {
	if o.s.tunnel != nil {
		o.s.tunnel.Reset(err)
	} else {
		o.s.in.Refuse(status)
	}
	o.finish(flag, err)
}

// done is told that the copy is over.
func (o *opaque) done(err error) { o.finish(0, err) }

func (o *opaque) finish(flag telemetry.Flag, err error) {
	if o.over {
		return
	}
	o.over = true
	o.rec.Flag |= flag
	o.rec.Err = err
	if cancel := o.cancel; cancel != nil {
		o.cancel = nil
		cancel()
	}
	if o.endpoint != nil {
		o.endpoint.Load.Add(-1)
	}
	o.early.Drop()
	o.report()
	o.s.close()
}

// untried returns the endpoints that are not in tried.
func untried(all []mesh.Endpoint, tried []*mesh.Workload) []mesh.Endpoint {
	if len(tried) == 0 {
		return all
	}
	var fresh []mesh.Endpoint
	for i := range all {
		seen := false
		for _, t := range tried {
			seen = seen || t == all[i].Workload
		}
		if !seen {
			fresh = append(fresh, all[i])
		}
	}
	return fresh
}
