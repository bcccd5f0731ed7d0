package config

import (
	"encoding/binary"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// An affected is what the policies of a batch are attached to, before or after, in
// the node tunnel's view. It is marked when the batch is published, in one pass:
// there may be ten thousand policies in it, and each might be any workload's. The
// zero affected is nothing.
type affected struct {
	all        bool
	namespaces map[string]bool    // whole ones
	listed     map[[2]string]bool // workloads that list a policy: its namespace and name
}

// add adds what a policy is attached to, as selects has it.
func (a *affected) add(s *state, p *target) {
	if !p.unknown && len(p.refs) > 0 {
		return
	}
	put(&a.listed, [2]string{p.key.Namespace, p.key.Name})
	switch {
	case !p.unknown && len(p.selector) > 0:
	case p.key.Namespace == s.options.RootNamespace && !p.own:
		a.all = true
	default:
		put(&a.namespaces, p.key.Namespace)
	}
}

func put[K comparable](m *map[K]bool, k K) {
	if *m == nil {
		*m = map[K]bool{}
	}
	(*m)[k] = true
}

// is reports whether a workload is among them.
func (a *affected) is(w *mesh.Workload) bool {
	if a.all || a.namespaces[w.Namespace] {
		return true
	}
	for _, k := range w.Policies {
		if a.listed[[2]string{k.Namespace, k.Name}] {
			return true
		}
	}
	return false
}

// markAffected marks them.
func (s *state) markAffected() {
	if a := s.affected; a.all || len(a.listed) > 0 {
		s.affected = affected{}
		s.markAll(nil, a.is)
	}
}

// A setsOf holds the sets that a publish has looked up for workloads, in the node
// tunnel's view: those of one namespace that list the same policies have the same.
// The zero setsOf is empty.
type setsOf map[string]*authz.Set

// ofWorkload returns what the policies that select a workload are compiled to.
func (b *builder) ofWorkload(w *mesh.Workload) *authz.Set {
	key := part(b.key[:0], w.Namespace)
	for _, k := range w.Policies {
		key = part(part(key, k.Namespace), k.Name)
	}
	b.key = key
	set, ok := b.sets[string(key)]
	if !ok {
		namespaces, attached := b.attached(nil, w)
		set = b.policies.set(namespaces, attached)
		b.sets[string(key)] = set
	}
	return set
}

// part appends a text to a key, so that the next cannot be taken for a part of it.
func part(key []byte, text string) []byte {
	return append(binary.AppendUvarint(key, uint64(len(text))), text...)
}
