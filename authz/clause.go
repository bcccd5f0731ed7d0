package authz

import (
	"net/netip"
	"slices"
	"strings"
)

// A Clause is one condition of a rule, and what it found: a field of a source or
// an operation, or a condition under when.
type Clause struct {
	// Field is where it is written: spec.rules[0].from[0].source.principals, with
	// [*] for an index if it is written in several places. Of what was not
	// compiled from an AuthorizationPolicy it is the place in that.
	Field string `json:"field"`

	// Attribute is what it asks for, as a key of when names it, or host, method
	// or path.
	Attribute string `json:"attribute"`

	// Wanted are the values of which one had to match, or if Not, none.
	Wanted []string `json:"wanted"`
	Not    bool     `json:"not,omitempty"`

	// Saw is the value that was there. If there was none, Missing says so: none,
	// no identity, no valid token. Secrets are not shown.
	Saw     string `json:"saw"`
	Missing string `json:"missing,omitempty"`
}

// isField reports whether e is a field of a policy or part of one: values, of
// one attribute, of which one has to match.
func (e *Expr) isField() bool {
	if e.op == opMatch {
		return true
	}
	return e.op == opOr && !slices.ContainsFunc(e.kids, func(k *Expr) bool { return !k.asksAs(e.kids[0]) })
}

// asksAs reports whether e and other ask for the same attribute.
func (e *Expr) asksAs(other *Expr) bool {
	return e.op == opMatch && other.op == opMatch && e.attr == other.attr && e.name == other.name && slices.Equal(e.path, other.path)
}

// misses returns how many clauses of e fail; 0 says that it holds. Of several
// alternatives the nearest counts. If there are more than limit, it returns some
// number greater than that.
func (e *Expr) misses(f *facts, limit int) (n int) {
	switch {
	case e == nil || e.op == opNever:
		return limit + 1
	case e.op == opAnd:
		for _, k := range e.kids {
			if n += k.misses(f, limit-n); n > limit {
				break
			}
		}
		return n
	case e.op == opOr && !e.isField():
		n = limit + 1
		for _, k := range e.kids {
			if n = min(n, k.misses(f, n-1)); n == 0 {
				break
			}
		}
		return n
	case e.match(f):
		return 0
	}
	return 1
}

// failed returns the clauses of e that fail; e does not hold. Of alternatives
// it looks at the nearest, and of equally near ones at the first.
func (e *Expr) failed(f *facts) (out []Clause) {
	switch {
	case e == nil:
	case e.isField():
		return []Clause{e.clause(f)}
	case e.op == opAnd:
		for _, k := range e.kids {
			if !k.match(f) {
				out = append(out, k.failed(f)...)
			}
		}
	case e.op == opOr:
		best, least := e.kids[0], maxMisses
		for _, k := range e.kids {
			if n := k.misses(f, least-1); n < least {
				best, least = k, n
			}
		}
		return best.failed(f)
	case e.op == opNot:
		return negated(e.kids[0].met(f))
	}
	return out
}

// met returns the clauses by which e holds. Of alternatives it looks at the
// first that does.
func (e *Expr) met(f *facts) (out []Clause) {
	switch e.op {
	case opMatch:
		return []Clause{e.clause(f)}
	case opAnd:
		for _, k := range e.kids {
			out = append(out, k.met(f)...)
		}
	case opOr:
		for _, k := range e.kids {
			if k.match(f) {
				return k.met(f)
			}
		}
	case opNot:
		return negated(e.kids[0].failed(f))
	}
	return out
}

// maxMisses is more than a rule can have clauses.
const maxMisses = 1 << 20

func negated(clauses []Clause) []Clause {
	for i := range clauses {
		clauses[i].Not = !clauses[i].Not
	}
	return clauses
}

