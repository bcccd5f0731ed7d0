package authz

import (
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// A guard is a condition that an Expr needs to hold: that one attribute of the
// input has one of a few values. It is what an Expr can be found by.
type guard []key

// A key is a value of an attribute. A path may have to begin with it only.
type key struct {
	text   string
	kind   guardKind
	prefix bool
}

// A guardKind says which attribute a guard is about, and how its keys are
// written. Those that tell more apart come first.
type guardKind uint8

const (
	byPrincipal guardKind = iota // td/ns/namespace/sa/account
	byAccount                    // namespace/sa/account
	bySubject                    // of the token
	bySource                     // a block of addresses
	byPath
	byNamespace
	byIssuer // of the token
	byDest   // a block of addresses
	byPort   // of the destination
	byMethod
	guardKinds
)

// ofAddress reports whether a guard is about an address: its keys are blocks.
func (k guardKind) ofAddress() bool { return k == bySource || k == byDest }

// ofPeer reports whether a guard is about the peer's identity.
func (k guardKind) ofPeer() bool { return k == byPrincipal || k == byAccount || k == byNamespace }

// identity returns the part of an identity that a key is about.
func (k key) identity() (id identity.ID) {
	text := k.text
	if k.kind == byPrincipal {
		id.TrustDomain, text, _ = strings.Cut(text, "/ns/")
	}
	id.Namespace, id.ServiceAccount, _ = strings.Cut(text, "/sa/")
	return id
}

// maxKeys is how many values a guard may have: more of them tell little, and an
// entry is stored under each.
const maxKeys = 64

// guards are the guards of one Expr, one of each kind. Where there is none, a
// guard is nil: the Expr may hold whatever that attribute is.
type guards [guardKinds]guard

// guardsOf finds out what e needs. It looks at positive conditions only, and
// knows a few kinds of matchers: what it does not understand needs nothing.
func guardsOf(e *Expr) (out guards) {
	switch e.op {
	case opMatch:
		out.match(e)
	case opAnd:
		for _, k := range e.kids {
			out.both(guardsOf(k))
		}
	case opOr:
		out = guardsOf(e.kids[0])
		for _, k := range e.kids[1:] {
			out.either(guardsOf(k))
		}
	}
	return out
}

// both has g need what other does, too. One guard of a kind is enough, so the
// shorter is kept.
func (g *guards) both(other guards) {
	for k := range g {
		if g[k] == nil || other[k] != nil && len(other[k]) < len(g[k]) {
			g[k] = other[k]
		}
	}
}

// either has g need one of two things.
func (g *guards) either(other guards) {
	for k := range g {
		if g[k] == nil || other[k] == nil || len(g[k])+len(other[k]) > maxKeys {
			g[k] = nil
			continue
		}
		g[k] = append(g[k][:len(g[k]):len(g[k])], other[k]...)
	}
}

// match has g need what the matcher e does.
func (g *guards) match(e *Expr) {
	m := &e.test
	switch {
	case m.fold:
	case e.attr == Path:
		g.path(m)
	case e.attr == Method || e.attr == Header && e.name == ":method":
		if m.kind == kindExact {
			g.need(byMethod, m.s)
		}
	case e.attr == Namespace:
		if m.kind == kindExact {
			g.need(byNamespace, m.s)
		}
	case e.attr == ServiceAccount:
		if m.kind == kindExact && strings.Count(m.s, "/") == 1 {
			ns, sa, _ := strings.Cut(m.s, "/")
			g.account(ns + "/sa/" + sa)
		}
	case e.attr == SourceIP:
		g.block(bySource, m)
	case e.attr == DestIP:
		g.block(byDest, m)
	case e.attr == DestPort:
		if m.kind == kindPorts && m.from == m.to {
			g.need(byPort, strconv.Itoa(int(m.from)))
		}
	case e.attr == RequestPrincipal:
		g.token(m)
	case e.attr == Principal:
		g.principal(m, m.s)
	case e.attr == URI:
		if rest, ok := strings.CutPrefix(m.s, "spiffe://"); ok || m.kind == kindSuffix {
			g.principal(m, rest)
		}
	}
}

func (g *guards) need(kind guardKind, text string) { g[kind] = guard{{text: text, kind: kind}} }

func (g *guards) path(m *Matcher) {
	switch {
	case m.kind == kindExact:
		g.need(byPath, m.s)
	case m.kind == kindPrefix:
		g[byPath] = guard{{m.s, byPath, true}}
	case m.kind == kindTemplate && m.template.literals[0] != "":
		g[byPath] = guard{{m.template.literals[0], byPath, true}}
	}
}

// token has g need what m does of a request principal.
func (g *guards) token(m *Matcher) {
	if m.kind != kindPair {
		return
	}
	if issuer := &m.pair.issuer; issuer.kind == kindExact {
		g.need(byIssuer, issuer.s)
	}
	if subject := &m.pair.subject; subject.kind == kindExact {
		g.need(bySubject, subject.s)
	}
}

// principal has g need what m does of a principal: the whole of it, or what of
// td/ns/namespace/sa/account is sure to be there.
func (g *guards) principal(m *Matcher, text string) {
	_, rest, ok := strings.Cut(text, "/")
	rest, ns := strings.CutPrefix(rest, "ns/")
	if !ok || !ns {
		return
	}
	namespace, account, ended := strings.Cut(rest, "/")
	account, sa := strings.CutPrefix(account, "sa/")
	whole := sa && !strings.Contains(account, "/")
	switch {
	case m.kind == kindExact && whole:
		g.need(byPrincipal, text)
		g.account(rest)
	case m.kind == kindSuffix && whole:
		g.account(rest)
	case m.kind == kindPrefix && ended:
		g.need(byNamespace, namespace)
	}
}

// account has g need a namespace/sa/account.
func (g *guards) account(text string) {
	ns, _, _ := strings.Cut(text, "/")
	g.need(byAccount, text)
	g.need(byNamespace, ns)
}
