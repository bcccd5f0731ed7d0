package config

import (
	"hash/maphash"
	"iter"
	"maps"
)

// shardCount is how many maps a cow is made of. A change copies the maps that
// it touches and the array of them: of 100,000 entries, about a hundred and the
// 8 KiB array, instead of all.
const shardCount = 1024

// hashSeed spreads keys over shards. One for the process: a shard index never
// leaves it.
var hashSeed = maphash.MakeSeed()

// A cow is an immutable map that shares with its successor whatever did not
// change. The zero cow is empty.
type cow[K comparable, V any] struct {
	shards *[shardCount]map[K]V
	n      int
}

func shardOf[K comparable](k K) uint64 { return maphash.Comparable(hashSeed, k) % shardCount }

// get returns the value of k, or the zero value.
func (c *cow[K, V]) get(k K) V {
	if c.shards == nil {
		var zero V
		return zero
	}
	return c.shards[shardOf(k)][k]
}

// all iterates over the entries in no particular order.
func (c *cow[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		if c.shards == nil {
			return
		}
		for _, m := range c.shards {
			for k, v := range m {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

// An edit makes the successor of a cow.
type edit[K comparable, V any] struct {
	cow[K, V]
	owned [shardCount / 64]uint64 // the shards that are ours to change
}

// editOf returns an edit that begins with c, which stays as it is.
func editOf[K comparable, V any](c cow[K, V]) *edit[K, V] { return &edit[K, V]{cow: c} }

// set puts v at k.
func (e *edit[K, V]) set(k K, v V) {
	m := e.own(shardOf(k))
	if _, ok := m[k]; !ok {
		e.n++
	}
	m[k] = v
}

// remove takes k out.
func (e *edit[K, V]) remove(k K) {
	i := shardOf(k)
	if e.shards == nil || e.shards[i] == nil {
		return
	}
	if _, ok := e.shards[i][k]; !ok {
		return
	}
	delete(e.own(i), k)
	e.n--
}

// own returns shard i, copied if this edit has not copied it before.
func (e *edit[K, V]) own(i uint64) map[K]V {
	if e.owned == [shardCount / 64]uint64{} {
		next := new([shardCount]map[K]V)
		if e.shards != nil {
			*next = *e.shards
		}
		e.shards = next
	}
	if bit := uint64(1) << (i % 64); e.owned[i/64]&bit == 0 {
		e.owned[i/64] |= bit
		m := maps.Clone(e.shards[i])
		if m == nil {
			m = map[K]V{}
		}
		e.shards[i] = m
	}
	return e.shards[i]
}

// done returns the successor. The edit must not be used again.
func (e *edit[K, V]) done() cow[K, V] { return e.cow }
