package rbac

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	uritemplate "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// What a translator makes of values.

// exact, prefix, suffix and expression are string matchers.
func exact(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

func prefixed(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s}}
}

func suffixed(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: s}}
}

func expression(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: s}}}
}

// wildcard is a value with a "*" at one end, or none.
func wildcard(v string) *matcherv3.StringMatcher {
	switch {
	case v == "*":
		return expression(".+")
	case strings.HasPrefix(v, "*"):
		return suffixed(v[1:])
	case strings.HasSuffix(v, "*"):
		return prefixed(v[:len(v)-1])
	}
	return exact(v)
}

func identityOf(m *matcherv3.StringMatcher) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_FilterState{FilterState: &matcherv3.FilterStateMatcher{Key: peerPrincipal,
		Matcher: &matcherv3.FilterStateMatcher_StringMatch{StringMatch: m}}}}
}

// domains are the names of the local trust domain.
func (x *translator) domains() []string {
	local := x.o.TrustDomain
	if local == "" {
		local = "cluster.local"
	}
	return append([]string{local}, x.o.Aliases...)
}

func (x *translator) principals(values []string) (out []*rbacv3.Principal) {
	for _, v := range values {
		for _, v := range x.respelt(v) {
			switch {
			case v == "*":
				out = append(out, identityOf(expression(".+")))
			case strings.HasPrefix(v, "*"):
				out = append(out, identityOf(expression("spiffe://.*"+regexp.QuoteMeta(v[1:]))))
			case strings.HasSuffix(v, "*"):
				out = append(out, identityOf(prefixed("spiffe://"+v[:len(v)-1])))
			default:
				out = append(out, identityOf(exact("spiffe://"+v)))
			}
		}
	}
	return out
}

// respelt replaces the trust domain of a principal by each of ours, if it is one of
// them, but not where its wildcard covers the name already.
func (x *translator) respelt(v string) (out []string) {
	parts := strings.Split(v, "/")
	if len(parts) != 5 || parts[0] == "*" {
		return []string{v}
	}
	td, covers := parts[0], func(name string) bool { return false }
	switch {
	case strings.HasPrefix(td, "*"):
		covers = func(name string) bool { return strings.HasSuffix(name, td[1:]) }
	case strings.HasSuffix(td, "*"):
		covers = func(name string) bool { return strings.HasPrefix(name, td[:len(td)-1]) }
	}
	ours := func(name string) bool { return name == td || covers(name) }
	if td != "cluster.local" && !slices.ContainsFunc(x.domains(), ours) {
		return []string{v}
	}
	for _, name := range x.domains() {
		if strings.HasPrefix(td, "*") && covers(name) {
			out = append(out, v)
			continue
		}
		out = append(out, name+"/"+strings.Join(parts[1:], "/"))
	}
	return out
}

func (x *translator) trustDomains(values []string) (out []*rbacv3.Principal) {
	for _, v := range values {
		all := []string{v}
		if slices.Contains(x.domains(), v) {
			all = x.domains()
		}
		for _, v := range all {
			before, after, wild := strings.Cut(v, "*")
			switch {
			case v == "*":
				out = append(out, identityOf(prefixed("spiffe://")))
			case wild:
				out = append(out, identityOf(expression("spiffe://"+regexp.QuoteMeta(before)+"[^/]*"+regexp.QuoteMeta(after)+"/.*")))
			default:
				out = append(out, identityOf(prefixed("spiffe://"+v+"/")))
			}
		}
	}
	return out
}

func namespaces(values []string) (out []*rbacv3.Principal) {
	for _, v := range values {
		out = append(out, identityOf(expression(".*/ns/"+strings.ReplaceAll(regexp.QuoteMeta(v), `\*`, ".*")+"/.*")))
	}
	return out
}

func accounts(namespace string) principalOf {
	return func(values []string) (out []*rbacv3.Principal) {
		for _, v := range values {
			ns, sa, ok := strings.Cut(v, "/")
			if !ok {
				ns, sa = namespace, v
			}
			out = append(out, identityOf(expression("spiffe://.+/ns/"+regexp.QuoteMeta(ns)+"/(.+/|)sa/"+regexp.QuoteMeta(sa)+"(/.+)?")))
		}
		return out
	}
}

// claimOf asks for a claim.
func claimOf(v *matcherv3.ValueMatcher, names ...string) *rbacv3.Principal {
	m := &matcherv3.MetadataMatcher{Filter: jwtFilter, Value: v}
	for _, name := range append([]string{jwtPayload}, names...) {
		m.Path = append(m.Path, &matcherv3.MetadataMatcher_PathSegment{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: name}})
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_Metadata{Metadata: m}}
}

func stringValue(m *matcherv3.StringMatcher) *matcherv3.ValueMatcher {
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: m}}
}

func orValues(v ...*matcherv3.ValueMatcher) *matcherv3.ValueMatcher {
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_OrMatch{OrMatch: &matcherv3.OrMatcher{ValueMatchers: v}}}
}

