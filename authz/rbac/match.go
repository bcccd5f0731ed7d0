package rbac

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	uritemplate "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/waystone-mesh/waystone/authz"
)

// peerPrincipal is the filter state that holds the SPIFFE ID of who opened the
// tunnel.
const peerPrincipal = "io.istio.peer_principal"

func permission(at string, p *rbacv3.Permission) (*authz.Expr, error) {
	switch r := p.GetRule().(type) {
	case *rbacv3.Permission_Any:
		return anything(at, r.Any)
	case *rbacv3.Permission_AndRules:
		kids, err := list(at+".and_rules", r.AndRules.GetRules(), permission)
		return and(at, kids, err)
	case *rbacv3.Permission_OrRules:
		kids, err := list(at+".or_rules", r.OrRules.GetRules(), permission)
		return or(at, kids, err)
	case *rbacv3.Permission_NotRule:
		kid, err := permission(at+".not_rule", r.NotRule)
		return not(at, kid, err)
	case *rbacv3.Permission_Header:
		return header(at+".header", r.Header)
	case *rbacv3.Permission_UrlPath:
		return text(at+".url_path", authz.Path, r.UrlPath.GetPath())
	case *rbacv3.Permission_UriTemplate:
		return template(at+".uri_template", r.UriTemplate)
	case *rbacv3.Permission_DestinationIp:
		return cidr(at+".destination_ip", authz.DestIP, r.DestinationIp)
	case *rbacv3.Permission_DestinationPort:
		return ports(at+".destination_port", int64(r.DestinationPort), int64(r.DestinationPort)+1)
	case *rbacv3.Permission_DestinationPortRange:
		return portRange(at+".destination_port_range", r.DestinationPortRange)
	case *rbacv3.Permission_RequestedServerName:
		return text(at+".requested_server_name", authz.SNI, r.RequestedServerName)
	case *rbacv3.Permission_Metadata:
		return metadata(at+".metadata", r.Metadata)
	}
	return nil, unsupported(at, fmt.Sprintf("permission %T is not supported", p.GetRule()))
}

func principal(at string, p *rbacv3.Principal) (*authz.Expr, error) {
	switch id := p.GetIdentifier().(type) {
	case *rbacv3.Principal_Any:
		return anything(at, id.Any)
	case *rbacv3.Principal_AndIds:
		kids, err := list(at+".and_ids", id.AndIds.GetIds(), principal)
		return and(at, kids, err)
	case *rbacv3.Principal_OrIds:
		kids, err := list(at+".or_ids", id.OrIds.GetIds(), principal)
		return or(at, kids, err)
	case *rbacv3.Principal_NotId:
		kid, err := principal(at+".not_id", id.NotId)
		return not(at, kid, err)
	case *rbacv3.Principal_Authenticated_:
		name := id.Authenticated.GetPrincipalName()
		if name == nil {
			return authz.Match(at, authz.URI, authz.Present()), nil
		}
		return peer(at+".authenticated.principal_name", name)
	case *rbacv3.Principal_FilterState:
		m := id.FilterState
		if m.GetKey() != peerPrincipal || m.GetStringMatch() == nil {
			return nil, unsupported(at+".filter_state", fmt.Sprintf("only a string in %s is supported, not %q", peerPrincipal, m.GetKey()))
		}
		return peer(at+".filter_state.string_match", m.GetStringMatch())
	case *rbacv3.Principal_SourceIp:
		return cidr(at+".source_ip", authz.SourceIP, id.SourceIp)
	case *rbacv3.Principal_DirectRemoteIp:
		return cidr(at+".direct_remote_ip", authz.SourceIP, id.DirectRemoteIp)
	case *rbacv3.Principal_RemoteIp:
		return cidr(at+".remote_ip", authz.SourceIP, id.RemoteIp)
	case *rbacv3.Principal_Header:
		return header(at+".header", id.Header)
	case *rbacv3.Principal_UrlPath:
		return text(at+".url_path", authz.Path, id.UrlPath.GetPath())
	case *rbacv3.Principal_Metadata:
		return metadata(at+".metadata", id.Metadata)
	}
	return nil, unsupported(at, fmt.Sprintf("principal %T is not supported", p.GetIdentifier()))
}

// text applies a string matcher to an attribute. A server name that is missing
// is to Envoy an empty one.
func text(at string, a authz.Attribute, s *matcherv3.StringMatcher) (*authz.Expr, error) {
	m, err := stringMatcher(at, s)
	if err != nil {
		return nil, err
	}
	x := authz.Match(at, a, m)
	if a == authz.SNI && m.MatchString("") {
		x = authz.Or(at, x, authz.Not(at, authz.Match(at, a, authz.Present())))
	}
	return x, nil
}

