//go:build linux

package mesh

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/waystone-mesh/waystone/e2e/internal/cluster"
)

//go:embed files
var files embed.FS

// Up starts a cluster with Istio in it. It returns when istiod, istio-cni and the node
// tunnels are ready; or before the latter, if they do not get ready in a minute, with an error.
func Up(ctx context.Context, c *cluster.Cluster, images Images) error {
	rendered := make(chan error, 1)
	var manifests []string
	go func() {
		var err error
		manifests, err = render(ctx, c)
		rendered <- err
	}()
	err := c.Up(ctx, images.Cluster...)
	if err = errors.Join(err, <-rendered); err != nil {
		return err
	}
	loaded := make(chan error, 1)
	go func() { loaded <- c.Load(ctx, append(images.Istio, images.Own...)...) }()
	err = install(ctx, c, manifests)
	if err = errors.Join(err, <-loaded); err != nil {
		return err
	}
	c.Step("images in the nodes")
	for _, what := range []string{"deployment/istiod", "daemonset/istio-cni-node", "daemonset/ztunnel"} {
		if _, err := c.Kubectl(ctx, "", "-n", "istio-system", "rollout", "status", what, "--timeout=60s"); err != nil {
			return err
		}
		c.Step("%s", what)
	}
	return nil
}

// Load has the nodes of a running cluster take our images anew, and starts the node
// tunnels again.
func Load(ctx context.Context, c *cluster.Cluster) error {
	images, err := Built(ctx, c.Tools)
	if err != nil {
		return err
	}
	if err := c.Load(ctx, images.Own...); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "", "-n", "istio-system", "rollout", "restart", "daemonset/ztunnel"); err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, "", "-n", "istio-system", "rollout", "status", "daemonset/ztunnel", "--timeout=60s")
	return err
}

// render returns Istio's manifests, from the charts that istioctl has in it: its CRDs and
// those of the Gateway API, and then the rest.
func render(ctx context.Context, c *cluster.Cluster) ([]string, error) {
	text, err := files.ReadFile("files/istio.yaml")
	if err != nil {
		return nil, err
	}
	t, err := template.New("istio.yaml").Parse(string(text))
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp("", "istio-*.yaml")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := t.Execute(f, map[string]string{"Istiod": istiod, "CNI": cni, "Ztunnel": Ztunnel}); err != nil {
		return nil, err
	}
	out, err := c.Istioctl(ctx, "manifest", "generate", "-f", f.Name())
	if err != nil {
		return nil, err
	}
	definitions, rest := "", ""
	for document := range strings.SplitSeq(out, "\n---") {
		switch {
		case strings.Contains(document, "\nkind: CustomResourceDefinition"):
			definitions += document + "\n---"
		case strings.TrimSpace(document) != "":
			rest += document + "\n---"
		}
	}
	gateways, err := gatewayAPI(ctx, c)
	return []string{definitions + "\n" + gateways, rest}, err
}

// gatewayAPI returns the CRDs of the Gateway API, of the version that istiod is built with.
func gatewayAPI(ctx context.Context, c *cluster.Cluster) (string, error) {
	dir, err := c.Tools.Module(ctx, "istio", "sigs.k8s.io/gateway-api")
	if err != nil {
		return "", err
	}
	names, err := filepath.Glob(filepath.Join(dir, "config/crd/standard/gateway*.yaml"))
	if err != nil || len(names) == 0 {
		return "", fmt.Errorf("no CRDs in %s", dir)
	}
	var all strings.Builder
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&all, "---\n%s\n", text)
	}
	return all.String(), nil
}

func install(ctx context.Context, c *cluster.Cluster, manifests []string) error {
	if err := c.Apply(ctx, "apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system}\n"); err != nil {
		return err
	}
	if err := c.Apply(ctx, manifests[0]); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "", "wait", "--for", "condition=Established", "crd", "--all", "--timeout=60s"); err != nil {
		return err
	}
	c.Step("CRDs")
	if err := c.Apply(ctx, manifests[1]); err != nil {
		return err
	}
	c.Step("Istio applied")
	return nil
}
