package authz

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// An Input is what a verdict is given on: a request, or an opaque connection.
type Input struct {
	Peer   identity.ID    // zero: a client without a certificate
	Source netip.Addr     // the client's address
	Dest   netip.AddrPort // what the client dialled: on a waypoint, the service's address and port
	SNI    string         // "" when there is none

	// Token is nil when the request has no valid JWT. An opaque tunnel never has
	// one.
	Token *Token

	// HTTP is nil for an opaque tunnel. An ALLOW rule that asks about HTTP then
	// never matches, and a DENY rule is enforced as if it had not asked: when in
	// doubt, both refuse. The path has been normalised already.
	HTTP *l7.Request
}

// A Verdict is what a Set says about an Input.
type Verdict struct {
	Allowed bool

	// Policy and Rule decided: the DENY rule or the ALLOW rule that matched.
	// Policy is nil and Rule -1 when nothing matched.
	Policy *Policy
	Rule   int

	// Ask says that a CUSTOM rule matched: until its provider has been asked, and
	// has said yes, the input is refused, and of policies of the other actions
	// nothing is known.
	Ask *Question

	// Audit is set when an AUDIT rule matched. It changes nothing else.
	Audit bool

	// DryRun is what the policies under dry run would have said, and Trials what
	// the verdict would have been with one of them in the place of another.
	DryRun DryRun
	Trials Trials

	entry   *Entry // that decided, or nil
	details string
}

// Details returns what the access log says about a refusal:
// rbac_access_denied_matched_policy[…] with the rule that matched, or with
// "none" when there were ALLOW rules and none did. It is "" if Allowed.
func (v Verdict) Details() string { return v.details }

// ID returns the rule that decided, as the log names it, and Name its policy:
// namespace/name. Both are "" when nothing matched.
func (v Verdict) ID() string {
	if v.entry == nil {
		return ""
	}
	return v.entry.ID
}

// Name is explained at [Verdict.ID].
func (v Verdict) Name() string {
	if v.entry == nil {
		return ""
	}
	return v.entry.name
}

// Reason returns what v comes down to; "" if a provider must be asked first.
func (v Verdict) Reason() Reason {
	switch {
	case v.Ask != nil:
		return ""
	case v.Allowed && v.entry == nil:
		return ReasonNoPolicy
	case v.Allowed:
		return ReasonAllow
	case v.entry == nil && v.details == noneDenied:
		return ReasonNoAllow
	case v.entry == nil:
		return ReasonClosed
	case v.entry.Action == Custom:
		return ReasonUnusable
	}
	return ReasonDeny
}

// DryRun is the verdict of policies under dry run, of either action. The zero
// DryRun says that there are none.
type DryRun struct{ Deny, Allow Outcome }

// An Outcome is what the dry-run policies of one action would have said.
type Outcome struct {
	Result Result
	ID     string // the rule that matched, as the log names it, or ""
	Policy string // its policy: namespace/name, or ""
}

// A Result is part of an Outcome.
type Result uint8

// The results. Unknown is that of an action without dry-run policies.
const (
	Unknown Result = iota
	Allowed
	Denied
)

func (r Result) String() string { return [...]string{"", "allowed", "denied"}[r] }

// A Set decides about requests to one destination. It is immutable and safe
// for concurrent use. A nil Set allows everything.
type Set struct {
	http, opaque decider
	entries      []*Entry // all of them, in the order of their names
	trials       []Trial
	names        bool   // a rule about connections asks for the server name
	closed       string // Details of a set that denies everything
	why          string // and the reason
}

// A decider holds entries by action, each list in the order of its names.
type decider struct {
	refuse list // CUSTOM, of providers that there are not
	custom []group
	audit  list
	force
	dryDeny, dryAllow list
	dryStrict         bool // an ALLOW policy is under dry run
}

// A force is the rules of DENY and ALLOW policies that are in force together.
type force struct {
	deny, allow list
	restrict    bool // an ALLOW policy applies, even if none of its rules can match
}

// An Entry is one rule compiled: what a Set is made of. Whichever language it
// was written in, it comes down to an action and an Expr.
type Entry struct {
	Action Action
	DryRun bool
	ID     string  // as the log names it
	Policy *Policy // where it comes from
	Rule   int     // its index there; -1: stands for a policy without rules

	// Provider is whom a CUSTOM entry has asked. If Unusable, it cannot be asked,
	// and what the entry matches is refused.
	Provider string
	Unusable bool

	// Attached says why the policy applies, for explanations.
	Attached Attachment

	// HTTP is asked about requests, Opaque about connections that are not HTTP.
	// A nil Expr never matches; an ALLOW entry that never matches still
	// restricts, as any ALLOW policy does.
	HTTP, Opaque *Expr

	name     string // of Policy: namespace/name
	denied   string
	question *Question
}

const (
	deniedPrefix = "rbac_access_denied_matched_policy["
	noneDenied   = deniedPrefix + "none]"
)

// NewSet returns the Set of entries. With no entries at all it allows
// everything.
func NewSet(entries []Entry) *Set { return newSet(entries, shortList) }

