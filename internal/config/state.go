package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// A state is the last good version of every resource, who refers to whom, and
// what has to be compiled again. It belongs to the Store, under its mutex.
type state struct {
	options *Options

	services  map[mesh.Hostname]*serviceState
	workloads map[string]*workloadState // by UID
	policies  map[mesh.Key]*policyState
	routes    map[mesh.Key]*routeState
	gateways  map[mesh.Key]*Gateway

	inNamespace map[string][]*policyState       // by namespace, in the order of names
	onService   map[mesh.Hostname][]*routeState // by parent, in no order
	pods        map[string]*workloadState       // those of our waypoint, by UID
	blockCount  map[prefixLength]int            // of CIDR VIPs, by length

	hosts     index[string, *serviceState]
	vips      index[mesh.Address, *serviceState]
	blocks    index[mesh.Prefix, *serviceState]
	addresses index[mesh.Address, *workloadState]
	nodes     index[string, *workloadState]

	// What has changed since the last publish.
	dirtyServices  []*serviceState
	dirtyWorkloads []*workloadState
	listings       bool // a policy, route or gateway

	versions uint64   // the last version given to a policy or route
	retired  []uint64 // the versions that are no more, since the last publish
}

// A serviceState is a service, or the name of one that workloads are members of
// and that may yet come.
type serviceState struct {
	host    mesh.Hostname
	service *mesh.Service    // nil: not there
	members []*workloadState // in the order of UIDs
	retries map[uint16]*routing.Budget
	view    *serviceView // as published; nil: not there
	dirty   bool
}

// A workloadState is a workload and what outlives its versions. One that is gone
// is forgotten by the next publish, so that one that is deleted and sent again
// in a batch was not gone at all.
type workloadState struct {
	uid      string
	workload *mesh.Workload // nil: gone
	load     *atomic.Int64
	retries  *routing.Budget
	dest     *Destination // as published; nil: not there
	dirty    bool
}

// A policyState is the last good version of a policy; or, of one that never was
// good, what could be read of it and a set that refuses everyone.
type policyState struct {
	key     mesh.Key
	version uint64
	policy  *authz.Policy // of a closed one, nil if nothing could be read
	closed  *authz.Set    // nil: the policy is good
}

// A routeState is the last good version of a route.
type routeState struct {
	version uint64
	route   *routing.Route
}

func newState(o *Options) *state {
	byService := func(a, b *serviceState) int { return compareServices(a.service, b.service) }
	return &state{
		options:     o,
		services:    map[mesh.Hostname]*serviceState{},
		workloads:   map[string]*workloadState{},
		policies:    map[mesh.Key]*policyState{},
		routes:      map[mesh.Key]*routeState{},
		gateways:    map[mesh.Key]*Gateway{},
		inNamespace: map[string][]*policyState{},
		onService:   map[mesh.Hostname][]*routeState{},
		pods:        map[string]*workloadState{},
		blockCount:  map[prefixLength]int{},
		hosts:       newIndex[string](byService),
		vips:        newIndex[mesh.Address](byService),
		blocks:      newIndex[mesh.Prefix](byService),
		addresses:   newIndex[mesh.Address](compareWorkloads),
		nodes:       newIndex[string](compareUIDs),
	}
}

// compareServices is the order in which services that share a name or address
// are preferred, the client's namespace aside.
func compareServices(a, b *mesh.Service) int {
	if a.Canonical != b.Canonical {
		if a.Canonical {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Hostname, b.Hostname))
}

func compareUIDs(a, b *workloadState) int { return cmp.Compare(a.uid, b.uid) }

// compareWorkloads is the order in which workloads that share an address are
// preferred: pods, then those that speak HBONE.
func compareWorkloads(a, b *workloadState) int {
	rank := func(w *workloadState) (n int) {
		if !strings.Contains(w.uid, "//Pod/") {
			n += 2
		}
		if w.workload.Tunnel != mesh.HBONE {
			n++
		}
		return n
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), compareUIDs(a, b))
}

// put stages a resource that a source accepted. The error is why it is not
// good; then nothing changed.
func (s *state) put(r Resource) error {
	switch r := r.(type) {
	case *mesh.Workload:
		return s.putWorkload(r)
	case *mesh.Service:
		return s.putService(r)
	case *authz.Policy:
		return s.putPolicy(r)
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
		s.setPolicy(k, nil)
	case "Gateway":
		if s.gateways[k] != nil {
			delete(s.gateways, k)
			s.gatewayChanged(k)
		}
	case "HTTPRoute":
		s.setRoute(k, nil)
	}
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
	st := s.workloads[w.UID]
	if st == nil {
		st = &workloadState{uid: w.UID, load: new(atomic.Int64), retries: new(routing.Budget)}
		s.workloads[w.UID] = st
	}
	if same(st.workload, w) {
		return nil
	}
	s.unindexWorkload(st)
	st.workload = w
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
	st := s.workloads[uid]
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
		for _, st := range s.workloads {
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
