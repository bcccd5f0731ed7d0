package extauthz

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	netv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// The metadata by which istiod has Envoy's ext_authz filters ask: the RBAC filter
// before them leaves the name of the rule that matches under policyID, and the
// names of those that ask begin with customPrefix and the provider.
const (
	httpRBAC     = "envoy.filters.http.rbac"
	networkRBAC  = "envoy.filters.network.rbac"
	policyID     = "istio_ext_authz_shadow_effective_policy_id"
	customPrefix = "istio-ext-authz-"
)

// defaultTimeout is what istiod writes for a provider that names none.
const defaultTimeout = 600 * time.Second

// FromHTTPFilter returns the provider that an HTTP filter of istiod's asks. It
// covers what istiod writes and is a closed list, as package rbac is: whatever
// else is set is an error.
func FromHTTPFilter(f *httpv3.ExtAuthz) (*authz.Provider, error) {
	err := only("", f, "grpc_service", "http_service", "transport_api_version", "failure_mode_allow", "with_request_body", "status_on_error",
		"filter_enabled_metadata", "allowed_headers")
	p := &authz.Provider{FailOpen: f.GetFailureModeAllow(), StatusOnError: int(f.GetStatusOnError().GetCode())}
	if b := f.GetWithRequestBody(); b != nil {
		err = errors.Join(err, only("with_request_body", b, "max_request_bytes", "allow_partial_message", "pack_as_bytes"))
		p.Body = &authz.Body{Max: int(b.GetMaxRequestBytes()), AllowPartial: b.GetAllowPartialMessage(), AsBytes: b.GetPackAsBytes()}
	}
	var of error
	if f.GetGrpcService() != nil {
		of = fromGRPCService(p, f.GetGrpcService())
		if f.GetAllowedHeaders() != nil {
			of = errors.Join(of, unsupported("allowed_headers", "over gRPC all are sent"))
		}
	} else {
		of = fromHTTPService(p, f)
	}
	return provider(p, f, f.GetFilterEnabledMetadata(), httpRBAC, errors.Join(err, of))
}

// FromNetworkFilter returns the provider that a network filter of istiod's asks,
// without what is about HTTP only: of the same provider the HTTP filter says
// more.
func FromNetworkFilter(f *netv3.ExtAuthz) (*authz.Provider, error) {
	err := only("", f, "stat_prefix", "grpc_service", "transport_api_version", "failure_mode_allow", "filter_enabled_metadata")
	p := &authz.Provider{FailOpen: f.GetFailureModeAllow()}
	return provider(p, f, f.GetFilterEnabledMetadata(), networkRBAC, errors.Join(err, fromGRPCService(p, f.GetGrpcService())))
}

// provider completes p, which was read of a filter.
func provider(p *authz.Provider, f interface{ GetTransportApiVersion() corev3.ApiVersion }, when *matcherv3.MetadataMatcher, rbac string, err error) (*authz.Provider, error) {
	if v := f.GetTransportApiVersion(); v != corev3.ApiVersion_V3 {
		err = errors.Join(err, unsupported("transport_api_version", fmt.Sprintf("%v is not V3", v)))
	}
	prefix := when.GetValue().GetStringMatch().GetPrefix()
	name, ok := strings.CutPrefix(prefix, customPrefix)
	if !ok || name == "" || !proto.Equal(when, asksWhen(rbac, prefix)) {
		err = errors.Join(err, unsupported("filter_enabled_metadata", "only the rules of one provider, as istiod names them, have it asked"))
	}
	p.Name = name
	if err == nil {
		err = p.Validate()
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// asksWhen is what istiod writes: that the rule that matches is one whose name
// begins with prefix.
func asksWhen(rbac, prefix string) *matcherv3.MetadataMatcher {
	return &matcherv3.MetadataMatcher{
		Filter: rbac,
		Path:   []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: policyID}}},
		Value: &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{
			StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}},
		}},
	}
}

func fromGRPCService(p *authz.Provider, s *corev3.GrpcService) error {
	const at = "grpc_service"
	p.Kind = authz.GRPC
	err := errors.Join(only(at, s, "envoy_grpc", "timeout"), only(at+".envoy_grpc", s.GetEnvoyGrpc(), "cluster_name", "authority"),
		fromCluster(p, at+".envoy_grpc.cluster_name", s.GetEnvoyGrpc().GetClusterName()))
	if a := s.GetEnvoyGrpc().GetAuthority(); a != p.Service {
		err = errors.Join(err, unsupported(at+".envoy_grpc.authority", fmt.Sprintf("%q is not the service's name", a)))
	}
	return errors.Join(err, fromTimeout(p, at+".timeout", s.GetTimeout()))
}

