package authz

import "slices"

// nearest returns the ALLOW rule of l, the list of those for which of holds, that
// is nearest to matching; none of them does. If none of them can, it is the first
// of them all. It is nil if no policy is known.
func (s *Set) nearest(l *list, f *facts, limit int, of func(*Entry) bool) *ExplainedRule {
	best, least := -1, maxMisses
	look := func(i int32) {
		if n := l.items[i].expr.misses(f, least); n < least || n == least && int(i) < best {
			best, least = int(i), n
		}
	}
	if len(l.items) <= limit || l.index == nil {
		for i := range l.items {
			look(int32(i))
		}
	} else {
		l.index.near(f, limit, look)
	}
	if best >= 0 {
		return explained(l.items[best].entry, f)
	}
	i := slices.IndexFunc(s.entries, func(e *Entry) bool { return e.Action == Allow && e.Policy != nil && of(e) })
	if i < 0 {
		return nil
	}
	return explained(s.entries[i], f)
}

// near calls look for up to limit items: those that are found by one attribute of
// the input, whatever the others are, and then the first.
func (n *branch) near(f *facts, limit int, look func(int32)) {
	for i := range n.tables {
		t := &n.tables[i]
		if t.kind != byPath {
			limit = t.only(f).look(limit, look)
			continue
		}
		limit = t.texts[f.path].look(limit, look)
		limit = t.prefixes.look(f.path, limit, look)
	}
	n.look(limit, look)
}

// look calls f for up to limit of the items below n, and returns how many more
// there may be. An item that is stored several times is looked at again.
func (n *branch) look(limit int, f func(int32)) int {
	if n == nil {
		return limit
	}
	some := n.items[:min(limit, len(n.items))]
	for _, i := range some {
		f(i)
	}
	return limit - len(some)
}
