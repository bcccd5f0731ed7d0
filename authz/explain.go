package authz

import (
	"math"
	"slices"
)

// An Explanation says why a Set gives the verdict it does: which policies apply,
// what each rule says, and of a refusal what was missing. It is for people, and
// marshals to JSON; it holds no secrets and nothing of the Input.
type Explanation struct {
	Allowed bool   `json:"allowed"`
	Reason  Reason `json:"reason"`
	Details string `json:"details,omitempty"` // as the access log has it
	Closed  string `json:"closed,omitempty"`  // why everything is denied

	// Ask are the CUSTOM rules by which providers are asked before. The rest
	// holds if all of them say yes.
	Ask []ExplainedRule `json:"ask,omitempty"`

	// Decided is the rule that matched, and so allowed or denied.
	Decided *ExplainedRule `json:"decided,omitempty"`

	// Nearest is, if no ALLOW rule matched, the one that was nearest to it: that
	// with the fewest clauses that failed, and of these the first by name.
	Nearest *ExplainedRule `json:"nearest,omitempty"`

	// Audit is the first AUDIT rule that matched.
	Audit *ExplainedRule `json:"audit,omitempty"`

	// DryRun is what the policies under dry run would have said, and Trials what
	// the verdict would have been with one of them in the place of another.
	DryRun []Rehearsal      `json:"dryRun,omitempty"`
	Trials []ExplainedTrial `json:"trials,omitempty"`

	// Policies are all that apply, in the order of evaluation. Brief leaves them
	// out.
	Policies []ExplainedPolicy `json:"policies,omitempty"`
}

// A Reason is what an Explanation comes down to.
type Reason string

// The reasons.
const (
	ReasonNoPolicy Reason = "noAllowPolicy" // allowed: there is none, and no DENY rule matched
	ReasonAllow    Reason = "allowRule"     // allowed: an ALLOW rule matched
	ReasonDeny     Reason = "denyRule"      // denied: a DENY rule matched
	ReasonNoAllow  Reason = "noAllowRule"   // denied: there are ALLOW policies, and no rule matched
	ReasonUnusable Reason = "noProvider"    // denied: a CUSTOM rule matched, whose provider cannot be asked
	ReasonClosed   Reason = "closed"        // denied: a policy cannot be enforced
)

// A Rehearsal is what the dry-run policies of one action would have done.
type Rehearsal struct {
	Action  string         `json:"action"`
	Result  string         `json:"result"` // allowed or denied
	Decided *ExplainedRule `json:"decided,omitempty"`
	Nearest *ExplainedRule `json:"nearest,omitempty"`
}

// An ExplainedPolicy is a policy that applies, and what its rules say.
type ExplainedPolicy struct {
	Policy   string          `json:"policy"` // namespace/name
	Action   string          `json:"action"`
	Provider string          `json:"provider,omitempty"`
	DryRun   bool            `json:"dryRun,omitempty"`
	Replaces string          `json:"replaces,omitempty"` // namespace/name, of one that is on trial
	Attached Attachment      `json:"attached"`
	Matches  bool            `json:"matches"` // one of its rules does
	Rules    []ExplainedRule `json:"rules,omitempty"`
}

// An ExplainedRule is a rule and what it says.
type ExplainedRule struct {
	Policy   string `json:"policy"`
	Rule     int    `json:"rule"` // -1: the policy has none
	ID       string `json:"id,omitempty"`
	Provider string `json:"provider,omitempty"`
	Matches  bool   `json:"matches"`

	// Inert says that the rule cannot match here: on a connection that is not
	// HTTP, or at the node, what it asks for is not seen.
	Inert bool `json:"inert,omitempty"`

	// Widened says that the input is not HTTP, and that the rule does without
	// its HTTP fields: it matches more than it says.
	Widened bool `json:"widened,omitempty"`

	// Clauses are, of a rule that matches, those by which it does, and of one
	// that does not, those that failed.
	Clauses []Clause `json:"clauses,omitempty"`
}

// An Attachment says why a policy applies.
type Attachment struct {
	By      string   `json:"by"`                // targetRef, selector, namespace, or mesh: the root namespace
	Targets []string `json:"targets,omitempty"` // Service/reviews, or app=reviews
}

// attachment says how p is attached.
func (c *compiler) attachment() Attachment {
	p := c.policy
	a := Attachment{By: "namespace"}
	switch {
	case len(p.TargetRefs) > 0:
		a.By = "targetRef"
		for _, ref := range p.TargetRefs {
			a.Targets = append(a.Targets, ref.Kind+"/"+ref.Name)
		}
	case len(p.Selector) > 0:
		a.By = "selector"
		for k, v := range p.Selector {
			a.Targets = append(a.Targets, k+"="+v)
		}
		slices.Sort(a.Targets)
	case p.Namespace == c.root() && !p.OwnNamespace:
		a.By = "mesh"
	}
	return a
}

