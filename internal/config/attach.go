package config

import (
	"cmp"
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// gatewayNameLabel selects the pods of a waypoint by its name. Ambient's first
// releases attached policies to waypoints by it.
const gatewayNameLabel = "istio.io/gateway-name"

// waypointClass is the GatewayClass that a policy of the root namespace targets
// to reach every waypoint.
const waypointClass = "istio-waypoint"

// waypoint reports whose view this is: a waypoint's or the node tunnel's.
func (s *state) waypoint() bool { return s.options.Gateway != mesh.Key{} }

// gateway returns our waypoint as declared, or nil while it is not known.
func (s *state) gateway() *Gateway { return s.gateways[s.options.Gateway] }

// isOurs reports whether a workload is a pod of our waypoint.
func (s *state) isOurs(w *mesh.Workload) bool {
	k := w.IsWaypointFor
	return k != nil && s.waypoint() && k.Namespace == s.options.Gateway.Namespace && k.Name == s.options.Gateway.Name
}

// gatewayChanged marks what a change to a Gateway may concern: if it is ours,
// its class and service account decide which policies attach.
func (s *state) gatewayChanged(k mesh.Key) {
	s.listings = true
	if k == s.options.Gateway {
		s.markAll(func(*mesh.Service) bool { return true }, func(*mesh.Workload) bool { return true })
	}
}

// authzOptions returns how policies are compiled for this view.
func (s *state) authzOptions() authz.Options {
	return authz.Options{
		TrustDomain: s.options.TrustDomain, Aliases: s.options.Aliases, RootNamespace: s.options.RootNamespace,
		NoTokens: true, // the waypoint verifies none yet
		L4:       !s.waypoint(),
	}
}

func (s *state) putPolicy(p *authz.Policy) error {
	old := s.policies[p.Key()]
	if old != nil && old.closed == nil && same(old.policy, p) {
		return nil
	}
	if _, err := authz.Compile(s.authzOptions(), p); err != nil {
		return err
	}
	s.versions++
	s.setPolicy(p.Key(), &policyState{key: p.Key(), version: s.versions, policy: p})
	return nil
}

// closePolicy has a policy that was rejected and never was good fail its
// targets closed. It reports whether it did: a good version stays in force.
func (s *state) closePolicy(k mesh.Key, readable *authz.Policy) bool {
	old := s.policies[k]
	switch {
	case old != nil && old.closed == nil:
		return false
	case old != nil && (old.policy == readable || readable != nil && same(old.policy, readable)):
		return true // rejected again, as closed as before
	}
	s.versions++
	set := authz.Closed(k.Kind + " " + k.Namespace + "/" + k.Name + " was rejected")
	s.setPolicy(k, &policyState{key: k, version: s.versions, policy: readable, closed: set})
	return true
}

// setPolicy puts st, or nil, in the place of a policy and marks what either is
// attached to.
func (s *state) setPolicy(k mesh.Key, st *policyState) {
	byKey := func(a, b *policyState) int { return cmp.Compare(a.key.Name, b.key.Name) }
	old := s.policies[k]
	if old != nil {
		s.markAttached(old)
		delete(s.policies, k)
		s.retired = append(s.retired, old.version)
		s.inNamespace[k.Namespace] = slices.DeleteFunc(s.inNamespace[k.Namespace], func(p *policyState) bool { return p == old })
	}
	if st != nil {
		s.policies[k] = st
		list := s.inNamespace[k.Namespace]
		i, _ := slices.BinarySearchFunc(list, st, byKey)
		s.inNamespace[k.Namespace] = slices.Insert(list, i, st)
		s.markAttached(st)
	}
	if len(s.inNamespace[k.Namespace]) == 0 {
		delete(s.inNamespace, k.Namespace)
	}
	s.listings = true
}

func (s *state) markAttached(p *policyState) {
	if !s.waypoint() {
		s.markAll(nil, func(w *mesh.Workload) bool { return s.selects(p, w) })
		return
	}
	if s.onGateway(p) {
		s.markAll(func(*mesh.Service) bool { return true }, func(*mesh.Workload) bool { return true })
		return
	}
	s.markAll(func(svc *mesh.Service) bool { return s.targets(p, svc) }, nil)
}

// onGateway reports whether p is attached to our waypoint and so to everything
// that it serves: by a targetRef to the Gateway, or from the root namespace to
// its class, or by the selector of a service account's waypoint.
//
// Other selectors are the node tunnel's business, and so are policies with
// neither (spec of waypoints: a namespace's policy does not reach them).
func (s *state) onGateway(p *policyState) bool {
	gw := s.options.Gateway
	root := p.key.Namespace == s.options.RootNamespace
	if p.policy == nil { // nothing could be read: it might be
		return root || p.key.Namespace == gw.Namespace
	}
	for i := range p.policy.TargetRefs {
		ref := &p.policy.TargetRefs[i]
		switch ref.Kind {
		case "Gateway":
			if p.key.Namespace == gw.Namespace && ref.Name == gw.Name {
				return true
			}
		case "GatewayClass":
			g := s.gateway()
			if root && (ref.Name == waypointClass || g != nil && ref.Name == g.Class) {
				return true
			}
		}
	}
	if sel := p.policy.Selector; len(sel) != 1 || sel[gatewayNameLabel] != gw.Name || !root && p.key.Namespace != gw.Namespace {
		return false
	}
	g := s.gateway()
	return s.options.Compat118 || g != nil && g.ServiceAccount != ""
}

// targets reports whether p names the service svc, which is in its namespace.
func (s *state) targets(p *policyState, svc *mesh.Service) bool {
	if p.key.Namespace != svc.Namespace {
		return false
	}
	if p.policy == nil {
		return true // it might be
	}
	kind := "ServiceEntry"
	if isKubernetes(svc) {
		kind = "Service"
	}
	return slices.ContainsFunc(p.policy.TargetRefs, func(r authz.TargetRef) bool {
		return r.Kind == kind && r.Name == svc.Name
	})
}

// isKubernetes tells a Service from a ServiceEntry. Not every source says so.
func isKubernetes(svc *mesh.Service) bool {
	return svc.Canonical || strings.HasPrefix(svc.Hostname, svc.Name+"."+svc.Namespace+".svc.")
}

// selects reports whether p is, in the node tunnel's view, attached to w: as a
// policy of the whole mesh or of its namespace, or because w lists it.
func (s *state) selects(p *policyState, w *mesh.Workload) bool {
	listed := func() bool {
		return slices.ContainsFunc(w.Policies, func(k mesh.Key) bool {
			return k.Namespace == p.key.Namespace && k.Name == p.key.Name
		})
	}
	inScope := p.key.Namespace == w.Namespace || p.key.Namespace == s.options.RootNamespace
	switch {
	case p.policy == nil:
		return inScope || listed()
	case len(p.policy.TargetRefs) > 0:
		return false
	case len(p.policy.Selector) > 0:
		return listed()
	}
	return inScope || listed()
}

// policiesOf returns the policies attached to a service or, if svc is nil, to a
// workload, in the order of their keys.
func (s *state) policiesOf(svc *mesh.Service, w *mesh.Workload) []*policyState {
	var namespaces []string
	attached := s.onGateway
	switch {
	case !s.waypoint() && svc != nil:
		return nil
	case !s.waypoint():
		namespaces = []string{s.options.RootNamespace, w.Namespace}
		for _, k := range w.Policies {
			namespaces = append(namespaces, k.Namespace)
		}
		attached = func(p *policyState) bool { return s.selects(p, w) }
	case svc != nil:
		namespaces = []string{s.options.RootNamespace, s.options.Gateway.Namespace, svc.Namespace}
		attached = func(p *policyState) bool { return s.onGateway(p) || s.targets(p, svc) }
	default:
		namespaces = []string{s.options.RootNamespace, s.options.Gateway.Namespace}
	}
	slices.Sort(namespaces)
	var out []*policyState
	for _, ns := range slices.Compact(namespaces) {
		for _, p := range s.inNamespace[ns] {
			if attached(p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// routesOf returns the routes that our waypoint applies to a port of a service:
// those of producers, which live in the service's namespace or the waypoint's.
func (s *state) routesOf(svc *mesh.Service, port *mesh.Port) []*routeState {
	if !s.waypoint() {
		return nil
	}
	var out []*routeState
	for _, r := range s.onService[svc.Host()] {
		ns := r.route.Namespace
		if (ns == svc.Namespace || ns == s.options.Gateway.Namespace) && r.route.Speaks(svc, port) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *routeState) int { return cmp.Compare(a.version, b.version) })
	return out
}

// An addressBook holds the names and addresses of our waypoint: whatever has
// one of them as its waypoint is attached to us.
type addressBook struct {
	hosts     map[mesh.Hostname]bool
	addresses map[mesh.Address]bool
}

// ourAddresses gathers them: what the Gateway declares, where our pods are, the
// services that these are members of, and the addresses and names that belong
// together.
func (s *state) ourAddresses() addressBook {
	b := addressBook{map[mesh.Hostname]bool{}, map[mesh.Address]bool{}}
	if g := s.gateway(); g != nil {
		for i := range g.Addresses {
			if a := &g.Addresses[i]; a.Hostname != (mesh.Hostname{}) {
				b.hosts[a.Hostname] = true
			} else {
				b.addresses[a.Address] = true
			}
		}
	}
	for _, pod := range s.pods {
		for _, ip := range pod.workload.Addresses {
			b.addresses[mesh.Address{Network: pod.workload.Network, IP: ip}] = true
		}
		for h := range pod.workload.Services {
			b.hosts[h] = true
		}
	}
	for a := range b.addresses {
		for _, st := range s.vips.owners[a] {
			b.hosts[st.host] = true
		}
	}
	for h := range b.hosts {
		if st := s.services[h]; st != nil && st.service != nil {
			for _, p := range st.service.Addresses {
				b.addresses[mesh.Address{Network: p.Network, IP: p.Prefix.Addr()}] = true
			}
		}
	}
	return b
}

// leadsHere reports whether the address of a waypoint is ours. While no Gateway
// is known, as with a source that has only addresses, a service that is called
// as it is will do.
func (s *state) leadsHere(b *addressBook, g *mesh.GatewayAddress) bool {
	switch {
	case g == nil:
		return false
	case g.Hostname == mesh.Hostname{}:
		return b.addresses[g.Address]
	case b.hosts[g.Hostname]:
		return true
	case s.gateway() != nil || g.Hostname.Namespace != s.options.Gateway.Namespace:
		return false
	}
	name, _, _ := strings.Cut(g.Hostname.Host, ".")
	return name == s.options.Gateway.Name
}

// serves reports whether a service is attached to us, by its waypoint or by a
// share of its traffic.
func (s *state) serves(b *addressBook, svc *mesh.Service) bool {
	return s.leadsHere(b, svc.Waypoint) || slices.ContainsFunc(svc.Canary, func(c mesh.WeightedWaypoint) bool {
		return s.leadsHere(b, &c.Waypoint)
	})
}
