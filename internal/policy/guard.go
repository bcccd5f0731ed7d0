package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/lint"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A guarded is a set of pods behind a waypoint: those that a Service selects.
type guarded struct {
	namespace, name string
	selector        map[string]string
	waypoints       []mesh.Key
	pods            []*mesh.Workload
}

// Guard returns the policies, in YAML, that close the way around a waypoint: each
// lets the node tunnel before a set of pods take connections of the waypoint only.
// They have been tried: the error says so if a policy that is there lets others in
// all the same, or one of these would be found fault with.
func Guard(o Options, files *Manifests, gateway mesh.Key) (string, error) {
	m := New(o, files)
	sets := m.behind(gateway)
	if len(sets) == 0 {
		return "", fmt.Errorf("no Service or pod of the manifests is behind a waypoint %s/%s", gateway.Namespace, gateway.Name)
	}
	var docs []string
	for _, g := range sets {
		docs = append(docs, m.guard(g))
	}
	text := strings.Join(docs, "---\n")
	return text, tryGuards(o, files, text, sets)
}

// behind returns the sets of pods behind a waypoint, one for each Service that it
// serves; and pods that it serves by themselves.
func (m *Mesh) behind(gateway mesh.Key) (out []*guarded) {
	v := m.view(node)
	serves := func(a *mesh.GatewayAddress) bool {
		k, ok := m.gatewayAt(a)
		return ok && k.Namespace == gateway.Namespace && k.Name == gateway.Name
	}
	seen := map[*mesh.Workload]bool{}
	for s := range v.Services() {
		selector := m.selectors[mesh.Key{Kind: "Service", Namespace: s.Namespace, Name: s.Name}]
		if !slices.ContainsFunc(s.Waypoints(), serves) || len(selector) == 0 {
			continue
		}
		g := &guarded{namespace: s.Namespace, name: s.Name, selector: selector}
		for w := range v.Workloads() {
			if _, member := w.Services[s.Host()]; member {
				g.pods = append(g.pods, w)
				seen[w] = true
			}
		}
		out = append(out, g)
	}
	for w := range v.Workloads() {
		if serves(w.Waypoint) && !seen[w] && w.IsWaypointFor == nil {
			labels := maps.Clone(m.labels[mesh.Key{Kind: "Pod", Namespace: w.Namespace, Name: w.Name}])
			delete(labels, "pod-template-hash")
			out = append(out, &guarded{namespace: w.Namespace, name: w.Name, selector: labels, pods: []*mesh.Workload{w}})
		}
	}
	slices.SortFunc(out, func(a, b *guarded) int { return strings.Compare(a.namespace+"/"+a.name, b.namespace+"/"+b.name) })
	out = slices.CompactFunc(out, func(a, b *guarded) bool {
		return a.namespace == b.namespace && maps.Equal(a.selector, b.selector)
	})
	for _, g := range out {
		g.waypoints = m.before(v, g, gateway)
	}
	return out
}

// before returns all the waypoints that traffic to the pods of g comes from: other
// Services may have others, and one may have two.
func (m *Mesh) before(v *view, g *guarded, gateway mesh.Key) []mesh.Key {
	gateway.Kind = "Gateway"
	out := []mesh.Key{gateway}
	add := func(a *mesh.GatewayAddress) {
		if k, ok := m.gatewayAt(a); ok && !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	for _, w := range g.pods {
		add(w.Waypoint)
		for host := range w.Services {
			if s := v.Service(host); s != nil {
				for _, a := range s.Waypoints() {
					add(a)
				}
			}
		}
	}
	slices.SortFunc(out[1:], func(a, b mesh.Key) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// guard writes the policy of one set.
func (m *Mesh) guard(g *guarded) string {
	var b strings.Builder
	names := make([]string, len(g.waypoints))
	for i, k := range g.waypoints {
		names[i] = k.Namespace + "/" + k.Name
	}
	fmt.Fprintf(&b, "# The pods of %s/%s take connections of the waypoint %s only:\n# the node tunnel before them refuses whoever goes past it.\n", g.namespace, g.name, strings.Join(names, " or "))
	for _, k := range g.waypoints {
		if _, _, assumed := m.identityOf(k); assumed != "" {
			fmt.Fprintf(&b, "# Assumed: %s.\n", assumed)
		}
	}
	fmt.Fprintf(&b, "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: %s\n  namespace: %s\nspec:\n  selector:\n    matchLabels:\n",
		guardName(g.name), g.namespace)
	for _, k := range slices.Sorted(maps.Keys(g.selector)) {
		fmt.Fprintf(&b, "      %s: %s\n", k, strconv.Quote(g.selector[k]))
	}
	b.WriteString("  action: ALLOW\n  rules:\n  - from:\n    - source:\n        principals:\n")
	for _, k := range g.waypoints {
		id, _, _ := m.identityOf(k)
		fmt.Fprintf(&b, "        - %s\n", id.Principal())
	}
	return b.String()
}

// guardName is short enough for a name of Kubernetes'.
func guardName(name string) string {
	const longest, suffix = 253, "-only-by-waypoint"
	return name[:min(len(name), longest-len(suffix))] + suffix
}

// tryGuards has the node tunnel decide with the guards in force: about each
// waypoint, which must pass, and about strangers, who must not.
func tryGuards(o Options, files *Manifests, text string, sets []*guarded) error {
	with := files.With(new(Manifests))
	with.Add("guard.yaml", []byte(text))
	m := New(o, with)
	v := m.view(node)
	var errs []error
	for _, g := range sets {
		for _, w := range g.pods {
			d := v.Destination(w.UID)
			if d == nil || w.Tunnel != mesh.HBONE {
				errs = append(errs, fmt.Errorf("pod %s/%s is not in the mesh, so nothing is enforced before it", w.Namespace, w.Name))
				continue
			}
			for _, k := range g.waypoints {
				id, _, _ := m.identityOf(k)
				if x := d.Policies.Brief(&authz.Input{Peer: id}); !x.Allowed {
					errs = append(errs, fmt.Errorf("pod %s/%s: the waypoint itself is %s", w.Namespace, w.Name, x.Line()))
				}
			}
			for _, id := range m.strangers(g) {
				if x := d.Policies.Brief(&authz.Input{Peer: id}); x.Allowed {
					errs = append(errs, fmt.Errorf("pod %s/%s: %s is still %s", w.Namespace, w.Name, orNobody(id.Principal()), x.Line()))
				}
			}
		}
	}
	for _, f := range m.Lint() {
		if f.File == "guard.yaml" && f.Level == lint.Error {
			errs = append(errs, f.error())
		}
	}
	return errors.Join(errs...)
}

func (f Finding) error() error { return errors.New(f.Finding.String()) }

// strangers are all the clients that are known, and some that are not; but not the
// waypoints of g.
func (m *Mesh) strangers(g *guarded) []identity.ID {
	out := []identity.ID{{}, {TrustDomain: m.trustDomain(), Namespace: g.namespace, ServiceAccount: "somebody"}}
	var ours []identity.ID
	for _, k := range g.waypoints {
		id, _, _ := m.identityOf(k)
		ours = append(ours, id)
	}
	for w := range m.view(node).Workloads() {
		if id := w.Identity(); !slices.Contains(ours, id) && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b identity.ID) int { return strings.Compare(a.String(), b.String()) })
	return out
}
