package config

import (
	"cmp"
	"strings"
	"sync/atomic"
	"unique"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// A state is the last good version of every resource, who refers to whom, and
// what has to be compiled again. It belongs to the Store, under its mutex.
type state struct {
	options *Options

	services  map[mesh.Hostname]*serviceState
	workloads *tableEdit[uidOf, workloadState]
	policies  policies[authz.Policy, authz.Set]
	tokens    policies[jwt.RequestAuthentication, jwt.Set] // at a waypoint
	routes    map[mesh.Key]*routeState
	gateways  map[mesh.Key]*Gateway
	mesh      *Mesh // as in force

	onService  map[mesh.Hostname][]*routeState // by parent, in no order
	pods       map[string]*workloadState       // those of our waypoint, by UID
	blockCount map[prefixLength]int            // of CIDR VIPs, by length

	hosts     index[string, *serviceState]
	vips      index[mesh.Address, *serviceState]
	blocks    index[mesh.Prefix, *serviceState]
	addresses addressIndex
	nodes     index[string, *workloadState]

	// What has changed since the last publish.
	dirtyServices  []*serviceState
	dirtyWorkloads []*workloadState
	listings       bool // a policy, route or gateway, or MeshConfig
	affected       affected

	// identities are those of the workloads staged, as text: a service account's are
	// many.
	identities map[identity.ID]string

	versions uint64   // the last version given to a policy or route
	retired  []uint64 // the versions of routes that are no more, since the last publish
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
	identity string         // of workload: its SPIFFE ID
	load     atomic.Int64
	retries  routing.Budget
	dest     *Destination // as published; nil: not there
	dirty    bool
}

// A routeState is the last good version of a route.
type routeState struct {
	version uint64
	route   *routing.Route
}

// identityOf returns a workload's SPIFFE ID. Equal ones are one string.
func (s *state) identityOf(w *mesh.Workload) string {
	id := w.Identity()
	text, ok := s.identities[id]
	if !ok {
		text = unique.Make(id.String()).Value()
		if s.identities == nil {
			s.identities = map[identity.ID]string{}
		}
		s.identities[id] = text
	}
	return text
}

func newState(o *Options) *state {
	byService := func(a, b *serviceState) int { return compareServices(a.service, b.service) }
	s := &state{
		options:    o,
		services:   map[mesh.Hostname]*serviceState{},
		workloads:  editTable(table[uidOf, workloadState]{}),
		routes:     map[mesh.Key]*routeState{},
		gateways:   map[mesh.Key]*Gateway{},
		mesh:       o.inForce(&Mesh{Providers: map[string]*authz.Provider{}}),
		onService:  map[mesh.Hostname][]*routeState{},
		pods:       map[string]*workloadState{},
		blockCount: map[prefixLength]int{},
		hosts:      newIndex[string](byService),
		vips:       newIndex[mesh.Address](byService),
		blocks:     newIndex[mesh.Prefix](byService),
		addresses:  newAddressIndex(),
		nodes:      newIndex[string](compareUIDs),
	}
	s.policies = newPolicies(
		func(list ...*authz.Policy) (*authz.Set, error) { return authz.Compile(s.authzOptions(), list...) }, authz.Closed,
		func(p *authz.Policy) target {
			return target{key: p.Key(), refs: p.TargetRefs, selector: p.Selector, own: p.OwnNamespace}
		})
	s.tokens = newPolicies(
		func(list ...*jwt.RequestAuthentication) (*jwt.Set, error) {
			return jwt.Compile(jwt.Options{RootNamespace: o.RootNamespace}, list...)
		}, jwt.Closed,
		func(p *jwt.RequestAuthentication) target {
			return target{key: p.Key(), refs: p.TargetRefs, selector: p.Selector}
		})
	return s
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
