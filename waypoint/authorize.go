package waypoint

// authorize asks the policies of the other actions: AUDIT, DENY, ALLOW.
func (x *exchange) authorize() step {
	v := x.dest.Policies.Decide(x.input())
	recordVerdict(&x.rec.Decision, &v)
	if !v.Allowed {
		return x.fail(&deniedError{v})
	}
	x.explainAllowed()
	return stepRoute
}
