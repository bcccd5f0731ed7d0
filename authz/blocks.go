package authz

import (
	"net/netip"
	"slices"
)

// blocks find branches by the blocks of addresses that an address is in, of which
// there may be several: one of each length.
type blocks struct {
	branches map[netip.Prefix]*branch
	v4, v6   []int // the lengths that there are
}

func (b *blocks) add(p netip.Prefix, n *branch) {
	if b.branches == nil {
		b.branches = map[netip.Prefix]*branch{}
	}
	b.branches[p] = n
	lengths := &b.v6
	if p.Addr().Is4() {
		lengths = &b.v4
	}
	if !slices.Contains(*lengths, p.Bits()) {
		*lengths = append(*lengths, p.Bits())
	}
}

// lengths returns those of blocks that an address could be in.
func (b *blocks) lengths(a netip.Addr) []int {
	switch {
	case a.Is4():
		return b.v4
	case a.Is6():
		return b.v6
	}
	return nil
}

// of returns the branch of the block of a length that an address is in, or nil.
func (b *blocks) of(a netip.Addr, length int) *branch {
	p, _ := a.Prefix(length) // a has that many bits
	return b.branches[p]
}

func (b *blocks) first(a netip.Addr, f *facts, items []item, end int) int {
	for _, length := range b.lengths(a) {
		end = b.of(a, length).before(f, items, end)
	}
	return end
}

// block has g need that an address is in the block that m asks for.
func (g *guards) block(kind guardKind, m *Matcher) {
	if m.kind == kindCIDR && m.cidr.IsValid() { // one that is not has nobody in it
		g.need(kind, m.cidr.String())
	}
}
