package telemetry

// A Decision is what policy made of an exchange or a connection. The zero
// Decision says that there was none to ask.
//
// Its strings come from the configuration, but for Why and RequestPrincipal,
// which nothing is counted by.
type Decision struct {
	// Denied says that policy refused it, and Reason by what: see [Reason].
	Denied bool
	Reason Reason

	// Rule and Policy decided: the rule as the log names it, such as
	// ns[default]-policy[reviews]-rule[0], and namespace/name. Both are "" when no
	// rule matched.
	Rule, Policy string

	// Why says in a line why it was refused. It is asked for by
	// [Telemetry.Explains] only.
	Why string

	// RequestPrincipal is iss/sub of the valid JWT, or "".
	RequestPrincipal string

	// DryDeny and DryAllow are what the policies under dry run would have said.
	DryDeny, DryAllow Rehearsal

	// Trials are the candidates that were compared with what is in force.
	Trials []Trial
}

// A Reason is by what something was refused. It is a label, so there must be few
// of them: those of an authz.Explanation, and what refuses before policies are
// asked.
type Reason string

// The reasons. "" is none, and counted as "unknown" of what was refused.
const (
	ByDenyRule     Reason = "denyRule"    // a DENY rule matched
	ByNoAllowRule  Reason = "noAllowRule" // there are ALLOW policies, and no rule matched
	ByNoProvider   Reason = "noProvider"  // a CUSTOM rule matched, whose provider cannot be asked
	ByClosedPolicy Reason = "closed"      // a policy cannot be enforced
	ByProvider     Reason = "provider"    // a provider was asked and said no, or did not answer
	ByToken        Reason = "token"       // the JWT is not valid
)

// A Rehearsal is what the dry-run policies of one action would have said.
type Rehearsal struct {
	Result       string // "allowed" or "denied"; "" is that there are none
	Rule, Policy string // as of a Decision: the rule that matched
}

// A Trial is a policy under dry run that was tried in the place of another.
type Trial struct {
	Policy, Replaces string // namespace/name
	Allowed          bool   // what would have become of the input
}

// result compares t with what was decided.
func (t *Trial) result(denied bool) string {
	switch {
	case t.Allowed != denied:
		return "same"
	case t.Allowed:
		return "would_allow"
	}
	return "would_deny"
}
