//go:build linux

// Package mesh puts Istio into a cluster, as its users do, with one thing changed: the
// image of the node tunnel is ours.
package mesh

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/waystone-mesh/waystone/e2e/internal/build"
	"github.com/waystone-mesh/waystone/e2e/internal/cluster"
	"github.com/waystone-mesh/waystone/e2e/internal/image"
)

// The names of the images.
const (
	istiod   = "localhost/istio/pilot:e2e"
	cni      = "localhost/istio/install-cni:e2e"
	Ztunnel  = "localhost/waystone/ztunnel:e2e"
	Waypoint = "localhost/waystone/waypoint:e2e"
	App      = "localhost/waystone/app:e2e"
)

// Images are tar files: those that a cluster needs, Istio's, and ours.
type Images struct{ Cluster, Istio, Own []string }

// Built are the images of what tools have built.
func Built(ctx context.Context, tools *build.Builder) (Images, error) {
	agent, err := cniImage(ctx, tools)
	if err != nil {
		return Images{}, err
	}
	program := func(name, tool string, more ...string) *image.Image {
		i := &image.Image{Name: name, Files: map[string]string{"/usr/local/bin/" + tool: tools.Path(tool)}, Entrypoint: []string{"/usr/local/bin/" + tool}}
		for _, link := range more {
			if i.Links == nil {
				i.Links = map[string]string{}
			}
			i.Links["/usr/local/bin/"+link] = tool
		}
		return i
	}
	pilot := program(istiod, "pilot-discovery")
	pilot.User = "1337:1337" // its Deployment says that it must not be root
	var images Images
	for _, set := range []struct {
		to     *[]string
		images []*image.Image
	}{
		{&images.Cluster, []*image.Image{
			program(cluster.Pause, "pause"),
			program(cluster.CoreDNS, "coredns"),
		}},
		{&images.Istio, []*image.Image{
			pilot,
			agent,
		}},
		{&images.Own, []*image.Image{
			program(Ztunnel, "ztunnel"),
			program(Waypoint, "waypoint"),
			program(App, "app", "curl", "echo", "bookinfo", "sleep"),
		}},
	} {
		for _, i := range set.images {
			file, err := write(tools, i)
			if err != nil {
				return Images{}, err
			}
			*set.to = append(*set.to, file)
		}
	}
	return images, nil
}

// write writes an image into the cache, unless it is there and younger than its files.
func write(tools *build.Builder, i *image.Image) (string, error) {
	dir, err := tools.Cache("images")
	if err != nil {
		return "", err
	}
	said, err := json.Marshal(i) // another definition is another file
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, fmt.Sprintf("%s-%.4x.tar", strings.NewReplacer("/", "_", ":", "_").Replace(i.Name), sha256.Sum256(said)))
	if at, err := os.Stat(file); err == nil {
		newer := false
		for from := range maps.Values(i.Files) {
			info, err := os.Stat(from)
			newer = newer || err != nil || info.ModTime().After(at.ModTime())
		}
		if !newer {
			return file, nil
		}
	}
	return file, i.Write(file)
}

// cniImage is the agent of istio-cni, with the plugin that it installs, and what its own
// image has beside them: iptables and nft, here this machine's, with their libraries.
func cniImage(ctx context.Context, tools *build.Builder) (*image.Image, error) {
	i := &image.Image{
		Name: cni,
		Files: map[string]string{
			"/usr/local/bin/install-cni": tools.Path("install-cni"),
			"/opt/cni/bin/istio-cni":     tools.Path("istio-cni"),
		},
		Links:      map[string]string{},
		Entrypoint: []string{"/usr/local/bin/install-cni"},
	}
	var binaries []string
	for multi, kind := range map[string]string{"xtables-nft-multi": "nft", "xtables-legacy-multi": "legacy"} {
		path, err := exec.LookPath(multi)
		if err != nil {
			path = "/usr/sbin/" + multi
		}
		binaries = append(binaries, path)
		for _, command := range []string{"", "-save", "-restore"} {
			i.Links["/usr/sbin/iptables-"+kind+command] = path
			i.Links["/usr/sbin/ip6tables-"+kind+command] = path
			if kind == "nft" {
				i.Links["/usr/sbin/iptables"+command] = path
				i.Links["/usr/sbin/ip6tables"+command] = path
			}
		}
	}
	nft, err := exec.LookPath("nft")
	if err != nil {
		return nil, fmt.Errorf("istio-cni's image needs nft: %w", err)
	}
	binaries = append(binaries, nft)
	extensions, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	if err != nil || len(extensions) == 0 {
		return nil, errors.New("istio-cni's image needs the extensions of iptables in /usr/lib/*/xtables")
	}
	for _, extension := range extensions { // some are links to others
		real, err := filepath.EvalSymlinks(extension)
		if err != nil {
			return nil, err
		}
		i.Files[extension] = real
	}
	for _, path := range binaries {
		i.Files[path] = path
		libraries, err := libraries(ctx, path)
		if err != nil {
			return nil, err
		}
		for _, library := range libraries {
			i.Files[library] = library
		}
	}
	return i, nil
}

// libraries returns what a program is linked with, the linker included.
func libraries(ctx context.Context, program string) (paths []string, err error) {
	out, err := exec.CommandContext(ctx, "ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", program, err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		for word := range strings.FieldsSeq(lines.Text()) {
			if strings.HasPrefix(word, "/") {
				paths = append(paths, word)
			}
		}
	}
	return paths, nil
}
