package policy

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// Manifests are files that have been read.
type Manifests struct {
	objects []*manifest.Object // the first of each key
	seen    map[mesh.Key]*manifest.Object
	drafts  []draft // the same and more, as far as can be told
	errs    []*manifest.Error
}

// Read reads files and directories: of a directory, as the proxies do, the
// .yaml, .yml and .json files in it. Of an object in several paths the last
// counts, as if they were applied one after the other. The error is that of a path
// that cannot be read; what is wrong in a file is for Mesh.Problems.
func Read(paths ...string) (*Manifests, error) {
	out := new(Manifests)
	for _, path := range paths {
		names, err := list(path)
		if err != nil {
			return nil, err
		}
		m := new(Manifests)
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			m.Add(name, data)
		}
		out = m.over(out, func(string) bool { return true })
	}
	return out, nil
}

// list returns the files that a path stands for.
func list(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := filepath.Join(path, e.Name())
		switch info, err := os.Stat(name); {
		case strings.HasPrefix(e.Name(), "."), err != nil, info.IsDir():
			continue
		}
		if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			names = append(names, name)
		}
	}
	if names == nil {
		return nil, fmt.Errorf("%s: there is no .yaml, .yml or .json file in it", path)
	}
	return names, nil
}

// Add adds what is in a file. Of an object that is there twice, the first counts.
func (m *Manifests) Add(name string, data []byte) {
	if m.seen == nil {
		m.seen = map[mesh.Key]*manifest.Object{}
	}
	m.add(manifest.Decode(name, data))
	m.drafts = append(m.drafts, drafts(name, data)...)
}

// AddMesh adds a file that is MeshConfig, which goes before one in a ConfigMap.
func (m *Manifests) AddMesh(name string, data []byte) {
	if m.seen == nil {
		m.seen = map[mesh.Key]*manifest.Object{}
	}
	m.add(manifest.DecodeMesh(name, data))
}

func (m *Manifests) add(f *manifest.File) {
	m.errs = append(m.errs, f.Errors...)
	for _, o := range f.Objects {
		if before := m.seen[o.Key]; before != nil {
			at := manifest.Error{File: before.File, Line: before.Line}
			m.errs = append(m.errs, &manifest.Error{File: o.File, Line: o.Line, Object: o.Key,
				Reason: "is also in " + strings.TrimSuffix(at.Error(), ": ")})
			continue
		}
		m.seen[o.Key] = o
		m.objects = append(m.objects, o)
		if o.Err != nil {
			m.errs = append(m.errs, o.Err)
		}
	}
}

// isPolicy reports whether an object says who may do what, and does not only
// exist.
func isPolicy(kind string) bool {
	switch kind {
	case authz.Kind, "RequestAuthentication", "PeerAuthentication":
		return true
	}
	return false
}

// With returns the policies of m in the mesh of both: objects that are not
// policies count wherever they are, m's before other's.
func (m *Manifests) With(other *Manifests) *Manifests {
	return m.over(other, func(kind string) bool { return !isPolicy(kind) })
}

// over returns m and, of the kinds that are wanted, those objects of other that it
// has not.
func (m *Manifests) over(other *Manifests, wanted func(kind string) bool) *Manifests {
	out := &Manifests{objects: slices.Clone(m.objects), seen: maps.Clone(m.seen), drafts: slices.Clone(m.drafts), errs: slices.Clone(m.errs)}
	if out.seen == nil {
		out.seen = map[mesh.Key]*manifest.Object{}
	}
	takes := func(k mesh.Key) bool { return wanted(k.Kind) && m.seen[k] == nil }
	for _, o := range other.objects {
		if takes(o.Key) {
			out.objects = append(out.objects, o)
			out.seen[o.Key] = o
		}
	}
	for _, d := range other.drafts {
		if takes(d.key) {
			out.drafts = append(out.drafts, d)
		}
	}
	for _, e := range other.errs {
		if takes(e.Object) {
			out.errs = append(out.errs, e)
		}
	}
	return out
}

// HasPolicies reports whether there is anything to judge by.
func (m *Manifests) HasPolicies() bool {
	return slices.ContainsFunc(m.objects, func(o *manifest.Object) bool { return isPolicy(o.Key.Kind) })
}

// place says where a field of an object is written, or with no field the object.
func (m *Manifests) place(k mesh.Key, field string) (file string, line int) {
	if field != "" {
		for _, d := range m.drafts {
			if d.key == k && d.node != nil {
				return d.file, manifest.Line(d.node, field)
			}
		}
	}
	if o := m.seen[k]; o != nil {
		return o.File, o.Line
	}
	return "", 0
}

// problems are everything that is wrong, by file and line.
func (m *Manifests) problems() []*manifest.Error {
	out := slices.Clone(m.errs)
	slices.SortStableFunc(out, func(a, b *manifest.Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return out
}

// ReadAtMost reads all that r has, which must not be more than so many bytes.
func ReadAtMost(r io.Reader, most int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("is longer than %d bytes", most)
	}
	return data, err
}
