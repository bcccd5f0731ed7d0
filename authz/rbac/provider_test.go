package rbac

import (
	"os"
	"reflect"
	"testing"

	httpext "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/manifest"
)

// What an ext_authz filter says of its provider is what MeshConfig said of it to
// the istiod that wrote the filter.
func TestExtAuthzFiltersAreTheProvidersOfMeshConfig(t *testing.T) {
	text, err := os.ReadFile("testdata/mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want, filters := meshProviders(t, string(text)), 0
	for _, g := range golden {
		for _, c := range readChains(t, g.listener) {
			for _, raw := range c.Filters {
				f, ok := readMessage(t, raw).(*httpext.ExtAuthz)
				if !ok {
					continue
				}
				filters++
				got, err := extauthz.FromHTTPFilter(f)
				if err != nil {
					t.Fatalf("%s %s: %v", g.listener, c.Chain, err)
				}
				if !reflect.DeepEqual(got, want[got.Name]) {
					t.Errorf("%s %s: got %+v, want %+v", g.listener, c.Chain, got, want[got.Name])
				}
			}
		}
	}
	if filters == 0 {
		t.Error("no listener has such a filter")
	}
}

// Every field of both kinds, and what istiod writes for it.
func TestFieldsOfProvidersAreThoseOfTheirFilters(t *testing.T) {
	want := meshProviders(t, `
extensionProviders:
- name: grpc
  envoyExtAuthzGrpc: {service: a.tools.svc.cluster.local, port: 9000, timeout: 2s, failOpen: true, statusOnError: "503",
    includeRequestBodyInCheck: {maxRequestBytes: 4096, allowPartialMessage: true, packAsBytes: true}}
- name: http
  envoyExtAuthzHttp: {service: a.tools.svc.cluster.local, port: 8000, pathPrefix: /check, includeRequestHeadersInCheck: [x-user, "x-auth-*", "*-id"],
    includeAdditionalHeadersInCheck: {X-Mesh: "1", x-also: "2"}, headersToUpstreamOnAllow: [x-name], headersToDownstreamOnAllow: [set-cookie],
    headersToDownstreamOnDeny: [content-type], includeRequestBodyInCheck: {maxRequestBytes: 1}}
`)
	filter := func(name, fields string) string {
		return `{"transportApiVersion": "V3", "filterEnabledMetadata": {"filter": "envoy.filters.http.rbac", "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
			"value": {"stringMatch": {"prefix": "istio-ext-authz-` + name + `"}}}, ` + fields + `}`
	}
	header := func(kind, text string) string { return `{"` + kind + `": "` + text + `", "ignoreCase": true}` }
	for name, text := range map[string]string{
		"grpc": filter("grpc", `"grpcService": {"envoyGrpc": {"clusterName": "outbound|9000||a.tools.svc.cluster.local", "authority": "a.tools.svc.cluster.local"}, "timeout": "2s"},
			"failureModeAllow": true, "statusOnError": {"code": "ServiceUnavailable"}, "withRequestBody": {"maxRequestBytes": 4096, "allowPartialMessage": true, "packAsBytes": true}`),
		"http": filter("http", `"httpService": {"serverUri": {"uri": "http://a.tools.svc.cluster.local", "cluster": "outbound|8000||a.tools.svc.cluster.local", "timeout": "600s"},
				"pathPrefix": "/check", "authorizationRequest": {"headersToAdd": [{"key": "X-Mesh", "value": "1"}, {"key": "x-also", "value": "2"}]},
				"authorizationResponse": {"allowedUpstreamHeaders": {"patterns": [`+header("exact", "x-name")+`]}, "allowedClientHeaders": {"patterns": [`+header("exact", "content-type")+`]},
					"allowedClientHeadersOnSuccess": {"patterns": [`+header("exact", "set-cookie")+`]}}},
			"allowedHeaders": {"patterns": [`+header("exact", "x-user")+`, `+header("prefix", "x-auth-")+`, `+header("suffix", "-id")+`]}, "withRequestBody": {"maxRequestBytes": 1}`),
	} {
		var f httpext.ExtAuthz
		if err := protojson.Unmarshal([]byte(text), &f); err != nil {
			t.Fatal(err)
		}
		got, err := extauthz.FromHTTPFilter(&f)
		if err != nil || want[name] == nil {
			t.Fatalf("%s: %v, want %+v", name, err, want[name])
		}
		if !reflect.DeepEqual(got, want[name]) {
			t.Errorf("%s: got %+v, want %+v", name, *got, *want[name])
		}
	}
}

// meshProviders reads the providers of a MeshConfig.
func meshProviders(t *testing.T, text string) map[string]*authz.Provider {
	t.Helper()
	x := manifest.NewIndex(manifest.Options{})
	for _, o := range manifest.DecodeMesh("mesh.yaml", []byte(text)).Objects {
		for _, u := range x.Set(o) {
			if u.Err != nil {
				t.Fatal(u.Err)
			}
		}
	}
	m := x.Mesh()
	if m == nil || len(m.Providers) == 0 {
		t.Fatal("MeshConfig has no providers")
	}
	return m.Providers
}
