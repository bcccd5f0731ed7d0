package decisions

import "github.com/waystone-mesh/waystone/authz"

// What values take besides the bytes of their strings, about.
const (
	decisionBytes = 400
	ruleBytes     = 140
	clauseBytes   = 130
	stringBytes   = 16
)

// fit returns what d takes, after it has been made to fit: an explanation that is
// too long loses what every policy says, and one that is still too long all but
// what it comes to. One that lists a thousand policies would otherwise take the
// place of a hundred others.
func (d *Decision) fit() int {
	x := d.Explanation
	if x == nil {
		return decisionBytes + d.text()
	}
	size := decisionBytes + d.text() + explanation(x)
	if size > eachBytes && x.Policies != nil {
		short := *x
		short.Policies = nil
		x, d.Explanation = &short, &short
		size = decisionBytes + d.text() + explanation(x)
	}
	if size > 4*eachBytes {
		d.Explanation = &authz.Explanation{Allowed: x.Allowed, Reason: x.Reason, Details: clip(x.Details), Closed: clip(x.Closed)}
		size = decisionBytes + d.text() + explanation(d.Explanation)
	}
	return size
}

// text is the length of the strings of d itself.
func (d *Decision) text() (n int) {
	for _, s := range [...]string{
		d.SourceWorkload, d.RequestPrincipal, d.Destination, d.Method, d.Host, d.Path, d.RequestID, d.Token, d.Provider, d.Why,
		d.Source.TrustDomain, d.Source.Namespace, d.Source.ServiceAccount,
	} {
		n += len(s)
	}
	return n
}

func explanation(x *authz.Explanation) int {
	n := len(x.Details) + len(x.Closed) + rules(x.Ask)
	for _, r := range [...]*authz.ExplainedRule{x.Decided, x.Nearest, x.Audit} {
		n += rule(r)
	}
	for i := range x.DryRun {
		n += ruleBytes + rule(x.DryRun[i].Decided) + rule(x.DryRun[i].Nearest)
	}
	for i := range x.Trials {
		n += ruleBytes + rule(x.Trials[i].Decided) + rule(x.Trials[i].Nearest)
	}
	for i := range x.Policies {
		p := &x.Policies[i]
		n += ruleBytes + len(p.Policy) + len(p.Provider) + rules(p.Rules)
		for _, t := range p.Attached.Targets {
			n += stringBytes + len(t)
		}
	}
	return n
}

func rules(list []authz.ExplainedRule) (n int) {
	for i := range list {
		n += rule(&list[i])
	}
	return n
}

func rule(r *authz.ExplainedRule) int {
	if r == nil {
		return 0
	}
	n := ruleBytes + len(r.Policy) + len(r.ID) + len(r.Provider)
	for i := range r.Clauses {
		c := &r.Clauses[i]
		n += clauseBytes + len(c.Field) + len(c.Attribute) + len(c.Saw) + len(c.Missing)
		for _, w := range c.Wanted {
			n += stringBytes + len(w)
		}
	}
	return n
}
