package policy

import (
	"net/netip"
	"os"
	"strings"
	"testing"
)

const examples = "../../examples/policies"

// load returns the mesh of files, in which nothing is to be wrong.
func load(t testing.TB, paths ...string) *Mesh {
	t.Helper()
	files, err := Read(paths...)
	if err != nil {
		t.Fatal(err)
	}
	m := New(Options{}, files)
	for _, err := range m.Problems() {
		t.Error(err)
	}
	return m
}

// manifests returns what is in a text.
func manifests(texts ...string) *Manifests {
	m := new(Manifests)
	for _, text := range texts {
		m.Add("test.yaml", []byte(text))
	}
	return m
}

// shop returns the objects of the example that are no policies.
func shop(t testing.TB) *Manifests {
	t.Helper()
	files, err := Read(examples + "/shop.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// allow writes an AuthorizationPolicy of the shop: on a target, with the rest of its
// spec.
func allow(name, kind, target, spec string) string {
	group := ""
	if kind == "Gateway" {
		group = "gateway.networking.k8s.io"
	}
	return "\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: " + name + ", namespace: shop}\nspec:\n" +
		"  targetRefs: [{kind: " + kind + ", group: \"" + group + "\", name: " + target + "}]\n  " + strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n  ") + "\n"
}

func netipPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func netipAddrPort(a netip.Addr) string { return netip.AddrPortFrom(a, 41000).String() }

func open(t testing.TB, name string) *os.File {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