// claims asks for a claim that is one of several values, or a list with one of them.
func claims(names ...string) principalOf {
	return func(values []string) []*rbacv3.Principal {
		var all []*matcherv3.ValueMatcher
		for _, v := range values {
			all = append(all, stringValue(wildcard(v)))
		}
		one := all[0]
		if len(all) > 1 {
			one = orValues(all...)
		}
		list := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_ListMatch{
			ListMatch: &matcherv3.ListMatcher{MatchPattern: &matcherv3.ListMatcher_OneOf{OneOf: one}}}}
		return []*rbacv3.Principal{claimOf(orValues(list, one), names...)}
	}
}

func requestPrincipals(values []string) (out []*rbacv3.Principal) {
	for _, v := range values {
		iss, sub := exact(v), exact("")
		i := strings.LastIndexByte(v, '/')
		if i >= 0 {
			iss, sub = exact(v[:i]), exact(v[i+1:])
		}
		some := expression(".+")
		switch {
		case v == "*":
			iss, sub = some, some
		case strings.HasPrefix(v, "*") && i < 0:
			iss, sub = some, suffixed(v[1:])
		case strings.HasPrefix(v, "*"):
			if iss = some; i > 1 {
				iss = suffixed(v[1:i])
			}
		case strings.HasSuffix(v, "*") && i < 0:
			iss, sub = prefixed(v[:len(v)-1]), some
		case strings.HasSuffix(v, "*"):
			if sub = some; v[i+1:] != "*" {
				sub = prefixed(v[i+1 : len(v)-1])
			}
		}
		out = append(out, &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: &rbacv3.Principal_Set{
			Ids: []*rbacv3.Principal{claimOf(stringValue(iss), "iss"), claimOf(stringValue(sub), "sub")}}}})
	}
	return out
}

func headerOf(name, v string, fold bool) *routev3.HeaderMatcher {
	if v == "*" {
		return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
	}
	m := wildcard(v)
	m.IgnoreCase = fold
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: m}}
}

func headerPermissions(name string, fold bool) permissionOf {
	return func(values []string) (out []*rbacv3.Permission) {
		for _, v := range values {
			out = append(out, &rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: headerOf(name, v, fold)}})
		}
		return out
	}
}

func headerPrincipals(name string) principalOf {
	return func(values []string) (out []*rbacv3.Principal) {
		for _, v := range values {
			out = append(out, &rbacv3.Principal{Identifier: &rbacv3.Principal_Header{Header: headerOf(name, v, false)}})
		}
		return out
	}
}

func (x *translator) paths(values []string) (out []*rbacv3.Permission) {
	for _, v := range values {
		if !strings.Contains(v, "{") {
			path := &matcherv3.PathMatcher{Rule: &matcherv3.PathMatcher_Path{Path: wildcard(v)}}
			out = append(out, &rbacv3.Permission{Rule: &rbacv3.Permission_UrlPath{UrlPath: path}})
			continue
		}
		c, err := anypb.New(&uritemplate.UriTemplateMatchConfig{PathTemplate: strings.NewReplacer("{", "", "}", "").Replace(v)})
		if err != nil {
			x.t.Fatal(err)
		}
		out = append(out, &rbacv3.Permission{Rule: &rbacv3.Permission_UriTemplate{UriTemplate: &corev3.TypedExtensionConfig{Name: "uri-template", TypedConfig: c}}})
	}
	return out
}

func destinationPorts(values []string) (out []*rbacv3.Permission) {
	for _, v := range values {
		n, _ := strconv.ParseUint(v, 10, 16)
		out = append(out, &rbacv3.Permission{Rule: &rbacv3.Permission_DestinationPort{DestinationPort: uint32(n)}})
	}
	return out
}

func serverNames(values []string) (out []*rbacv3.Permission) {
	for _, v := range values {
		out = append(out, &rbacv3.Permission{Rule: &rbacv3.Permission_RequestedServerName{RequestedServerName: wildcard(v)}})
	}
	return out
}

func block(v string) *corev3.CidrRange {
	p, err := netip.ParsePrefix(v)
	if err != nil {
		a := netip.MustParseAddr(v)
		p = netip.PrefixFrom(a, a.BitLen())
	}
	return &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))}
}

func destinationIPs(values []string) (out []*rbacv3.Permission) {
	for _, v := range values {
		out = append(out, &rbacv3.Permission{Rule: &rbacv3.Permission_DestinationIp{DestinationIp: block(v)}})
	}
	return out
}

func sourceIPs(values []string) (out []*rbacv3.Principal) {
	for _, v := range values {
		out = append(out, &rbacv3.Principal{Identifier: &rbacv3.Principal_DirectRemoteIp{DirectRemoteIp: block(v)}})
	}
	return out
}

func remoteIPs(values []string) (out []*rbacv3.Principal) {
	for _, v := range values {
		out = append(out, &rbacv3.Principal{Identifier: &rbacv3.Principal_RemoteIp{RemoteIp: block(v)}})
	}
	return out
}
