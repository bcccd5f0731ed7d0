package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// A Mesh is what MeshConfig says, as far as it concerns us. There is one.
type Mesh struct {
	// Providers are the authorizers that CUSTOM policies may name. One that does
	// not change stays the same pointer.
	Providers map[string]*authz.Provider

	// Normalization is what is done to paths before policies and routes.
	Normalization routing.Normalization

	// TrustDomain is ours, and Aliases are further ones that mean it.
	// RootNamespace is that whose policies are for the whole mesh. A source leaves
	// empty what it does not know; in a Snapshot they are those in force.
	//
	// TrustDomain and RootNamespace are read when a program starts: its
	// certificate hangs on them. What a source says of them later is not heard.
	TrustDomain   string
	Aliases       []string
	RootNamespace string
}

// MeshKind is the kind of a Mesh's key.
const MeshKind = "MeshConfig"

// Key returns the key a source stores m under.
func (m *Mesh) Key() mesh.Key { return mesh.Key{Kind: MeshKind} }

// inForce returns m with what the options say in its place.
func (o *Options) inForce(m *Mesh) *Mesh {
	next := *m
	next.TrustDomain, next.RootNamespace = o.TrustDomain, o.RootNamespace
	if o.Aliases != nil {
		next.Aliases = o.Aliases
	}
	if o.Normalization != nil {
		next.Normalization = *o.Normalization
	}
	return &next
}

// putMesh takes over what MeshConfig says, or that there is none any more.
func (s *state) putMesh(m *Mesh) error {
	next := s.options.inForce(m)
	next.Providers = make(map[string]*authz.Provider, len(m.Providers))
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(m.Providers)) {
		p := m.Providers[name]
		switch {
		case p == nil || p.Name != name:
			errs = append(errs, fmt.Errorf("%s: extensionProviders[name=%s]: is the entry of another name", m.Key(), name))
			continue
		case p.Validate() != nil:
			errs = append(errs, p.Validate())
			continue
		}
		if old := s.mesh.Providers[name]; same(old, p) {
			p = old
		}
		next.Providers[name] = p
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if same(s.mesh, next) {
		return nil
	}
	before := s.mesh
	s.mesh, s.listings = next, true
	s.renew(before)
	return nil
}

// renew has those policies compiled again that come out otherwise than before:
// all of them when other trust domains are ours, and those of action CUSTOM whose
// provider can be asked now, or cannot any more, or about other connections.
func (s *state) renew(before *Mesh) {
	renamed := !slices.Equal(before.Aliases, s.mesh.Aliases)
	s.policies.renew(s, func(p *authz.Policy) bool {
		if p.Action != authz.Custom {
			return renamed
		}
		old, now := before.Providers[p.Provider], s.mesh.Providers[p.Provider]
		return s.waypoint() && (renamed || (old == nil) != (now == nil) || old != nil && old.HTTPOnly() != now.HTTPOnly())
	})
}

// defaultMesh is that of a Snapshot of no Store.
var defaultMesh = (&Options{TrustDomain: defaultTrustDomain, RootNamespace: defaultRootNamespace}).inForce(new(Mesh))

const (
	defaultTrustDomain   = "cluster.local"
	defaultRootNamespace = "istio-system"
)

// Mesh returns what MeshConfig says. It is never nil.
func (s *Snapshot) Mesh() *Mesh { return cmp.Or(s.mesh, defaultMesh) }
