package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
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

// uses counts the sets of RequestAuthentications that destinations have.
type uses map[*jwt.Set]int

// change counts that a destination has now in the place of old; nil: none.
func (u uses) change(old, now *jwt.Set) (changed bool) {
	if old == now {
		return false
	}
	if now != nil {
		u[now]++
		changed = u[now] == 1
	}
	if old != nil {
		if u[old]--; u[old] == 0 {
			delete(u, old)
			changed = true
		}
	}
	return changed
}

// sources returns where the keys are that the sets need, and how long fetching
// them may take.
func (u uses) sources() map[jwt.Source]time.Duration {
	out := map[jwt.Source]time.Duration{}
	for set := range u {
		for source, timeout := range set.Sources() {
			out[source] = max(out[source], timeout)
		}
	}
	return out
}

// tokensOf returns what a Destination asks of tokens.
func tokensOf(d *Destination) *jwt.Set {
	if d == nil {
		return nil
	}
	return d.Tokens
}

// defaultMesh is that of a Snapshot of no Store.
var defaultMesh = (&Options{TrustDomain: defaultTrustDomain, RootNamespace: defaultRootNamespace}).inForce(new(Mesh))

const (
	defaultTrustDomain   = "cluster.local"
	defaultRootNamespace = "istio-system"
)

// Mesh returns what MeshConfig says. It is never nil.
func (s *Snapshot) Mesh() *Mesh { return cmp.Or(s.mesh, defaultMesh) }

// TokenSources returns where the keys are that tokens are verified with, and how
// long fetching them may take: of the RequestAuthentications that are attached to
// what our waypoint serves. The map is not the caller's to change.
func (s *Snapshot) TokenSources() map[jwt.Source]time.Duration { return s.sources }

// RequestAuthentications returns those that were accepted, in the order of their
// keys. The node tunnel has none. The slice is not the caller's to change.
func (s *Snapshot) RequestAuthentications() []*jwt.RequestAuthentication { return s.tokens }
