package config

import "slices"

// An index says who owns each key, such as an address: several may, and the
// list is in order of preference. It remembers the keys whose list, or anything
// about whose owners, changed since the last publish.
type index[K comparable, V comparable] struct {
	compare func(a, b V) int // no two owners are equal
	owners  map[K][]V
	dirty   map[K]struct{}
}

func newIndex[K, V comparable](compare func(a, b V) int) index[K, V] {
	return index[K, V]{compare, map[K][]V{}, map[K]struct{}{}}
}

func (x *index[K, V]) add(k K, v V) {
	list := x.owners[k]
	i, found := slices.BinarySearchFunc(list, v, x.compare)
	if !found {
		x.owners[k] = slices.Insert(list, i, v)
	}
	x.touch(k)
}

// drop takes v out of the list of k. Its place is found by looking, for what it
// is compared by may have changed since it was added.
func (x *index[K, V]) drop(k K, v V) {
	list := x.owners[k]
	if i := slices.Index(list, v); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		delete(x.owners, k)
	} else {
		x.owners[k] = list
	}
	x.touch(k)
}

func (x *index[K, V]) touch(k K) { x.dirty[k] = struct{}{} }

// flush writes what became of the dirty keys into a successor of c: view makes
// the value of a list, and a false ok removes the key.
func flush[K, V comparable, T any](x *index[K, V], c cow[K, T], view func(list []V) (t T, ok bool)) cow[K, T] {
	if len(x.dirty) == 0 {
		return c
	}
	e := editOf(c)
	for k := range x.dirty {
		if t, ok := view(x.owners[k]); ok {
			e.set(k, t)
		} else {
			e.remove(k)
		}
	}
	x.dirty = map[K]struct{}{} // not cleared: one that was once large would take long to walk
	return e.done()
}
