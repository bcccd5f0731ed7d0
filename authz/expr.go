package authz

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// An Expr is a condition on an Input: and, or, not, or a Matcher applied to an
// Attribute. Every policy language is compiled to it. An Expr is data, not
// code: it can be printed, compared and indexed, and each node knows the field
// that it came from.
type Expr struct {
	op     op
	attr   Attribute
	name   string   // of a header field, lower case; of a claim, the key that it was written as
	path   []string // of a claim
	test   Matcher
	kids   []*Expr
	origin string
}

type op uint8

const (
	opNever op = iota
	opAlways
	opAnd
	opOr
	opNot
	opMatch
)

// An Attribute is what an Expr asks an Input for. An Input may lack it: no
// Matcher matches then, so that Not of it holds.
type Attribute uint8

// The attributes.
const (
	Principal      Attribute = iota // the peer's SPIFFE ID without the scheme
	URI                             // the peer's SPIFFE ID
	Namespace                       // of the peer
	ServiceAccount                  // of the peer: namespace/account
	TrustDomain                     // of the peer
	SourceIP
	DestIP
	DestPort
	SNI
	Host   // the authority of a request
	Method // of a request
	Path   // of a request, without query and fragment
	Header // a named field of a request

	RequestPrincipal // the issuer and subject of the request's token
	Claim            // of the token, by its path: a string, or any of a list
)

func (a Attribute) String() string {
	return [...]string{"principal", "uri", "namespace", "serviceAccount", "trustDomain", "sourceIP", "destIP",
		"destPort", "sni", "host", "method", "path", "header", "requestPrincipal", "claim"}[a]
}

// IsHTTP reports whether only a request has the attribute.
func (a Attribute) IsHTTP() bool { return a >= Host }

// Always matches every Input.
func Always(origin string) *Expr { return &Expr{op: opAlways, origin: origin} }

// Never matches no Input.
func Never(origin string) *Expr { return &Expr{op: opNever, origin: origin} }

// And matches when every one of kids does; with no kids, always.
func And(origin string, kids ...*Expr) *Expr { return join(opAnd, opAlways, opNever, origin, kids) }

// Or matches when one of kids does; with no kids, never.
func Or(origin string, kids ...*Expr) *Expr { return join(opOr, opNever, opAlways, origin, kids) }

// join builds an And or an Or. Kids that cannot change the answer go, one that
// settles it stands for all, and a lone kid stands for itself: what is left is
// what has to be evaluated.
func join(o, unit, zero op, origin string, kids []*Expr) *Expr {
	e := &Expr{op: o, origin: origin}
	for _, k := range kids {
		switch k.op {
		case unit:
		case zero:
			return k
		default:
			e.kids = append(e.kids, k)
		}
	}
	switch len(e.kids) {
	case 0:
		return &Expr{op: unit, origin: origin}
	case 1:
		return e.kids[0]
	}
	return e
}

// Not matches when kid does not.
func Not(origin string, kid *Expr) *Expr {
	switch kid.op {
	case opAlways:
		return Never(origin)
	case opNever:
		return Always(origin)
	}
	return &Expr{op: opNot, kids: []*Expr{kid}, origin: origin}
}

// Match applies m to the attribute a, which is neither Header nor Claim.
func Match(origin string, a Attribute, m Matcher) *Expr {
	return &Expr{op: opMatch, attr: a, test: m, origin: origin}
}

// MatchHeader applies m to the values of the header field called name, joined
// by commas.
func MatchHeader(origin, name string, m Matcher) *Expr {
	return &Expr{op: opMatch, attr: Header, name: strings.ToLower(name), test: m, origin: origin}
}

// MatchClaim applies m to the claim at path: one name, or for a claim inside of
// others, several.
func MatchClaim(origin string, path []string, m Matcher) *Expr {
	return &Expr{op: opMatch, attr: Claim, path: path, test: m, origin: origin}
}

// asksHTTP reports whether e asks for what only a request has.
func (e *Expr) asksHTTP() bool {
	if e == nil {
		return false
	}
	return e.op == opMatch && e.attr.IsHTTP() || slices.ContainsFunc(e.kids, (*Expr).asksHTTP)
}

// asksName reports whether e asks for the server name of a connection.
func (e *Expr) asksName() bool {
	if e == nil {
		return false
	}
	return e.op == opMatch && e.attr == SNI || slices.ContainsFunc(e.kids, (*Expr).asksName)
}

// Origin returns the field that e was compiled from, such as
// "AuthorizationPolicy default/reviews: spec.rules[0].from[1].source.principals[2]".
func (e *Expr) Origin() string { return e.origin }