func stringMatcher(at string, s *matcherv3.StringMatcher) (m authz.Matcher, err error) {
	switch p := s.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		m = authz.Exact(p.Exact)
	case *matcherv3.StringMatcher_Prefix:
		m = authz.Prefix(p.Prefix)
	case *matcherv3.StringMatcher_Suffix:
		m = authz.Suffix(p.Suffix)
	case *matcherv3.StringMatcher_Contains:
		m = authz.Contains(p.Contains)
	case *matcherv3.StringMatcher_SafeRegex:
		if p.SafeRegex.GetRegex() == ".+" {
			return authz.NonEmpty(), nil
		}
		if m, err = authz.Regexp(p.SafeRegex.GetRegex()); err != nil {
			return m, fmt.Errorf("rbac: %s: %w", at, err)
		}
		return m, nil // Envoy ignores ignore_case here
	default:
		return m, unsupported(at, fmt.Sprintf("string matcher %T is not supported", s.GetMatchPattern()))
	}
	if !s.GetIgnoreCase() {
		return m, nil
	}
	if _, ok := s.GetMatchPattern().(*matcherv3.StringMatcher_Contains); ok {
		return m, unsupported(at, "contains with ignore_case is not supported")
	}
	return m.Fold(), nil
}

// The regular expressions that istiod writes about identities. Taken apart they
// are matched without putting the SPIFFE ID together. A name is of letters,
// digits, hyphens and, quoted, dots.
var (
	anyIdentity = regexp.MustCompile(`^(\.\*|\.\+|spiffe://\.[*+])$`)
	ofNamespace = regexp.MustCompile(`^\.\*/ns/([a-zA-Z0-9-]+)/\.\*$`)
	ofAccount   = regexp.MustCompile(`^spiffe://\.\+/ns/([a-zA-Z0-9-]+)/\(\.\+/\|\)sa/((?:[a-zA-Z0-9-]|\\\.)+)\(/\.\+\)\?$`)
	ofDomain    = regexp.MustCompile(`^spiffe://((?:[a-zA-Z0-9-]|\\\.)*)\[\^/\]\*((?:[a-zA-Z0-9-]|\\\.)*)/\.\*$`)
	bySuffix    = regexp.MustCompile(`^spiffe://\.\*((?:[a-zA-Z0-9/-]|\\\.)+)$`)
)

// unquoted returns a name without the backslashes before its dots.
func unquoted(name string) string { return strings.ReplaceAll(name, `\.`, ".") }

// peer matches the SPIFFE ID of the peer.
func peer(at string, s *matcherv3.StringMatcher) (*authz.Expr, error) {
	m, err := stringMatcher(at, s)
	if err != nil {
		return nil, err
	}
	regex := s.GetSafeRegex().GetRegex()
	switch {
	case s.GetIgnoreCase() && regex == "":
		return nil, unsupported(at, "an identity with ignore_case is not supported")
	case s.GetContains() != "":
		return nil, unsupported(at, "part of an identity is not supported")
	case anyIdentity.MatchString(regex):
		return authz.Match(at, authz.URI, authz.Present()), nil
	}
	// In spiffe://td/ns/ns/sa/x the regular expression for namespace "sa" finds
	// its match further right than where the namespace is.
	if found := ofNamespace.FindStringSubmatch(regex); found != nil && found[1] != "sa" {
		return authz.Match(at, authz.Namespace, authz.Exact(found[1])), nil
	}
	if found := ofAccount.FindStringSubmatch(regex); found != nil {
		return authz.Match(at, authz.ServiceAccount, authz.Exact(found[1]+"/"+unquoted(found[2]))), nil
	}
	if found := ofDomain.FindStringSubmatch(regex); found != nil {
		return authz.Match(at, authz.TrustDomain, authz.Glob(unquoted(found[1])+"*"+unquoted(found[2]))), nil
	}
	if found := bySuffix.FindStringSubmatch(regex); found != nil {
		return authz.Match(at, authz.Principal, authz.Suffix(unquoted(found[1]))), nil
	}
	return authz.Match(at, authz.URI, m), nil
}

