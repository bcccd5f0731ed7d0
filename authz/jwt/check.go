package jwt

import (
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

const (
	skew      = 60 // seconds that clocks may differ, as in Envoy
	maxTokens = 8  // where one rule looks
)

// A Result is what a Set says about a request. It is valid until the next Check
// with the same Verifier.
type Result struct {
	Allowed bool

	// Token is what the token said that was verified last, or nil if none was. It
	// outlives the Result.
	Token *authz.Token

	// Reason says why a request was refused, and Policy and Rule are whose reason
	// it is. Rule is -1 if it is nobody's.
	Reason Reason
	Policy *RequestAuthentication
	Rule   int

	// Seen is what the token says that was looked at last, valid or not. It is nil
	// if there was none, or none that could be read.
	Seen *Head

	set   *Set
	gone  []location // what is taken out
	added []l7.Field // what is put in
}

// Check gives the verdict on the tokens of req, with the keys of ring, and
// remembers it in v; a nil v forgets. It keeps nothing of req.
//
// Once its verdict is in v, and if no parameter is escaped, Check allocates
// nothing.
func (s *Set) Check(now time.Time, req *l7.Request, ring Ring, v *Verifier) Result {
	res := Result{Allowed: true, Rule: -1, set: s}
	switch {
	case s == nil:
		return res
	case s.closed != "":
		res.Allowed, res.Reason = false, VerificationFails
		return res
	case isPreflight(req):
		return res
	}
	if v == nil {
		v = new(Verifier)
	}
	v.found, v.gone, v.added = v.found[:0], v.gone[:0], v.added[:0]
	c := inspection{set: s, now: uint64(max(now.Unix(), 0)), req: req, ring: ring, v: v}
	reason, at := c.run()
	clear(v.found[:cap(v.found)])
	res.Token, res.Seen, res.gone, res.added = c.token, c.seen, v.gone, v.added
	if reason != OK && reason != Missing {
		r := &s.rules[at]
		res.Allowed, res.Reason, res.Policy, res.Rule = false, reason, r.policy, r.index
		res.Token, res.gone, res.added = nil, nil, nil
	}
	return res
}

// isPreflight reports whether req is CORS's, which brings no credentials and
// asks whether it may.
func isPreflight(req *l7.Request) bool {
	return req.Method == "OPTIONS" && req.Fields.Get("origin") != "" && req.Fields.Get("access-control-request-method") != ""
}

// An inspection is one Check.
type inspection struct {
	set  *Set
	now  uint64
	req  *l7.Request
	ring Ring
	v    *Verifier

	token *authz.Token
	seen  *Head
}

// run looks for a rule that takes the request or else whether each takes it or
// finds nothing. The second look differs from the first in that what a rule took
// is gone: with two tokens for two rules that look in the same places, each may
// find its own.
func (c *inspection) run() (Reason, int) {
	final, at := Missing, -1
	for i := range c.set.rules {
		reason := c.rule(i)
		if reason == OK {
			return OK, i
		}
		if outdoes(reason, final) {
			final, at = reason, i
		}
	}
	if final == Missing || len(c.set.rules) == 1 {
		return final, at
	}
	for i := range c.set.rules {
		reason := c.rule(i)
		if reason == OK || reason == Missing {
			continue
		}
		if outdoes(reason, final) {
			return reason, i
		}
		return final, at
	}
	return OK, -1
}

// outdoes reports whether a reason is told in the place of an earlier one.
func outdoes(reason, earlier Reason) bool {
	return reason != Missing && reason != UnknownIssuer || earlier == Missing
}

// rule verifies the tokens that rule i finds, from the last to the first.
func (c *inspection) rule(i int) Reason {
	r, v := &c.set.rules[i], c.v
	if len(v.added) > 0 {
		v.added = without(v.added, r.outputs)
	}
	v.found = r.locate(c.req, v.gone, v.found[:0])
	switch n := len(v.found); {
	case n == 0:
		return Missing
	case n > maxTokens:
		return TooManyTokens
	}
	for j := len(v.found) - 1; j >= 0; j-- {
		o, reason := c.verify(r, v.found[j].text)
		if reason != OK {
			return reason
		}
		c.token = o.token
		v.added = append(v.added, o.fields...)
		if !r.forward {
			v.gone = append(v.gone, v.found[j].location)
		}
	}
	return OK
}

// verify verifies one token.
func (c *inspection) verify(r *rule, text string) (*outcome, Reason) {
	e, t := c.v.find(text, c.now)
	c.seen = e.head
	if e.reason != OK {
		return nil, e.reason
	}
	keys := r.inline
	if keys == nil {
		keys = c.ring[r.source]
	}
	switch {
	case r.issuer != "" && r.issuer != e.head.Issuer:
		return nil, UnknownIssuer
	case c.now+skew < e.head.NotBefore:
		return nil, NotYetValid
	case e.head.expired(c.now):
		return nil, Expired
	case !r.hears(e.head.Audiences):
		return nil, AudienceNotAllowed
	case keys == nil:
		return nil, KeysNotFetched
	}
	if k := e.knows(&r.shape, keys); k != nil {
		return k.outcome, k.reason
	}
	if t == nil {
		t, _ = parse(text)
	}
	k := known{shape: r.shape, keys: keys.version, reason: keys.verify(t, text)}
	if k.reason == OK {
		k.outcome = r.outcome(t)
	}
	c.v.keep(e, k)
	return k.outcome, k.reason
}

func (h *Head) expired(now uint64) bool { return h.Expires > 0 && now > h.Expires+skew }

// hears reports whether one of audiences is r's.
func (r *rule) hears(audiences []string) bool {
	for _, aud := range audiences {
		if r.audiences[bareAudience(aud)] {
			return true
		}
	}
	return len(r.audiences) == 0
}
