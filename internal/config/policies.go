package config

import (
	"cmp"
	"slices"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// policies are those of one kind: T as written, S what the ones attached to a
// destination are compiled to. They belong to the Store, under its mutex.
type policies[T, S any] struct {
	// Immutable.
	compile func(...*T) (*S, error)
	closed  func(reason string) *S
	target  func(*T) target

	byKey       map[mesh.Key]*policyState[T, S]
	inNamespace map[string][]*policyState[T, S] // by namespace, in the order of names

	// What was compiled from the same versions is compiled once and stays the
	// same pointer.
	sets    cache[*S]
	retired []uint64 // the versions that are no more, since the last publish
}

// A policyState is the last good version of a policy; or, of one that never was
// good, what could be read of it and a set that refuses everyone.
type policyState[T, S any] struct {
	target
	version uint64
	policy  *T // of a closed one, nil if nothing could be read
	closed  *S // nil: the policy is good
}

// A target is what a policy says that it is attached to.
type target struct {
	key      mesh.Key
	unknown  bool // nothing could be read: it might be anything
	refs     []authz.TargetRef
	selector map[string]string
	own      bool // with neither, it is for its namespace, be it the root namespace
}

func newPolicies[T, S any](compile func(...*T) (*S, error), closed func(string) *S, target func(*T) target) policies[T, S] {
	return policies[T, S]{
		compile: compile, closed: closed, target: target,
		byKey: map[mesh.Key]*policyState[T, S]{}, inNamespace: map[string][]*policyState[T, S]{},
	}
}

// put takes a policy in. The error is why it is not good; then nothing changed.
func (l *policies[T, S]) put(s *state, k mesh.Key, p *T) error {
	if old := l.byKey[k]; old != nil && old.closed == nil && same(old.policy, p) {
		return nil
	}
	if _, err := l.compile(p); err != nil {
		return err
	}
	s.versions++
	l.replace(s, k, &policyState[T, S]{target: l.target(p), version: s.versions, policy: p})
	return nil
}

// shut has a policy that was rejected and never was good fail its targets
// closed. It reports whether it did: a good version stays in force.
func (l *policies[T, S]) shut(s *state, k mesh.Key, readable *T) bool {
	old := l.byKey[k]
	switch {
	case old != nil && old.closed == nil:
		return false
	case old != nil && (old.policy == readable || readable != nil && same(old.policy, readable)):
		return true // rejected again, as closed as before
	}
	s.versions++
	st := &policyState[T, S]{
		target: target{unknown: true}, version: s.versions, policy: readable,
		closed: l.closed(k.Kind + " " + k.Namespace + "/" + k.Name + " was rejected"),
	}
	if readable != nil {
		st.target = l.target(readable)
	}
	l.replace(s, k, st)
	return true
}

// open forgets a policy that never was good and fails its targets closed.
func (l *policies[T, S]) open(s *state, k mesh.Key) {
	if old := l.byKey[k]; old != nil && old.closed != nil {
		l.replace(s, k, nil)
	}
}

// replace puts st, or nil, in the place of a policy and marks what either is
// attached to.
func (l *policies[T, S]) replace(s *state, k mesh.Key, st *policyState[T, S]) {
	old := l.byKey[k]
	if old == nil && st == nil {
		return
	}
	list := l.inNamespace[k.Namespace]
	if old != nil {
		s.markAttached(&old.target)
		delete(l.byKey, k)
		l.retired = append(l.retired, old.version)
		list = slices.DeleteFunc(list, func(p *policyState[T, S]) bool { return p == old })
	}
	if st != nil {
		st.key = k
		l.byKey[k] = st
		i, _ := slices.BinarySearchFunc(list, st, func(a, b *policyState[T, S]) int { return cmp.Compare(a.key.Name, b.key.Name) })
		list = slices.Insert(list, i, st)
		s.markAttached(&st.target)
	}
	if l.inNamespace[k.Namespace] = list; len(list) == 0 {
		delete(l.inNamespace, k.Namespace)
	}
	s.listings = true
}

// renew has policies compiled again that are the same, but would come out
// otherwise: those for which the function says so.
func (l *policies[T, S]) renew(s *state, concerns func(*T) bool) {
	for _, st := range l.byKey {
		if st.closed == nil && concerns(st.policy) {
			l.retired = append(l.retired, st.version)
			s.versions++
			st.version = s.versions
			s.markAttached(&st.target)
		}
	}
}

// set returns what the policies of some namespaces that are attached are
// compiled to, in the order of their keys; nil if there are none.
func (l *policies[T, S]) set(namespaces []string, attached func(*target) bool) *S {
	var versions []uint64
	var policies []*T
	for _, ns := range namespaces {
		for _, p := range l.inNamespace[ns] {
			if !attached(&p.target) {
				continue
			}
			if p.closed != nil {
				return p.closed
			}
			versions, policies = append(versions, p.version), append(policies, p.policy)
		}
	}
	if len(policies) == 0 {
		return nil
	}
	return l.sets.of(versions, func() *S {
		set, err := l.compile(policies...)
		if err != nil { // each was good by itself
			return l.closed(err.Error())
		}
		return set
	})
}

// good returns the policies that were accepted, in no order.
func (l *policies[T, S]) good() []*T {
	var out []*T
	for _, p := range l.byKey {
		if p.closed == nil {
			out = append(out, p.policy)
		}
	}
	return out
}

// forget drops what was compiled from versions that are no more.
func (l *policies[T, S]) forget() {
	if len(l.retired) > 0 {
		l.sets.forget(l.retired)
		l.retired = l.retired[:0]
	}
}
