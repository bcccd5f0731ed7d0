package manifest

import (
	"strconv"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// Limits of Gateway API's schema.
const (
	maxParents  = 32
	maxRules    = 16
	maxMatches  = 64 // of a rule
	maxTotal    = 128
	maxFilters  = 16
	maxBackends = 16
)

// A converter turns an HTTPRoute into one of ours. The first fault ends it.
type converter struct {
	o     *Options
	route *gatewayv1.HTTPRoute
	fault *fault

	// service looks up a Service and reports whether it has the port; nil when
	// only the form is of interest.
	service func(namespace, name string, port uint16) (found, hasPort bool)
}

func (c *converter) fail(field, format string, args ...any) {
	if c.fault == nil {
		c.fault = faultf(field, format, args...)
	}
}

// validateHTTPRoute refuses what Gateway API's validation would, and what is
// valid but not supported.
func validateHTTPRoute(r *gatewayv1.HTTPRoute) *fault {
	o := Options{}.withDefaults()
	c := &converter{o: &o, route: r}
	out := c.convert()
	if c.fault != nil {
		return c.fault
	}
	if len(out.Parents) == 0 { // Gateways only: routing.Validate wants a service
		out.Parents = []routing.Parent{{Service: mesh.Hostname{Namespace: r.Namespace, Host: r.Name}}}
	}
	if err := routing.Validate(out); err != nil {
		text, _, _ := strings.Cut(err.Error(), "\n")
		text = strings.TrimPrefix(text, out.Key().String()+": ")
		if field, reason, ok := strings.Cut(text, ": "); ok && strings.HasPrefix(field, "spec.") {
			return &fault{field, reason}
		}
		return &fault{"spec", text}
	}
	return nil
}

func (c *converter) convert() *routing.Route {
	r := c.route
	out := &routing.Route{Namespace: r.Namespace, Name: r.Name, Created: r.CreationTimestamp.Time}
	c.parents(out)
	if n := len(r.Spec.Rules); n > maxRules {
		c.fail("spec.rules", "has %d rules, more than %d", n, maxRules)
	}
	rules, total := r.Spec.Rules, 0
	if len(rules) == 0 {
		rules = []gatewayv1.HTTPRouteRule{{}} // the schema's default: one that matches everything
	}
	names := map[string]bool{}
	for i := range rules {
		at := "spec.rules[" + strconv.Itoa(i) + "]"
		rule := c.rule(&rules[i], at)
		if rule.Name != "" && names[rule.Name] {
			c.fail(at+".name", "%q is used twice", rule.Name)
		}
		names[rule.Name] = true
		if total += len(rule.Matches); total > maxTotal {
			c.fail(at+".matches", "the route has more than %d matches", maxTotal)
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}

// parents keeps the Services among the parents. Gateways are an ingress's
// business, and refused is what nobody here would serve.
func (c *converter) parents(out *routing.Route) {
	refs := c.route.Spec.ParentRefs
	if len(refs) == 0 {
		c.fail("spec.parentRefs", "is required")
	}
	if len(refs) > maxParents {
		c.fail("spec.parentRefs", "has %d parents, more than %d", len(refs), maxParents)
	}
	for i, p := range refs {
		at := "spec.parentRefs[" + strconv.Itoa(i) + "]"
		if p.Name == "" {
			c.fail(at+".name", "is required")
		}
		if isGateway(p) {
			continue
		}
		switch group, kind := value(p.Group, gatewayv1.GroupName), value(p.Kind, kindGateway); {
		case kind != kindService:
			c.fail(at+".kind", "%s is not supported: Service or Gateway", kind)
		case group != "" && group != "core":
			c.fail(at+".group", `%q has no kind Service: it needs group: ""`, group)
		case string(value(p.Namespace, gatewayv1.Namespace(c.route.Namespace))) != c.route.Namespace:
			c.fail(at+".namespace", "%q is not the route's own: routes of a Service's clients are not supported", *p.Namespace)
		}
		out.Parents = append(out.Parents, routing.Parent{
			Service: c.o.hostname(c.route.Namespace, string(p.Name)),
			Port:    uint16(value(p.Port, 0)),
			Section: string(value(p.SectionName, "")),
		})
	}
}

func isGateway(p gatewayv1.ParentReference) bool {
	return value(p.Group, gatewayv1.GroupName) == gatewayv1.GroupName && value(p.Kind, kindGateway) == kindGateway
}

// value returns what p points to, or else def.
func value[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

func (c *converter) rule(r *gatewayv1.HTTPRouteRule, at string) routing.RouteRule {
	out := routing.RouteRule{Name: string(value(r.Name, "")), Filters: c.filters(r.Filters, at+".filters", false)}
	if len(r.Matches) > maxMatches {
		c.fail(at+".matches", "has %d matches, more than %d", len(r.Matches), maxMatches)
	}
	for i := range r.Matches {
		out.Matches = append(out.Matches, c.match(&r.Matches[i], at+".matches["+strconv.Itoa(i)+"]"))
	}
	if len(r.BackendRefs) > maxBackends {
		c.fail(at+".backendRefs", "has %d backends, more than %d", len(r.BackendRefs), maxBackends)
	}
	for i := range r.BackendRefs {
		out.Backends = append(out.Backends, c.backend(&r.BackendRefs[i], at+".backendRefs["+strconv.Itoa(i)+"]"))
	}
	switch {
	case r.Timeouts != nil && (r.Timeouts.Request != nil || r.Timeouts.BackendRequest != nil):
		c.fail(at+".timeouts", "is not supported")
	case r.Retry != nil:
		c.fail(at+".retry", "is not supported")
	case r.SessionPersistence != nil:
		c.fail(at+".sessionPersistence", "is not supported")
	}
	return out
}

var methods = map[gatewayv1.HTTPMethod]bool{
	"GET": true, "HEAD": true, "POST": true, "PUT": true, "DELETE": true,
	"CONNECT": true, "OPTIONS": true, "TRACE": true, "PATCH": true,
}

func (c *converter) match(m *gatewayv1.HTTPRouteMatch, at string) routing.Match {
	out := routing.Match{}
	if p := m.Path; p != nil {
		out.Path.Value = value(p.Value, "/")
		switch kind := value(p.Type, gatewayv1.PathMatchPathPrefix); kind {
		case gatewayv1.PathMatchExact:
			out.Path.Kind = routing.PathExact
		case gatewayv1.PathMatchPathPrefix:
			out.Path.Kind = routing.PathPrefix
		case gatewayv1.PathMatchRegularExpression:
			out.Path.Kind = routing.PathRegex
		default:
			c.fail(at+".path.type", "%q is none of Exact, PathPrefix, RegularExpression", kind)
		}
	}
	for i, h := range m.Headers {
		regex := c.regex(string(value(h.Type, "")), at+".headers["+strconv.Itoa(i)+"].type")
		out.Headers = append(out.Headers, routing.ValueMatch{Name: string(h.Name), Value: h.Value, Regex: regex})
	}
	for i, q := range m.QueryParams {
		regex := c.regex(string(value(q.Type, "")), at+".queryParams["+strconv.Itoa(i)+"].type")
		out.Query = append(out.Query, routing.ValueMatch{Name: string(q.Name), Value: q.Value, Regex: regex})
	}
	if m.Method != nil {
		if !methods[*m.Method] {
			c.fail(at+".method", "%q is not a method that a route can name", *m.Method)
		}
		out.Method = string(*m.Method)
	}
	return out
}

func (c *converter) regex(kind, at string) bool {
	switch kind {
	case "", string(gatewayv1.HeaderMatchExact):
		return false
	case string(gatewayv1.HeaderMatchRegularExpression):
		return true
	}
	c.fail(at, "%q is neither Exact nor RegularExpression", kind)
	return false
}

// backend keeps a backend that cannot serve, and says why: its share of the
// requests is answered with 500, as Gateway API has it.
func (c *converter) backend(b *gatewayv1.HTTPBackendRef, at string) routing.Backend {
	out := routing.Backend{Weight: uint32(value(b.Weight, 1)), Filters: c.filters(b.Filters, at+".filters", true)}
	if w := value(b.Weight, 1); w < 0 {
		c.fail(at+".weight", "%d is negative", w)
	}
	if b.Name == "" {
		c.fail(at+".name", "is required")
	}
	group, kind := string(value(b.Group, "")), string(value(b.Kind, kindService))
	namespace, name := string(value(b.Namespace, gatewayv1.Namespace(c.route.Namespace))), string(b.Name)
	switch {
	case kind == "Hostname" && group == "networking.istio.io" && b.Port != nil:
		out.Service, out.Port = c.hostBackend(namespace, name), uint16(*b.Port)
	case kind != kindService || group != "" && group != "core":
		out.Invalid = "backend " + kind + " " + name + ": kind is not supported"
	case b.Port == nil:
		c.fail(at+".port", "is required for a Service")
	case *b.Port < 1 || *b.Port > 65535:
		c.fail(at+".port", "%d is not 1 to 65535", *b.Port)
	default:
		out.Service, out.Port = c.o.hostname(namespace, name), uint16(*b.Port)
		if c.service != nil {
			out.Invalid = c.missing(namespace, name, out.Port)
		}
	}
	return out
}

// hostBackend finds the namespace in the name of a Kubernetes service.
func (c *converter) hostBackend(namespace, host string) mesh.Hostname {
	if rest, ok := strings.CutSuffix(host, ".svc."+c.o.ClusterDomain); ok {
		if _, ns, ok := strings.Cut(rest, "."); ok {
			namespace = ns
		}
	}
	return mesh.Hostname{Namespace: namespace, Host: host}
}

func (c *converter) missing(namespace, name string, port uint16) string {
	found, hasPort := c.service(namespace, name, port)
	switch {
	case !found:
		return "backend Service " + namespace + "/" + name + ": not found"
	case !hasPort:
		return "backend Service " + namespace + "/" + name + ": has no port " + strconv.Itoa(int(port))
	}
	return ""
}

func (c *converter) filters(in []gatewayv1.HTTPRouteFilter, at string, backend bool) routing.Filters {
	var out routing.Filters
	if len(in) > maxFilters {
		c.fail(at, "has %d filters, more than %d", len(in), maxFilters)
	}
	seen := map[gatewayv1.HTTPRouteFilterType]bool{}
	for i := range in {
		f, at := &in[i], at+"["+strconv.Itoa(i)+"]"
		if seen[f.Type] {
			c.fail(at+".type", "%s may not be repeated", f.Type)
		}
		seen[f.Type] = true
		c.filter(&out, f, at, backend)
	}
	return out
}

func (c *converter) filter(out *routing.Filters, f *gatewayv1.HTTPRouteFilter, at string, backend bool) {
	set := 0
	for _, is := range []bool{
		f.RequestHeaderModifier != nil, f.ResponseHeaderModifier != nil, f.RequestRedirect != nil, f.URLRewrite != nil,
		f.RequestMirror != nil, f.CORS != nil, f.ExternalAuth != nil, f.ExtensionRef != nil,
	} {
		if is {
			set++
		}
	}
	has := false
	switch f.Type {
	case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
		if has = f.RequestHeaderModifier != nil; has {
			out.Request = headerEdit(f.RequestHeaderModifier)
		}
	case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
		if has = f.ResponseHeaderModifier != nil; has {
			out.Response = headerEdit(f.ResponseHeaderModifier)
		}
	case gatewayv1.HTTPRouteFilterRequestRedirect:
		if has = f.RequestRedirect != nil; has {
			out.Redirect = c.redirect(f.RequestRedirect, at+".requestRedirect")
		}
	case gatewayv1.HTTPRouteFilterURLRewrite:
		if has = f.URLRewrite != nil; has {
			out.Rewrite = &routing.Rewrite{Hostname: string(value(f.URLRewrite.Hostname, "")), Path: c.pathEdit(f.URLRewrite.Path, at+".urlRewrite.path")}
		}
	default:
		c.fail(at+".type", "%s is not supported", f.Type)
		return
	}
	if !has || set != 1 {
		c.fail(at, "needs what its type %s names, and nothing else", f.Type)
	}
	if backend && (out.Redirect != nil || out.Rewrite != nil) {
		c.fail(at+".type", "%s is not supported on a backend", f.Type)
	}
}

func headerEdit(f *gatewayv1.HTTPHeaderFilter) *routing.HeaderEdit {
	fields := func(in []gatewayv1.HTTPHeader) (out []l7.Field) {
		for _, h := range in {
			out = append(out, l7.Field{Name: string(h.Name), Value: h.Value})
		}
		return out
	}
	return &routing.HeaderEdit{Set: fields(f.Set), Add: fields(f.Add), Remove: f.Remove}
}

func (c *converter) redirect(f *gatewayv1.HTTPRequestRedirectFilter, at string) *routing.Redirect {
	if p := value(f.Port, 1); p < 1 || p > 65535 {
		c.fail(at+".port", "%d is not 1 to 65535", p)
	}
	return &routing.Redirect{
		Scheme:   value(f.Scheme, ""),
		Hostname: string(value(f.Hostname, "")),
		Port:     uint16(value(f.Port, 0)),
		Path:     c.pathEdit(f.Path, at+".path"),
		Status:   value(f.StatusCode, 0),
	}
}

func (c *converter) pathEdit(p *gatewayv1.HTTPPathModifier, at string) *routing.PathEdit {
	switch {
	case p == nil:
		return nil
	case p.Type == gatewayv1.FullPathHTTPPathModifier && p.ReplaceFullPath != nil && p.ReplacePrefixMatch == nil:
		return &routing.PathEdit{Value: *p.ReplaceFullPath}
	case p.Type == gatewayv1.PrefixMatchHTTPPathModifier && p.ReplacePrefixMatch != nil && p.ReplaceFullPath == nil:
		return &routing.PathEdit{Prefix: true, Value: *p.ReplacePrefixMatch}
	case p.Type != gatewayv1.FullPathHTTPPathModifier && p.Type != gatewayv1.PrefixMatchHTTPPathModifier:
		c.fail(at+".type", "%q is neither ReplaceFullPath nor ReplacePrefixMatch", p.Type)
	default:
		c.fail(at, "needs what its type %s names, and nothing else", p.Type)
	}
	return nil
}
