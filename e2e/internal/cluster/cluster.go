//go:build linux

// Package cluster runs a Kubernetes cluster of two nodes on one Linux machine, as root: the
// real programs, each node in network, mount, PID, UTS, IPC and cgroup namespaces of its
// own, with containerd and pods. Nothing of the machine changes but two names in
// /run/netns for each, one veth, three routes and a directory; Down takes all of that away.
//
// The machine itself has routes to nodes, pods and Services, so that tests run outside.
package cluster

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/waystone-mesh/waystone/e2e/internal/build"
)

//go:embed files
var files embed.FS

// The addresses of the cluster, of both families. Node n1 has 10.88.0.11, fd88::11, and the
// pods 10.244.1.0/24 and fd44:0:0:1::/64.
const (
	prefix    = "waystone" // of what the machine sees: namespaces, the veth, cgroups
	control   = "10.88.0.1"
	server    = "https://" + control + ":6443"
	nodes     = "10.88.0.0/24"
	pods      = "10.244.0.0/16"
	services  = "10.96.0.0/16"
	control6  = "fd88::1"
	pods6     = "fd44::/16"
	services6 = "fd96::/112"
	apiVIP    = "10.96.0.1"
	dnsVIP    = "10.96.0.10"
	machine   = "10.88.255.1" // this machine's end of the veth; the other end is .2

	// Outside is an address that is neither a pod nor a Service: the machine's, which pods
	// reach, under the name outside.test.
	Outside = machine

	// Pause and CoreDNS are the images that a cluster needs at least.
	Pause   = "registry.k8s.io/pause:3.10"
	CoreDNS = "registry.k8s.io/coredns/coredns:v1.15.0"
)

// Nodes are the names of the nodes.
var Nodes = []string{"n1", "n2"}

// A Cluster is one that runs, or will.
type Cluster struct {
	Dir   string // its state: keys, logs, etcd's data, the nodes' disks
	Tools *build.Builder
	Log   io.Writer // one line a step

	began time.Time
	api   *http.Client // nil until it is asked
}

// New returns the cluster of this machine: there can be one. Tools have been built.
func New(tools *build.Builder, log io.Writer) *Cluster {
	return &Cluster{Dir: "/var/tmp/waystone-e2e", Tools: tools, Log: log}
}

// Up starts the cluster, and returns when both nodes are Ready and have the images of
// the tar files. CoreDNS may still be starting.
func (c *Cluster) Up(ctx context.Context, images ...string) error {
	c.began = time.Now()
	if os.Getuid() != 0 {
		return errors.New("a cluster needs root: namespaces, mounts and cgroups")
	}
	if _, err := os.Stat(c.path("pid")); err == nil {
		return fmt.Errorf("a cluster is up, or was not taken down: %s", c.Dir)
	}
	for _, d := range []string{"pid", "log", "bin", "pki", "images"} {
		if err := os.MkdirAll(c.path(d), 0o755); err != nil {
			return err
		}
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"programs", func(context.Context) error { return c.link() }},
		{"keys", func(context.Context) error { return c.keys() }},
		{"network", c.network},
		{"nodes", func(context.Context) error { return c.startNodes(images) }},
		{"control plane", c.control},
		{"nodes ready", c.nodesReady},
		{"CoreDNS applied", c.dns},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		c.Step("%s", step.name)
	}
	return nil
}

// Step tells that something is done, and when.
func (c *Cluster) Step(format string, args ...any) {
	fmt.Fprintf(c.Log, "%5.1fs %s\n", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
}

func (c *Cluster) path(parts ...string) string {
	return filepath.Join(append([]string{c.Dir}, parts...)...)
}

// Kubeconfig is the file for an administrator.
func (c *Cluster) Kubeconfig() string { return c.path("pki", "admin.kubeconfig") }

// link puts the programs into a directory, Kubernetes' by every name that they have.
func (c *Cluster) link() error {
	links := map[string]string{"etcd": "etcd", "cluster": "cluster", "istioctl": "istioctl"}
	for _, name := range build.Kubernetes {
		links[name] = "hyperkube"
	}
	for name, tool := range links {
		if err := os.Symlink(c.Tools.Path(tool), c.path("bin", name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// A nodeFile is what the templates in files are filled with.
type nodeFile struct {
	Name, Dir, PKI, DNS, Pods, NodePods, NodePods6, Pause, CoreDNS, Outside string
}

// file returns a file of the directory files, filled in.
func file(name string, values nodeFile) (string, error) {
	text, err := files.ReadFile("files/" + name)
	if err != nil {
		return "", err
	}
	t, err := template.New(name).Parse(string(text))
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = t.Execute(&out, values)
	return out.String(), err
}

// run runs a command, whose output is in the error if it fails.
func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// until asks f every 50 ms until it says yes, for a minute at most.
func until(ctx context.Context, what string, f func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		ok, err := f()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within a minute: %w", what, errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
