package file

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// meshMap is a ConfigMap with MeshConfig, which is indented by four.
func meshMap(text string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
}

func rego(module string) string {
	return "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: rego, namespace: istio-system}\ndata:\n  p.rego: " + module + "\n"
}

const opaProvider = "extensionProviders:\n- name: opa\n  opa: {configMap: {name: rego}}\n"

// provider returns a provider that is in force, or nil.
func (h *harness) provider(name string) *authz.Provider {
	return h.store.Snapshot().Mesh().Providers[name]
}

func TestAnEditedConfigMapIsAnotherProvider(t *testing.T) {
	dir := t.TempDir()
	grpc := "- name: rpc\n  envoyExtAuthzGrpc: {service: a.b.svc, port: 9000}\n"
	put(t, dir, "mesh.yaml", meshMap("pathNormalization: {normalization: NONE}\n"+opaProvider+grpc))
	put(t, dir, "rego.yaml", rego("package one"))
	h, r := start(t, dir, dir, Options{})
	if len(r.Problems) != 0 {
		t.Errorf("problems: %v", texts(r))
	}
	opa, rpc := h.provider("opa"), h.provider("rpc")
	if opa == nil || opa.OPA.Modules["p.rego"] != "package one" || rpc == nil || h.store.Snapshot().Mesh().Normalization != routing.NormalizeNone {
		t.Fatalf("got %+v", h.store.Snapshot().Mesh())
	}

	h.replace("rego.yaml", rego("package two"))
	h.until("the edit of a module", func(Report) bool { return h.provider("opa").OPA.Modules["p.rego"] == "package two" })
	if h.provider("opa") == opa || h.provider("rpc") != rpc {
		t.Errorf("another provider: %v, want true; its neighbour: %v, want false", h.provider("opa") != opa, h.provider("rpc") != rpc)
	}

	// One that is bad is so alone, and stays as it was.
	h.replace("mesh.yaml", meshMap(opaProvider+"- name: rpc\n  envoyExtAuthzGrpc:\n    service: a.b.svc\n    port: 99999\n"))
	r = h.until("the bad provider", func(r Report) bool { return len(r.Problems) == 1 })
	if got := texts(r)[0]; got != filepath.Join(dir, "mesh.yaml")+":12: ConfigMap istio-system/istio: extensionProviders[name=rpc].envoyExtAuthzGrpc.port: 99999 is not 1 to 65535" {
		t.Errorf("problem: %s", got)
	}
	if h.provider("rpc") != rpc || h.store.Snapshot().Mesh().Normalization != routing.NormalizeBase {
		t.Error("the rest is not in force, or what is bad is")
	}

	h.replace("mesh.yaml", meshMap(grpc[2:]))
	r = h.until("what is no MeshConfig", func(r Report) bool { return len(r.Problems) == 1 && strings.Contains(texts(r)[0], "not YAML") })
	if got := texts(r)[0]; !strings.HasPrefix(got, filepath.Join(dir, "mesh.yaml")+":7: ConfigMap istio-system/istio: ") {
		t.Errorf("problem: %s", got)
	}
	if h.provider("rpc") != rpc || h.provider("opa") == nil {
		t.Error("what was good is not in force any more")
	}
	h.replace("mesh.yaml", meshMap("extensionProviders:\n"+grpc))
	h.until("the mended file", func(r Report) bool { return len(r.Problems) == 0 })
	if h.provider("rpc") != rpc || h.provider("opa") != nil {
		t.Error("mended, and not in force")
	}
}

