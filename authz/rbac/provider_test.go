package rbac

import (
	"os"
	"reflect"
	"testing"

	httpext "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/manifest"
)

// What an ext_authz filter says of its provider is what MeshConfig said of it to
// the istiod that wrote the filter.
func TestExtAuthzFiltersAreTheProvidersOfMeshConfig(t *testing.T) {
	want, filters := meshProviders(t), 0
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

// meshProviders reads the MeshConfig of the listeners' istiod.
func meshProviders(t *testing.T) map[string]*authz.Provider {
	t.Helper()
	text, err := os.ReadFile("testdata/mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	x := manifest.NewIndex(manifest.Options{})
	for _, o := range manifest.DecodeMesh("mesh.yaml", text).Objects {
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
