package lint

import (
	"fmt"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
)

// logic looks for rules whose conditions exclude one another.
func (l *linter) logic(s *subject) {
	for _, e := range s.entries {
		a, b, found := e.HTTP.Contradiction()
		if !found {
			continue
		}
		a, b = place(a), place(b)
		l.useless[s.name()+ruleField(e.Rule)] = true
		reason := fmt.Sprintf("%s and %s cannot both hold", a, b)
		if a == b {
			reason = a + " excludes itself"
		}
		l.add(NeverMatches, Error, s, ruleField(e.Rule), reason, "make them two rules if either is meant, or drop one of them")
	}
}

// place returns the field of an origin, without the policy and the rule.
func place(origin string) string {
	_, field, _ := strings.Cut(origin, "].")
	return field
}

func ruleField(rule int) string { return fmt.Sprintf("spec.rules[%d]", rule) }

// maxPairs is how many pairs of rules are compared: a second's worth or two.
const maxPairs = 4_000_000

// shadows looks for rules that do nothing that another does not do.
func (l *linter) shadows() {
	pairs := 0
	for _, a := range l.subjects {
		for _, b := range l.subjects {
			if !l.shadow(a, b) {
				continue
			}
			x, y := a.entries, b.entries
			if !a.atWaypoint() {
				x, y = a.node, b.node
			}
			if pairs += len(x) * len(y); pairs > maxPairs {
				return
			}
			l.pairs(a, b, x, y)
		}
	}
}

// shadow reports whether rules of b can do what rules of a do: they are attached
// wherever those of a are, and b comes no later.
func (l *linter) shadow(a, b *subject) bool {
	switch {
	case a.DryRun != b.DryRun || a.atWaypoint() != b.atWaypoint():
		return false
	case a.Action != b.Action && (a.DryRun || a.Action != authz.Allow || b.Action != authz.Deny):
		return false // a dry run tells of each action by itself
	case a.Action == authz.Custom && a.Provider != b.Provider:
		return false
	case a == b:
		return true
	case l.world != nil:
		return !a.reach.empty() && a.reach.within(b.reach)
	}
	return attachedLike(l.o, a, b)
}

// attachedLike is what can be said of that without a World.
func attachedLike(o authz.Options, a, b *subject) bool {
	if len(a.TargetRefs) > 0 {
		if a.Namespace != b.Namespace {
			return false
		}
		for _, ref := range a.TargetRefs {
			if !refers(b, ref) {
				return false
			}
		}
		return true
	}
	return (a.Namespace == b.Namespace || b.Namespace == root(o)) && selects(b.Selector, a.Selector)
}

func refers(b *subject, ref authz.TargetRef) bool {
	for _, other := range b.TargetRefs {
		if other.Kind == ref.Kind && other.Name == ref.Name {
			return true
		}
	}
	return false
}

// pairs compares rules: what x of a does, does y of b do it, too?
func (l *linter) pairs(a, b *subject, x, y []authz.Entry) {
	for i := range x {
		for j := range y {
			if a == b && i == j || x[i].Rule < 0 || y[j].Rule < 0 || l.useless[a.name()+ruleField(x[i].Rule)] || !implies(&x[i], &y[j]) {
				continue
			}
			if a.Action == b.Action && implies(&y[j], &x[i]) && before(a, b, i, j) {
				continue // they are the same: the later one is reported
			}
			l.shadowed(a, b, &x[i], &y[j])
			break
		}
	}
}

func before(a, b *subject, i, j int) bool {
	if a != b {
		return a.name() < b.name()
	}
	return i < j
}

// implies reports whether b matches all that a matches. A rule that never matches
// is somebody else's finding.
func implies(a, b *authz.Entry) bool {
	if holds, constant := a.HTTP.Constant(); constant && !holds {
		return false
	}
	return a.HTTP.Implies(b.HTTP) && a.Opaque.Implies(b.Opaque)
}

func (l *linter) shadowed(a, b *subject, x, y *authz.Entry) {
	l.useless[a.name()+ruleField(x.Rule)] = true
	other := fmt.Sprintf("rule %d of %s", y.Rule, b.name())
	if a == b {
		other = fmt.Sprintf("rule %d", y.Rule)
	}
	if a.Action != b.Action {
		l.add(NeverAllows, Error, a, ruleField(x.Rule), other+" denies all that it allows", "narrow that rule, or remove this one")
		return
	}
	verb := map[authz.Action]string{authz.Allow: "allows", authz.Deny: "denies", authz.Audit: "marks", authz.Custom: "asks about"}[a.Action]
	l.add(Shadowed, Warning, a, ruleField(x.Rule), fmt.Sprintf("%s %s all that it %s", other, verb, verb), "remove it")
}
