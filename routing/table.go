package routing

import (
	"strings"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// A Rule is one rule of a table. It is immutable.
type Rule struct {
	Name     string // as the access log has it
	Route    *Route // nil for the default rule
	Filters  Filters
	Backends []Backend

	total  uint64 // of the weights
	prefix string // what a PathEdit of a prefix replaces
}

// defaultRule takes every request to the service it was addressed to.
var defaultRule = &Rule{Name: "default", Backends: []Backend{{Weight: 1}}, total: 1}

// Match returns the rule for the request, or nil when there is none: that is a
// 404 (route_not_found). The request's path has been normalised. The table of
// no routes, which is also the nil Table, matches everything.
//
// Match allocates nothing, unless a header it asks about is repeated or a
// query parameter must be unescaped for an expression.
func (t *Table) Match(req *l7.Request) *Rule {
	if t == nil {
		return defaultRule
	}
	path, query, _ := strings.Cut(req.Path, "?")
	if r := first(t.exact[path], req, path, query); r != nil {
		return r
	}
	if r := t.matchPrefix(req, path, query); r != nil {
		return r
	}
	return first(t.regex, req, path, query)
}

// matchPrefix tries the path and then every shorter run of its leading
// segments, down to "", which is the prefix "/". A path is looked up at most
// once for each of its slashes within the longest prefix of the table, so that
// a path of ten thousand slashes costs no more than one of a few.
func (t *Table) matchPrefix(req *l7.Request, path, query string) *Rule {
	if len(t.prefix) == 0 {
		return nil
	}
	end := len(path)
	if end > t.maxPrefix {
		if path[t.maxPrefix] == '/' {
			end = t.maxPrefix
		} else {
			end = max(0, strings.LastIndexByte(path[:t.maxPrefix], '/'))
		}
	}
	for {
		if r := first(t.prefix[path[:end]], req, path, query); r != nil {
			return r
		}
		if end == 0 {
			return nil
		}
		end = max(0, strings.LastIndexByte(path[:end], '/'))
	}
}

// first returns the rule of the first entry that matches.
func first(entries []*entry, req *l7.Request, path, query string) *Rule {
	for _, e := range entries {
		if e.matches(req, path, query) {
			return e.rule
		}
	}
	return nil
}

func (e *entry) matches(req *l7.Request, path, query string) bool {
	if e.method != "" && e.method != req.Method {
		return false
	}
	if e.path != nil && !e.path.MatchString(path) {
		return false
	}
	for i := range e.headers {
		h := &e.headers[i]
		got, ok := req.Authority, true
		if h.name != "host" {
			got, ok = req.Fields.Joined(h.name)
		}
		if !ok || !h.matches(got) {
			return false
		}
	}
	for i := range e.query {
		if !e.query[i].matchesQuery(query) {
			return false
		}
	}
	return true
}

func (v *value) matches(s string) bool {
	if v.regex != nil {
		return v.regex.MatchString(s)
	}
	return v.exact == s
}

// matchesQuery looks at the first parameter of that name. A value may be
// written in the route as it is sent or as what it stands for.
func (v *value) matchesQuery(query string) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, got, _ := strings.Cut(pair, "=")
		if !equalUnescaped(name, v.name) {
			continue
		}
		if v.regex != nil {
			return v.regex.MatchString(unescape(got))
		}
		return got == v.exact || equalUnescaped(got, v.exact)
	}
	return false
}

// equalUnescaped reports whether the query component s stands for want.
func equalUnescaped(s, want string) bool {
	if len(s) < len(want) {
		return false // unescaping only shortens
	}
	n := 0
	for i := 0; i < len(s); n++ {
		c, w := unescapeAt(s, i)
		if n == len(want) || want[n] != c {
			return false
		}
		i += w
	}
	return n == len(want)
}

// unescape returns what the query component s stands for.
func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		c, w := unescapeAt(s, i)
		out = append(out, c)
		i += w
	}
	return string(out)
}

// unescapeAt returns the byte that s[i:] begins with and how long it is
// written. A percent sign that begins no escape stands for itself.
func unescapeAt(s string, i int) (c byte, width int) {
	switch s[i] {
	case '+':
		return ' ', 1
	case '%':
		if c, ok := escapeAt(s, i); ok {
			return c, 3
		}
	}
	return s[i], 1
}

// escapeAt returns the byte that the escape %XX at s[i] stands for.
func escapeAt(s string, i int) (byte, bool) {
	if i+2 >= len(s) {
		return 0, false
	}
	hi, ok1 := unhex(s[i+1])
	lo, ok2 := unhex(s[i+2])
	return hi<<4 | lo, ok1 && ok2
}

func unhex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
