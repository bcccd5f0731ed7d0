package program

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/program/programtest"
	"github.com/waystone-mesh/waystone/telemetry"
)

const meshMap = `
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    trustDomain: mesh.example.com
    rootNamespace: policies
    trustDomainAliases: [old.example.com]
`

// TestFlagsGoBeforeMeshConfig starts as far as a program knows its mesh.
func TestFlagsGoBeforeMeshConfig(t *testing.T) {
	elsewhere := strings.ReplaceAll(meshMap, "namespace: istio-system", "namespace: istio-other")
	ofRevision := strings.ReplaceAll(meshMap, "name: istio,", "name: istio-canary,")
	for _, tt := range []struct {
		name        string
		manifests   string
		meshConfig  string // a file of its own
		environment map[string]string
		args        []string
		want        string // trust domain, root namespace and aliases
	}{
		{"neither", "", "", nil, nil, "cluster.local istio-system []"},
		{"a ConfigMap", meshMap, "", nil, nil, "mesh.example.com policies [old.example.com]"},
		{"a ConfigMap elsewhere", elsewhere, "", nil, nil, "cluster.local istio-system []"},
		{"a ConfigMap in the root namespace of a flag", elsewhere, "", nil, []string{"--root-namespace", "istio-other"}, "mesh.example.com istio-other [old.example.com]"},
		{"of another revision", ofRevision, "", nil, nil, "cluster.local istio-system []"},
		{"of our revision", ofRevision, "", map[string]string{"REVISION": "canary"}, nil, "mesh.example.com policies [old.example.com]"},
		{"a file", meshMap, "trustDomain: file.example.com", nil, nil, "file.example.com istio-system []"},
		{"flags", meshMap, "", nil, []string{"--trust-domain", "td", "--root-namespace", "istio-system", "--trust-domain-alias", "a,b"}, "td istio-system [a b]"},
		{"a flag that is as its default", meshMap, "", nil, []string{"--trust-domain", "cluster.local"}, "cluster.local policies [old.example.com]"},
		{"no alias at all", meshMap, "", nil, []string{"--trust-domain-alias", ""}, "mesh.example.com policies []"},
		{"a variable", meshMap, "", map[string]string{"TRUST_DOMAIN": "td"}, nil, "td policies [old.example.com]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, args := programtest.Quiet(t)
			dir := args[1]
			put := func(name, text string) string {
				name = filepath.Join(dir, name)
				if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				return name
			}
			put("a.yaml", tt.manifests)
			args = append(slices.Clone(args), tt.args...)
			if tt.meshConfig != "" {
				args = append(args, "--mesh-config", put("mesh.conf", tt.meshConfig))
			}
			var o Options
			set := pflag.NewFlagSet("test", pflag.ContinueOnError)
			o.Define(set, telemetry.Waypoint)
			if err := errors.Join(set.Parse(args), flags.FromEnvironment(set, programtest.Lookup(tt.environment))); err != nil {
				t.Fatal(err)
			}
			p := New(t.Context(), &o)
			if err := errors.Join(p.Report(telemetryOptions()), p.Know(config.Options{}, nil), p.Feed()); err != nil {
				t.Fatal(err)
			}
			m := p.Snapshot().Mesh()
			if got := m.TrustDomain + " " + m.RootNamespace + " [" + strings.Join(m.Aliases, " ") + "]"; got != tt.want {
				t.Errorf("in force: %s, want %s", got, tt.want)
			}
			if got := o.TrustDomain + " " + o.RootNamespace + " [" + strings.Join(o.Aliases, " ") + "]"; got != tt.want {
				t.Errorf("for the rest of the program: %s, want %s", got, tt.want)
			}
			if err := p.Close(nil); err != nil {
				t.Error(err)
			}
		})
	}
}
