package policy

import (
	"github.com/waystone-mesh/waystone/authz"
)

// What is missing besides attributes.
var (
	wantToken    = []string{"the JWT: it may be refused"}
	wantWaypoint = []string{"the waypoint: the manifests have none before the destination"}
)

// after returns what would become of the request by the new policies.
func (r *replayer) after(t *target, before *decision) decision {
	if r.sameCustom && before.by == byProvider {
		return *before // whom it asks, and about what, is as it was
	}
	if before.by == byToken && t.new.tokens != nil {
		if r.sameTokens {
			return *before
		}
		return decision{lacks: wantToken}
	}
	return r.side(t, &t.new, before, r.sameTokens)
}

// side returns what becomes of the request by the policies of s. The tokens are
// those that were taken then, or if they are not sure, may be refused.
func (r *replayer) side(t *target, s *side, before *decision, sure bool) decision {
	if !s.there {
		return decision{lacks: wantWaypoint}
	}
	if s.tokens != nil && !sure && r.in.HTTP != nil {
		return decision{lacks: wantToken}
	}
	k := r.known
	r.token(s, &k)
	if r.sameCustom && before.result == authz.Allowed && r.o.Base != nil {
		k.Answered = saidYes
	}
	j := s.judge.Judge(&r.in, &k)
	out := decision{result: j.Result}
	switch {
	case j.Policy != nil:
		out.from = j.Policy
	case j.Closed:
		out.policy = closedPolicy
	case j.Result == authz.Denied:
		out.policy = noneMatched
	}
	if j.Result == authz.Unknown {
		names, known := s.names[j.Missing]
		if !known {
			names = s.judge.Names(j.Missing)
			s.names[j.Missing] = names
		}
		out.lacks = names
	}
	return out
}

// saidYes is the answer of whoever was asked about a request that passed.
func saidYes(string) authz.Result { return authz.Allowed }

// token sets what is known of the request's token: nobody has one where none is
// verified, and else what the log says.
func (r *replayer) token(s *side, k *authz.Known) {
	p := r.line.requestPrincipal
	if s.tokens == nil || r.in.HTTP == nil || p.null || p.there && p.text == "" {
		return
	}
	k.Lack |= authz.Lacking(authz.RequestPrincipal, authz.Claim)
	k.Subject, k.Issuers = p.text, s.issuers
}

// name returns what decided, or what it depends on.
func (d *decision) name() string {
	if d.from != nil {
		return d.from.Namespace + "/" + d.from.Name
	}
	return d.policy
}

// agree counts when the policies that are said to have been in force say
// otherwise than the log.
func (r *replayer) agree(logged, judged *decision) {
	if logged.by == byPolicy && logged.result != authz.Unknown && judged.result != authz.Unknown && logged.result != judged.result {
		r.disagree++
	}
}

// compare counts the request by what changes.
func (r *replayer) compare(log string, number int64, t *target, before, after *decision) {
	c := change{}
	lacks := after.lacks
	switch {
	case before.result == authz.Unknown || after.result == authz.Unknown:
		c.kind = undetermined
		if after.result != authz.Unknown {
			lacks = before.lacks
		}
		c.policy = after.name()
	case before.result == after.result && after.result == authz.Allowed:
		r.sameAllowed++
		return
	case before.result == after.result:
		r.sameDenied++
		return
	case after.result == authz.Denied:
		c.kind, c.policy = nowDenied, after.name()
		if was := before.name(); after.policy == noneMatched && was != "" {
			c.policy = was + ", no more"
		}
	default:
		c.kind, c.policy = nowAllowed, before.name()
	}
	c.target = t.name
	r.count(log, number, c, lacks)
}
