package authz

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// A Matcher tests one attribute. Its zero value is Exact("").
type Matcher struct {
	kind kind
	fold bool // s is lower case; compare without regard to case

	s        string         // of exact, prefix and suffix; else as written
	glob     glob           // of a glob
	cidr     netip.Prefix   // of a CIDR
	from, to uint16         // of ports
	template *template      // of a path template
	re       *regexp.Regexp // of a regular expression
	pair     *pair          // of a request principal
}

type kind uint8

const (
	kindExact kind = iota
	kindPrefix
	kindSuffix
	kindPresent
	kindSome
	kindGlob
	kindCIDR
	kindPorts
	kindTemplate
	kindRegexp
	kindPair
)

// Exact matches s.
func Exact(s string) Matcher { return Matcher{kind: kindExact, s: s} }

// Prefix matches what begins with s.
func Prefix(s string) Matcher { return Matcher{kind: kindPrefix, s: s} }

// Suffix matches what ends with s.
func Suffix(s string) Matcher { return Matcher{kind: kindSuffix, s: s} }

// Present matches whatever is there.
func Present() Matcher { return Matcher{kind: kindPresent} }

// NonEmpty matches what is there and has at least one character.
func NonEmpty() Matcher { return Matcher{kind: kindSome} }

// Wildcard reads a string of AuthorizationPolicy: "*" is Present, "*x" is a
// Suffix, "x*" a Prefix, and all else is Exact; any other "*" stands for itself.
func Wildcard(s string) Matcher {
	if s == "*" {
		return Present()
	}
	if rest, ok := strings.CutPrefix(s, "*"); ok {
		return Suffix(rest)
	}
	if rest, ok := strings.CutSuffix(s, "*"); ok {
		return Prefix(rest)
	}
	return Exact(s)
}

// Glob matches s, in which every "*" stands for any characters, or none.
func Glob(s string) Matcher {
	if !strings.Contains(s, "*") {
		return Exact(s)
	}
	return Matcher{kind: kindGlob, s: s, glob: strings.Split(s, "*")}
}

// Contains matches what s is part of.
func Contains(s string) Matcher {
	return Matcher{kind: kindGlob, s: "*" + s + "*", glob: []string{"", s, ""}}
}

// A glob is the text around its wildcards.
type glob []string

func (g glob) match(v string) bool {
	last := len(g) - 1
	if len(v) < len(g[0])+len(g[last]) || !strings.HasPrefix(v, g[0]) || !strings.HasSuffix(v, g[last]) {
		return false
	}
	v = v[len(g[0]) : len(v)-len(g[last])]
	for _, piece := range g[1:last] {
		i := strings.Index(v, piece)
		if i < 0 {
			return false
		}
		v = v[i+len(piece):]
	}
	return true
}

// CIDR matches the addresses in p. An IPv4 address mapped into IPv6 is an IPv4
// address.
func CIDR(p netip.Prefix) Matcher {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return Matcher{kind: kindCIDR, cidr: p.Masked()}
}

// Ports matches the ports from first to last.
func Ports(first, last uint16) Matcher { return Matcher{kind: kindPorts, from: first, to: last} }

// Regexp matches what the whole of expr matches. It is for policies of other
// languages than Istio's, and on identities it allocates.
func Regexp(expr string) (Matcher, error) {
	re, err := regexp.Compile(`^(?s:` + expr + `)$`)
	if err != nil {
		return Matcher{}, err
	}
	return Matcher{kind: kindRegexp, s: expr, re: re}, nil
}

// Fold returns m without regard to the case of ASCII letters. It is for Exact,
// Prefix and Suffix of attributes other than identities.
func (m Matcher) Fold() Matcher {
	m.s, m.fold = strings.ToLower(m.s), true
	return m
}

// String returns m as a policy would write it.
func (m Matcher) String() string {
	switch m.kind {
	case kindPrefix:
		return m.s + "*"
	case kindSuffix:
		return "*" + m.s
	case kindPresent, kindSome:
		return "*"
	case kindCIDR:
		return m.cidr.String()
	case kindPorts:
		if m.from == m.to {
			return fmt.Sprint(m.from)
		}
		return fmt.Sprintf("%d-%d", m.from, m.to)
	case kindRegexp:
		return "~" + m.s
	}
	return m.s
}

// MatchString reports whether m matches v.
func (m Matcher) MatchString(v string) bool { return m.text(v) }

// text tests a string that is there.
func (m *Matcher) text(v string) bool {
	switch m.kind {
	case kindExact:
		return len(v) == len(m.s) && m.same(v)
	case kindPrefix:
		return len(v) >= len(m.s) && m.same(v[:len(m.s)])
	case kindSuffix:
		return len(v) >= len(m.s) && m.same(v[len(v)-len(m.s):])
	case kindPresent:
		return true
	case kindSome:
		return v != ""
	case kindGlob:
		return m.glob.match(v)
	case kindTemplate:
		return m.template.match(v)
	case kindRegexp:
		return m.re.MatchString(v)
	}
	return false
}

// same compares v, which is as long as m.s.
func (m *Matcher) same(v string) bool {
	if !m.fold {
		return v == m.s
	}
	for i := 0; i < len(v); i++ {
		c := v[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != m.s[i] {
			return false
		}
	}
	return true
}

// rope tests a string that is in pieces.
func (m *Matcher) rope(pieces []string) bool {
	switch m.kind {
	case kindExact:
		n := 0
		for _, p := range pieces {
			n += len(p)
		}
		if n != len(m.s) {
			return false
		}
		rest := m.s
		for _, p := range pieces {
			var ok bool
			if rest, ok = strings.CutPrefix(rest, p); !ok {
				return false
			}
		}
		return true
	case kindPrefix:
		rest := m.s
		for _, p := range pieces {
			if len(rest) <= len(p) {
				return strings.HasPrefix(p, rest)
			}
			if !strings.HasPrefix(rest, p) {
				return false
			}
			rest = rest[len(p):]
		}
		return false
	case kindSuffix:
		rest := m.s
		for i := len(pieces) - 1; i >= 0; i-- {
			p := pieces[i]
			if len(rest) <= len(p) {
				return strings.HasSuffix(p, rest)
			}
			if !strings.HasSuffix(rest, p) {
				return false
			}
			rest = rest[:len(rest)-len(p)]
		}
		return false
	case kindPresent, kindSome:
		return true
	case kindRegexp:
		return m.re.MatchString(strings.Join(pieces, ""))
	}
	return false
}

// addr tests an address, which has been unmapped.
func (m *Matcher) addr(a netip.Addr) bool { return m.kind == kindCIDR && m.cidr.Contains(a) }

// port tests a port.
func (m *Matcher) port(p uint16) bool { return m.kind == kindPorts && m.from <= p && p <= m.to }
