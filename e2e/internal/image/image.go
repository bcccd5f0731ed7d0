// Package image writes images of one layer as OCI image layouts in tar files, which
// containerd imports. It is as much of a container builder as the tests need.
//
// Layout and media types: OCI Image Format Specification 1.1.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
)

// An Image is what is in an image, and how it is run.
type Image struct {
	Name       string            // with registry and tag: containerd's CRI does not find others
	Files      map[string]string // by place in the image: a file of this machine, whose mode is kept
	Links      map[string]string // by place: what the symbolic link says
	Texts      map[string]string // by place: content of a small file, mode 0644
	Entrypoint []string
	Env        []string
	User       string // root if ""
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// Write writes the image to a file, which is whole or not there.
func (i *Image) Write(to string) error {
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Name, err)
	}
	blobs := map[string][]byte{}
	add := func(mediaType string, content []byte) descriptor {
		sum := sha256.Sum256(content)
		digest := hex.EncodeToString(sum[:])
		blobs["blobs/sha256/"+digest] = content
		return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: int64(len(content))}
	}
	layerIs := add("application/vnd.oci.image.layer.v1.tar", layer)
	configIs := add("application/vnd.oci.image.config.v1+json", encode(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Entrypoint": i.Entrypoint,
			"Env":        append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, i.Env...),
			"User":       i.User,
			"WorkingDir": "/",
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layerIs.Digest}},
	}))
	manifestIs := add("application/vnd.oci.image.manifest.v1+json", encode(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        configIs,
		"layers":        []descriptor{layerIs},
	}))
	manifestIs.Annotations = map[string]string{"io.containerd.image.name": i.Name, "org.opencontainers.image.ref.name": i.Name}
	manifestIs.Platform = &platform{runtime.GOARCH, "linux"}
	blobs["oci-layout"] = []byte(`{"imageLayoutVersion":"1.0.0"}`)
	blobs["index.json"] = encode(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.index.v1+json",
		"manifests":     []descriptor{manifestIs},
	})
	return write(to, blobs)
}

func write(to string, files map[string][]byte) (err error) {
	temporary := to + ".new"
	f, err := os.Create(temporary)
	if err != nil {
		return err
	}
	defer f.Close()
	t := tar.NewWriter(f)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := put(t, name, 0o644, files[name]); err != nil {
			return err
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(temporary, to)
}

// layer returns the one layer: the files, with the directories they are in.
func (i *Image) layer() ([]byte, error) {
	var out bytes.Buffer
	t := tar.NewWriter(&out)
	made := map[string]bool{".": true}
	var directory func(name string) error
	directory = func(name string) error {
		if made[name] {
			return nil
		}
		made[name] = true
		if err := directory(path.Dir(name)); err != nil {
			return err
		}
		return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755})
	}
	texts := map[string]string{"etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"}
	for name, text := range i.Texts {
		texts[clean(name)] = text
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if err := directory(path.Dir(name)); err != nil {
			return nil, err
		}
		if err := put(t, name, 0o644, []byte(texts[name])); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.Files)) {
		if err := directory(path.Dir(clean(name))); err != nil {
			return nil, err
		}
		if err := putFile(t, clean(name), i.Files[name]); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.Links)) {
		if err := directory(path.Dir(clean(name))); err != nil {
			return nil, err
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: clean(name), Linkname: i.Links[name], Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	err := t.Close()
	return out.Bytes(), err
}

// clean returns a place in the image as a tar file says it.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func put(t *tar.Writer, name string, mode int64, content []byte) error {
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := t.Write(content)
	return err
}

func putFile(t *tar.Writer, name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(info.Mode().Perm()), Size: info.Size()}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}

func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps of strings do encode
	}
	return text
}
