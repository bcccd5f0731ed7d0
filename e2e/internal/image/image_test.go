package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// read returns the files of a tar file, by name; what a link says is its content.
func read(t *testing.T, from io.Reader) map[string]string {
	t.Helper()
	files := map[string]string{}
	for in := tar.NewReader(from); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = fmt.Sprintf("%o %s%s", h.Mode, h.Linkname, text)
	}
}

// Every descriptor says the digest and size of what it names, and the layer has the files.
func TestImageIsALayoutThatContainerdReads(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "image.tar")
	i := &Image{
		Name:       "localhost/x/y:1",
		Files:      map[string]string{"/usr/bin/program": program},
		Links:      map[string]string{"/usr/bin/other": "program"},
		Texts:      map[string]string{"/etc/text": "hello"},
		Entrypoint: []string{"/usr/bin/program"},
	}
	if err := i.Write(to); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := read(t, f)
	blob := func(d descriptor) []byte {
		t.Helper()
		content := []byte(files["blobs/sha256/"+d.Digest[len("sha256:"):]])[len("644 "):]
		if got := fmt.Sprintf("sha256:%x", sha256.Sum256(content)); got != d.Digest || int64(len(content)) != d.Size {
			t.Errorf("%s of %d bytes is described as %s of %d", got, len(content), d.Digest, d.Size)
		}
		return content
	}
	var index, manifest struct {
		Manifests, Layers []descriptor
		Config            descriptor
	}
	if err := json.Unmarshal([]byte(files["index.json"])[len("644 "):], &index); err != nil {
		t.Fatal(err)
	}
	if got := index.Manifests[0].Annotations["io.containerd.image.name"]; got != i.Name {
		t.Errorf("the image is called %q, want %q", got, i.Name)
	}
	if err := json.Unmarshal(blob(index.Manifests[0]), &manifest); err != nil {
		t.Fatal(err)
	}
	blob(manifest.Config)
	layer := read(t, bytes.NewReader(blob(manifest.Layers[0])))
	delete(layer, "etc/passwd")
	want := map[string]string{
		"tmp/": "1777 ", "etc/": "755 ", "usr/": "755 ", "usr/bin/": "755 ",
		"usr/bin/program": "755 #!", "usr/bin/other": "777 program", "etc/text": "644 hello",
	}
	if !maps.Equal(layer, want) {
		t.Errorf("the layer has %q, want %q", slices.Sorted(maps.Keys(layer)), want)
	}
}

func TestMissingFileIsNamed(t *testing.T) {
	dir := t.TempDir()
	err := (&Image{Name: "x", Files: map[string]string{"/a": filepath.Join(dir, "nothing")}}).Write(filepath.Join(dir, "i.tar"))
	if err == nil {
		t.Error("an image of a file that is not there")
	}
}