// Explain says why Check gives the verdict on in that it does. It looks at every
// rule, and allocates.
func (s *Set) Explain(in *Input) *Explanation {
	x := s.explain(in, math.MaxInt)
	if s == nil {
		return x
	}
	var f facts
	f.read(in)
	for _, e := range s.entries {
		n := len(x.Policies)
		if e.Policy == nil {
			continue
		}
		if n == 0 || !x.Policies[n-1].holds(e) {
			x.Policies = append(x.Policies, e.explainPolicy())
			n++
		}
		if e.Rule < 0 {
			continue
		}
		p, r := &x.Policies[n-1], e.explain(&f)
		p.Rules, p.Matches = append(p.Rules, r), p.Matches || r.Matches
	}
	slices.SortStableFunc(x.Policies, func(a, b ExplainedPolicy) int { return a.rank() - b.rank() })
	return x
}

func (e *Entry) explainPolicy() ExplainedPolicy {
	p := ExplainedPolicy{Policy: e.name, Action: e.Action.String(), Provider: e.Provider, DryRun: e.DryRun, Attached: e.Attached}
	if e.DryRun && e.Policy.Replaces != "" {
		p.Replaces = fullName(e.Policy.Namespace, e.Policy.Replaces)
	}
	return p
}

// holds reports whether e is a rule of p.
func (p *ExplainedPolicy) holds(e *Entry) bool {
	return p.Policy == e.name && p.Action == e.Action.String() && p.DryRun == e.DryRun
}

// rank is where p comes in the order of evaluation.
func (p *ExplainedPolicy) rank() int {
	n := 2 * slices.Index([]string{"CUSTOM", "AUDIT", "DENY", "ALLOW"}, p.Action)
	if p.DryRun {
		n++
	}
	return n
}

// Brief is Explain without the list of policies: what a line of a log needs. What
// it costs is bounded: of more than five hundred ALLOW rules it looks at that many
// for the nearest, first at those that an index finds by what the input has.
func (s *Set) Brief(in *Input) *Explanation { return s.explain(in, manyRules) }

// manyRules is how many rules Brief looks at for the nearest: about 0.1 ms' worth.
const manyRules = 500

func (s *Set) explain(in *Input, limit int) *Explanation {
	v := s.Decide(in)
	x := &Explanation{Allowed: v.Allowed, Reason: ReasonNoPolicy, Details: v.Details()}
	if s == nil {
		return x
	}
	if s.closed != "" {
		x.Reason, x.Closed = ReasonClosed, s.why
		return x
	}
	var f facts
	f.read(in)
	d := s.of(in)
	d.reason(x, &f)
	if x.Reason == ReasonUnusable {
		return x
	}
	for q := d.question(&f, nil); q != nil; q = d.question(&f, q) {
		x.Ask = append(x.Ask, q.entry.explain(&f))
	}
	x.Audit = explained(d.audit.first(&f), &f)
	if d.dryDeny.items != nil {
		e := d.dryDeny.first(&f)
		x.DryRun = append(x.DryRun, rehearsal(Deny, e == nil, explained(e, &f), nil))
	}
	if d.dryStrict {
		e := d.dryAllow.first(&f)
		r := rehearsal(Allow, e != nil, explained(e, &f), nil)
		if e == nil {
			r.Nearest = s.nearest(&d.dryAllow, &f, limit, func(e *Entry) bool { return e.DryRun })
		}
		x.DryRun = append(x.DryRun, r)
	}
	if x.Reason == ReasonNoAllow {
		x.Nearest = s.nearest(&d.allow, &f, limit, (*Entry).inForce)
	}
	for i := range s.trials {
		x.Trials = append(x.Trials, s.explainTrial(&s.trials[i], &f, x.Allowed, limit))
	}
	return x
}

// reason finds what decided.
func (d *decider) reason(x *Explanation, f *facts) {
	e, r := d.refuse.first(f), ReasonUnusable
	if e == nil {
		e, r = d.force.reason(f)
	}
	x.Reason, x.Decided = r, explained(e, f)
}

func (o *force) reason(f *facts) (*Entry, Reason) {
	if e := o.deny.first(f); e != nil {
		return e, ReasonDeny
	}
	if !o.restrict {
		return nil, ReasonNoPolicy
	}
	if e := o.allow.first(f); e != nil {
		return e, ReasonAllow
	}
	return nil, ReasonNoAllow
}

func rehearsal(a Action, allowed bool, decided, nearest *ExplainedRule) Rehearsal {
	r := Rehearsal{Action: a.String(), Result: Denied.String(), Decided: decided, Nearest: nearest}
	if allowed {
		r.Result = Allowed.String()
	}
	return r
}

// expr returns what e asks of an input of its kind.
func (e *Entry) expr(f *facts) *Expr {
	if f.in.HTTP != nil {
		return e.HTTP
	}
	return e.Opaque
}

func explained(e *Entry, f *facts) *ExplainedRule {
	if e == nil {
		return nil
	}
	r := e.explain(f)
	return &r
}

func (e *Entry) explain(f *facts) ExplainedRule {
	r := ExplainedRule{Policy: e.name, Rule: e.Rule, ID: e.ID, Provider: e.Provider}
	x := e.expr(f)
	r.Widened = f.in.HTTP == nil && x != nil && e.HTTP != x && e.HTTP.asksHTTP()
	switch {
	case x == nil || x.op == opNever:
		r.Inert = e.Rule >= 0
	case x.match(f):
		r.Matches, r.Clauses = true, x.met(f)
	default:
		r.Clauses = x.failed(f)
	}
	return r
}
