package authz

import (
	"slices"
	"strings"
)

// A trust is the local trust domain followed by its aliases: they are one
// domain under several names, so a policy that names one means all.
type trust []string

func domains(local string, aliases []string) trust {
	if local == "" {
		local = defaultTrust
	}
	t := trust{local}
	for _, a := range aliases {
		if !slices.Contains(t, a) {
			t = append(t, a)
		}
	}
	return t
}

// local reports whether td, which may begin or end with "*", is a name of the
// local trust domain. "cluster.local" always is: it is how a policy says so that
// has to hold in any mesh.
func (t trust) local(td string) bool {
	return td == defaultTrust || slices.ContainsFunc(t, func(name string) bool { return fits(td, name) })
}

// fits reports whether a trust domain is what a policy wrote.
func fits(written, td string) bool {
	if rest, ok := strings.CutPrefix(written, "*"); ok {
		return strings.HasSuffix(td, rest)
	}
	if rest, ok := strings.CutSuffix(written, "*"); ok {
		return strings.HasPrefix(td, rest)
	}
	return written == td
}

// principals returns what a principal stands for: itself, or if its trust
// domain is the local one, itself in each. Only a whole principal,
// td/ns/namespace/sa/account, is known to begin with a trust domain.
func (t trust) principals(principal string) []string {
	td, rest, _ := strings.Cut(principal, "/")
	if strings.Count(rest, "/") != 3 || td == "*" || !t.local(td) {
		return []string{principal}
	}
	var out []string
	for _, name := range t {
		p := name + "/" + rest
		if strings.HasPrefix(td, "*") && fits(td, name) {
			p = principal // its wildcard covers the name
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// expand returns what a trust domain stands for: in this field, unlike in a
// principal, "cluster.local" is a name like any other.
func (t trust) expand(td string) []string {
	if slices.Contains(t, td) {
		return t
	}
	return []string{td}
}
