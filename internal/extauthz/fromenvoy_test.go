package extauthz

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	netv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// asksFor is how istiod says when a provider is asked.
func asksFor(rbac, name string) string {
	return fmt.Sprintf(`"transportApiVersion": "V3", "filterEnabledMetadata": {"filter": %q, "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
		"value": {"stringMatch": {"prefix": "istio-ext-authz-%s"}}}`, rbac, name)
}

const grpcService = `"grpcService": {"envoyGrpc": {"clusterName": "outbound|9000||authz.tools.svc.cluster.local", "authority": "authz.tools.svc.cluster.local"}, "timeout": "600s"}`

func httpServiceOf(fields string) string {
	return `"httpService": {"serverUri": {"uri": "http://authz.tools.svc.cluster.local", "cluster": "outbound|8000||authz.tools.svc.cluster.local", "timeout": "2s"}` + fields + `}`
}

func fromFilter[M any, P interface {
	*M
	proto.Message
}](t testing.TB, text string, read func(P) (*authz.Provider, error)) (*authz.Provider, error) {
	t.Helper()
	m := P(new(M))
	if err := protojson.Unmarshal([]byte("{"+text+"}"), m); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return read(m)
}

func TestFiltersAreReadAsTheirProviders(t *testing.T) {
	host := "authz.tools.svc.cluster.local"
	for _, tt := range []struct {
		filter string
		want   authz.Provider
	}{
		{grpcService, authz.Provider{Kind: authz.GRPC, Service: host, Port: 9000}},
		{grpcService + `, "failureModeAllow": true, "statusOnError": {"code": "BadGateway"}, "withRequestBody": {"maxRequestBytes": 1000, "allowPartialMessage": true, "packAsBytes": true}`,
			authz.Provider{Kind: authz.GRPC, Service: host, Port: 9000, FailOpen: true, StatusOnError: 502, Body: &authz.Body{Max: 1000, AllowPartial: true, AsBytes: true}}},
		{httpServiceOf(""), authz.Provider{Kind: authz.HTTP, Service: host, Port: 8000, Timeout: 2 * time.Second}},
		{httpServiceOf(`, "pathPrefix": "/check", "authorizationRequest": {"headersToAdd": [{"key": "X-From", "value": "mesh"}]}, "authorizationResponse": {
			"allowedUpstreamHeaders": {"patterns": [{"exact": "x-user", "ignoreCase": true}]},
			"allowedClientHeaders": {"patterns": [{"suffix": "-reason", "ignoreCase": true}]},
			"allowedClientHeadersOnSuccess": {"patterns": [{"exact": "set-cookie", "ignoreCase": true}]}}`) +
			`, "allowedHeaders": {"patterns": [{"prefix": "x-", "ignoreCase": true}, {"exact": "cookie", "ignoreCase": true}]}`,
			authz.Provider{Kind: authz.HTTP, Service: host, Port: 8000, Timeout: 2 * time.Second, PathPrefix: "/check", IncludeHeaders: []string{"x-*", "cookie"},
				AdditionalHeaders: l7.Fields{{Name: "x-from", Value: "mesh"}}, HeadersToUpstream: []string{"x-user"},
				HeadersToClient: []string{"set-cookie"}, HeadersToClientNot: []string{"*-reason"}}},
	} {
		tt.want.Name = "mine"
		p, err := fromFilter(t, asksFor(httpRBAC, "mine")+", "+tt.filter, FromHTTPFilter)
		if err != nil {
			t.Errorf("%s: %v", tt.filter, err)
		} else if !reflect.DeepEqual(*p, tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.filter, *p, tt.want)
		}
	}
}

func TestNetworkFiltersAreReadAsTheirProviders(t *testing.T) {
	p, err := fromFilter(t, asksFor(networkRBAC, "mine")+`, "statPrefix": "tcp.", "failureModeAllow": true, `+grpcService, FromNetworkFilter)
	want := authz.Provider{Name: "mine", Kind: authz.GRPC, Service: "authz.tools.svc.cluster.local", Port: 9000, FailOpen: true}
	if err != nil || !reflect.DeepEqual(*p, want) {
		t.Errorf("got %+v, %v, want %+v", p, err, want)
	}
	for filter, want := range map[string]string{
		asksFor(httpRBAC, "mine") + ", " + grpcService:                                    "filter_enabled_metadata",
		asksFor(networkRBAC, "mine"):                                                      "grpc_service.envoy_grpc.cluster_name",
		asksFor(networkRBAC, "mine") + `, "includePeerCertificate": true, ` + grpcService: "include_peer_certificate: is not supported",
		asksFor(networkRBAC, "mine") + `, "shadowMode": true, ` + grpcService:             "shadow_mode: is not supported",
	} {
		if p, err := fromFilter(t, filter, FromNetworkFilter); err == nil || !strings.Contains(err.Error(), want) || p != nil {
			t.Errorf("%s: got %+v, %v, want …%s…", filter, p, err, want)
		}
	}
}

