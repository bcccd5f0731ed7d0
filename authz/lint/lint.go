// Package lint finds what is wrong with AuthorizationPolicies that are valid: they
// attach to nothing, can never match, say what another has said already, or do
// something else than they say where there is no HTTP to see. Of
// RequestAuthentications it looks at what they are attached to.
//
// It takes policies as written, and what exists if that is known: otherwise it
// does not say that something is missing. It is pure.
package lint

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
)

// A Check is the name of something that is looked for.
type Check string

// The checks.
const (
	Invalid           Check = "invalid"             // it is not admitted, or cannot be enforced
	NoTarget          Check = "no-target"           // it attaches to nothing
	NoWaypoint        Check = "no-waypoint"         // to something that no waypoint serves
	IgnoredAtWaypoint Check = "ignored-at-waypoint" // a selector, or the namespace, does not reach the waypoint
	BehindWaypoint    Check = "behind-waypoint"     // at the node the client is the waypoint
	NoEffectAtNode    Check = "no-effect-at-node"   // the node tunnel sees nothing of it
	WidensAtNode      Check = "widens-at-node"      // the node tunnel sees a part of it, and denies more
	WidensOnTCP       Check = "widens-on-tcp"       // without HTTP it does more
	DroppedOnTCP      Check = "dropped-on-tcp"      // without HTTP it allows nothing
	NotAskedOnTCP     Check = "not-asked-on-tcp"    // without HTTP its provider is not asked
	NeverMatches      Check = "never-matches"       // no request can be like that
	UselessValue      Check = "useless-value"       // of several values, one can never be
	NoToken           Check = "no-token"            // nobody verifies the JWT that it asks for
	TokenOptional     Check = "token-optional"      // nobody asks for the JWT that it verifies
	NoProvider        Check = "no-provider"         // there is nobody to ask: it denies
	NoRehearsal       Check = "no-rehearsal"        // a CUSTOM policy has no dry run
	ReplacesNothing   Check = "replaces-nothing"    // what it is to take the place of is not there
	Shadowed          Check = "shadowed"            // another rule does all it does
	NeverAllows       Check = "never-allows"        // a DENY rule denies all it allows
)

// A Level says how bad it is.
type Level string

// The levels.
const (
	Error   Level = "error"   // the policy does not do what it says
	Warning Level = "warning" // it may do something else than is meant
)

// A Finding is one thing that is wrong with a policy.
type Finding struct {
	Check  Check  `json:"check"`
	Level  Level  `json:"level"`
	Kind   string `json:"kind"`   // AuthorizationPolicy or RequestAuthentication
	Policy string `json:"policy"` // namespace/name
	Field  string `json:"field"`  // spec.rules[0].to[0].operation.paths[1]
	Reason string `json:"reason"`
	Mend   string `json:"mend"` // what to do about it
}

func (f Finding) String() string {
	what := strings.TrimSpace(f.Kind + " " + f.Policy)
	if f.Field != "" {
		what += ": " + f.Field
	}
	return fmt.Sprintf("%s: %s: %s; %s [%s]", f.Level, what, f.Reason, f.Mend, f.Check)
}

// Lint returns what it finds in policies, in the order of their names and
// fields. A nil World says that nothing is known of what exists.
func Lint(o authz.Options, policies []*authz.Policy, w *World) []Finding {
	o.L4 = false
	l := linter{o: o, world: w, useless: map[string]bool{}}
	for _, p := range policies {
		l.compile(p)
	}
	slices.SortFunc(l.subjects, func(a, b *subject) int { return cmp.Compare(a.name(), b.name()) })
	for _, s := range l.subjects {
		l.attached(s)
		l.values(s)
		l.logic(s)
		l.tcp(s)
		l.node(s)
		l.custom(s)
		l.candidate(s, policies)
	}
	l.shadows()
	l.authentications()
	slices.SortStableFunc(l.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Policy, b.Policy), compareFields(a.Field, b.Field), cmp.Compare(a.Check, b.Check))
	})
	return l.found
}

// numbers are the indexes of a field.
var numbers = regexp.MustCompile(`[0-9]+`)

// compareFields puts rules[2] before rules[10].
func compareFields(a, b string) int {
	pad := func(n string) string { return fmt.Sprintf("%09s", n) }
	return cmp.Compare(numbers.ReplaceAllStringFunc(a, pad), numbers.ReplaceAllStringFunc(b, pad))
}