func newSet(entries []Entry, short int) *Set {
	all := make([]*Entry, len(entries))
	for i := range entries {
		e := entries[i]
		e.denied = deniedPrefix + blanks(e.ID) + "]"
		switch {
		case i > 0 && e.Policy == entries[i-1].Policy:
			e.name = all[i-1].name
		case e.Policy != nil:
			e.name = fullName(e.Policy.Namespace, e.Policy.Name)
		}
		if e.Action == Custom {
			e.question = &Question{Provider: e.Provider, ID: e.ID, Policy: e.Policy, Rule: e.Rule, entry: &e}
		}
		all[i] = &e
	}
	// Envoy looks at policies in the order of their names, so the name that is
	// logged does not depend on the order of arrival. Nor does ours.
	slices.SortStableFunc(all, func(a, b *Entry) int { return strings.Compare(a.ID, b.ID) })
	s := &Set{entries: all}
	for _, e := range all {
		s.http.add(e, e.HTTP)
		s.opaque.add(e, e.Opaque)
		s.names = s.names || e.Opaque.asksName()
	}
	s.http.build(short)
	s.opaque.build(short)
	s.trials = s.candidates(short)
	return s
}

// AsksServerName reports whether a rule waits for the server name of a connection
// that is not HTTP: Input.SNI must then be looked for.
func (s *Set) AsksServerName() bool { return s != nil && s.names }

// fullName names a policy: namespace/name.
func fullName(namespace, name string) string { return strings.TrimPrefix(namespace+"/"+name, "/") }

func (d *decider) add(e *Entry, x *Expr) {
	list := &d.deny
	switch {
	case e.Action == Custom && e.Unusable:
		list = &d.refuse
	case e.Action == Custom:
		d.ask(e, x)
		return
	case e.Action == Audit:
		list = &d.audit
	case e.Action == Allow && e.DryRun:
		list, d.dryStrict = &d.dryAllow, true
	case e.Action == Allow:
		list, d.restrict = &d.allow, true
	case e.DryRun:
		list = &d.dryDeny
	}
	list.add(e, x)
}

// build has every list that is not short know what it has to look at.
func (d *decider) build(short int) {
	for _, l := range []*list{&d.refuse, &d.audit, &d.deny, &d.allow, &d.dryDeny, &d.dryAllow} {
		l.build(short)
	}
	for i := range d.custom {
		d.custom[i].list.build(short)
	}
}

// Closed returns a Set that denies everything and names reason in its Details.
// It stands for a policy that cannot be enforced as written.
func Closed(reason string) *Set {
	return &Set{closed: deniedPrefix + "closed:" + blanks(reason) + "]", why: reason}
}

// blanks replaces white space, which the access log's details must not have.
func blanks(s string) string { return strings.Join(strings.Fields(s), "_") }

// Check gives the verdict on in: see the table in the package comment. If a
// provider must be asked, that is all it says. It allocates nothing and keeps
// nothing of in.
func (s *Set) Check(in *Input) (v Verdict) {
	s.check(in, true, &v)
	return v
}

// Decide gives the verdict on in as Check does once every provider that must be
// asked has said yes: whoever calls it has seen to that by Ask.
func (s *Set) Decide(in *Input) (v Verdict) {
	s.check(in, false, &v)
	return v
}

func (s *Set) check(in *Input, ask bool, v *Verdict) {
	v.Rule = -1
	if s == nil {
		v.Allowed = true
		return
	}
	if s.closed != "" {
		v.details = s.closed
		return
	}
	d := s.of(in)
	var f facts
	f.read(in)
	if e := d.refuse.first(&f); e != nil {
		v.refuse(e)
		return
	}
	if ask && d.custom != nil {
		if v.Ask = d.question(&f, nil); v.Ask != nil {
			v.refuse(v.Ask.entry)
			return
		}
	}
	d.decide(&f, v)
	if s.trials != nil {
		v.Trials = s.try(&f)
	}
}

// of returns the decider for in.
func (s *Set) of(in *Input) *decider {
	if in.HTTP != nil {
		return &s.http
	}
	return &s.opaque
}

// refuse has v refuse by an entry that matches.
func (v *Verdict) refuse(e *Entry) {
	v.entry, v.Policy, v.Rule, v.details = e, e.Policy, e.Rule, e.denied
}

// decide judges by the policies of all actions but CUSTOM.
func (d *decider) decide(f *facts, v *Verdict) {
	v.Audit = d.audit.first(f) != nil
	if d.dryStrict || d.dryDeny.items != nil {
		v.DryRun = d.rehearse(f)
	}
	if e := d.deny.first(f); e != nil {
		v.refuse(e)
		return
	}
	if !d.restrict {
		v.Allowed = true
		return
	}
	if e := d.allow.first(f); e != nil {
		v.Allowed, v.entry, v.Policy, v.Rule = true, e, e.Policy, e.Rule
		return
	}
	v.details = noneDenied
}

func (d *decider) rehearse(f *facts) (out DryRun) {
	if d.dryDeny.items != nil {
		out.Deny.Result = Allowed
		if e := d.dryDeny.first(f); e != nil {
			out.Deny = Outcome{Denied, e.ID, e.name}
		}
	}
	if d.dryStrict {
		out.Allow.Result = Denied
		if e := d.dryAllow.first(f); e != nil {
			out.Allow = Outcome{Allowed, e.ID, e.name}
		}
	}
	return out
}