func TestWhatAFilterSaysBesidesIsRefused(t *testing.T) {
	when := asksFor(httpRBAC, "mine")
	grpc := func(cluster, authority, more string) string {
		return fmt.Sprintf(`%s, "grpcService": {"envoyGrpc": {"clusterName": %q, "authority": %q}%s}`, when, cluster, authority, more)
	}
	for _, tt := range []struct{ filter, want string }{
		{grpcService, "transport_api_version: AUTO is not V3"},
		{`"transportApiVersion": "V3", ` + grpcService, "filter_enabled_metadata"},
		{asksFor(httpRBAC, "") + ", " + grpcService, "filter_enabled_metadata"},
		{strings.Replace(when, "istio-ext-authz-", "istio-", 1) + ", " + grpcService, "filter_enabled_metadata"},
		{strings.Replace(when, `"value"`, `"invert": true, "value"`, 1) + ", " + grpcService, "filter_enabled_metadata"},
		{when, "http_service.server_uri.cluster"},
		{when + ", " + grpcService + `, "denyAtDisable": {}`, "deny_at_disable: is not supported"},
		{when + ", " + grpcService + `, "filterEnabled": {}`, "filter_enabled: is not supported"},
		{when + ", " + grpcService + `, "failureModeAllowHeaderAdd": true`, "failure_mode_allow_header_add: is not supported"},
		{when + ", " + grpcService + `, "allowedHeaders": {"patterns": [{"exact": "x", "ignoreCase": true}]}`, "allowed_headers: over gRPC all are sent"},
		{when + ", " + grpcService + `, "withRequestBody": {"allowPartialMessage": true}`, "maxRequestBytes: 0 is not 1 or more"},
		{when + `, "grpcService": {"googleGrpc": {"targetUri": "x"}, "timeout": "1s"}`, "grpc_service.google_grpc: is not supported"},
		{grpc("outbound|9000|v1|h", "h", `, "timeout": "1s"`), `"outbound|9000|v1|h" is not of the form`},
		{grpc("outbound|90000||h", "h", `, "timeout": "1s"`), `"outbound|90000||h" is not of the form`},
		{grpc("h", "h", `, "timeout": "1s"`), `"h" is not of the form`},
		{grpc("outbound|9000||h", "other", `, "timeout": "1s"`), `authority: "other" is not the service's name`},
		{grpc("outbound|9000||h", "h", ""), "grpc_service.timeout: is missing"},
		{grpc("outbound|0||h", "h", `, "timeout": "1s"`), "port: 0 is not 1 to 65535"},
		{when + ", " + httpServiceOf(`, "pathOverride": "/x"`), "http_service.path_override: is not supported"},
		{when + ", " + httpServiceOf(`, "pathPrefix": "x"`), `pathPrefix: "x" does not begin with a slash`},
		{when + ", " + httpServiceOf(`, "authorizationRequest": {"headersToAdd": [{"key": "x", "rawValue": "eA=="}]}`), "headers_to_add[0].raw_value: is not supported"},
		{when + ", " + httpServiceOf(`, "authorizationRequest": {"allowedHeaders": {}}`), "authorization_request.allowed_headers: is not supported"},
		{when + ", " + httpServiceOf(`, "authorizationResponse": {"dynamicMetadataFromHeaders": {}}`), "dynamic_metadata_from_headers: is not supported"},
		{when + ", " + httpServiceOf(`, "authorizationResponse": {"allowedClientHeaders": {"patterns": [{"exact": "x"}]}}`), "allowed_client_headers.patterns[0]: only the whole"},
		{when + ", " + httpServiceOf("") + `, "allowedHeaders": {"patterns": [{"contains": "x", "ignoreCase": true}]}`, "allowed_headers.patterns[0]: only the whole"},
		{when + ", " + httpServiceOf("") + `, "allowedHeaders": {"patterns": [{"exact": "x*", "ignoreCase": true}]}`, "allowed_headers.patterns[0]: only the whole"},
	} {
		p, err := fromFilter(t, tt.filter, FromHTTPFilter)
		if err == nil || !strings.Contains(err.Error(), tt.want) || p != nil {
			t.Errorf("%s: got %+v, %v, want …%s…", tt.filter, p, err, tt.want)
		}
	}
	if _, err := FromHTTPFilter(&httpv3.ExtAuthz{}); !errors.Is(err, authz.ErrUnsupported) {
		t.Errorf("got %v, want %v", err, authz.ErrUnsupported)
	}
}

// FuzzFromFilter has filters of any bytes, which come from whoever is taken for a
// control plane.
func FuzzFromFilter(f *testing.F) {
	for _, text := range []string{asksFor(httpRBAC, "mine") + ", " + grpcService, asksFor(httpRBAC, "mine") + ", " + httpServiceOf(`, "pathPrefix": "/x"`)} {
		var m httpv3.ExtAuthz
		if err := protojson.Unmarshal([]byte("{"+text+"}"), &m); err != nil {
			f.Fatal(err)
		}
		b, err := proto.Marshal(&m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m httpv3.ExtAuthz
		if proto.Unmarshal(b, &m) == nil {
			if p, err := FromHTTPFilter(&m); (p == nil) == (err == nil) || err == nil && p.Validate() != nil {
				t.Fatalf("%v: %+v, %v", &m, p, err)
			}
		}
		var n netv3.ExtAuthz
		if proto.Unmarshal(b, &n) == nil {
			if p, err := FromNetworkFilter(&n); (p == nil) == (err == nil) || err == nil && p.Validate() != nil {
				t.Fatalf("%v: %+v, %v", &n, p, err)
			}
		}
	})
}