func fromHTTPService(p *authz.Provider, f *httpv3.ExtAuthz) error {
	const at = "http_service"
	p.Kind = authz.HTTP
	s := f.GetHttpService()
	uri, request, response := s.GetServerUri(), s.GetAuthorizationRequest(), s.GetAuthorizationResponse()
	errs := []error{
		only(at, s, "server_uri", "path_prefix", "authorization_request", "authorization_response"),
		only(at+".server_uri", uri, "uri", "cluster", "timeout"),
		only(at+".authorization_request", request, "headers_to_add"),
		only(at+".authorization_response", response, "allowed_upstream_headers", "allowed_client_headers", "allowed_client_headers_on_success"),
		fromCluster(p, at+".server_uri.cluster", uri.GetCluster()),
		fromTimeout(p, at+".server_uri.timeout", uri.GetTimeout()),
	}
	p.PathPrefix = s.GetPathPrefix()
	for i, h := range request.GetHeadersToAdd() {
		errs = append(errs, only(fmt.Sprintf("%s.authorization_request.headers_to_add[%d]", at, i), h, "key", "value"))
		p.AdditionalHeaders = append(p.AdditionalHeaders, l7.Field{Name: strings.ToLower(h.GetKey()), Value: h.GetValue()})
	}
	for _, list := range []struct {
		to   *[]string
		at   string
		from *matcherv3.ListStringMatcher
	}{
		{&p.IncludeHeaders, "allowed_headers", f.GetAllowedHeaders()},
		{&p.HeadersToUpstream, at + ".authorization_response.allowed_upstream_headers", response.GetAllowedUpstreamHeaders()},
		{&p.HeadersToClient, at + ".authorization_response.allowed_client_headers_on_success", response.GetAllowedClientHeadersOnSuccess()},
		{&p.HeadersToClientNot, at + ".authorization_response.allowed_client_headers", response.GetAllowedClientHeaders()},
	} {
		var err error
		*list.to, err = patterns(list.at, list.from)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// fromCluster reads the name of a cluster: outbound|port||host.
func fromCluster(p *authz.Provider, at, cluster string) error {
	parts := strings.Split(cluster, "|")
	if len(parts) == 4 && parts[0] == "outbound" && parts[2] == "" && parts[3] != "" {
		if port, err := strconv.ParseUint(parts[1], 10, 16); err == nil {
			p.Service, p.Port = parts[3], uint32(port)
			return nil
		}
	}
	return unsupported(at, fmt.Sprintf("%q is not of the form outbound|port||host", cluster))
}

// fromTimeout reads a timeout. Where MeshConfig has none, istiod writes 600 s.
func fromTimeout(p *authz.Provider, at string, d *durationpb.Duration) error {
	p.Timeout = d.AsDuration()
	switch {
	case p.Timeout <= 0:
		return unsupported(at, "is missing")
	case p.Timeout == defaultTimeout:
		p.Timeout = 0
	}
	return nil
}

// patterns reads a list of headers as MeshConfig writes them.
func patterns(at string, list *matcherv3.ListStringMatcher) (out []string, err error) {
	for i, m := range list.GetPatterns() {
		var text, pattern string
		switch p := m.GetMatchPattern().(type) {
		case *matcherv3.StringMatcher_Exact:
			text, pattern = p.Exact, p.Exact
		case *matcherv3.StringMatcher_Prefix:
			text, pattern = p.Prefix, p.Prefix+"*"
		case *matcherv3.StringMatcher_Suffix:
			text, pattern = p.Suffix, "*"+p.Suffix
		}
		if text == "" || strings.Contains(text, "*") || !m.GetIgnoreCase() {
			err = errors.Join(err, unsupported(fmt.Sprintf("%s.patterns[%d]", at, i), "only the whole, the beginning or the end of a name, whatever its case, is supported"))
		}
		out = append(out, pattern)
	}
	return out, err
}

// only reports a field of m that is set and not one of names, or that is of a
// newer protocol than ours.
func only(at string, m proto.Message, names ...protoreflect.Name) (err error) {
	r := m.ProtoReflect()
	if len(r.GetUnknown()) > 0 {
		err = unsupported(at, "has a field that is not known")
	}
	r.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !slices.Contains(names, f.Name()) {
			err = errors.Join(err, unsupported(strings.TrimPrefix(at+"."+string(f.Name()), "."), "is not supported"))
		}
		return true
	})
	return err
}

func unsupported(at, reason string) error {
	return fmt.Errorf("ext_authz: %s: %s: %w", at, reason, authz.ErrUnsupported)
}
