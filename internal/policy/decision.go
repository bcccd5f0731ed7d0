package policy

import (
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
)

// A decision is what became of a request, or would.
type decision struct {
	result authz.Result // Unknown: it cannot be told
	by     decider
	from   *authz.Policy // that decided, or that it depends on; or else
	policy string        // its name, or what stands there if there is none
	lacks  []string      // for want of what it is Unknown
}

// A decider is what decides.
type decider uint8

const (
	byPolicy decider = iota
	byProvider
	byToken
)

const (
	deniedBy     = "rbac_access_denied_matched_policy["
	deniedByJWT  = "jwt_authn_access_denied{"
	deniedByExt  = "ext_authz_denied"
	failedExt    = "ext_authz_error"
	notDecided   = "the decision: the log does not say what was decided"
	noneMatched  = "(no ALLOW rule)"
	closedPolicy = "(a policy that cannot be enforced)"
)

// afterwards are the details of requests that policies had let pass. Not of them is
// route_not_found, which ours says of a destination that is not served, too.
var afterwards = []string{"via_upstream", "direct_response", "cluster_not_found", "no_healthy_upstream", "response_timeout",
	"upstream_", "fault_filter_abort", "request_overall_timeout", "downstream_remote_disconnect{after", "no_cluster_found", "weighted_"}

// decision returns what was decided, as far as the line says.
func (l *logLine) decision() decision {
	details, ok := l.details.has()
	if t, is := l.termination.has(); is && strings.HasPrefix(t, deniedBy) || !ok {
		details = t
	}
	switch {
	case strings.HasPrefix(details, deniedBy):
		return decision{result: authz.Denied, policy: policyOf(strings.TrimSuffix(details[len(deniedBy):], "]"))}
	case strings.HasPrefix(details, deniedByJWT):
		return decision{result: authz.Denied, by: byToken, policy: "(the JWT)"}
	case strings.HasPrefix(details, deniedByExt), strings.HasPrefix(details, failedExt):
		return decision{result: authz.Denied, by: byProvider, policy: "(an authorizer)"}
	}
	if host, ok := l.upstreamHost.has(); ok && host != "" || slices.ContainsFunc(afterwards, func(p string) bool { return strings.HasPrefix(details, p) }) {
		policy, _ := l.policy.has()
		if policy != "" {
			policy = policyOf(policy)
		}
		return decision{result: authz.Allowed, policy: policy}
	}
	return decision{lacks: wantDecision}
}

var wantDecision = []string{notDecided}

// policyOf finds namespace/name in the name that the log has for a rule:
// ns[a]-policy[b]-rule[0], with something before it or behind.
func policyOf(id string) string {
	if id == "none" {
		return noneMatched
	}
	_, rest, ok := strings.Cut(id, "ns[")
	ns, rest, ok1 := strings.Cut(rest, "]-policy[")
	name, _, ok2 := strings.Cut(rest, "]")
	if !ok || !ok1 || !ok2 {
		if strings.HasPrefix(id, "closed:") {
			return closedPolicy
		}
		return id
	}
	return ns + "/" + name
}
