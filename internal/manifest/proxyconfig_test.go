package manifest

import (
	"reflect"
	"strings"
	"testing"
)

func TestProxyConfigGoesBeforeMeshConfig(t *testing.T) {
	const mesh = `
trustDomain: example.com
defaultConfig:
  discoveryAddress: istiod.istio-system.svc:15012
  concurrency: 2
  statsPort: 1
  proxyMetadata: {A: mesh, B: mesh}
`
	const own = `
concurrency: 0
proxyAdminPort: 15100
proxyMetadata: {B: own, C: own}
terminationDrainDuration: 20s
`
	zero := uint16(0)
	got, err := DecodeProxyConfig([]byte(mesh), []byte(own))
	want := ProxyConfig{
		DiscoveryAddress: "istiod.istio-system.svc:15012", ProxyAdminPort: 15100, StatsPort: 1, Concurrency: &zero,
		ProxyMetadata: map[string]string{"A": "mesh", "B": "own", "C": "own"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if got, err := DecodeProxyConfig(nil, nil); err != nil || !reflect.DeepEqual(got, ProxyConfig{}) {
		t.Errorf("nothing: got %+v, %v", got, err)
	}
	if got, err := DecodeProxyConfig([]byte(mesh), []byte("proxyMetadata: null")); err != nil || got.ProxyMetadata["A"] != "mesh" {
		t.Errorf("no metadata of its own: got %+v, %v", got, err)
	}
	for text, part := range map[string]string{"statsPort: x": "ProxyConfig: ", "statsPort: 70000": "ProxyConfig: ", "a: [": "ProxyConfig: "} {
		if _, err := DecodeProxyConfig(nil, []byte(text)); err == nil || !strings.HasPrefix(err.Error(), part) {
			t.Errorf("%s: got %v", text, err)
		}
	}
	if _, err := DecodeProxyConfig([]byte("defaultConfig: 1"), nil); err == nil || !strings.HasPrefix(err.Error(), "MeshConfig: ") {
		t.Errorf("got %v", err)
	}
}

func FuzzProxyConfig(f *testing.F) {
	f.Add([]byte("defaultConfig: {concurrency: 2, proxyMetadata: {A: b}}"), []byte("concurrency: 0"))
	f.Add([]byte("{}"), []byte("proxyMetadata: {A: null}"))
	f.Fuzz(func(t *testing.T, mesh, own []byte) { _, _ = DecodeProxyConfig(mesh, own) })
}
