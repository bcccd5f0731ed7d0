package policy

import (
	"encoding/binary"
	"net/netip"

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
	if before.by == byToken && t.new.tokens != nil && !t.new.closed {
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
	if s.closed && r.in.HTTP != nil {
		return decision{result: authz.Denied, by: byToken, policy: closedPolicy}
	}
	if s.tokens != nil && !sure && r.in.HTTP != nil {
		return decision{lacks: wantToken}
	}
	k := r.known
	r.token(s, &k)
	if r.sameCustom && before.result == authz.Allowed && r.o.Base != nil {
		k.Answered = saidYes
	}
	j := r.judged(s, &k)
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

const (
	// fewRules are judged as fast as they are looked up.
	fewRules = 8

	// maxRemembered is how many judgements of a target are remembered.
	maxRemembered = 1 << 14
)

// judged returns the judgement on the line at hand. Where there are many rules, of
// which each has to be looked at if not all is known, it is remembered by what
// they ask for: most requests of a log are like others.
func (r *replayer) judged(s *side, k *authz.Known) authz.Judgement {
	if s.judge.Rules() <= fewRules {
		return s.judge.Judge(&r.in, k)
	}
	r.key = r.appendKey(r.key[:0], s, k)
	j, known := s.remembered[string(r.key)]
	if !known {
		if j = s.judge.Judge(&r.in, k); s.remembered == nil || len(s.remembered) >= maxRemembered {
			s.remembered = map[string]authz.Judgement{}
		}
		s.remembered[string(r.key)] = j
	}
	return j
}

// appendKey appends everything that the judgement depends on: that the policies
// ask for, and how much of it is known.
func (r *replayer) appendKey(b []byte, s *side, k *authz.Known) []byte {
	l, in := &r.line, &r.in
	asked, fields := s.judge.Asks(in.HTTP != nil)
	text := func(a authz.Attribute, v value) {
		if asked&authz.Lacking(a) != 0 {
			b = append(binary.AppendUvarint(b, uint64(len(v.text))), v.text...)
			b = append(b, flag(v.there)|flag(v.null)<<1)
		}
	}
	b = binary.AppendUvarint(b, uint64(k.Lack))
	b = append(b, flag(in.HTTP != nil)|flag(k.NoQuery)<<1|flag(k.Answered != nil)<<2)
	text(authz.Principal, l.sourcePrincipal)
	text(authz.SourceIP, value{text: address(in.Source)})
	text(authz.DestIP, l.downstreamLocal)
	text(authz.DestPort, l.downstreamLocal)
	text(authz.SNI, l.serverName)
	text(authz.Host, l.authority)
	text(authz.Method, l.method)
	if in.HTTP != nil {
		text(authz.Path, value{text: in.HTTP.Path})
	}
	text(authz.RequestPrincipal, l.requestPrincipal)
	text(authz.Claim, l.requestPrincipal)
	if len(fields) > 0 { // :path and :authority may be among them
		for _, v := range []value{l.userAgent, l.forwardedFor, l.path, l.authority, l.method} {
			text(authz.Header, v)
		}
	}
	return b
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// address returns the text of an address, without its zone, which matters to
// nobody.
func address(a netip.Addr) string {
	b, _ := a.MarshalBinary() // has no error
	return string(b)
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