// String returns e in a form for people: or(method=GET, not(path=/a*)).
func (e *Expr) String() string {
	if e == nil {
		return "never"
	}
	var b strings.Builder
	e.print(&b)
	return b.String()
}

func (e *Expr) print(b *strings.Builder) {
	switch e.op {
	case opNever:
		b.WriteString("never")
	case opAlways:
		b.WriteString("always")
	case opMatch:
		b.WriteString(e.attr.String())
		if e.attr == Header {
			fmt.Fprintf(b, "[%s]", e.name)
		}
		for _, name := range e.path {
			fmt.Fprintf(b, "[%s]", name)
		}
		fmt.Fprintf(b, "=%s", e.test)
	default:
		b.WriteString([...]string{opAnd: "and(", opOr: "or(", opNot: "not("}[e.op])
		for i, k := range e.kids {
			if i > 0 {
				b.WriteString(", ")
			}
			k.print(b)
		}
		b.WriteByte(')')
	}
}

// Match reports whether e holds for in. A nil Expr never does.
func (e *Expr) Match(in *Input) bool {
	var f facts
	f.read(in)
	return e.match(&f)
}

func (e *Expr) match(f *facts) bool {
	if e == nil {
		return false
	}
	switch e.op {
	case opAlways:
		return true
	case opAnd:
		for _, k := range e.kids {
			if !k.match(f) {
				return false
			}
		}
		return true
	case opOr:
		for _, k := range e.kids {
			if k.match(f) {
				return true
			}
		}
		return false
	case opNot:
		return !e.kids[0].match(f)
	case opMatch:
		return e.ask(f)
	}
	return false
}

// facts is an Input prepared for many matchers.
type facts struct {
	in       *Input
	uri      [6]string // the SPIFFE ID in pieces: put together, it would be allocated
	src, dst netip.Addr
	path     string
	sni      string // in lower case, as Envoy has it whatever the client wrote
}

func (f *facts) read(in *Input) {
	f.in = in
	f.uri = [6]string{"spiffe://", in.Peer.TrustDomain, "/ns/", in.Peer.Namespace, "/sa/", in.Peer.ServiceAccount}
	f.src, f.dst = plain(in.Source), plain(in.Dest.Addr())
	if in.SNI != "" {
		f.sni = strings.ToLower(in.SNI)
	}
	if in.HTTP != nil {
		f.path = in.HTTP.PathOnly()
		if i := strings.IndexByte(f.path, '#'); i >= 0 {
			f.path = f.path[:i]
		}
	}
}

// plain makes addresses comparable that are written differently.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// ask applies e's matcher to its attribute of f.
func (e *Expr) ask(f *facts) bool {
	m, in := &e.test, f.in
	if e.attr <= TrustDomain && in.Peer.IsZero() {
		return false
	}
	switch e.attr {
	case Principal:
		return m.rope(f.uri[1:])
	case URI:
		return m.rope(f.uri[:])
	case Namespace:
		return m.text(in.Peer.Namespace)
	case ServiceAccount:
		return m.rope([]string{in.Peer.Namespace, "/", in.Peer.ServiceAccount})
	case TrustDomain:
		return m.text(in.Peer.TrustDomain)
	case SourceIP:
		return m.addr(f.src)
	case DestIP:
		return m.addr(f.dst)
	case DestPort:
		return in.Dest.IsValid() && m.port(in.Dest.Port())
	case SNI:
		return f.sni != "" && m.text(f.sni)
	}
	if in.HTTP == nil {
		return false
	}
	switch e.attr {
	case Host:
		return in.HTTP.Authority != "" && m.text(in.HTTP.Authority)
	case Method:
		return in.HTTP.Method != "" && m.text(in.HTTP.Method)
	case Path:
		return f.path != "" && m.text(f.path)
	case Header:
		value, ok := header(in.HTTP, e.name)
		return ok && m.text(value)
	}
	if in.Token == nil {
		return false
	}
	if e.attr == RequestPrincipal {
		return m.token(in.Token)
	}
	return m.claim(in.Token.claim(e.path))
}

// header returns the field called name as Envoy would find it: what HTTP/2
// calls pseudo-fields are found by those names, and Host is the authority.
func header(r *l7.Request, name string) (string, bool) {
	value := ""
	switch name {
	case ":authority", "host":
		value = r.Authority
	case ":method":
		value = r.Method
	case ":path":
		value = r.Path
	case ":scheme":
		value = r.Scheme
	case "upgrade":
		value = r.Upgrade
	default:
		return r.Fields.Joined(name)
	}
	return value, value != ""
}
