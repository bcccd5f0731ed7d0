package authz

// An ExplainedTrial is a policy under dry run tried in the place of another: see
// [Trial].
type ExplainedTrial struct {
	Policy   string `json:"policy"`   // namespace/name
	Replaces string `json:"replaces"` // namespace/name
	Result   string `json:"result"`   // same, wouldAllow or wouldDeny

	// NotInForce says that what is to be replaced is not in force here: the
	// candidate is tried in addition.
	NotInForce bool `json:"notInForce,omitempty"`

	// Reason, Decided and Nearest are those of the verdict it comes to.
	Reason  Reason         `json:"reason"`
	Decided *ExplainedRule `json:"decided,omitempty"`
	Nearest *ExplainedRule `json:"nearest,omitempty"`
}

// The results of a trial.
const (
	trialSame  = "same"
	trialAllow = "wouldAllow"
	trialDeny  = "wouldDeny"
)

func (s *Set) explainTrial(t *Trial, f *facts, allowed bool, limit int) ExplainedTrial {
	o := t.of(f)
	e, r := o.reason(f)
	x := ExplainedTrial{Policy: t.Policy, Replaces: t.Replaces, NotInForce: !t.InForce, Reason: r, Decided: explained(e, f)}
	if r == ReasonNoAllow {
		x.Nearest = s.nearest(&o.allow, f, limit, t.enforces)
	}
	switch would := o.allows(f); {
	case would == allowed:
		x.Result = trialSame
	case would:
		x.Result = trialAllow
	default:
		x.Result = trialDeny
	}
	return x
}

// line says what a trial came to and, if that makes a difference, why.
func (x *ExplainedTrial) line() string {
	out := x.Policy + " in place of " + x.Replaces
	if x.NotInForce {
		out += ", which is not in force here,"
	}
	switch {
	case x.Result == trialSame:
		return out + " makes no difference"
	case x.Reason == ReasonNoPolicy:
		return out + " would allow: no ALLOW policy applies"
	case x.Reason == ReasonAllow:
		return out + " would allow by " + x.Decided.line()
	case x.Reason == ReasonDeny:
		return out + " would deny by " + x.Decided.line()
	case x.Nearest != nil:
		return out + " would deny: no ALLOW rule matches; nearest " + x.Nearest.line()
	}
	return out + " would deny: no ALLOW rule matches"
}
