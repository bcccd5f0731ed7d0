package file

import (
	"bytes"
	"os"
	"path/filepath"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// Mesh returns what MeshConfig says in the files that a Source of these options
// would read, or nil if none says anything that is good. It is for what has to be
// known before there can be a Source; whatever is wrong, Run reports.
func Mesh(o Options) *config.Mesh {
	s := New(o)
	names, err := s.list()
	if err != nil {
		return nil
	}
	seen := map[mesh.Key]bool{}
	var changes []manifest.Change
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil || name != o.MeshConfig && !bytes.Contains(data, []byte("ConfigMap")) {
			continue // decoding everything takes as long as starting does
		}
		for _, object := range s.decode(name, data).Objects {
			if kind := object.Key.Kind; (kind == "ConfigMap" || kind == config.MeshKind) && !seen[object.Key] {
				seen[object.Key] = true
				changes = append(changes, manifest.Change{Key: object.Key, Object: object})
			}
		}
	}
	s.index.Apply(changes...)
	return s.index.Mesh()
}

// Mesh returns what MeshConfig says now, or nil if there is none.
func (s *Source) Mesh() *config.Mesh {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index.Mesh()
}

// decode reads one of the files that list gives.
func (s *Source) decode(name string, data []byte) *manifest.File {
	if name == s.o.MeshConfig {
		return manifest.DecodeMesh(name, data)
	}
	return manifest.Decode(name, data)
}

// isMeshConfig reports whether a path is that of the file that MeshConfig is in.
func (s *Source) isMeshConfig(path string) bool {
	return s.o.MeshConfig != "" && filepath.Clean(path) == filepath.Clean(s.o.MeshConfig)
}
