package manifest

import (
	"cmp"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// Options are what an Index needs to know of the mesh.
type Options struct {
	TrustDomain   string // "" is cluster.local
	ClusterDomain string // of service names; "" is cluster.local
	ClusterID     string // "" is Kubernetes
	Network       string // "" is the only one
	RootNamespace string // "" is istio-system

	// MeshNamespace is where the ConfigMap with MeshConfig is, "" is
	// RootNamespace; and Revision, of which control plane it is.
	MeshNamespace, Revision string

	// ByLabel takes a pod for part of the mesh when it or its namespace has the
	// label istio.io/dataplane-mode: ambient. Otherwise it is the annotation
	// that the node agent writes once it has redirected the pod's traffic; with
	// no node agent nobody writes it.
	ByLabel bool
}

func (o Options) withDefaults() Options {
	o.TrustDomain = cmp.Or(o.TrustDomain, "cluster.local")
	o.ClusterDomain = cmp.Or(o.ClusterDomain, "cluster.local")
	o.ClusterID = cmp.Or(o.ClusterID, "Kubernetes")
	o.RootNamespace = cmp.Or(o.RootNamespace, "istio-system")
	o.MeshNamespace = cmp.Or(o.MeshNamespace, o.RootNamespace)
	return o
}

// A set of keys.
type set map[mesh.Key]struct{}

// An Index joins objects and says what a change to one of them changes in our
// resources. It is not safe for concurrent use.
type Index struct {
	o Options

	// The objects, as last good.
	namespaces map[string]*namespace
	nodes      map[string]*corev1.Node
	classes    map[string]*gatewayv1.GatewayClass
	meshFile   *configMap // MeshConfig from a file of its own

	// Who is concerned by a change of something else.
	onNode   map[string]set   // by node: pods and slices
	users    map[mesh.Key]set // by Gateway: pods, services and namespaces that name it
	backends map[mesh.Key]set // by Service: the routes that send to it

	// What came of the objects.
	resources map[mesh.Key]config.Resource // as last told
	made      map[mesh.Key][]mesh.Key      // by object: the keys of its resources
	refused   set                          // objects whose last version was refused

	// Of MeshConfig, what is refused, by the key that it is told under, and what is
	// not read.
	meshRefused map[mesh.Key]*Error
	ignored     []string

	// Between a change and its updates.
	dirty   set               // objects to look at again
	peers   bool              // a PeerAuthentication has changed
	mended  set               // resources whose object was refused before
	updates []config.Update   // gathered so far
	told    map[mesh.Key]bool // keys in updates
}

// NewIndex returns an Index without objects.
func NewIndex(o Options) *Index {
	return &Index{
		o:          o.withDefaults(),
		namespaces: map[string]*namespace{},
		nodes:      map[string]*corev1.Node{},
		classes:    map[string]*gatewayv1.GatewayClass{},
		onNode:     map[string]set{},
		users:      map[mesh.Key]set{},
		backends:   map[mesh.Key]set{},
		resources:  map[mesh.Key]config.Resource{},
		made:       map[mesh.Key][]mesh.Key{},
		refused:    set{},
		dirty:      set{},
		mended:     set{},
		told:       map[mesh.Key]bool{},
	}
}

// A Change is an object that is new or different, or gone.
type Change struct {
	Key    mesh.Key
	Object *Object // nil: gone
}

// Set takes a new version of an object and returns what it changes. A refused
// one leaves the last good version in force and gives an Update with its error.
func (x *Index) Set(o *Object) []config.Update { return x.Apply(Change{o.Key, o}) }

// Delete forgets an object and returns what that changes.
func (x *Index) Delete(key mesh.Key) []config.Update { return x.Apply(Change{Key: key}) }

// Apply makes several changes at once. What they touch in common is looked at
// once, and nothing of a state between them shows in the updates.
func (x *Index) Apply(changes ...Change) []config.Update {
	x.updates = nil
	clear(x.told)
	for _, c := range changes {
		if c.Object != nil && c.Object.Err != nil {
			x.refuse(c.Object)
			continue
		}
		if _, was := x.refused[c.Key]; was {
			delete(x.refused, c.Key)
			x.mended[x.resourceKey(c.Key)] = struct{}{}
		}
		var value any
		if c.Object != nil {
			value = c.Object.value
		}
		x.replace(c.Key, value)
	}
	x.rebuild()
	for key := range x.mended { // its rejection is to be forgotten, even if all is as before
		if !x.told[key] {
			x.tell(config.Update{Key: key, Value: x.resources[key]})
		}
	}
	clear(x.mended)
	slices.SortStableFunc(x.updates, func(a, b config.Update) int { return compareKeys(a.Key, b.Key) })
	return x.updates
}

func compareKeys(a, b mesh.Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func (x *Index) tell(u config.Update) {
	x.updates = append(x.updates, u)
	x.told[u.Key] = true
}

// resourceKey returns the key under which what comes of an object is known, or
// the object's own when nothing does by itself.
func (x *Index) resourceKey(k mesh.Key) mesh.Key {
	switch k.Kind {
	case kindPod:
		return mesh.Key{Kind: "Workload", Name: x.o.podUID(k.Namespace, k.Name)}
	case kindService:
		return mesh.Key{Kind: kindService, Namespace: k.Namespace, Name: x.o.host(k.Namespace, k.Name)}
	}
	return k
}

// refuse tells of an object that is not accepted. If there never was a good
// version, a policy takes its place in what workloads list, so that they are
// closed, and a PeerAuthentication counts as STRICT.
func (x *Index) refuse(o *Object) {
	x.refused[o.Key] = struct{}{}
	u := config.Update{Key: x.resourceKey(o.Key), Err: o.Err}
	ns := x.namespace(o.Key.Namespace)
	switch v := o.value.(type) {
	case *policyObject:
		p := &policy{Policy: v.policy(o.Key), refused: true}
		if !v.lost {
			u.Value = p.Policy
		}
		if old := ns.policies[o.Key.Name]; old == nil || old.refused {
			x.replace(o.Key, p)
		}
	case *tokensObject:
		if !v.lost {
			u.Value = v.tokens(o.Key)
		}
	default:
		if o.Key.Kind == kindPeer && v != nil && ns.peers[o.Key.Name] == nil {
			x.replace(o.Key, v)
		}
	}
	x.tell(u)
}

// rebuild looks again at whatever is dirty, and tells what differs.
func (x *Index) rebuild() {
	if x.peers {
		x.peers = false
		x.settle(mesh.Key{Kind: kindPeer}, x.buildStrict())
	}
	for _, key := range slices.SortedFunc(maps.Keys(x.dirty), compareKeys) {
		if key == meshKey {
			x.settleMesh()
		} else {
			x.settle(key, x.build(key))
		}
	}
	clear(x.dirty)
}

// settle compares what an object makes now with what it made before.
func (x *Index) settle(object mesh.Key, now []config.Resource) {
	before := x.made[object]
	keys := make([]mesh.Key, 0, len(now))
	for _, r := range now {
		key := r.Key()
		keys = append(keys, key)
		if old, ok := x.resources[key]; ok && reflect.DeepEqual(old, r) {
			continue
		}
		x.resources[key] = r
		x.tell(config.Update{Key: key, Value: r})
	}
	for _, key := range before {
		if !slices.Contains(keys, key) {
			delete(x.resources, key)
			x.tell(config.Update{Key: key})
		}
	}
	if len(keys) == 0 {
		delete(x.made, object)
	} else {
		x.made[object] = keys
	}
}

// Resources returns every resource that the objects make, by key.
func (x *Index) Resources() map[mesh.Key]config.Resource { return maps.Clone(x.resources) }

// buildStrict returns the policy that workloads under STRICT list, if there
// may be any.
func (x *Index) buildStrict() []config.Resource {
	for _, ns := range x.namespaces {
		for _, p := range ns.peers {
			if anyStrict(p) {
				return []config.Resource{x.strictPolicy()}
			}
		}
	}
	return nil
}

// A policy is an AuthorizationPolicy in plain Go. A refused one only stands for
// what it is attached to.
type policy struct {
	*authz.Policy
	refused bool
}
