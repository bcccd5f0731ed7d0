// Package build makes what a cluster needs, once, in a cache: the programs of Kubernetes and
// Istio from their Go modules, ours from this tree, and images of some of them.
//
// Each set of tools is a module of its own below e2e/tools, because Kubernetes is built only
// with 33 replace directives, and because their dependencies are no business of ours. What
// is built is kept in a directory named after the hash of the module's go.mod and go.sum.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A module is a directory below e2e/tools, and what is built from it.
type module struct {
	name  string
	flags []string // the linker's, beside -s -w
	tools []tool
}

type tool struct{ name, pkg string }

const kubernetes = "v1.36.4"

var modules = []module{
	{name: "etcd", tools: []tool{{"etcd", "go.etcd.io/etcd/server/v3"}}},
	{name: "coredns", tools: []tool{{"coredns", "."}}},
	{
		name: "kube",
		flags: []string{ // kubectl and istioctl ask for it, and the API server has default versions of features
			"-X k8s.io/component-base/version.gitVersion=" + kubernetes,
			"-X k8s.io/component-base/version.gitMajor=1",
			"-X k8s.io/component-base/version.gitMinor=36",
			"-X k8s.io/client-go/pkg/version.gitVersion=" + kubernetes,
		},
		tools: []tool{{"hyperkube", "./hyperkube"}},
	},
	{
		name: "istio",
		tools: []tool{
			{"pilot-discovery", "istio.io/istio/pilot/cmd/pilot-discovery"},
			{"istioctl", "istio.io/istio/istioctl/cmd/istioctl"},
			{"install-cni", "istio.io/istio/cni/cmd/install-cni"},
			{"istio-cni", "istio.io/istio/cni/cmd/istio-cni"},
		},
	},
}

// Kubernetes are the names that hyperkube may be called by.
var Kubernetes = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"}

// A Builder builds into a cache. Log is told what takes long.
type Builder struct {
	E2E    string // the directory of this module
	Source string // the tree that our own programs are built from; that of E2E if ""
	Log    io.Writer

	cache string
	tools map[string]string // path by name
}

// New returns a Builder for the module whose directory is e2e. The cache is
// waystone-e2e in the user's cache directory ($XDG_CACHE_HOME).
func New(e2e string, log io.Writer) (*Builder, error) {
	dir, err := filepath.Abs(e2e)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "tools", "kube", "go.mod")); err != nil {
		return nil, fmt.Errorf("%s is not the directory e2e of the project: %w", dir, err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("no cache directory, set XDG_CACHE_HOME: %w", err)
	}
	source := os.Getenv("WAYSTONE_SOURCE")
	if source == "" {
		source = filepath.Dir(dir)
	}
	return &Builder{E2E: dir, Source: source, Log: log, cache: filepath.Join(cache, "waystone-e2e"), tools: map[string]string{}}, nil
}

// Path returns where a program is that has been built.
func (b *Builder) Path(name string) string {
	path := b.tools[name]
	if path == "" {
		panic("build: no program " + name)
	}
	return path
}

// Tools builds the programs that are not ours, unless the cache has them. That takes
// half an hour of CPU the first time.
func (b *Builder) Tools(ctx context.Context) error {
	for _, m := range modules {
		dir := filepath.Join(b.E2E, "tools", m.name)
		key, err := hash(filepath.Join(dir, "go.mod"), filepath.Join(dir, "go.sum"))
		if err != nil {
			return err
		}
		to := filepath.Join(b.cache, m.name+"-"+key)
		for _, t := range m.tools {
			path := filepath.Join(to, t.name)
			b.tools[t.name] = path
			if _, err := os.Stat(path); err == nil {
				continue
			}
			if err := b.build(ctx, dir, path, t.pkg, m.flags...); err != nil {
				return err
			}
		}
	}
	return nil
}

// All builds everything.
func (b *Builder) All(ctx context.Context) error {
	if err := b.Tools(ctx); err != nil {
		return err
	}
	return b.Own(ctx)
}

// Own builds our programs: those of cmd that a node runs, and those of e2e.
func (b *Builder) Own(ctx context.Context) error {
	to := filepath.Join(b.cache, "own")
	for _, t := range []struct{ dir, name, pkg string }{
		{b.Source, "ztunnel", "./cmd/ztunnel"},
		{b.Source, "waypoint", "./cmd/waypoint"},
		{b.E2E, "app", "./app"},
		{b.E2E, "pause", "./pause"},
		{b.E2E, "cluster", "./cluster"},
	} {
		path := filepath.Join(to, t.name)
		b.tools[t.name] = path
		if err := b.build(ctx, t.dir, path, t.pkg); err != nil {
			return err
		}
	}
	return nil
}

func (b *Builder) build(ctx context.Context, dir, to, pkg string, flags ...string) error {
	began := time.Now()
	temporary := to + ".new" // a build that is cut short must not look like a finished one
	link := strings.Join(append([]string{"-s -w"}, flags...), " ")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", link, "-o", temporary, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s in %s: %w\n%s", pkg, dir, err, out)
	}
	if took := time.Since(began); took > 5*time.Second {
		fmt.Fprintf(b.Log, "built %s in %s\n", filepath.Base(to), took.Round(time.Second))
	}
	return os.Rename(temporary, to)
}

// Cache is a directory for what is made of the programs.
func (b *Builder) Cache(name string) (string, error) {
	dir := filepath.Join(b.cache, name)
	return dir, os.MkdirAll(dir, 0o755)
}

// Module returns the directory in which go mod download puts a module that tools/name
// requires: charts and CRDs are in there.
func (b *Builder) Module(ctx context.Context, name, path string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", path)
	cmd.Dir = filepath.Join(b.E2E, "tools", name)
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("where %s is: %w", path, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// hash returns a name of what files hold.
func hash(files ...string) (string, error) {
	h := sha256.New()
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%d\n%s", len(content), content)
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}
