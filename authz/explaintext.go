package authz

import (
	"fmt"
	"strconv"
	"strings"
)

// Line returns x in one line, without its end, such as
//
//	denied: no ALLOW rule matches; nearest AuthorizationPolicy default/productpage rule 0: from.source.principals wanted cluster.local/ns/default/sa/sleep, saw cluster.local/ns/default/sa/notsleep
func (x *Explanation) Line() string {
	var b strings.Builder
	for i := range x.Ask {
		fmt.Fprintf(&b, "asks %s by %s; then ", x.Ask[i].Provider, x.Ask[i].line())
	}
	switch x.Reason {
	case ReasonClosed:
		b.WriteString("denied: " + x.Closed)
	case ReasonNoPolicy:
		b.WriteString("allowed: no ALLOW policy applies")
	case ReasonAllow:
		b.WriteString("allowed by " + x.Decided.name())
	case ReasonDeny:
		b.WriteString("denied by " + x.Decided.line())
	case ReasonUnusable:
		fmt.Fprintf(&b, "denied: there is no provider %s to ask by %s", x.Decided.Provider, x.Decided.line())
	case ReasonNoAllow:
		b.WriteString("denied: no ALLOW rule matches")
		if x.Nearest != nil {
			b.WriteString("; nearest " + x.Nearest.line())
		}
	}
	if x.Audit != nil {
		b.WriteString("; audited by " + x.Audit.name())
	}
	for i := range x.DryRun {
		b.WriteString("; dry run: " + x.DryRun[i].line())
	}
	for i := range x.Trials {
		b.WriteString("; trial: " + x.Trials[i].line())
	}
	return b.String()
}

func (r *Rehearsal) line() string {
	out := r.Action + " would have " + r.Result
	if r.Decided != nil {
		return out + " by " + r.Decided.line()
	}
	if r.Nearest != nil {
		return out + ", nearest " + r.Nearest.line()
	}
	return out
}

// String returns x as text for people, of several lines: Line, and what every
// policy and rule says.
func (x *Explanation) String() string {
	var b strings.Builder
	b.WriteString(x.Line() + "\n")
	for i := range x.Policies {
		p := &x.Policies[i]
		fmt.Fprintf(&b, "\n%s %s", p.Action, p.Policy)
		if p.DryRun {
			b.WriteString(", dry run")
		}
		if p.Replaces != "" {
			b.WriteString(", to replace " + p.Replaces)
		}
		if p.Provider != "" {
			b.WriteString(", asks " + p.Provider)
		}
		b.WriteString(p.Attached.text() + "\n")
		if len(p.Rules) == 0 {
			b.WriteString("  has no rules\n")
		}
		for j := range p.Rules {
			p.Rules[j].print(&b)
		}
	}
	return b.String()
}

// text returns a with what goes before it.
func (a *Attachment) text() string {
	switch a.By {
	case "":
		return ""
	case "namespace":
		return ", of its namespace"
	case "mesh":
		return ", of the root namespace"
	}
	return ", by " + a.By + " " + strings.Join(a.Targets, " ")
}

func (r *ExplainedRule) print(b *strings.Builder) {
	fmt.Fprintf(b, "  rule %d %s", r.Rule, r.state())
	if r.Widened {
		b.WriteString(", without its HTTP fields")
	}
	b.WriteString("\n")
	for i := range r.Clauses {
		b.WriteString("    " + r.clause(i) + "\n")
	}
}

// state says in a word or two what a rule does.
func (r *ExplainedRule) state() string {
	switch {
	case r.Inert:
		return "cannot match here"
	case !r.Matches:
		return "does not match"
	case len(r.Clauses) == 0:
		return "matches everything"
	}
	return "matches"
}

func (r *ExplainedRule) name() string {
	if r.Rule < 0 {
		return Kind + " " + r.Policy
	}
	if r.Widened {
		return fmt.Sprintf("%s %s rule %d without its HTTP fields", Kind, r.Policy, r.Rule)
	}
	return fmt.Sprintf("%s %s rule %d", Kind, r.Policy, r.Rule)
}

// line names r and its clauses.
func (r *ExplainedRule) line() string {
	switch {
	case r.Rule < 0:
		return r.name() + ", which has no rules"
	case r.Inert:
		return r.name() + ", which cannot match here"
	case len(r.Clauses) == 0:
		return r.name()
	}
	var clauses []string
	for i := range r.Clauses {
		if more := len(r.Clauses) - i; i == someClauses && more > 1 {
			clauses = append(clauses, fmt.Sprintf("%d more", more))
			break
		}
		clauses = append(clauses, r.clause(i))
	}
	return r.name() + ": " + strings.Join(clauses, " and ")
}

// clause returns a clause as text: how it held, or what it lacked.
func (r *ExplainedRule) clause(i int) string {
	if r.Matches {
		return r.Clauses[i].metText()
	}
	return r.Clauses[i].failedText()
}

// failedText returns c as "from.source.principals wanted a or b, saw c".
func (c *Clause) failedText() string {
	if c.Not {
		return c.name() + " wanted none of " + c.values() + ", saw " + c.saw()
	}
	return c.name() + " wanted " + c.values() + ", saw " + c.saw()
}

// metText returns c as "to.operation.paths /a* matches /a/b".
func (c *Clause) metText() string {
	switch {
	case !c.Not && len(c.Wanted) == 1 && c.Wanted[0] == c.Saw:
		return c.name() + " is " + c.saw()
	case !c.Not:
		return c.name() + " " + c.values() + " matches " + c.saw()
	case c.Missing != "":
		return c.name() + " " + c.values() + " does not match: there is " + strings.Replace(c.Missing, "none", "no value", 1)
	}
	return c.name() + " " + c.values() + " does not match " + c.saw()
}

func (c *Clause) saw() string {
	switch {
	case c.Missing != "":
		return c.Missing
	case c.Saw == "":
		return "an empty value"
	}
	return word(c.Saw)
}

// name returns the field of c, as short as can be: what is not [0] is kept.
func (c *Clause) name() string {
	path, ok := strings.CutPrefix(c.Field, "spec.rules[")
	if !ok {
		return c.Attribute
	}
	_, path, _ = strings.Cut(path, "].")
	if when, ok := strings.CutPrefix(path, "when["); ok && when != "" {
		return "when " + c.Attribute
	}
	return strings.ReplaceAll(path, "[0]", "")
}

// So many values of a clause, and clauses of a rule, are printed in one line.
const (
	someValues  = 5
	someClauses = 3
)

// values returns "a, b or c".
func (c *Clause) values() string {
	var words []string
	for _, v := range c.Wanted {
		words = append(words, word(v))
	}
	if more := len(words) - someValues; more > 0 {
		words = append(words[:someValues], fmt.Sprintf("%d more", more))
	}
	out := words[len(words)-1]
	if len(words) > 1 {
		out = strings.Join(words[:len(words)-1], ", ") + " or " + out
	}
	return out
}

// word returns a value so that it is seen where it ends, and a line has no more
// than one.
func word(v string) string {
	if v == redacted || v != "" && !strings.ContainsFunc(v, func(r rune) bool { return r == '"' || r == ',' || r == ';' || !strconv.IsPrint(r) || r == ' ' }) {
		return v
	}
	return strconv.Quote(v)
}
