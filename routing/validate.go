package routing

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// The Gateway API's limits.
const (
	maxPathValue = 1024      // bytes of a path match or of a path that replaces one
	maxWeight    = 1_000_000 // so that no sum of weights overflows
)

// Validate reports what is wrong with a route, as the Gateway API's schema
// would: every error, joined, each naming its field. Where a schema stands
// before us it has found nothing; a route from a file had none.
func Validate(r *Route) error {
	v := &validation{route: r.Key().String()}
	if len(r.Parents) == 0 {
		v.fail("parentRefs", "names no service")
	}
	for i := range r.Rules {
		v.at(fmt.Sprintf("rules[%d]", i), func() { v.rule(&r.Rules[i]) })
	}
	return errors.Join(v.errs...)
}

// A validation gathers errors under the path of the field it is looking at.
type validation struct {
	route, field string
	errs         []error
}

func (v *validation) at(field string, f func()) {
	outer := v.field
	v.field += field + "."
	f()
	v.field = outer
}

func (v *validation) fail(field, format string, args ...any) {
	v.errs = append(v.errs, fmt.Errorf("%s: spec.%s%s: %s", v.route, v.field, field, fmt.Sprintf(format, args...)))
}

func (v *validation) rule(r *RouteRule) {
	for i := range r.Matches {
		v.at(fmt.Sprintf("matches[%d]", i), func() { v.match(&r.Matches[i]) })
	}
	v.at("filters", func() { v.filters(&r.Filters, r) })
	for i := range r.Backends {
		b := &r.Backends[i]
		v.at(fmt.Sprintf("backendRefs[%d]", i), func() {
			if b.Weight > maxWeight {
				v.fail("weight", "%d is more than %d", b.Weight, maxWeight)
			}
			if b.Filters.Redirect != nil || b.Filters.Rewrite != nil {
				v.fail("filters", "a backend can edit headers only")
			}
			v.at("filters", func() { v.headers(&b.Filters) })
		})
	}
}

func (v *validation) match(m *Match) {
	p := m.Path
	switch p.Kind {
	case AnyPath:
		if p.Value != "" {
			v.fail("path.type", "is not set, but path.value is")
		}
	case PathExact, PathPrefix:
		v.path("path.value", p.Value)
	case PathRegex:
		if _, err := fullMatch(p.Value); err != nil {
			v.fail("path.value", "%v", err)
		} else if len(p.Value) > maxPathValue {
			v.fail("path.value", "is longer than %d bytes", maxPathValue)
		}
	default:
		v.fail("path.type", "%d is none of Exact, PathPrefix, RegularExpression", p.Kind)
	}
	if m.Method != "" && !isToken(m.Method) {
		v.fail("method", "%q is not a method", m.Method)
	}
	v.values("headers", m.Headers, true)
	v.values("queryParams", m.Query, false)
}

// path checks a path that is compared: it must be one that a request can have
// once it has been normalised.
func (v *validation) path(field, p string) {
	v.newPath(field, p)
	for i := 0; i < len(p); i++ {
		if _, escape := escapeAt(p, i); !escape && !isPathChar(p[i]) {
			v.fail(field, "%q: %q needs an escape", p, p[i:i+1])
			break
		}
	}
	for _, s := range []string{"//", "/./", "/../", "%2f", "%2F"} {
		if strings.Contains(p, s) {
			v.fail(field, "%q contains %q", p, s)
		}
	}
	for _, s := range []string{"/.", "/.."} {
		if strings.HasSuffix(p, s) {
			v.fail(field, "%q ends in %q", p, s)
		}
	}
}

// newPath checks a path that is put into a request.
func (v *validation) newPath(field, p string) {
	switch _, err := Normalize(NormalizeNone, p); {
	case len(p) > maxPathValue:
		v.fail(field, "is longer than %d bytes", maxPathValue)
	case !strings.HasPrefix(p, "/"):
		v.fail(field, "%q does not begin with a slash", p)
	case err != nil:
		v.fail(field, "%q: %v", p, err)
	case strings.Contains(p, "?"):
		v.fail(field, "%q has a query", p)
	}
}