// A linter gathers findings.
type linter struct {
	o        authz.Options
	world    *World
	subjects []*subject
	found    []Finding
	useless  map[string]bool // rules of which there is no use: policy and field
}

// A subject is a policy that compiles.
type subject struct {
	*authz.Policy
	fields  []authz.Field
	entries []authz.Entry // a waypoint's
	node    []authz.Entry // the node's
	reach   reach
}

func (s *subject) name() string { return s.Namespace + "/" + s.Name }

// atWaypoint reports whether waypoints enforce s: others are the node tunnel's.
// Ambient's first releases attached policies to a waypoint by its label.
func (s *subject) atWaypoint() bool { return len(s.TargetRefs) > 0 || s.gatewayLabel() != "" }

func (s *subject) gatewayLabel() string {
	if len(s.Selector) == 1 {
		return s.Selector["istio.io/gateway-name"]
	}
	return ""
}

func (l *linter) compile(p *authz.Policy) {
	o := l.o
	if o.Providers == nil {
		o.Providers = map[string]*authz.Provider{p.Provider: {}} // it is not known whether there are any
	}
	s := &subject{Policy: p, fields: p.Fields()}
	var err error
	if s.entries, err = authz.Entries(o, p); err == nil {
		o.L4 = true
		s.node, err = authz.Entries(o, p)
	}
	if err != nil {
		l.invalid(p, err)
		return
	}
	s.reach = l.world.reach(l.o, p.Namespace, p.Selector, p.TargetRefs)
	l.subjects = append(l.subjects, s)
}

// invalid reports every field at fault.
func (l *linter) invalid(p *authz.Policy, err error) {
	errs := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs = joined.Unwrap()
	}
	for _, err := range errs {
		field, reason := "spec", err.Error()
		var f *authz.FieldError
		if errors.As(err, &f) {
			field, reason = f.Field, f.Reason
		}
		l.found = append(l.found, Refused(authz.Kind, p.Namespace+"/"+p.Name, field, reason))
	}
}

func (l *linter) add(c Check, level Level, s *subject, field, reason, mend string) {
	l.found = append(l.found, Finding{c, level, authz.Kind, s.name(), field, reason, mend})
}

// Refused returns the finding that something is not admitted, or cannot be
// enforced.
func Refused(kind, name, field, reason string) Finding {
	f := Finding{Invalid, Error, kind, name, field, reason, "correct it: it is refused as it is"}
	switch {
	case strings.HasPrefix(reason, "is also in "):
		f.Mend = "remove one of the two: which of them is in force hangs on which was first"
	case kind == authz.Kind && strings.Contains(reason, "with the action CUSTOM"):
		f.Mend = "leave the token to the provider, or to a policy of another action: CUSTOM is asked before tokens are verified, so that this would never match"
	case kind == authz.Kind || kind == "RequestAuthentication":
		f.Mend = "correct it: without an earlier version in force, what the policy is attached to refuses everything"
	}
	return f
}

// custom looks at whom a CUSTOM policy has asked.
func (l *linter) custom(s *subject) {
	if s.Action != authz.Custom {
		return
	}
	if _, known := l.o.Providers[s.Provider]; l.o.Providers != nil && !known {
		l.add(NoProvider, Error, s, "spec.provider.name", fmt.Sprintf("there is no provider %q: what the rules match is denied", s.Provider),
			"add it to the mesh's extensionProviders, or name one that is there")
	}
	if s.DryRun {
		l.add(NoRehearsal, Error, s, "metadata.annotations[istio.io/dry-run]", "nobody is asked for a dry run, so the policy does nothing",
			"remove the annotation")
	}
}

// candidate looks for what a policy under dry run is to take the place of.
func (l *linter) candidate(s *subject, policies []*authz.Policy) {
	if s.Replaces == "" || slices.ContainsFunc(policies, func(p *authz.Policy) bool { return p.Namespace == s.Namespace && p.Name == s.Replaces && p != s.Policy }) {
		return
	}
	l.add(ReplacesNothing, Warning, s, "metadata.annotations[waystone.dev/replaces]",
		fmt.Sprintf("there is no %s %s/%s whose place it could take: it is tried as one more", authz.Kind, s.Namespace, s.Replaces), "name one that is there, in the namespace of the policy")
}