// header matches the values of a header field joined by commas. A field that is
// missing does not match, not even under invert_match, unless it is to be taken
// as empty.
func header(at string, h *routev3.HeaderMatcher) (*authz.Expr, error) {
	name := h.GetName()
	here := authz.MatchHeader(at, name, authz.Present())
	m, err := headerMatcher(at, h)
	if err != nil {
		return nil, err
	}
	if p, ok := h.GetHeaderMatchSpecifier().(*routev3.HeaderMatcher_PresentMatch); ok || h.GetHeaderMatchSpecifier() == nil {
		if ok && p.PresentMatch == h.GetInvertMatch() || !ok && h.GetInvertMatch() {
			return authz.Not(at, here), nil
		}
		return here, nil
	}
	x := authz.MatchHeader(at, name, m)
	if h.GetTreatMissingHeaderAsEmpty() && m.MatchString("") {
		x = authz.Or(at, x, authz.Not(at, here))
	}
	if !h.GetInvertMatch() {
		return x, nil
	}
	if h.GetTreatMissingHeaderAsEmpty() {
		return authz.Not(at, x), nil
	}
	return authz.And(at, here, authz.Not(at, x)), nil
}

func headerMatcher(at string, h *routev3.HeaderMatcher) (m authz.Matcher, err error) {
	switch s := h.GetHeaderMatchSpecifier().(type) {
	case nil, *routev3.HeaderMatcher_PresentMatch:
		return authz.Present(), nil
	case *routev3.HeaderMatcher_StringMatch:
		return stringMatcher(at+".string_match", s.StringMatch)
	// The rest are the deprecated forms of string_match.
	case *routev3.HeaderMatcher_ExactMatch:
		return authz.Exact(s.ExactMatch), nil
	case *routev3.HeaderMatcher_PrefixMatch:
		return authz.Prefix(s.PrefixMatch), nil
	case *routev3.HeaderMatcher_SuffixMatch:
		return authz.Suffix(s.SuffixMatch), nil
	case *routev3.HeaderMatcher_ContainsMatch:
		return authz.Contains(s.ContainsMatch), nil
	case *routev3.HeaderMatcher_SafeRegexMatch:
		m, err = authz.Regexp(s.SafeRegexMatch.GetRegex())
		if err != nil {
			err = fmt.Errorf("rbac: %s: %w", at, err)
		}
		return m, err
	}
	return m, unsupported(at, fmt.Sprintf("header matcher %T is not supported", h.GetHeaderMatchSpecifier()))
}

func template(at string, t *corev3.TypedExtensionConfig) (*authz.Expr, error) {
	var c uritemplate.UriTemplateMatchConfig
	if err := t.GetTypedConfig().UnmarshalTo(&c); err != nil {
		return nil, fmt.Errorf("rbac: %s: %w", at, err)
	}
	path, ok := policyTemplate(c.GetPathTemplate())
	if !ok {
		return nil, unsupported(at, fmt.Sprintf("%q has other operators than * and ** between two slashes", c.GetPathTemplate()))
	}
	m, err := authz.Template(path)
	if err != nil {
		return nil, fmt.Errorf("rbac: %s: %w", at, err)
	}
	return authz.Match(at, authz.Path, m), nil
}

// policyTemplate writes a template of Envoy's as a policy has it: {*} and {**} are
// * and ** there, and braces are for variables, which istiod has none of.
func policyTemplate(template string) (path string, ok bool) {
	segments := strings.Split(template, "/")
	for i, segment := range segments {
		switch {
		case segment == "*" || segment == "**":
			segments[i] = "{" + segment + "}"
		case strings.ContainsAny(segment, "*{}"):
			return "", false
		}
	}
	return strings.Join(segments, "/"), true
}

func cidr(at string, a authz.Attribute, r *corev3.CidrRange) (*authz.Expr, error) {
	ip, err := netip.ParseAddr(r.GetAddressPrefix())
	if err != nil {
		return nil, fmt.Errorf("rbac: %s: %w", at, err)
	}
	bits := int(r.GetPrefixLen().GetValue())
	p := netip.PrefixFrom(ip, bits)
	if !p.IsValid() {
		return nil, fmt.Errorf("rbac: %s: %s cannot have a prefix of %d bits", at, ip, bits)
	}
	return authz.Match(at, a, authz.CIDR(p)), nil
}

func portRange(at string, r *typev3.Int32Range) (*authz.Expr, error) {
	return ports(at, int64(r.GetStart()), int64(r.GetEnd()))
}

// ports matches the ports from start to just before end.
func ports(at string, start, end int64) (*authz.Expr, error) {
	if start < 0 || end > 65536 || start >= end {
		return nil, fmt.Errorf("rbac: %s: %d to %d are not ports", at, start, end-1)
	}
	return authz.Match(at, authz.DestPort, authz.Ports(uint16(start), uint16(end-1))), nil
}