// isPathChar reports whether a path may hold c without an escape (RFC 3986,
// section 3.3).
func isPathChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-/._~!$&'()*+,;=:@", c) >= 0
}

func (v *validation) values(field string, ms []ValueMatch, header bool) {
	for i, m := range ms {
		f := fmt.Sprintf("%s[%d].", field, i)
		if m.Name == "" || header && !isToken(m.Name) {
			v.fail(f+"name", "%q is not a name", m.Name)
		}
		if !m.Regex {
			continue
		}
		if _, err := fullMatch(m.Value); err != nil {
			v.fail(f+"value", "%v", err)
		}
	}
}

func (v *validation) filters(f *Filters, r *RouteRule) {
	v.headers(f)
	if f.Redirect != nil && f.Rewrite != nil {
		v.fail("requestRedirect", "excludes urlRewrite")
	}
	if d := f.Redirect; d != nil {
		v.at("requestRedirect", func() { v.redirect(d, r) })
	}
	if w := f.Rewrite; w != nil {
		v.at("urlRewrite", func() {
			v.hostname(w.Hostname)
			v.pathEdit(w.Path, r)
		})
	}
}

func (v *validation) redirect(d *Redirect, r *RouteRule) {
	switch d.Scheme {
	case "", "http", "https":
	default:
		v.fail("scheme", "%q is neither http nor https", d.Scheme)
	}
	switch d.Status {
	case 0, 301, 302, 303, 307, 308:
	default:
		v.fail("statusCode", "%d is none of 301, 302, 303, 307, 308", d.Status)
	}
	if len(r.Backends) > 0 {
		v.fail("backendRefs", "a rule that redirects has none")
	}
	v.hostname(d.Hostname)
	v.pathEdit(d.Path, r)
}

func (v *validation) hostname(h string) {
	if h == "" {
		return
	}
	if _, err := netip.ParseAddr(h); err == nil {
		v.fail("hostname", "%q is an address", h)
		return
	}
	for label := range strings.SplitSeq(h, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || label[0] == '-' || label[len(label)-1] == '-' {
			v.fail("hostname", "%q is not a DNS name in lower case", h)
			return
		}
	}
}

func (v *validation) pathEdit(p *PathEdit, r *RouteRule) {
	if p == nil {
		return
	}
	field := "path.replaceFullPath"
	if p.Prefix {
		field = "path.replacePrefixMatch"
		one := len(r.Matches) == 0 || len(r.Matches) == 1 && (r.Matches[0].Path.Kind == PathPrefix || r.Matches[0].Path.Kind == AnyPath)
		if !one {
			v.fail(field, "needs a rule with exactly one match, of type PathPrefix")
		}
		if p.Value == "" {
			return // takes the prefix away
		}
	}
	v.newPath(field, p.Value)
}

func (v *validation) headers(f *Filters) {
	if f.Request != nil {
		v.at("requestHeaderModifier", func() { v.edit(f.Request, true) })
	}
	if f.Response != nil {
		v.at("responseHeaderModifier", func() { v.edit(f.Response, false) })
	}
}

func (v *validation) edit(e *HeaderEdit, request bool) {
	seen := map[string]bool{}
	name := func(field, name string) {
		lower := strings.ToLower(name)
		switch {
		case !isToken(name):
			v.fail(field, "%q is not a name", name)
		case seen[lower]:
			v.fail(field, "%q is named twice", name)
		case framing(lower):
			v.fail(field, "%q belongs to the connection", name)
		case lower == "host" && !(request && field == "set"):
			v.fail(field, "host can only be set, and only in a request")
		}
		seen[lower] = true
	}
	fields := func(field string, fs []l7.Field) {
		for _, f := range fs {
			name(field, f.Name)
			if strings.ContainsAny(f.Value, "\r\n\x00") {
				v.fail(field, "the value of %q has a line break or NUL", f.Name)
			}
		}
	}
	fields("set", e.Set)
	fields("add", e.Add)
	for _, n := range e.Remove {
		name("remove", n)
	}
}

// framing reports whether a field says how a message is delimited or how its
// connection is used: a route that set it could smuggle requests.
func framing(name string) bool {
	switch name {
	case "connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade":
		return true
	}
	return false
}

// isToken reports whether s is a token (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}
