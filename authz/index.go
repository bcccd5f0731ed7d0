package authz

import (
	"strings"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// A list is Exprs, each with the Entry that it is of, in the order of their
// names. It is asked for the first one that holds.
type list struct {
	items []item
	index *branch // nil: it is short
}

type item struct {
	expr  *Expr
	entry *Entry
}

// add adds x unless it never holds.
func (l *list) add(e *Entry, x *Expr) {
	if x != nil && x.op != opNever {
		l.items = append(l.items, item{x, e})
	}
}

// first returns the first entry that matches, or nil. Most lists are empty.
func (l *list) first(f *facts) *Entry {
	if len(l.items) == 0 {
		return nil
	}
	return l.find(f)
}

func (l *list) find(f *facts) *Entry {
	if l.index == nil || f.odd() {
		for i := range l.items {
			if l.items[i].expr.match(f) {
				return l.items[i].entry
			}
		}
		return nil
	}
	i := l.index.first(f, l.items, len(l.items))
	if i == len(l.items) {
		return nil
	}
	return l.items[i].entry
}

// odd reports whether the peer's identity is not one that the index can be asked
// about: with a slash inside of a part it can be read in two ways. No SPIFFE ID
// has one.
func (f *facts) odd() bool {
	p := &f.in.Peer
	return strings.IndexByte(p.Namespace, '/') >= 0 || strings.IndexByte(p.ServiceAccount, '/') >= 0 || strings.IndexByte(p.TrustDomain, '/') >= 0
}

// A branch is a part of a list, ordered so that only what may hold is looked at:
// each item is found by one of its guards, and the rest is looked at always.
//
// The position of an item stays what it is in the list. So the first that holds
// is the least position found, and what is further back than one found already
// is not looked at.
type branch struct {
	items  []int32 // the positions of all below
	rest   []int32
	tables []table
}

// A table finds branches by one attribute.
type table struct {
	kind     guardKind
	ids      map[identity.ID]*branch
	texts    map[string]*branch
	prefixes prefixes
	blocks   blocks
	ports    map[uint16]*branch
}

// first returns the least position less than end that holds, or end.
func (n *branch) first(f *facts, items []item, end int) int {
	for _, i := range n.rest {
		if int(i) >= end {
			break
		}
		if items[i].expr.match(f) {
			end = int(i)
			break
		}
	}
	for i := range n.tables {
		end = n.tables[i].first(f, items, end)
	}
	return end
}

func (n *branch) before(f *facts, items []item, end int) int {
	if n == nil || int(n.items[0]) >= end {
		return end
	}
	return n.first(f, items, end)
}

func (t *table) first(f *facts, items []item, end int) int {
	switch t.kind {
	case byPath:
	case bySource:
		return t.blocks.first(f.src, f, items, end)
	case byDest:
		return t.blocks.first(f.dst, f, items, end)
	default:
		return t.only(f).before(f, items, end)
	}
	return t.prefixes.first(f.path, f, items, t.texts[f.path].before(f, items, end))
}

// only returns the branch that the input leads to, or nil. It is not for paths
// and addresses, of which there may be several.
func (t *table) only(f *facts) *branch {
	peer := &f.in.Peer
	switch t.kind {
	case byPrincipal:
		return t.ids[*peer]
	case byAccount:
		return t.ids[identity.ID{Namespace: peer.Namespace, ServiceAccount: peer.ServiceAccount}]
	case byNamespace:
		return t.ids[identity.ID{Namespace: peer.Namespace}]
	case byPort:
		return t.ports[f.in.Dest.Port()]
	}
	if f.in.HTTP == nil {
		return nil
	}
	token := f.in.Token
	switch {
	case t.kind == byMethod:
		return t.texts[f.in.HTTP.Method]
	case token == nil:
		return nil
	case t.kind == byIssuer:
		return t.texts[token.Issuer]
	}
	return t.texts[token.Subject]
}