// clause describes a field.
func (e *Expr) clause(f *facts) Clause {
	values := e.kids
	if e.op == opMatch {
		values = []*Expr{e}
	}
	first := values[0]
	c := Clause{Field: first.field(), Attribute: first.attribute()}
	for _, v := range values {
		c.Field = common(c.Field, v.field())
		if text := first.wanted(&v.test); !slices.Contains(c.Wanted, text) {
			c.Wanted = append(c.Wanted, text)
		}
	}
	saw, ok := first.saw(f)
	switch {
	case ok:
		c.Saw = saw
	case first.attr <= TrustDomain:
		c.Missing = "no identity"
	case first.attr >= RequestPrincipal && f.in.Token == nil:
		c.Missing = "no valid token"
	default:
		c.Missing = "none"
	}
	return c
}

// field returns the field that a value is of.
func (e *Expr) field() string {
	path, ok := strings.CutPrefix(e.origin, Kind+" ")
	if !ok {
		return e.origin
	}
	_, path, _ = strings.Cut(path, ": ")
	if i := strings.LastIndexByte(path, '['); i >= 0 && strings.HasSuffix(path, "]") {
		path = path[:i]
	}
	return path
}

// common returns what two fields have in common, if they differ in indexes only.
func common(a, b string) string {
	if a == b {
		return a
	}
	as, bs := strings.Split(a, "["), strings.Split(b, "[")
	if len(as) != len(bs) {
		return a
	}
	for i := range as {
		if as[i] == bs[i] {
			continue
		}
		_, at, _ := strings.Cut(as[i], "]")
		_, bt, _ := strings.Cut(bs[i], "]")
		if at != bt {
			return a
		}
		as[i] = "*]" + at
	}
	return strings.Join(as, "[")
}

// attribute names what a value is compared with.
func (e *Expr) attribute() string {
	switch e.attr {
	case Header:
		return "request.headers[" + e.name + "]"
	case Claim:
		if e.name != "" {
			return e.name
		}
		return "request.auth.claims[" + strings.Join(e.path, "][") + "]"
	}
	return [...]string{Principal: "source.principal", URI: "source.principal", Namespace: "source.namespace", ServiceAccount: "source.serviceAccount",
		TrustDomain: "source.trustDomain", SourceIP: "source.ip", DestIP: "destination.ip", DestPort: "destination.port", SNI: "connection.sni",
		Host: "host", Method: "method", Path: "path", RequestPrincipal: "request.auth.principal"}[e.attr]
}

// wanted returns m as a policy would have it.
func (e *Expr) wanted(m *Matcher) string {
	text := m.String()
	switch {
	case text == "*":
	case m.kind == kindCIDR && m.cidr.IsSingleIP():
		text = m.cidr.Addr().String()
	case e.attr == URI:
		text = strings.TrimPrefix(text, "spiffe://")
	case e.attr == Header && IsSecret(e.name):
		text = redacted
	}
	return text
}

// saw returns the value that e asks for, or false if there is none. It is a
// copy, without secrets.
func (e *Expr) saw(f *facts) (string, bool) {
	text, ok := e.value(f)
	if e.attr == Header {
		text = redactHeader(e.name, text)
	}
	return strings.Clone(redact(text)), ok
}

func (e *Expr) value(f *facts) (string, bool) {
	in := f.in
	switch e.attr {
	case Principal, URI:
		return in.Peer.Principal(), !in.Peer.IsZero()
	case Namespace:
		return in.Peer.Namespace, !in.Peer.IsZero()
	case ServiceAccount:
		return strings.Join([]string{in.Peer.Namespace, in.Peer.ServiceAccount}, "/"), !in.Peer.IsZero()
	case TrustDomain:
		return in.Peer.TrustDomain, !in.Peer.IsZero()
	case SourceIP:
		return address(f.src)
	case DestIP:
		return address(f.dst)
	case DestPort:
		return portText(in.Dest.Port()), in.Dest.IsValid()
	case SNI:
		return f.sni, f.sni != ""
	}
	if in.HTTP == nil {
		return "", false
	}
	switch e.attr {
	case Host:
		return in.HTTP.Authority, in.HTTP.Authority != ""
	case Method:
		return in.HTTP.Method, in.HTTP.Method != ""
	case Path:
		return f.path, f.path != ""
	case Header:
		return header(in.HTTP, e.name)
	}
	return tokenText(in.Token, e)
}

func address(a netip.Addr) (string, bool) {
	if !a.IsValid() {
		return "", false
	}
	return a.String(), true
}
