package authz

import (
	"math"
)

// NewSetForTest returns the Set of entries with an index for lists of more than
// short items; a negative number stands for none.
func NewSetForTest(entries []Entry, short int) *Set {
	if short < 0 {
		short = math.MaxInt
	}
	return newSet(entries, short)
}

// GuardsForTest returns what e is found by, as the index has it.
func GuardsForTest(e *Expr) (out []string) {
	names := [guardKinds]string{"principal", "account", "subject", "source", "path", "namespace", "issuer", "dest", "port", "method"}
	for _, keys := range guardsOf(e) {
		for _, k := range keys {
			text := names[k.kind] + "=" + k.text
			if k.prefix {
				text += "*"
			}
			out = append(out, text)
		}
	}
	return out
}

// LookedAtForTest returns how many rules of s are looked at, at most, to judge in.
func LookedAtForTest(s *Set, in *Input) (n int) {
	var f facts
	f.read(in)
	d := s.of(in)
	for _, l := range []*list{&d.refuse, &d.audit, &d.deny, &d.allow, &d.dryDeny, &d.dryAllow} {
		n += l.lookedAt(&f)
	}
	for i := range d.custom {
		n += d.custom[i].list.lookedAt(&f)
	}
	return n
}

func (l *list) lookedAt(f *facts) int {
	if l.index == nil {
		return len(l.items)
	}
	return l.index.lookedAt(f)
}

func (n *branch) lookedAt(f *facts) int {
	if n == nil {
		return 0
	}
	sum := len(n.rest)
	for i := range n.tables {
		t := &n.tables[i]
		if t.kind.ofAddress() {
			a := f.src
			if t.kind == byDest {
				a = f.dst
			}
			for _, length := range t.blocks.lengths(a) {
				sum += t.blocks.of(a, length).lookedAt(f)
			}
			continue
		}
		if t.kind != byPath {
			sum += t.only(f).lookedAt(f)
			continue
		}
		sum += t.texts[f.path].lookedAt(f)
		for p, path := &t.prefixes, f.path; p != nil; p, path = p.next(path) {
			sum += p.branch.lookedAt(f)
		}
	}
	return sum
}
