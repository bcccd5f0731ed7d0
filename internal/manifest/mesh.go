package manifest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// MeshConfig is text in a ConfigMap of Istio's own namespace, under meshData. The
// ConfigMap is called meshName or, of a revision, istio-REVISION.
const (
	meshName = "istio"
	meshData = "mesh"
)

// meshKey is that of the Mesh, and of MeshConfig in a file of its own.
var meshKey = mesh.Key{Kind: config.MeshKind}

// A configMap is the data of a ConfigMap, and where in a file MeshConfig stands,
// if it is among them.
type configMap struct {
	data map[string]string
	mesh *document
}

func newConfigMap(d document, m *corev1.ConfigMap) *configMap {
	out := &configMap{data: m.Data}
	if text, ok := m.Data[meshData]; ok {
		in := d.inner("data."+meshData, text)
		out.mesh = &in
	}
	return out
}

// DecodeMesh reads a file that is MeshConfig, or a ConfigMap that holds it. What
// it gives is for an Index, as with Decode: MeshConfig from there goes before a
// ConfigMap.
func DecodeMesh(name string, data []byte) *File {
	o := &Object{Key: meshKey, File: name, Line: 1}
	for _, in := range Decode(name, data).Objects {
		if m, ok := in.value.(*configMap); ok && m.mesh != nil {
			o.Line, o.value = in.Line, m
			return &File{Objects: []*Object{o}}
		}
	}
	for _, d := range splitYAML(data) {
		if raw, err := yaml.YAMLToJSON(d.text); err == nil && bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
			continue // nothing but comments
		}
		d.file = name
		o.Line, o.value = d.line, &configMap{mesh: &d}
		return &File{Objects: []*Object{o}}
	}
	o.value = &configMap{mesh: &document{file: name, line: 1}}
	return &File{Objects: []*Object{o}}
}

// A meshConfig is what MeshConfig says. A provider that is at fault is so alone;
// for anything else, all of it is refused.
type meshConfig struct {
	settings  config.Mesh // but for Providers
	providers []*provider
	named     map[string]*provider
	ignored   []string // what of it is not read, and why
	err       *Error
}

// readMesh reads MeshConfig from d, which object holds.
func readMesh(d document, object mesh.Key) *meshConfig {
	m := &meshConfig{named: map[string]*provider{}}
	d.tree = parse(d.text) // each provider that is at fault wants its line
	refused := func(f *fault) *meshConfig {
		m.err = &Error{File: d.file, Line: d.at(f.field), Object: object, Field: f.field, Reason: f.reason}
		return m
	}
	raw, err := yaml.YAMLToJSONStrict(d.text)
	if err != nil {
		m.err = d.syntaxError(err)
		m.err.Object = object
		return m
	}
	var all any
	if err := json.Unmarshal(raw, &all); err != nil {
		return refused(&fault{"", plainReason(err)})
	}
	fields, ok := all.(map[string]any)
	if !ok && all != nil {
		return refused(&fault{"", "is not MeshConfig"})
	}
	if kind, ok := fields["kind"].(string); ok && fields["apiVersion"] != nil {
		return refused(faultf("kind", "%s is neither MeshConfig nor a ConfigMap with the key %s", kind, meshData))
	}
	if f := m.read(fields); f != nil {
		return refused(f)
	}
	list, ok := fields["extensionProviders"].([]any)
	if !ok && fields["extensionProviders"] != nil {
		return refused(&fault{"extensionProviders", "is not a list"})
	}
	for i, entry := range list {
		m.add(readProvider(d, object, i, entry))
	}
	return m
}

// meshSettings are the fields of Istio's MeshConfig that are read beside the
// providers. What else there is in a real one is for others.
type meshSettings struct {
	PathNormalization struct {
		Normalization string `json:"normalization"`
	} `json:"pathNormalization"`
	RootNamespace      string   `json:"rootNamespace"`
	TrustDomain        string   `json:"trustDomain"`
	TrustDomainAliases []string `json:"trustDomainAliases"`
}

var settings = []string{"pathNormalization", "rootNamespace", "trustDomain", "trustDomainAliases"}

// read reads the settings.
func (m *meshConfig) read(fields map[string]any) *fault {
	ours := map[string]any{}
	for _, name := range settings {
		if v, ok := fields[name]; ok {
			ours[name] = v
		}
	}
	var c meshSettings
	if f := decode(ours, &c, ""); f != nil {
		return f
	}
	normalization, err := routing.ParseNormalization(cmp.Or(c.PathNormalization.Normalization, "DEFAULT"))
	if err != nil {
		return faultf("pathNormalization.normalization", "%v", err)
	}
	m.settings = config.Mesh{
		Normalization: normalization, TrustDomain: c.TrustDomain, Aliases: c.TrustDomainAliases, RootNamespace: c.RootNamespace,
	}
	return nil
}

// add adds a provider. One of two with a name would be either of them: both are
// refused.
func (m *meshConfig) add(p *provider) {
	if p.ignored != "" {
		m.ignored = append(m.ignored, p.at("").Field+": "+p.ignored)
		return
	}
	if q := m.named[p.name]; q != nil {
		q.err = p.error("name", "is used twice")
		return
	}
	if p.name != "" {
		m.named[p.name] = p
	}
	m.providers = append(m.providers, p)
}

// meshConfig returns what MeshConfig says, or nil if there is none.
func (x *Index) meshConfig() *meshConfig {
	if x.meshFile != nil {
		return readMesh(*x.meshFile.mesh, meshKey)
	}
	key := mesh.Key{Kind: kindConfigMap, Namespace: x.o.MeshNamespace, Name: meshName}
	if x.o.Revision != "" {
		key.Name += "-" + x.o.Revision
	}
	if m := x.namespace(key.Namespace).configMaps[key.Name]; m != nil && m.mesh != nil {
		return readMesh(*m.mesh, key)
	}
	return nil
}

// settleMesh makes of MeshConfig what it makes now, and tells what of it is
// refused: that stays as it was.
func (x *Index) settleMesh() {
	m := x.meshConfig()
	refused := map[mesh.Key]*Error{}
	x.ignored = nil
	switch {
	case m == nil:
		x.settle(meshKey, nil)
	case m.err != nil:
		refused[meshKey] = m.err
	default:
		x.ignored = m.ignored
		out := m.settings
		out.Providers = map[string]*authz.Provider{}
		before := x.Mesh()
		for _, p := range m.providers {
			made, err := x.provider(p)
			if err != nil {
				refused[p.key()] = err
				made = nil
				if before != nil {
					made = before.Providers[p.name]
				}
			}
			if made != nil {
				out.Providers[p.name] = made
			}
		}
		x.settle(meshKey, []config.Resource{&out})
	}
	for _, key := range slices.SortedFunc(maps.Keys(refused), compareKeys) {
		x.tell(config.Update{Key: key, Err: refused[key]})
	}
	for key := range x.meshRefused {
		if refused[key] == nil {
			x.mended[key] = struct{}{}
		}
	}
	x.meshRefused = refused
}

// Mesh returns what MeshConfig says, or nil if there is none, or none that ever
// was good.
func (x *Index) Mesh() *config.Mesh {
	m, _ := x.resources[meshKey].(*config.Mesh)
	return m
}

// Ignored returns what of MeshConfig is not read although it is like something
// that is, and why.
func (x *Index) Ignored() []string { return x.ignored }
