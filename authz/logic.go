package authz

import (
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// Constant reports whether e is the same for every Input, and what.
func (e *Expr) Constant() (value, ok bool) {
	if e == nil || e.op == opNever {
		return false, true
	}
	return true, e.op == opAlways
}

// Implies reports whether other holds for every Input that e holds for. It may
// say no where it does not see it, and is right when it says yes.
func (e *Expr) Implies(other *Expr) bool {
	switch {
	case e == nil || e.op == opNever || other != nil && other.op == opAlways:
		return true
	case other == nil || other.op == opNever || e.op == opAlways:
		return false
	case e.op == opOr:
		return !slices.ContainsFunc(e.kids, func(k *Expr) bool { return !k.Implies(other) })
	case other.op == opAnd:
		return !slices.ContainsFunc(other.kids, func(k *Expr) bool { return !e.Implies(k) })
	case e.op == opAnd && slices.ContainsFunc(e.kids, func(k *Expr) bool { return k.Implies(other) }):
		return true
	case other.op == opOr:
		return slices.ContainsFunc(other.kids, e.Implies)
	case e.op == opNot && other.op == opNot:
		return other.kids[0].Implies(e.kids[0])
	case e.op == opMatch && other.op == opNot:
		return e.excludes(other.kids[0])
	case e.op == opMatch && other.op == opMatch:
		return e.implies(other)
	}
	return false
}

// implies is Implies of two matchers.
func (e *Expr) implies(other *Expr) bool {
	switch {
	case e.asksAs(other):
		return other.test.covers(&e.test)
	case e.attr > TrustDomain || other.attr > TrustDomain:
		return false
	case other.test.kind == kindPresent:
		return true // of an identity there is all or nothing
	}
	known := e.peer()
	return other.askedOf(known) && other.Match(&Input{Peer: known})
}

// peer returns what e, a matcher of an identity, says about the identity.
func (e *Expr) peer() (id identity.ID) {
	g := guardsOf(e)
	for _, keys := range []guard{g[byNamespace], g[byAccount], g[byPrincipal]} {
		if len(keys) == 1 {
			id = keys[0].identity()
		}
	}
	return id
}

// askedOf reports whether id has the parts that e, a matcher of an identity, asks
// for.
func (e *Expr) askedOf(id identity.ID) bool {
	switch e.attr {
	case Namespace:
		return id.Namespace != ""
	case ServiceAccount:
		return id.ServiceAccount != ""
	}
	return id.TrustDomain != ""
}

// excludes reports whether other holds for no Input that e, a matcher, holds for.
func (e *Expr) excludes(other *Expr) bool {
	switch {
	case other.op == opOr:
		return !slices.ContainsFunc(other.kids, func(k *Expr) bool { return !e.excludes(k) })
	case other.op == opAnd:
		return slices.ContainsFunc(other.kids, e.excludes)
	case other.op == opNot:
		return e.Implies(other.kids[0])
	case other.op != opMatch:
		return other.op == opNever
	case e.attr == Claim:
		return false // of a list, one item may match this and one that
	case e.asksAs(other):
		return e.test.disjoint(&other.test)
	case e.attr > TrustDomain || other.attr > TrustDomain:
		return false
	}
	if known := e.peer(); other.askedOf(known) {
		return !other.Match(&Input{Peer: known})
	}
	known := other.peer()
	return e.askedOf(known) && !e.Match(&Input{Peer: known})
}

// covers reports whether m matches whatever n matches.
func (m *Matcher) covers(n *Matcher) bool {
	switch {
	case m.kind == n.kind && m.fold == n.fold && m.String() == n.String() && slices.Equal(m.glob, n.glob):
		return true
	case m.kind == kindPresent:
		return true
	case m.kind == kindCIDR && n.kind == kindCIDR:
		return m.cidr.Bits() <= n.cidr.Bits() && m.cidr.Contains(n.cidr.Addr())
	case m.kind == kindPorts && n.kind == kindPorts:
		return m.from <= n.from && n.to <= m.to
	case m.kind == kindPair && n.kind == kindPair:
		return m.pair.issuer.covers(&n.pair.issuer) && m.pair.subject.covers(&n.pair.subject)
	case n.fold && !m.fold:
		return false
	case n.kind == kindExact:
		return m.text(n.s)
	case m.kind == kindSome:
		return (n.kind == kindPrefix || n.kind == kindSuffix) && n.s != ""
	case n.kind == kindPrefix && m.kind == kindPrefix:
		return m.text(n.s)
	case n.kind == kindTemplate && m.kind == kindPrefix:
		return m.text(n.template.literals[0])
	case n.kind == kindSuffix && m.kind == kindSuffix:
		return m.text(n.s)
	}
	return false
}

// disjoint reports whether nothing matches both m and n.
func (m *Matcher) disjoint(n *Matcher) bool {
	switch {
	case m.kind == kindCIDR && n.kind == kindCIDR:
		return !m.cidr.Overlaps(n.cidr)
	case m.kind == kindPorts && n.kind == kindPorts:
		return m.to < n.from || n.to < m.from
	case m.kind == kindPair && n.kind == kindPair:
		return m.pair.issuer.disjoint(&n.pair.issuer) || m.pair.subject.disjoint(&n.pair.subject)
	case m.fold != n.fold:
		return false
	case m.kind == kindExact:
		return !n.text(m.s)
	case n.kind == kindExact:
		return !m.text(n.s)
	case m.kind == kindPrefix && n.kind == kindPrefix:
		return !strings.HasPrefix(m.s, n.s) && !strings.HasPrefix(n.s, m.s)
	case m.kind == kindSuffix && n.kind == kindSuffix:
		return !strings.HasSuffix(m.s, n.s) && !strings.HasSuffix(n.s, m.s)
	}
	return false
}

// Contradiction returns the origins of two conditions of e that exclude one
// another, so that e never holds. It may not see that there are any.
func (e *Expr) Contradiction() (a, b string, found bool) {
	switch {
	case e == nil:
	case e.op == opOr:
		for i, k := range e.kids { // each of them must have one
			x, y, ok := k.Contradiction()
			if !ok {
				return "", "", false
			}
			if i == 0 {
				a, b = x, y
			}
		}
		return a, b, true
	case e.op == opAnd:
		all := e.conjuncts(nil)
		for i, x := range all {
			for _, y := range all[i+1:] {
				if x.never(y) {
					return x.origin, y.origin, true
				}
			}
		}
		for _, x := range all {
			if a, b, found = x.Contradiction(); found {
				return a, b, true
			}
		}
	}
	return "", "", false
}

// conjuncts appends what has to hold for e to hold.
func (e *Expr) conjuncts(out []*Expr) []*Expr {
	if e.op != opAnd {
		return append(out, e)
	}
	for _, k := range e.kids {
		out = k.conjuncts(out)
	}
	return out
}

// never reports whether e and other never hold at once.
func (e *Expr) never(other *Expr) bool {
	switch {
	case e.op == opOr:
		return !slices.ContainsFunc(e.kids, func(k *Expr) bool { return !k.never(other) })
	case other.op == opOr:
		return !slices.ContainsFunc(other.kids, func(k *Expr) bool { return !e.never(k) })
	case e.op == opAnd:
		return slices.ContainsFunc(e.kids, func(k *Expr) bool { return k.never(other) })
	case other.op == opAnd:
		return slices.ContainsFunc(other.kids, e.never)
	case e.op == opMatch && other.op == opMatch:
		return e.excludes(other)
	case e.op == opNot:
		return other.Implies(e.kids[0])
	case other.op == opNot:
		return e.Implies(other.kids[0])
	}
	return false
}
