package authz

import "slices"

// A weighing is one Judge.
type weighing struct {
	*Judge
	known *Known
	facts facts
}

// A chance is whether something holds.
type chance uint8

const (
	never chance = iota
	perhaps
	surely
)

func certain(holds bool) chance {
	if holds {
		return surely
	}
	return never
}

func possible(holds bool) chance {
	if holds {
		return perhaps
	}
	return never
}

// A weight is the chance that one of several entries matches: which, and if it is
// not certain, what it depends on.
type weight struct {
	chance
	entry   *Entry
	missing uint64
}

// or returns the weight that one of two has a match.
func (a weight) or(b weight) weight {
	switch {
	case a.chance == surely || b.chance == never:
		return a
	case b.chance == surely || a.chance == never:
		return b
	}
	a.missing |= b.missing
	return a
}

// weigh finds out whether d surely denies, surely allows, or neither.
func (w *weighing) weigh(d *decider, out *Judgement) {
	refuse := w.first(&d.refuse).or(w.custom(d)).or(w.first(&d.deny))
	if refuse.chance == surely {
		out.set(Denied, refuse)
		return
	}
	allow := weight{chance: surely}
	if d.restrict {
		allow = w.first(&d.allow)
	}
	switch {
	case allow.chance == never:
		out.Result = Denied
	case allow.chance == perhaps:
		out.set(Unknown, refuse.or(allow))
	case refuse.chance == never:
		out.set(Allowed, allow)
	default:
		out.set(Unknown, refuse)
	}
}

func (j *Judgement) set(r Result, w weight) {
	j.Result = r
	if w.entry != nil {
		j.Policy, j.Rule = w.entry.Policy, w.entry.Rule
	}
	if r == Unknown {
		j.Missing = w.missing
	}
}

// first weighs the entries of l.
func (w *weighing) first(l *list) (out weight) {
	for i := range l.items {
		it := &l.items[i]
		switch w.chance(it.expr) {
		case surely:
			return weight{chance: surely, entry: it.entry}
		case perhaps:
			out = out.or(weight{perhaps, it.entry, w.miss(it.expr)})
		}
	}
	return out
}

// custom weighs whether an authorizer refuses.
func (w *weighing) custom(d *decider) (out weight) {
	for i := range d.custom {
		g := &d.custom[i]
		answer := Unknown
		if w.known.Answered != nil {
			answer = w.known.Answered(g.provider)
		}
		if answer == Allowed {
			continue
		}
		asked := w.first(&g.list)
		if answer == Unknown && asked.chance != never {
			asked.chance = perhaps
			asked.missing |= 1 << w.number[answerOf(g.provider)]
		}
		out = out.or(asked)
	}
	return out
}

// miss returns what e, which perhaps holds, depends on.
func (w *weighing) miss(e *Expr) (out uint64) {
	if e.op == opMatch {
		return 1 << w.number[e.attribute()]
	}
	for _, k := range e.kids {
		if w.chance(k) == perhaps {
			out |= w.miss(k)
		}
	}
	return out
}

// chance is match for what is known.
func (w *weighing) chance(e *Expr) chance {
	switch e.op {
	case opAlways:
		return surely
	case opAnd:
		least := surely
		for _, k := range e.kids {
			if least = min(least, w.chance(k)); least == never {
				break
			}
		}
		return least
	case opOr:
		best := never
		for _, k := range e.kids {
			if best = max(best, w.chance(k)); best == surely {
				break
			}
		}
		return best
	case opNot:
		return surely - w.chance(e.kids[0])
	case opMatch:
		return w.ask(e)
	}
	return never
}

// ask applies e's matcher to what is known of its attribute.
func (w *weighing) ask(e *Expr) chance {
	k, in := w.known, w.facts.in
	switch {
	case e.attr.IsHTTP() && in.HTTP == nil:
		return never
	case e.attr == Header && k.hasField(e.name), e.attr != Header && k.Lack&e.attr.bit() == 0 && (e.attr != DestPort || in.Dest.IsValid()):
		return certain(e.ask(&w.facts))
	case e.attr == DestPort && k.Lack&DestPort.bit() == 0:
		return possible(k.Lack&DestIP.bit() != 0 && e.test.port(in.Dest.Port()))
	case e.attr == Header && slices.Contains(k.Blank, e.name):
		return possible(e.test.text(""))
	case e.attr == RequestPrincipal && k.Subject != "":
		return e.test.subject(k)
	}
	return perhaps
}

// subject returns the chance that m matches a token of which the issuer and the
// subject are known with a slash between them: any of the slashes may be the one
// that has an issuer before it.
func (m *Matcher) subject(k *Known) chance {
	yes, no := false, false
	for i := 0; i < len(k.Subject); i++ {
		if k.Subject[i] != '/' || len(k.Issuers) > 0 && !slices.Contains(k.Issuers, k.Subject[:i]) {
			continue
		}
		if m.token(&Token{Issuer: k.Subject[:i], Subject: k.Subject[i+1:]}) {
			yes = true
		} else {
			no = true
		}
	}
	if yes == no {
		return perhaps
	}
	return certain(yes)
}
