package policy

import (
	"cmp"
	"errors"
	"slices"
	"sync"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// Options say what cannot be read in manifests. The zero Options are those of a
// mesh with Istio's defaults.
type Options struct {
	TrustDomain   string // "": what MeshConfig says, or cluster.local
	RootNamespace string // "": what MeshConfig says, or istio-system
	ClusterDomain string // "" is cluster.local
	Compat118     bool   // as config.Options has it
}

// A Mesh is what manifests, or a running waypoint, say there is. It is safe for
// concurrent use.
type Mesh struct {
	// Immutable.
	o       Options
	updates []config.Update
	errs    []*manifest.Error
	notes   map[mesh.Key]string // what was assumed of objects
	labels  map[mesh.Key]map[string]string
	// selectors are those of Services.
	selectors map[mesh.Key]map[string]string
	bare      bool     // there is nothing but policies
	only      mesh.Key // the one waypoint of which anything is known, of a dump
	place     func(k mesh.Key, field string) (file string, line int)

	mu    sync.Mutex
	views map[mesh.Key]*view // Guarded by mu.
}

// A view is what one proxy makes of the mesh.
type view struct {
	*config.Snapshot
	rejected []config.Rejection
}

// New returns the mesh of manifests.
func New(o Options, m *Manifests) *Mesh {
	objects, pods, notes := m.assume()
	x := &Mesh{o: o, errs: m.problems(), notes: notes, labels: map[mesh.Key]map[string]string{}, selectors: map[mesh.Key]map[string]string{}, place: m.place, views: map[mesh.Key]*view{}}
	for _, d := range slices.Concat(m.drafts, pods) {
		x.labels[d.key] = labels(object(d.doc, "metadata", "labels"))
		if d.key.Kind == "Service" {
			x.selectors[d.key] = labels(object(d.doc, "spec", "selector"))
		}
	}
	x.bare = !slices.ContainsFunc(objects, func(o *manifest.Object) bool {
		return o.Key.Kind == "Service" || o.Key.Kind == "Gateway" || o.Key.Kind == "Pod"
	})
	changes := make([]manifest.Change, len(objects))
	for i, o := range objects {
		changes[i] = manifest.Change{Key: o.Key, Object: o}
	}
	where := x.o.RootNamespace // MeshConfig is there, whatever it says
	x.updates = x.index(where, changes)
	if said := x.said(); x.o.TrustDomain == "" && said.TrustDomain != "" || x.o.RootNamespace == "" && said.RootNamespace != "" {
		x.o.TrustDomain, x.o.RootNamespace = cmp.Or(x.o.TrustDomain, said.TrustDomain), cmp.Or(x.o.RootNamespace, said.RootNamespace)
		x.updates = x.index(cmp.Or(where, "istio-system"), changes)
	}
	return x
}

// index joins the objects. A pod is in the mesh by its label, for nobody has
// redirected it.
func (m *Mesh) index(meshNamespace string, changes []manifest.Change) []config.Update {
	return manifest.NewIndex(manifest.Options{TrustDomain: m.o.TrustDomain, RootNamespace: m.o.RootNamespace, MeshNamespace: meshNamespace,
		ClusterDomain: m.o.ClusterDomain, ByLabel: true}).Apply(changes...)
}

// said returns what MeshConfig says.
func (m *Mesh) said() *config.Mesh {
	for _, u := range m.updates {
		if c, ok := u.Value.(*config.Mesh); ok && u.Err == nil {
			return c
		}
	}
	return new(config.Mesh)
}

// node is the key of the node tunnel's view.
var node mesh.Key

// view returns what the waypoint of a Gateway makes of the mesh, or the node
// tunnel.
func (m *Mesh) view(gateway mesh.Key, more ...config.Update) *view {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v := m.views[gateway]; v != nil && more == nil {
		return v
	}
	s := config.NewStore(config.Options{Gateway: gateway, TrustDomain: m.o.TrustDomain, RootNamespace: m.o.RootNamespace, Compat118: m.o.Compat118})
	_ = s.Apply(slices.Concat(m.updates, more)) // Rejected says it all
	s.Synced()
	v := &view{s.Snapshot(), s.Rejected()}
	if more == nil {
		m.views[gateway] = v
	}
	return v
}

// Problems are the objects, documents and files that the proxies would refuse:
// they keep what was in force before, or fail closed.
func (m *Mesh) Problems() (out []error) {
	for _, e := range m.refusals() {
		out = append(out, e)
	}
	return out
}

// refusals returns what is wrong in the files, and then what came to be wrong when
// they were put together.
func (m *Mesh) refusals() []*manifest.Error {
	out := slices.Clone(m.errs)
	told := map[string]bool{}
	for _, e := range out {
		told[e.Error()] = true
	}
	for _, k := range append([]mesh.Key{node}, m.gateways()...) {
		for _, r := range m.view(k).rejected {
			var e *manifest.Error
			if !errors.As(r.Err, &e) {
				e = &manifest.Error{Object: r.Key, Reason: r.Err.Error()}
				if f := (*authz.FieldError)(nil); errors.As(r.Err, &f) {
					e.Field, e.Reason = f.Field, f.Reason
				}
				e.File, e.Line = m.place(r.Key, e.Field)
			}
			if !told[e.Error()] {
				told[e.Error()] = true
				out = append(out, e)
			}
		}
	}
	return out
}

// gateways returns the keys of the waypoints.
func (m *Mesh) gateways() (out []mesh.Key) {
	for _, g := range m.view(node).Gateways() {
		out = append(out, g.Key())
	}
	return out
}

// gatewayAt returns the waypoint that an address leads to.
func (m *Mesh) gatewayAt(a *mesh.GatewayAddress) (mesh.Key, bool) {
	if a == nil {
		return mesh.Key{}, false
	}
	for _, g := range m.view(node).Gateways() {
		if slices.Contains(g.Addresses, *a) {
			return g.Key(), true
		}
	}
	return m.only, m.only != mesh.Key{}
}

// identityOf returns who a waypoint is: as its pods run, or else as Istio would
// have it run, and then it says that this is assumed.
func (m *Mesh) identityOf(gateway mesh.Key) (id identity.ID, w *mesh.Workload, assumed string) {
	for w := range m.view(node).Workloads() {
		if k := w.IsWaypointFor; k != nil && k.Namespace == gateway.Namespace && k.Name == gateway.Name {
			return w.Identity(), w, m.note("Pod", w.Namespace, w.Name)
		}
	}
	id = identity.ID{TrustDomain: m.trustDomain(), Namespace: gateway.Namespace, ServiceAccount: gateway.Name}
	return id, nil, "the waypoint " + gateway.Namespace + "/" + gateway.Name + " runs as the service account of its name, as Istio has it: there is no pod of it"
}

func (m *Mesh) trustDomain() string { return cmp.Or(m.o.TrustDomain, "cluster.local") }
