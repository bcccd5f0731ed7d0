package authz

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// A list of up to shortList items is not worth an index: see BenchmarkCheckFew.
const shortList = 8

// build gives l an index if it has more than short items.
func (l *list) build(short int) {
	if len(l.items) <= short {
		return
	}
	b := builder{short: short, budget: 16 * len(l.items), numbers: make(map[key]int32, len(l.items))}
	all := make([]int32, len(l.items))
	for i := range l.items {
		b.guards = append(b.guards, b.number(guardsOf(l.items[i].expr)))
		all[i] = int32(i)
	}
	b.count, b.found = make([]int32, len(b.keys)), make([][]int32, len(b.keys))
	l.index = b.branch(all, [guardKinds]bool{})
}

// A builder makes the index of a list. It knows keys by their numbers.
type builder struct {
	guards  [][guardKinds][]int32 // of each item
	keys    []key
	numbers map[key]int32
	short   int
	budget  int // how often an item may still be stored, over all

	// Of the branch being made, by key: how many items need it, and which of
	// those are found by it.
	count []int32
	found [][]int32
}

// number returns the keys of guards as numbers, each once.
func (b *builder) number(g guards) (out [guardKinds][]int32) {
	for k := range g {
		for _, key := range g[k] {
			n, known := b.numbers[key]
			if !known {
				n = int32(len(b.keys))
				b.keys, b.numbers[key] = append(b.keys, key), n
			}
			if !slices.Contains(out[k], n) {
				out[k] = append(out[k], n)
			}
		}
	}
	return out
}

// branch makes a branch of the items at positions, which are in order. The kinds
// of guards that were used on the way to it are of no more use.
func (b *builder) branch(positions []int32, used [guardKinds]bool) *branch {
	n := &branch{items: positions}
	b.budget -= len(positions)
	if len(positions) <= b.short || b.budget < 0 {
		n.rest = positions
		return n
	}
	b.add(positions, 1)
	var by [guardKinds][]int32 // the keys that something is found by
	for _, i := range positions {
		k, ok := b.choose(i, used)
		if !ok {
			n.rest = append(n.rest, i)
			continue
		}
		for _, key := range b.guards[i][k] {
			if b.found[key] == nil {
				by[k] = append(by[k], key)
			}
			b.found[key] = append(b.found[key], i)
		}
	}
	b.add(positions, -1)
	var found [guardKinds][][]int32
	for k := range by { // before the branches below find theirs
		for _, key := range by[k] {
			found[k] = append(found[k], b.found[key])
			b.found[key] = nil
		}
	}
	for k := range by {
		if by[k] != nil {
			n.tables = append(n.tables, b.table(guardKind(k), by[k], found[k], used))
		}
	}
	return n
}

// add adds n to the count of every key that the items need.
func (b *builder) add(positions []int32, n int32) {
	for _, i := range positions {
		for _, keys := range b.guards[i] {
			for _, key := range keys {
				b.count[key] += n
			}
		}
	}
}

// choose returns the guard by which an item is to be found: the one whose
// commonest key is the rarest, so that little else is found by it.
func (b *builder) choose(i int32, used [guardKinds]bool) (best guardKind, ok bool) {
	least := int32(0)
	for k, keys := range b.guards[i] {
		if used[k] || keys == nil {
			continue
		}
		most := int32(0)
		for _, key := range keys {
			most = max(most, b.count[key])
		}
		if !ok || most < least {
			best, least, ok = guardKind(k), most, true
		}
	}
	return best, ok
}

// table makes a table of what was found by each of keys.
func (b *builder) table(k guardKind, keys []int32, found [][]int32, used [guardKinds]bool) table {
	used[k] = true
	t := table{kind: k}
	for i, number := range keys {
		n, key := b.branch(found[i], used), b.keys[number]
		switch {
		case key.prefix:
			t.prefixes.add(key.text, n)
		case k.ofAddress():
			t.blocks.add(netip.MustParsePrefix(key.text), n) // which a prefix wrote
		case k == byPort:
			if t.ports == nil {
				t.ports = make(map[uint16]*branch, len(keys))
			}
			port, _ := strconv.ParseUint(key.text, 10, 16) // a port wrote it
			t.ports[uint16(port)] = n
		case k.ofPeer():
			if t.ids == nil {
				t.ids = make(map[identity.ID]*branch, len(keys))
			}
			t.ids[key.identity()] = n
		default:
			if t.texts == nil {
				t.texts = make(map[string]*branch, len(keys))
			}
			t.texts[key.text] = n
		}
	}
	return t
}
