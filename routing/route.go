package routing

import (
	"time"

	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A Route is one HTTPRoute as written. It must not change after it has been
// compiled.
type Route struct {
	Namespace, Name string
	Created         time.Time // the older route wins; zero is oldest
	Parents         []Parent
	Rules           []RouteRule
}

// A Parent is a service that a route speaks of: all its ports, or one.
type Parent struct {
	Service mesh.Hostname
	Port    uint16 // 0: every port
	Section string // the name of a port; "": every port
}

// A RouteRule is one rule of a route as written: requests that any of its
// matches describes go through its filters to one of its backends.
type RouteRule struct {
	Name     string  // "" is "<namespace>.<route>.<index>"
	Matches  []Match // none matches every request
	Filters  Filters
	Backends []Backend
}

// A Match describes requests: everything it asks for must hold. The zero Match
// describes every request.
type Match struct {
	Path    PathMatch
	Headers []ValueMatch // of entries with the same name the first counts
	Query   []ValueMatch // likewise
	Method  string       // "" is any
}

// A PathMatch says which paths match. It looks at the path without its query.
type PathMatch struct {
	Kind  PathKind
	Value string
}

// A PathKind says how a path is compared.
type PathKind uint8

// The kinds of path match.
const (
	AnyPath    PathKind = iota // as PathPrefix "/"
	PathExact                  // the very same bytes
	PathPrefix                 // the same leading segments: /a matches /a and /a/b, not /ab; a trailing slash of the value means nothing
	PathRegex                  // RE2, which must match the whole path
)

func (k PathKind) String() string {
	return [...]string{"any", "Exact", "PathPrefix", "RegularExpression"}[k]
}

// A ValueMatch asks about one header field or query parameter. A header that
// is repeated is compared as its values joined by commas; of a parameter that
// is repeated, the first is looked at. The header "host" is the authority.
type ValueMatch struct {
	Name  string // of a header in any case; of a parameter, exactly
	Value string
	Regex bool // Value is RE2 and must match the whole value
}

// Filters change a request on its way, or answer it.
type Filters struct {
	Request  *HeaderEdit
	Response *HeaderEdit
	Redirect *Redirect // answers the request; excludes Rewrite
	Rewrite  *Rewrite
}

// A HeaderEdit changes fields. A name must be in one of the three lists only.
type HeaderEdit struct {
	Set    []l7.Field // replaces the field, or adds it
	Add    []l7.Field // adds to whatever is there
	Remove []string
}

// A Redirect answers a request with another place to ask.
type Redirect struct {
	Scheme   string // "" is the request's
	Hostname string // "" is the request's
	Port     uint16 // 0: that of Scheme, or else the one that was asked
	Path     *PathEdit
	Status   int // 0 is 302
}

// A Rewrite changes what a request asks for before it is forwarded.
type Rewrite struct {
	Hostname string // "" leaves the authority alone
	Path     *PathEdit
}

// A PathEdit changes a path. The query stays as it is.
type PathEdit struct {
	Prefix bool   // replace what the rule's PathPrefix matched, else the whole path
	Value  string // what stands there instead
}

// A Backend is a service that takes a share of a rule's requests.
type Backend struct {
	Service mesh.Hostname // zero is the service the request was addressed to
	Port    uint16        // 0 is the port the request was addressed to; only with the zero Service
	Weight  uint32        // its part of the sum of all weights; 0 takes nothing
	Filters Filters       // header edits only, made after the rule's
	Invalid string        // why it cannot serve: its share is answered with 500
}

// Key returns the key a source stores r under.
func (r *Route) Key() mesh.Key {
	return mesh.Key{Kind: "HTTPRoute", Namespace: r.Namespace, Name: r.Name}
}

// Speaks reports whether r has a parent that is the service s, and if port is
// not nil, that port of it.
func (r *Route) Speaks(s *mesh.Service, port *mesh.Port) bool {
	for i := range r.Parents {
		p := &r.Parents[i]
		if p.Service != s.Host() {
			continue
		}
		if port == nil || (p.Port == 0 || p.Port == port.Service) && (p.Section == "" || p.Section == port.Name) {
			return true
		}
	}
	return false
}
