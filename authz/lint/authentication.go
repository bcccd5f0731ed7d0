package lint

import (
	"fmt"
	"slices"

	"github.com/waystone-mesh/waystone/authz"
)

// A tokened is a RequestAuthentication, as a subject of findings.
type tokened struct {
	*Authentication
	reach reach
}

func (l *linter) addToken(c Check, level Level, t *tokened, field, reason, mend string) {
	l.found = append(l.found, Finding{c, level, "RequestAuthentication", t.Namespace + "/" + t.Name, field, reason, mend})
}

// authentications looks at whether RequestAuthentications reach what they are
// meant for, and whether anybody has to have the tokens that they verify.
func (l *linter) authentications() {
	if l.world == nil {
		return
	}
	for i := range l.world.Authentications {
		a := &l.world.Authentications[i]
		t := &tokened{a, l.world.reach(l.o, a.Namespace, a.Selector, a.TargetRefs)}
		if len(a.TargetRefs) == 0 && len(t.reach.waypoints) == 0 {
			field, what := "spec.selector", "with a selector"
			if len(a.Selector) == 0 {
				field, what = "spec.targetRefs", "without targetRefs"
			}
			l.addToken(IgnoredAtWaypoint, Error, t, field, fmt.Sprintf("a waypoint ignores a policy %s, and the node tunnel sees no tokens: it is enforced nowhere", what),
				"attach it with targetRefs, to the Service or to the waypoint's Gateway")
			continue
		}
		found := len(l.found)
		for n, ref := range a.TargetRefs {
			l.tokenRef(t, fmt.Sprintf("spec.targetRefs[%d].name", n), ref)
		}
		if len(l.found) == found && !l.required(t) {
			l.addToken(TokenOptional, Warning, t, "spec.jwtRules", "a request without a token passes, for no AuthorizationPolicy where this is attached asks for one",
				`add one that denies notRequestPrincipals: ["*"], or that allows requestPrincipals`)
		}
	}
}

// tokenRef looks at one reference, as ref does of a policy.
func (l *linter) tokenRef(t *tokened, field string, ref authz.TargetRef) {
	s := &subject{Policy: &authz.Policy{Namespace: t.Namespace, Name: t.Name}}
	n := len(l.found)
	l.ref(s, field, ref)
	for i := n; i < len(l.found); i++ {
		l.found[i].Kind = "RequestAuthentication"
	}
}

// required reports whether a policy asks for a token where t is attached.
func (l *linter) required(t *tokened) bool {
	return slices.ContainsFunc(l.subjects, func(s *subject) bool {
		return s.atWaypoint() && !s.DryRun && s.reach.meets(t.reach) && slices.ContainsFunc(s.fields, func(f authz.Field) bool { return f.Token })
	})
}
