package config

import (
	"hash/maphash"
	"iter"
)

// A table is a cow of pointers that does not hold keys: what it holds knows by
// which it is found. A map takes some 60 bytes an entry for a pointer under an
// address, this takes 16, and there may be hundreds of thousands. The zero table
// is empty.
type table[K finder[V], V any] struct {
	shards *[shardCount]*shard[V]
	n      int
}

// A finder is the key of a table.
type finder[V any] interface {
	comparable
	finds(*V) bool // whether v, which is in the table, may be under this key
}

// A shard holds the values of a part of the hashes. A value is at the place that
// its hash says, or at the first after it that was free.
type shard[V any] struct {
	hashes []uint32 // 0: a free place
	values []*V
	n      int
}

// hashOf returns the shard of a key, and its hash within.
func hashOf[K comparable](k K) (shard uint64, hash uint32) {
	h := maphash.Comparable(hashSeed, k)
	return h % shardCount, uint32(h>>32) | 1
}

// place returns where a hash belongs.
func (s *shard[V]) place(hash uint32) int {
	return int(uint64(hash) * uint64(len(s.hashes)) >> 32)
}

func (s *shard[V]) next(i int) int {
	if i++; i == len(s.hashes) {
		return 0
	}
	return i
}

// find returns where the value of k is, or the free place where it would be. The
// shard must have one.
func find[K finder[V], V any](s *shard[V], k K, hash uint32) (i int, ok bool) {
	for i = s.place(hash); s.hashes[i] != 0; i = s.next(i) {
		if s.hashes[i] == hash && k.finds(s.values[i]) {
			return i, true
		}
	}
	return i, false
}

// get returns the value of k, or nil.
func (t *table[K, V]) get(k K) *V {
	if t.shards == nil {
		return nil
	}
	i, hash := hashOf(k)
	s := t.shards[i]
	if s == nil {
		return nil
	}
	if at, ok := find(s, k, hash); ok {
		return s.values[at]
	}
	return nil
}

// all iterates over the values in no particular order.
func (t *table[K, V]) all() iter.Seq[*V] {
	return func(yield func(*V) bool) {
		if t.shards == nil {
			return
		}
		for _, s := range t.shards {
			if s == nil {
				continue
			}
			for i, hash := range s.hashes {
				if hash != 0 && !yield(s.values[i]) {
					return
				}
			}
		}
	}
}

// A tableEdit makes the successor of a table; or, never done, is a table that
// changes.
type tableEdit[K finder[V], V any] struct {
	table[K, V]
	owned [shardCount / 64]uint64 // the shards that are ours to change
}

// editTable returns an edit that begins with t, which stays as it is.
func editTable[K finder[V], V any](t table[K, V]) *tableEdit[K, V] { return &tableEdit[K, V]{table: t} }

// set puts v, which k must find, at k.
func (e *tableEdit[K, V]) set(k K, v *V) {
	i, hash := hashOf(k)
	s := e.own(i)
	at, ok := find(s, k, hash)
	if !ok {
		if s.full() {
			s.grow()
			at, _ = find(s, k, hash)
		}
		s.n++
		e.n++
	}
	s.hashes[at], s.values[at] = hash, v
}

// remove takes k out.
func (e *tableEdit[K, V]) remove(k K) {
	if e.get(k) == nil {
		return
	}
	i, hash := hashOf(k)
	s := e.own(i)
	at, _ := find(s, k, hash)
	s.free(at)
	s.n--
	e.n--
}

// done returns the successor. The edit must not be used again.
func (e *tableEdit[K, V]) done() table[K, V] { return e.table }

// own returns shard i, copied if this edit has not copied it before.
func (e *tableEdit[K, V]) own(i uint64) *shard[V] {
	if e.owned == [shardCount / 64]uint64{} {
		next := new([shardCount]*shard[V])
		if e.shards != nil {
			*next = *e.shards
		}
		e.shards = next
	}
	if bit := uint64(1) << (i % 64); e.owned[i/64]&bit == 0 {
		e.owned[i/64] |= bit
		e.shards[i] = e.shards[i].clone()
	}
	return e.shards[i]
}

// firstPlaces is how many places the smallest shard has.
const firstPlaces = 4

func (s *shard[V]) clone() *shard[V] {
	if s == nil {
		return &shard[V]{hashes: make([]uint32, firstPlaces), values: make([]*V, firstPlaces)}
	}
	// Not slices.Clone: that rounds the length up, and the places are to be few.
	c := &shard[V]{hashes: make([]uint32, len(s.hashes)), values: make([]*V, len(s.values)), n: s.n}
	copy(c.hashes, s.hashes)
	copy(c.values, s.values)
	return c
}

// full reports whether one more would make ways long: a sixth is to be free.
func (s *shard[V]) full() bool { return 6*(s.n+1) > 5*len(s.hashes) }

// grow makes room.
func (s *shard[V]) grow() {
	old := *s
	places := len(old.hashes)*5/4 + firstPlaces
	s.hashes, s.values = make([]uint32, places), make([]*V, places)
	for i, hash := range old.hashes {
		if hash == 0 {
			continue
		}
		at := s.place(hash)
		for s.hashes[at] != 0 {
			at = s.next(at)
		}
		s.hashes[at], s.values[at] = hash, old.values[i]
	}
}

// free frees a place, and moves up what was put further away for its sake.
func (s *shard[V]) free(at int) {
	for i := s.next(at); s.hashes[i] != 0; i = s.next(i) {
		if s.between(at, s.place(s.hashes[i]), i) {
			continue
		}
		s.hashes[at], s.values[at] = s.hashes[i], s.values[i]
		at = i
	}
	s.hashes[at], s.values[at] = 0, nil
}

// between reports whether home is after at and not after i, on the way round
// that leads from at to i.
func (s *shard[V]) between(at, home, i int) bool {
	if at < i {
		return at < home && home <= i
	}
	return at < home || home <= i
}
