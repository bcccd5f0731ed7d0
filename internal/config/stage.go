package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// put stages a resource that a source accepted. The error is why it is not
// good; then nothing changed.
func (s *state) put(r Resource) error {
	switch r := r.(type) {
	case *mesh.Workload:
		return s.putWorkload(r)
	case *mesh.Service:
		return s.putService(r)
	case *authz.Policy:
		return s.policies.put(s, r.Key(), r)
	case *jwt.RequestAuthentication:
		if !s.waypoint() {
			return nil // tokens are in requests, which the node tunnel does not see
		}
		return s.tokens.put(s, r.Key(), r)
	case *Mesh:
		return s.putMesh(r)
	case *routing.Route:
		return s.putRoute(r)
	case *Gateway:
		if old := s.gateways[r.Key()]; !same(old, r) {
			s.gateways[r.Key()] = r
			s.gatewayChanged(r.Key())
		}
		return nil
	}
	return fmt.Errorf("%s: %T is not a resource", r.Key(), r)
}

// remove takes a resource out.
func (s *state) remove(k mesh.Key) {
	switch k.Kind {
	case "Workload":
		s.removeWorkload(k.Name)
	case "Service":
		s.removeService(mesh.Hostname{Namespace: k.Namespace, Host: k.Name})
	case authz.Kind:
		s.policies.replace(s, k, nil)
	case jwt.Kind:
		s.tokens.replace(s, k, nil)
	case MeshKind:
		_ = s.putMesh(new(Mesh)) // it has nothing that could be wrong
	case "Gateway":
		if s.gateways[k] != nil {
			delete(s.gateways, k)
			s.gatewayChanged(k)
		}
	case "HTTPRoute":
		s.setRoute(k, nil)
	}
}

// shut has a policy that was rejected fail closed, if it never was good. It
// reports whether it does.
func (s *state) shut(u Update) bool {
	switch u.Key.Kind {
	case authz.Kind:
		readable, _ := u.Value.(*authz.Policy)
		if readable != nil && readable.DryRun { // it protects nothing, even if it was good
			s.policies.open(s, u.Key)
			return false
		}
		return s.policies.shut(s, u.Key, readable)
	case jwt.Kind:
		readable, _ := u.Value.(*jwt.RequestAuthentication)
		return s.waypoint() && s.tokens.shut(s, u.Key, readable)
	}
	return false
}

// staged reports whether there is anything to publish.
func (s *state) staged() bool {
	return len(s.dirtyServices) > 0 || len(s.dirtyWorkloads) > 0 || s.listings
}

// same reports whether a source sent what we have.
func same[T any](old, new *T) bool { return old != nil && reflect.DeepEqual(old, new) }

// service returns the state of a service that is there, or is referred to.
func (s *state) service(h mesh.Hostname) *serviceState {
	st := s.services[h]
	if st == nil {
		st = &serviceState{host: h}
		s.services[h] = st
	}
	return st
}

func (s *state) putService(svc *mesh.Service) error {
	switch {
	case svc.Hostname == "" || svc.Namespace == "":
		return fmt.Errorf("%s: service: needs a namespace and a hostname", svc.Key())
	case slices.ContainsFunc(svc.Addresses, func(p mesh.Prefix) bool { return !p.Prefix.IsValid() }):
		return fmt.Errorf("%s: service: an address is not valid", svc.Key())
	}
	st := s.service(svc.Host())
	if same(st.service, svc) {
		return nil
	}
	s.unindexService(st)
	st.service = svc
	s.hosts.add(hostKey(svc.Hostname), st)
	for _, p := range svc.Addresses {
		if p.Prefix.IsSingleIP() {
			s.vips.add(mesh.Address{Network: p.Network, IP: p.Prefix.Addr()}, st)
			continue
		}
		p.Prefix = p.Prefix.Masked()
		s.blockCount[lengthOf(p.Prefix)]++
		s.blocks.add(p, st)
	}
	s.markService(st)
	return nil
}

func (s *state) removeService(h mesh.Hostname) {
	st := s.services[h]
	if st == nil || st.service == nil {
		return
	}
	s.unindexService(st)
	st.service = nil
	s.markService(st)
}

func (s *state) unindexService(st *serviceState) {
	if st.service == nil {
		return
	}
	s.hosts.drop(hostKey(st.service.Hostname), st)
	for _, p := range st.service.Addresses {
		if p.Prefix.IsSingleIP() {
			s.vips.drop(mesh.Address{Network: p.Network, IP: p.Prefix.Addr()}, st)
			continue
		}
		p.Prefix = p.Prefix.Masked()
		l := lengthOf(p.Prefix)
		if s.blockCount[l]--; s.blockCount[l] == 0 {
			delete(s.blockCount, l)
		}
		s.blocks.drop(p, st)
	}
}

