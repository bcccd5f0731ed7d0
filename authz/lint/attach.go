package lint

import (
	"fmt"
	"slices"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
)

// attached looks at whether a policy reaches what it is meant for.
func (l *linter) attached(s *subject) {
	if !s.atWaypoint() {
		l.ignored(s)
	}
	if l.world == nil {
		return
	}
	switch {
	case len(s.TargetRefs) > 0:
		for i, ref := range s.TargetRefs {
			l.ref(s, fmt.Sprintf("spec.targetRefs[%d].name", i), ref)
		}
	case s.gatewayLabel() != "" && s.reach.empty():
		l.add(NoTarget, Error, s, "spec.selector", fmt.Sprintf("there is no waypoint %s/%s", s.Namespace, s.gatewayLabel()), "name one that is there")
	case s.reach.empty() && len(s.Selector) > 0:
		l.add(NoTarget, Error, s, "spec.selector", "no workload has these labels", "name labels that one has")
	case s.reach.empty():
		l.add(NoTarget, Warning, s, "metadata.namespace", "there is no workload in the namespace", "remove the policy, unless workloads are to come")
	default:
		l.behind(s)
	}
	l.tokens(s)
}

// ref looks at one reference.
func (l *linter) ref(s *subject, field string, ref authz.TargetRef) {
	what := fmt.Sprintf("%s %s/%s", ref.Kind, s.Namespace, ref.Name)
	switch ref.Kind {
	case "Service", "ServiceEntry":
		svc := l.world.service(ref.Kind, s.Namespace, ref.Name)
		switch {
		case svc == nil:
			l.add(NoTarget, Error, s, field, "there is no "+what, "name one that is there, in the namespace of the policy")
		case svc.Waypoint == Ref{}:
			l.add(NoWaypoint, Error, s, field, what+" has no waypoint, so nothing enforces the policy", "label it istio.io/use-waypoint with the name of one")
		case l.world.waypoint(svc.Waypoint) == nil:
			l.add(NoWaypoint, Error, s, field, fmt.Sprintf("%s names the waypoint %s, which is not there, so nothing enforces the policy", what, svc.Waypoint),
				"create that waypoint, or name another")
		}
	case "Gateway":
		if len(l.world.gateways(l.o, ref, s.Namespace)) == 0 {
			l.add(NoTarget, Error, s, field, "there is no waypoint "+s.Namespace+"/"+ref.Name, "name one that is there, in the namespace of the policy")
		}
	case "GatewayClass":
		if len(l.world.gateways(l.o, ref, s.Namespace)) == 0 {
			l.add(NoTarget, Warning, s, field, "there is no waypoint of the class "+ref.Name, "remove the policy, unless waypoints are to come")
		}
	}
}

// ignored looks at a policy that waypoints do not have: what it says about HTTP
// is enforced nowhere.
func (l *linter) ignored(s *subject) {
	http := slices.IndexFunc(s.fields, func(f authz.Field) bool { return f.HTTP })
	if http < 0 {
		return
	}
	field, what := "spec.selector", "with a selector"
	if len(s.Selector) == 0 {
		field, what = "spec.targetRefs", "without targetRefs"
	}
	l.add(IgnoredAtWaypoint, Error, s, field,
		fmt.Sprintf("a waypoint ignores a policy %s; the node tunnel enforces it, and cannot see %s", what, s.fields[http].Path),
		"attach the policy with targetRefs, to the Service or to the waypoint's Gateway")
}

// behind looks at workloads behind a waypoint: the node tunnel before them sees
// the waypoint's identity, and never the client's.
func (l *linter) behind(s *subject) {
	if s.Action != authz.Allow || s.DryRun {
		return
	}
	told := map[Ref]bool{}
	for i := range l.world.Workloads {
		k := &l.world.Workloads[i]
		g := l.world.waypoint(k.Waypoint)
		if !s.reach.workloads[k] || g == nil || g.ServiceAccount == "" || told[k.Waypoint] {
			continue
		}
		told[k.Waypoint] = true
		id := identity.ID{TrustDomain: trustDomain(l.o), Namespace: g.Namespace, ServiceAccount: g.ServiceAccount}
		if l.admits(s, id) {
			continue
		}
		l.add(BehindWaypoint, Error, s, "spec.rules", fmt.Sprintf("%s/%s is behind the waypoint %s, so that is what the node tunnel sees as the client, and no rule allows it",
			k.Namespace, k.Name, k.Waypoint), "allow the principal "+id.Principal()+" here, and attach what is about clients to the waypoint")
	}
}

// admits reports whether a rule's from admits a client at the node.
func (l *linter) admits(s *subject, id identity.ID) bool {
	from := &authz.Policy{Namespace: s.Namespace, Name: s.Name}
	for _, r := range s.Rules {
		from.Rules = append(from.Rules, authz.Rule{From: r.From})
	}
	o := l.o
	o.L4 = true
	set, err := authz.Compile(o, from)
	return err != nil || set.Check(&authz.Input{Peer: id}).Allowed
}

func trustDomain(o authz.Options) string {
	if o.TrustDomain == "" {
		return "cluster.local"
	}
	return o.TrustDomain
}

// tokens looks for whoever verifies the JWTs that a policy asks for.
func (l *linter) tokens(s *subject) {
	for _, f := range s.fields {
		if !f.Token || f.Not || !s.atWaypoint() || s.reach.empty() {
			continue
		}
		if slices.ContainsFunc(l.world.Authentications, func(a Authentication) bool {
			return s.reach.meets(l.world.reach(l.o, a.Namespace, a.Selector, a.TargetRefs))
		}) {
			return
		}
		l.add(NoToken, Error, s, f.Path, "no RequestAuthentication is attached where the policy is, so no request has a valid token",
			"add a RequestAuthentication with the issuer, attached to the same")
	}
}
