// Package config turns what the control plane says into what the data path
// reads.
//
//	Source → Store.Apply → compile → publish → Snapshot
//
// A source, such as package file, speaks in resources, one at a time, in any
// order. The data path reads whole worlds: a [Snapshot] is complete, consistent
// and never changes. Between the two stands the [Store], which alone holds
// mutable state.
//
// # The life of a change
//
// A source calls [Store.Apply] with the resources that changed. Each is checked
// by itself: one that does not compile is rejected alone, its last good version
// stays in force, and [Store.Rejected] lists it until it is mended. What passed
// is staged, and every service and workload that it may concern is marked.
//
// When the batch is published, at once or after [Options].Quiet without
// another, the marked services and workloads are compiled: policies into an
// [authz.Set], RequestAuthentications into a [jwt.Set], routes into a
// [routing.Table], members into endpoints. What is compiled from the same inputs
// is the same pointer, and a [Destination] in which nothing changed stays the one
// that it was, so a tunnel that holds a Destination holds all it needs to know,
// and learns from its going stale.
//
// The new Snapshot shares with the old whatever did not change, and is
// published by one atomic store. Then those who registered with
// [Store.OnPublish] are told which Destinations were replaced, and look again
// at the tunnels that hold them.
//
// # Two views
//
// A Store serves one proxy. With [Options].Gateway set it is that waypoint's:
// policies by targetRefs, routes, and which destinations are attached. Without,
// it is the node tunnel's: policies by selector and namespace, compiled without
// HTTP, on workloads.
//
// # Failing closed
//
// A policy that was rejected and never was good closes whatever it is attached
// to, as far as that can be read; if nothing of it can, whatever a policy of
// its namespace could be attached to. So does a RequestAuthentication at a
// waypoint. One under dry run closes nothing. A CUSTOM policy whose provider is not there refuses what it matches.
// A destination that our waypoint does not serve has a set that refuses everyone.
package config

import (
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// A Resource is a *mesh.Workload, *mesh.Service, *authz.Policy,
// *jwt.RequestAuthentication, *routing.Route, *Gateway or *Mesh. It is immutable
// once it has been given to Apply.
type Resource interface{ Key() mesh.Key }

// An Update is a change to one resource.
type Update struct {
	Key   mesh.Key // zero: that of Value
	Value Resource // nil, and no Err: the resource is gone

	// Err says why the source could not accept the resource. Value then holds
	// whatever could be read of it, or nil: a policy's targetRefs and selector
	// are what matters.
	Err error
}

// Options are what a Store needs to know of the mesh and of its proxy. The zero
// Options are those of a node tunnel that knows no locality.
type Options struct {
	// Gateway is the waypoint whose view this is: its namespace and name. The
	// zero Key is the node tunnel's view.
	Gateway mesh.Key

	TrustDomain   string // "" is cluster.local
	RootNamespace string // "" is istio-system

	// What MeshConfig may say, and does not when it is set here: further trust
	// domains that mean ours, and what is done to paths.
	Aliases       []string
	Normalization *routing.Normalization

	// Where the proxy runs, which decides what is near it. A Locality that is
	// not set is taken from the workloads of the Node.
	Network, ClusterID, Node string
	Locality                 mesh.Locality

	// Compat118 has the selector istio.io/gateway-name attach a policy to any
	// waypoint, as ambient's first releases did, and not only to one that is a
	// service account's.
	Compat118 bool

	// Quiet is how long Apply waits for another batch before it publishes; 0 is
	// not at all. MaxQuiet is how long a change can be put off by changes that
	// follow; 0 is ten times Quiet.
	Quiet, MaxQuiet time.Duration
}

// A TrafficType is what a waypoint is for (istio.io/waypoint-for).
type TrafficType uint8

// The traffic types.
const (
	ForService TrafficType = iota
	ForWorkload
	ForAll
	ForNone
)

func (t TrafficType) String() string {
	return [...]string{"service", "workload", "all", "none"}[t]
}

// A Gateway is a waypoint as declared.
type Gateway struct {
	Namespace, Name string
	Class           string // the name of its GatewayClass
	ServiceAccount  string // istio.io/for-service-account: the account it is for; "" for any

	// For is what traffic it takes. Sources look at it when they say which
	// waypoint a service or workload has; the Store does not.
	For TrafficType

	Addresses []mesh.GatewayAddress
}

// Key returns the key a source stores g under.
func (g *Gateway) Key() mesh.Key {
	return mesh.Key{Kind: "Gateway", Namespace: g.Namespace, Name: g.Name}
}

// A Destination is something a client can ask for: a port of a service, or a
// workload. It is immutable, and replaced by another when anything in it
// changes; nothing else replaces it.
type Destination struct {
	Service  *mesh.Service  // nil for a workload
	Port     *mesh.Port     // nil for a workload, and for a port that the service does not have
	Workload *mesh.Workload // nil for a service

	// Policies are what a request has to pass: nil lets everything through.
	// In the node tunnel's view services have none.
	Policies *authz.Set

	// Tokens are the RequestAuthentications that a request has to satisfy; nil:
	// none. What is not HTTP has no tokens.
	Tokens *jwt.Set

	// Routes say where requests go: nil sends them to the destination itself,
	// as routing's table of no routes does.
	Routes *routing.Table

	// Endpoints are those that may be picked now: ready, listening on the port,
	// and as near as the service demands. A workload's own has port 0, which
	// stands for the port that was asked.
	Endpoints []mesh.Endpoint

	// Heaviest is the largest capacity of Endpoints: whoever knows it can choose
	// one of them by capacity without looking at all.
	Heaviest uint32

	// Attached is whether our waypoint serves this. One that is not attached
	// must be refused, and be used only as the backend of a route. It is false
	// in the node tunnel's view.
	Attached bool

	// Retries is the destination's budget; it outlives the Destination.
	Retries *routing.Budget
}

// Changes are what one publish changed.
type Changes struct {
	Snapshot *Snapshot // what is in force now

	// Destinations holds, for every Destination of the snapshot before that is
	// not in this one, what stands in its place, or nil.
	Destinations map[*Destination]*Destination

	// Workloads lists the workloads that were added, replaced or removed.
	Workloads []WorkloadChange
}

// A WorkloadChange is one workload before and after. Old is nil when it is
// new, New is nil when it is gone.
type WorkloadChange struct{ Old, New *mesh.Workload }

// A Rejection is a resource that was not accepted.
type Rejection struct {
	Key    mesh.Key
	Err    error
	Since  time.Time
	Closed bool // a policy of either kind that never was good: what it is attached to refuses everyone
}
