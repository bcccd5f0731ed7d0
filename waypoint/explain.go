package waypoint

import (
	"errors"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/decisions"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

// To say why takes longer than to decide, so it is done for those decisions only
// that somebody wants to know about: refusals up to a rate, and of what is allowed
// a sample.

// sampleEvery is how often a worker asks whether something that was allowed is
// wanted: ten times as often as it is.
const sampleEvery = 10 * time.Millisecond

// recordVerdict notes what the policies say.
func recordVerdict(d *telemetry.Decision, v *authz.Verdict) {
	d.Rule, d.Policy = "", ""
	if v.Policy != nil {
		d.Rule, d.Policy = v.ID(), v.Name()
	}
	if v.DryRun != (authz.DryRun{}) {
		d.DryDeny, d.DryAllow = rehearsal(&v.DryRun.Deny), rehearsal(&v.DryRun.Allow)
	}
	d.Trials = d.Trials[:0]
	for i := range v.Trials.Len() {
		t, allowed := v.Trials.At(i)
		d.Trials = append(d.Trials, telemetry.Trial{Policy: t.Policy, Replaces: t.Replaces, Allowed: allowed})
	}
}

func rehearsal(o *authz.Outcome) telemetry.Rehearsal {
	return telemetry.Rehearsal{Result: o.Result.String(), Rule: o.ID, Policy: o.Policy}
}

// recordToken notes whose the valid token is.
func (x *exchange) recordToken() {
	w := x.session.worker
	w.text = append(append(append(w.text[:0], x.token.Issuer...), '/'), x.token.Subject...)
	x.rec.Decision.RequestPrincipal = x.arena.Bytes(w.text)
}

// explainAllowed keeps a request that policy lets pass, if it is wanted.
func (x *exchange) explainAllowed() {
	w := x.session.worker
	if w.samples(x.dest.Policies) {
		x.decision = x.newDecision(x.dest.Policies.Brief(x.input()))
		x.decision.Allowed = true
	}
}

// samples reports whether something that was allowed is wanted: where there is no
// policy, there is nothing to tell.
func (w *worker) samples(set *authz.Set) bool {
	if w.options.Recent == nil || set == nil {
		return false
	}
	now := w.loop.Now()
	if now.Sub(w.sampled) < sampleEvery {
		return false
	}
	w.sampled = now
	return w.options.Recent.Wants(true)
}

// explainRefused notes by what policy refuses the request, and why for those who
// want to know.
func (x *exchange) explainRefused(r *refusal) {
	if r.by == "" {
		return // it was not policy
	}
	r.record(&x.rec.Decision)
	o := &x.session.worker.options
	keep, line := o.Recent.Wants(false), o.Telemetry.Explains()
	if !keep && !line {
		return
	}
	why, because := r.why(x.dest.Policies, x.input)
	if line {
		x.rec.Decision.Why = why
	}
	if keep {
		x.decision = x.newDecision(because)
		r.tell(x.decision, why)
	}
}

// record notes by what it was refused.
func (r *refusal) record(d *telemetry.Decision) {
	d.Denied, d.Reason, d.Rule, d.Policy = true, r.by, r.rule, r.policy
}

// why says in a line why it was refused, and if the policies did, all that they
// say.
func (r *refusal) why(set *authz.Set, input func() *authz.Input) (string, *authz.Explanation) {
	var denied *deniedError
	if errors.As(r.err, &denied) {
		because := set.Brief(input())
		return because.Line(), because
	}
	return r.err.Error(), nil
}

// tell notes who refused it, and why, if it was not the policies.
func (r *refusal) tell(d *decisions.Decision, why string) {
	if d.Explanation == nil {
		d.Why = why
	}
	var (
		token        *tokenError
		unauthorized *unauthorizedError
		unasked      *unaskedError
		tooLarge     *tooLargeError
	)
	switch {
	case errors.As(r.err, &token):
		d.Token = token.reason
	case errors.As(r.err, &unauthorized) && unauthorized.answer.Err != nil:
		d.Provider = unauthorized.question.Provider + ": " + unauthorized.answer.Err.Error()
	case errors.As(r.err, &unauthorized):
		d.Provider = unauthorized.question.Provider + ": denied"
	case errors.As(r.err, &unasked):
		d.Provider = unasked.question.Provider + ": there is no such authorizer"
	case errors.As(r.err, &tooLarge):
		d.Provider = tooLarge.question.Provider + ": there is more content than it takes"
	}
}

// explainAllowed keeps a tunnel that policy lets pass, if it is wanted.
func (o *opaque) explainAllowed() {
	w := o.s.worker
	if !w.samples(o.dest.Policies) {
		return
	}
	d := o.s.newDecision(o.dest.Policies.Brief(&o.input))
	d.Allowed = true
	w.options.Recent.Add(d)
}

// explainRefused notes by what policy refuses the tunnel, and why for those who
// want to know.
func (o *opaque) explainRefused(err error) refusal {
	r, w := refusalFor(err), o.s.worker
	r.record(&o.rec.Decision)
	if r.by == telemetry.ByProvider {
		o.rec.Details = r.details
	} else {
		o.rec.Termination = r.details
	}
	keep, line := w.options.Recent.Wants(false), w.options.Telemetry.Explains()
	if !keep && !line {
		return r
	}
	why, because := r.why(o.dest.Policies, func() *authz.Input { return &o.input })
	if line {
		o.rec.Decision.Why = why
	}
	if keep {
		d := o.s.newDecision(because)
		r.tell(d, why)
		w.options.Recent.Add(d)
	}
	return r
}

// newDecision returns what there is to keep of a decision about the request, but
// for what becomes of it.
func (x *exchange) newDecision(because *authz.Explanation) *decisions.Decision {
	d := x.session.newDecision(because)
	d.At, d.RequestPrincipal = x.rec.Start, x.rec.Decision.RequestPrincipal
	d.Method, d.Host, d.RequestID = x.rec.Method, x.rec.Authority, x.rec.RequestID
	d.Path = x.req.PathOnly() // as policy saw it
	return d
}

func (s *session) newDecision(because *authz.Explanation) *decisions.Decision {
	a := s.authority
	if s.dest != nil && s.dest.Service != nil {
		a = mesh.Authority{Host: s.dest.Service.Hostname, Port: a.Port}
	}
	d := &decisions.Decision{
		At: s.worker.loop.Now(), Source: s.from.Peer, SourceIP: s.from.Source.Addr(), Destination: a.String(), Explanation: because,
	}
	if s.source != nil {
		d.SourceWorkload = s.source.Namespace + "/" + s.source.Name
	}
	return d
}

// keepDecision hands over what is kept of the decision, once what became of the
// request is known.
func (x *exchange) keepDecision() {
	if d := x.decision; d != nil {
		x.decision = nil
		d.Status = x.rec.Status
		x.session.worker.options.Recent.Add(d)
	}
}
