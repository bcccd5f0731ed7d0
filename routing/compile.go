package routing

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// A Table is a set of routes in order of precedence. It is immutable and safe
// for concurrent use. A nil Table is the table of no routes.
type Table struct {
	exact     map[string][]*entry // by path
	prefix    map[string][]*entry // by prefix, without its trailing slash
	regex     []*entry
	maxPrefix int // length of the longest key of prefix
	entries   int
}

// An entry is one match of one rule.
type entry struct {
	rule    *Rule
	method  string
	path    *regexp.Regexp
	headers []value
	query   []value

	// What decides precedence besides the fields above.
	kind         PathKind
	length       int
	route        *Route
	index, match int
}

// A value is a compiled ValueMatch.
type value struct {
	name, exact string
	regex       *regexp.Regexp
}

// Compile builds the table of the routes. Their parents are not looked at: the
// caller gives the routes that speak of one port of one service, in any order.
// The error joins what Validate says of each route.
//
// No routes give a table in which every request matches the rule "default".
func Compile(routes ...*Route) (*Table, error) {
	var errs []error
	for _, r := range routes {
		if err := Validate(r); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var entries []*entry
	for _, r := range routes {
		for i := range r.Rules {
			compiled, err := compileRule(r, i)
			if err != nil {
				return nil, err
			}
			entries = append(entries, compiled...)
		}
	}
	if len(routes) == 0 {
		return nil, nil
	}
	return index(entries), nil
}

// compileRule returns the entries of rule i of r. They share one Rule.
func compileRule(r *Route, i int) ([]*entry, error) {
	written := &r.Rules[i]
	rule := &Rule{Name: written.Name, Route: r, Filters: written.Filters.compiled(), Backends: slices.Clone(written.Backends)}
	if rule.Name == "" {
		rule.Name = r.Namespace + "." + r.Name + "." + strconv.Itoa(i)
	}
	for b := range rule.Backends {
		rule.Backends[b].Filters = rule.Backends[b].Filters.compiled()
		rule.total += uint64(rule.Backends[b].Weight)
	}
	matches := written.Matches
	if len(matches) == 0 {
		matches = []Match{{}}
	}
	if len(matches) == 1 && matches[0].Path.Kind == PathPrefix {
		rule.prefix = strings.TrimSuffix(matches[0].Path.Value, "/")
	}
	var out []*entry
	for m := range matches {
		e, err := compileMatch(&matches[m])
		if err != nil { // Validate has seen it: a broken invariant, but no reason to panic
			return nil, fmt.Errorf("%s: rules[%d].matches[%d]: %w", r.Key(), i, m, err)
		}
		e.rule, e.route, e.index, e.match = rule, r, i, m
		out = append(out, e)
	}
	return out, nil
}

func compileMatch(m *Match) (*entry, error) {
	e := &entry{method: m.Method, kind: m.Path.Kind, length: len(m.Path.Value)}
	switch m.Path.Kind {
	case AnyPath:
		e.kind, e.length = PathPrefix, 0
	case PathPrefix:
		e.length = len(strings.TrimSuffix(m.Path.Value, "/"))
	case PathRegex:
		re, err := fullMatch(m.Path.Value)
		if err != nil {
			return nil, err
		}
		e.path = re
	}
	var err error
	if e.headers, err = compileValues(m.Headers, strings.ToLower); err != nil {
		return nil, err
	}
	if e.query, err = compileValues(m.Query, func(s string) string { return s }); err != nil {
		return nil, err
	}
	return e, nil
}

// compileValues compiles the first of each name: the Gateway API has the
// others ignored.
func compileValues(ms []ValueMatch, fold func(string) string) ([]value, error) {
	var out []value
	for _, m := range ms {
		v := value{name: fold(m.Name), exact: m.Value}
		if slices.ContainsFunc(out, func(o value) bool { return o.name == v.name }) {
			continue
		}
		if m.Regex {
			re, err := fullMatch(m.Value)
			if err != nil {
				return nil, err
			}
			v.regex = re
		}
		out = append(out, v)
	}
	return out, nil
}

// fullMatch compiles an expression that must match the whole of a string. It
// is compiled by itself first: "a)(b" is no expression, though "(?:a)(b)" is.
func fullMatch(expr string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expr); err != nil {
		return nil, err
	}
	return regexp.Compile(`\A(?:` + expr + `)\z`)
}

// index sorts the entries and sorts them into the table's buckets, where they
// keep their order.
func index(entries []*entry) *Table {
	slices.SortFunc(entries, precedence)
	t := &Table{exact: map[string][]*entry{}, prefix: map[string][]*entry{}, entries: len(entries)}
	for _, e := range entries {
		path := e.route.Rules[e.index].path(e.match)
		switch e.kind {
		case PathExact:
			t.exact[path] = append(t.exact[path], e)
		case PathPrefix:
			path = strings.TrimSuffix(path, "/")
			t.prefix[path] = append(t.prefix[path], e)
			t.maxPrefix = max(t.maxPrefix, len(path))
		case PathRegex:
			t.regex = append(t.regex, e)
		}
	}
	return t
}

// path returns the path of match i, which need not be written.
func (r *RouteRule) path(i int) string {
	if len(r.Matches) == 0 {
		return ""
	}
	return r.Matches[i].Path.Value
}

// precedence compares two entries as the package comment says; the one that
// wins comes first.
func precedence(a, b *entry) int {
	return cmp.Or(
		cmp.Compare(a.kind, b.kind), // the constants are in order of precedence
		-cmp.Compare(a.length, b.length),
		-cmp.Compare(min(len(a.method), 1), min(len(b.method), 1)),
		-cmp.Compare(len(a.headers), len(b.headers)),
		-cmp.Compare(len(a.query), len(b.query)),
		a.route.Created.Compare(b.route.Created),
		cmp.Compare(a.route.Namespace+"/"+a.route.Name, b.route.Namespace+"/"+b.route.Name),
		cmp.Compare(a.index, b.index),
		cmp.Compare(a.match, b.match),
	)
}

// compiled returns f with its names in lower case, as fields have them.
func (f Filters) compiled() Filters {
	f.Request, f.Response = f.Request.compiled(), f.Response.compiled()
	return f
}

func (e *HeaderEdit) compiled() *HeaderEdit {
	if e == nil {
		return nil
	}
	fold := func(in []l7.Field) []l7.Field {
		out := slices.Clone(in)
		for i := range out {
			out[i].Name = strings.ToLower(out[i].Name)
		}
		return out
	}
	c := &HeaderEdit{Set: fold(e.Set), Add: fold(e.Add), Remove: slices.Clone(e.Remove)}
	for i := range c.Remove {
		c.Remove[i] = strings.ToLower(c.Remove[i])
	}
	return c
}
