package lint

import (
	"fmt"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
)

// tcp looks at what becomes of a policy where a connection is not HTTP.
func (l *linter) tcp(s *subject) {
	if !s.atWaypoint() {
		return
	}
	for i := range s.entries {
		e := &s.entries[i]
		lost := s.lost(e.Rule, func(f authz.Field) bool { return f.HTTP })
		port, ok := l.opaquePort(s, e)
		switch {
		case !ok:
		case s.Action == authz.Custom && l.o.Providers[s.Provider].HTTPOnly():
			l.add(NotAskedOnTCP, Warning, s, ruleField(e.Rule), fmt.Sprintf("%s, the provider %s is not asked, and connections pass", port, s.Provider),
				"use a provider that speaks gRPC, or name the HTTP ports under ports")
		case len(lost) == 0:
		case s.Action == authz.Allow:
			if l.world != nil {
				l.add(DroppedOnTCP, Warning, s, ruleField(e.Rule), fmt.Sprintf("%s, there is no %s, so the rule allows nothing", port, list(lost)),
					"add a rule without HTTP fields for that port")
			}
		default:
			l.add(WidensOnTCP, Warning, s, ruleField(e.Rule), fmt.Sprintf("%s, the rule does without %s, and %s", port, list(lost), more(s.Action, e.Opaque)),
				"name the ports that speak HTTP under ports, or declare that the port does")
		}
	}
}

// opaquePort returns a port where e applies and what is spoken is, or may be,
// not HTTP: with the words that begin a sentence about it.
func (l *linter) opaquePort(s *subject, e *authz.Entry) (string, bool) {
	if l.world == nil {
		return "on a connection that is not HTTP", true
	}
	for i := range l.world.Services {
		svc := &l.world.Services[i]
		if !s.reach.services[svc] {
			continue
		}
		for _, p := range svc.Ports {
			if p.Protocol == HTTP || p.Protocol == Undeclared && s.Action == authz.Allow || excluded(e, p.Number) {
				continue
			}
			if p.Protocol == TCP {
				return fmt.Sprintf("on port %d of %s, which is not HTTP", p.Number, svc), true
			}
			return fmt.Sprintf("on port %d of %s, where clients may speak anything", p.Number, svc), true
		}
	}
	return "", false
}

// excluded reports whether e says that it is not about a port. What stands for a
// policy without rules is about none.
func excluded(e *authz.Entry, port uint16) bool {
	if e.HTTP == nil {
		return true
	}
	here := authz.Match("", authz.DestPort, authz.Ports(port, port))
	_, _, never := authz.And("", here, e.HTTP).Contradiction()
	return never
}

// lost returns the fields of a rule that are not seen.
func (s *subject) lost(rule int, unseen func(authz.Field) bool) (out []string) {
	for _, f := range s.fields {
		if f.Rule == rule && unseen(f) {
			_, path, _ := strings.Cut(f.Path, "].")
			if strings.HasPrefix(path, "when[") {
				path = "when " + f.Name
			}
			out = append(out, path)
		}
	}
	return out
}

// more says what a rule does that has lost a part of itself.
func more(a authz.Action, x *authz.Expr) string {
	verb := map[authz.Action]string{authz.Deny: "denies", authz.Audit: "marks", authz.Custom: "asks about"}[a]
	if _, constant := x.Constant(); constant {
		return verb + " everything"
	}
	return verb + " more"
}

// node looks at what becomes of a policy that only the node tunnel enforces.
func (l *linter) node(s *subject) {
	if s.atWaypoint() {
		return
	}
	const mend = "attach the policy with targetRefs, to the Service or to the waypoint's Gateway"
	if s.Action == authz.Audit || s.Action == authz.Custom {
		l.add(NoEffectAtNode, Error, s, "spec.action", fmt.Sprintf("the node tunnel, which enforces a policy without targetRefs, has no action %s", s.Action), mend)
		return
	}
	for i := range s.node {
		e := &s.node[i]
		lost := s.lost(e.Rule, func(f authz.Field) bool { return !f.Node })
		holds, constant := e.Opaque.Constant()
		switch {
		case len(lost) == 0:
		case s.Action == authz.Allow:
			l.add(NoEffectAtNode, Error, s, ruleField(e.Rule), fmt.Sprintf("the node tunnel does not see %s, so it drops the rule, which allows nothing", list(lost)), mend)
		case constant && !holds:
			l.add(NoEffectAtNode, Error, s, ruleField(e.Rule), fmt.Sprintf("the node tunnel does not see %s; what is left matches nothing, so the rule denies nothing", list(lost)), mend)
		default:
			l.add(WidensAtNode, Warning, s, ruleField(e.Rule), fmt.Sprintf("the node tunnel does not see %s, and denies more", list(lost)), mend)
		}
	}
}