// hostKey returns where a host name is found: a wildcard under what follows
// its "*", which no host name begins like.
func hostKey(host string) string {
	host = strings.ToLower(host)
	if strings.HasPrefix(host, "*.") {
		return host[1:]
	}
	return host
}

func lengthOf(p netip.Prefix) prefixLength { return prefixLength{p.Bits(), p.Addr().Is4()} }

func (s *state) putWorkload(w *mesh.Workload) error {
	if w.UID == "" {
		return fmt.Errorf("%s: workload: needs a UID", w.Key())
	}
	st := s.workloads.get(uidOf(w.UID))
	if st == nil {
		st = &workloadState{uid: w.UID}
		s.workloads.set(uidOf(w.UID), st)
	}
	if same(st.workload, w) {
		return nil
	}
	s.unindexWorkload(st)
	st.workload = w
	st.identity = s.identityOf(w)
	if !w.HostNetwork {
		for _, ip := range w.Addresses {
			s.addresses.add(mesh.Address{Network: w.Network, IP: ip}, st)
		}
	}
	if w.Node != "" {
		s.nodes.add(w.Node, st)
	}
	for h := range w.Services {
		svc := s.service(h)
		i, _ := slices.BinarySearchFunc(svc.members, st, compareUIDs)
		svc.members = slices.Insert(svc.members, i, st)
		s.markService(svc)
	}
	if s.isOurs(w) {
		s.pods[w.UID] = st
	}
	s.markWorkload(st)
	return nil
}

func (s *state) removeWorkload(uid string) {
	st := s.workloads.get(uidOf(uid))
	if st == nil || st.workload == nil {
		return
	}
	s.unindexWorkload(st)
	st.workload = nil
	s.markWorkload(st)
}

func (s *state) unindexWorkload(st *workloadState) {
	w := st.workload
	if w == nil {
		return
	}
	if !w.HostNetwork {
		for _, ip := range w.Addresses {
			s.addresses.drop(mesh.Address{Network: w.Network, IP: ip}, st)
		}
	}
	if w.Node != "" {
		s.nodes.drop(w.Node, st)
	}
	for h := range w.Services {
		svc := s.service(h)
		if i, ok := slices.BinarySearchFunc(svc.members, st, compareUIDs); ok {
			svc.members = slices.Delete(svc.members, i, i+1)
		}
		s.markService(svc)
	}
	delete(s.pods, w.UID)
}

func (s *state) markService(st *serviceState) {
	if !st.dirty {
		st.dirty = true
		s.dirtyServices = append(s.dirtyServices, st)
	}
}

func (s *state) markWorkload(st *workloadState) {
	if !st.dirty {
		st.dirty = true
		s.dirtyWorkloads = append(s.dirtyWorkloads, st)
	}
}

// markAll marks the services and workloads for which the function says so; a
// nil function marks none.
func (s *state) markAll(service func(*mesh.Service) bool, workload func(*mesh.Workload) bool) {
	if service != nil {
		for _, st := range s.services {
			if st.service != nil && service(st.service) {
				s.markService(st)
			}
		}
	}
	if workload != nil {
		for st := range s.workloads.all() {
			if st.workload != nil && workload(st.workload) {
				s.markWorkload(st)
			}
		}
	}
}

func (s *state) putRoute(r *routing.Route) error {
	old := s.routes[r.Key()]
	if old != nil && same(old.route, r) {
		return nil
	}
	if _, err := routing.Compile(r); err != nil {
		return err
	}
	s.versions++
	s.setRoute(r.Key(), &routeState{version: s.versions, route: r})
	return nil
}

// setRoute puts st, or nil, in the place of a route.
func (s *state) setRoute(k mesh.Key, st *routeState) {
	old := s.routes[k]
	if old == nil && st == nil {
		return
	}
	if old != nil {
		delete(s.routes, k)
		s.retired = append(s.retired, old.version)
		s.eachParent(old.route, func(h mesh.Hostname) {
			s.onService[h] = slices.DeleteFunc(s.onService[h], func(r *routeState) bool { return r == old })
			if len(s.onService[h]) == 0 {
				delete(s.onService, h)
			}
		})
	}
	if st != nil {
		s.routes[k] = st
		s.eachParent(st.route, func(h mesh.Hostname) { s.onService[h] = append(s.onService[h], st) })
	}
	s.listings = true
}

// eachParent calls f once for each service that r speaks of, and marks it.
func (s *state) eachParent(r *routing.Route, f func(mesh.Hostname)) {
	for i, p := range r.Parents {
		if slices.ContainsFunc(r.Parents[:i], func(q routing.Parent) bool { return q.Service == p.Service }) {
			continue
		}
		f(p.Service)
		if st := s.services[p.Service]; st != nil {
			s.markService(st)
		}
	}
}
