package authz

import "slices"

// A Trial is a policy under dry run that is to take the place of another, tried on
// what is asked of the Set. Both are named namespace/name.
//
// It tells what the verdict would be if the one that is in force were not, and the
// candidate were: two versions of a policy are so compared on live traffic, which
// Istio's dry run cannot do, since it judges a candidate by itself. Authorizers are
// not asked for a trial: what they refuse is not compared, nor is what a Set
// refuses because one of them cannot be asked.
type Trial struct {
	Policy, Replaces string

	// InForce says that the policy to be replaced is a DENY or ALLOW policy in
	// force here. If it is not, perhaps because it is attached elsewhere, the trial
	// is of the candidate in addition to what is in force.
	InForce bool

	http, opaque force
}

// Trials are what a Verdict says of the trials of its Set. The zero Trials are
// none.
type Trials struct {
	set     *Set
	allowed uint64 // a bit for each
}

// maxTrials is how many of the candidates at one destination are tried: the first
// by name.
const maxTrials = 64

// Len returns how many trials there are.
func (t Trials) Len() int {
	if t.set == nil {
		return 0
	}
	return len(t.set.trials)
}

// At returns the trial at i, and whether its input would be allowed.
func (t Trials) At(i int) (*Trial, bool) { return &t.set.trials[i], t.allowed&(1<<i) != 0 }

// try gives the verdict of every trial of s.
func (s *Set) try(f *facts) Trials {
	t := Trials{set: s}
	for i := range s.trials {
		if s.trials[i].of(f).allows(f) {
			t.allowed |= 1 << i
		}
	}
	return t
}

func (t *Trial) of(f *facts) *force {
	if f.in.HTTP != nil {
		return &t.http
	}
	return &t.opaque
}

// allows is decide without the names.
func (o *force) allows(f *facts) bool {
	return o.deny.first(f) == nil && (!o.restrict || o.allow.first(f) != nil)
}

// candidates returns the trials of s, in the order of their names.
func (s *Set) candidates(short int) (out []Trial) {
	var last *Policy
	for _, e := range s.entries {
		if e.DryRun && e.Policy != nil && e.Policy.Replaces != "" && e.Policy != last && len(out) < maxTrials {
			out = append(out, s.trial(e, short))
			last = e.Policy
		}
	}
	return out
}

// trial returns the trial of the candidate that e is a rule of.
func (s *Set) trial(e *Entry, short int) Trial {
	t := Trial{Policy: e.name, Replaces: fullName(e.Policy.Namespace, e.Policy.Replaces)}
	t.InForce = slices.ContainsFunc(s.entries, func(e *Entry) bool { return e.inForce() && e.name == t.Replaces })
	t.http = s.http.with(&t, s.entries, (*Entry).forHTTP, short)
	t.opaque = s.opaque.with(&t, s.entries, (*Entry).forOpaque, short)
	return t
}

func (e *Entry) forHTTP() *Expr   { return e.HTTP }
func (e *Entry) forOpaque() *Expr { return e.Opaque }

// inForce reports whether e is a rule of a DENY or ALLOW policy that is enforced.
func (e *Entry) inForce() bool { return !e.DryRun && (e.Action == Deny || e.Action == Allow) }

// enforces reports whether e is in force in t: what is in force but for the policy
// that is replaced, and the candidate.
func (t *Trial) enforces(e *Entry) bool {
	return e.inForce() && e.name != t.Replaces || e.DryRun && e.name == t.Policy
}

// with returns what d enforces as t would have it. Lists that are no different are
// shared.
func (d *decider) with(t *Trial, entries []*Entry, expr func(*Entry) *Expr, short int) force {
	changes := func(a Action) bool {
		return slices.ContainsFunc(entries, func(e *Entry) bool {
			return e.Action == a && (e.inForce() || e.DryRun) && e.inForce() != t.enforces(e)
		})
	}
	out := d.force
	if changes(Deny) {
		out.deny = list{}
		for _, e := range entries {
			if e.Action == Deny && t.enforces(e) {
				out.deny.add(e, expr(e))
			}
		}
		out.deny.build(short)
	}
	if changes(Allow) {
		out.allow, out.restrict = list{}, false
		for _, e := range entries {
			if e.Action == Allow && t.enforces(e) {
				out.allow.add(e, expr(e))
				out.restrict = true
			}
		}
		out.allow.build(short)
	}
	return out
}