func TestMeshConfigInAFileOfItsOwn(t *testing.T) {
	dir, etc := t.TempDir(), t.TempDir()
	put(t, dir, "mesh.yaml", meshMap("trustDomainAliases: [inner]"))
	put(t, dir, "pod.yaml", pod("a", "10.0.0.1"))
	name := filepath.Join(etc, "mesh")
	put(t, etc, "mesh", "trustDomainAliases: [outer]\n")
	h, r := start(t, dir, dir, Options{MeshConfig: name})
	aliases := func() string { return strings.Join(h.store.Snapshot().Mesh().Aliases, " ") }
	if got := aliases(); got != "outer" || len(r.Problems) != 0 {
		t.Errorf("aliases %q, problems %v", got, texts(r))
	}
	h.want("a:10.0.0.1")

	in := &harness{TB: t, dir: etc}
	in.replace("mesh", "trustDomainAliases: [edited]\n")
	h.until("the edit", func(Report) bool { return aliases() == "edited" })
	in.replace("mesh", "trustDomainAliases: edited\n")
	r = h.until("the bad edit", func(r Report) bool { return len(r.Problems) == 1 })
	if got := texts(r)[0]; got != name+":1: MeshConfig: trustDomainAliases: string is not allowed here" || aliases() != "edited" {
		t.Errorf("problem %s, aliases %s", got, aliases())
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	r = h.until("the removal", func(r Report) bool { return len(r.Problems) == 2 })
	if aliases() != "edited" {
		t.Errorf("with the file gone: aliases %s, problems %v", aliases(), texts(r))
	}
}

func TestMeshConfigFileBesideTheManifests(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "mesh.yaml", "trustDomainAliases: [outer]\n") // no manifest
	put(t, dir, "pod.yaml", pod("a", "10.0.0.1"))
	h, r := start(t, dir, dir, Options{MeshConfig: filepath.Join(dir, ".", "mesh.yaml")})
	if len(r.Problems) != 0 || len(h.store.Snapshot().Mesh().Aliases) != 1 {
		t.Errorf("problems %v, mesh %+v", texts(r), h.store.Snapshot().Mesh())
	}
	if err := New(Options{Path: dir, MeshConfig: filepath.Join(dir, "nothing")}).Run(t.Context(), config.NewStore(config.Options{})); err == nil || !strings.Contains(err.Error(), "mesh config: ") {
		t.Errorf("one that is not there: %v", err)
	}
}

func TestMeshBeforeThereIsASource(t *testing.T) {
	dir := t.TempDir()
	if m := Mesh(Options{Path: filepath.Join(dir, "nothing")}); m != nil {
		t.Errorf("of nothing: %+v", m)
	}
	put(t, dir, "a.yaml", pod("a", "10.0.0.1")+"---\n"+meshMap("trustDomain: td\nrootNamespace: root"))
	put(t, dir, "b.yaml", meshMap("trustDomain: twice"))
	if m := Mesh(Options{Path: dir}); m == nil || m.TrustDomain != "td" || m.RootNamespace != "root" {
		t.Errorf("got %+v", m)
	}
	put(t, dir, "mesh.conf", "trustDomain: other")
	if m := Mesh(Options{Path: dir, MeshConfig: filepath.Join(dir, "mesh.conf")}); m == nil || m.TrustDomain != "other" {
		t.Errorf("with a file of its own: %+v", m)
	}
	put(t, dir, "mesh.conf", "trustDomain: [")
	if m := Mesh(Options{Path: dir, MeshConfig: filepath.Join(dir, "mesh.conf")}); m != nil {
		t.Errorf("of a bad file: %+v", m)
	}
}

func TestWhatTheStoreRefusesIsLocated(t *testing.T) {
	dir := t.TempDir()
	policy := "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}], rules: [{}]}\n"
	put(t, dir, "a.yaml", pod("a", "10.0.0.1")+policy)
	_, r := start(t, dir, dir, Options{})
	want := filepath.Join(dir, "a.yaml") + `:7: AuthorizationPolicy shop/p: spec.targetRefs[0].kind: a GatewayClass may be targeted from the root namespace "istio-system" only`
	if got := texts(r); len(got) != 1 || got[0] != want {
		t.Errorf("problems %v, want %s", got, want)
	}
}

// TestAuthorizationReachesTheDestination reads all that a waypoint decides by.
func TestAuthorizationReachesTheDestination(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "mesh.yaml", meshMap(opaProvider)+rego("package envoy.authz"))
	put(t, dir, "shop.yaml", `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: istio-waypoint, addresses: [{value: 10.9.9.9}], listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}
spec: {clusterIP: 10.1.0.1, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: web}], jwtRules: [{issuer: "https://issuer.example.com"}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: web}], action: CUSTOM, provider: {name: opa}, rules: [{}]}
`)
	store := config.NewStore(config.Options{Gateway: mesh.Key{Namespace: "shop", Name: "waypoint"}})
	s := New(Options{Path: dir})
	names, err := s.list()
	if err != nil {
		t.Fatal(err)
	}
	s.look(store, names, nil, true)
	if got := s.Problems(); len(got) != 0 {
		t.Fatalf("problems: %v", got)
	}
	a, err := mesh.ParseAuthority("10.1.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	d := store.Snapshot().Lookup("", "shop", a)
	if d == nil || d.Tokens == nil || len(store.Snapshot().TokenSources()) != 1 {
		t.Fatalf("tokens of %+v, keys from %v", d, store.Snapshot().TokenSources())
	}
	if q := d.Policies.Ask(&authz.Input{}, nil); q == nil || q.Provider != "opa" {
		t.Errorf("asked: %+v, want opa", q)
	}
}
