//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/e2e/internal/cluster"
	"github.com/waystone-mesh/waystone/e2e/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/script"
)

// The walk-through of make demo, by kubectl.
func TestWalkthrough(t *testing.T) {
	script.Run(t, "testdata/*.script", func(t *testing.T) func(*script.Block) string {
		r := start(t)
		apps, err := os.ReadFile("testdata/bookinfo.yaml")
		if err != nil {
			t.Fatal(err)
		}
		r.apply(string(apps))
		w := &walk{rig: r, pods: map[string]cluster.Pod{}}
		for _, name := range []string{"sleep", "notsleep"} {
			w.pods[name] = r.pod("default", "app="+name)
		}
		for _, name := range []string{"productpage", "details", "ratings"} {
			r.pod("default", "app="+name)
		}
		return w.do
	})
}

// A walk does what the script says.
type walk struct {
	*rig
	pods map[string]cluster.Pod // the clients
}

// do does what a block says, again and again until its result is as the script has it.
func (w *walk) do(b *script.Block) (got string) {
	began := time.Now()
	for {
		got = w.once(b)
		again := len(b.Args) > 0 && (b.Args[0] == "curl" || b.Args[0] == "goes")
		if !again || got == b.Want() || time.Since(began) > 90*time.Second {
			return got
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (w *walk) once(b *script.Block) string {
	from, client := w.pods[b.Command]
	switch {
	case b.Command == "kubectl":
		return w.print(w.Kubectl(w.ctx, b.Input, b.Args...))
	case b.Command == "waypoint":
		return w.waypoint("default", len(b.Args) == 0)
	case client && len(b.Args) > 1 && b.Args[0] == "curl":
		return w.print(w.Kubectl(w.ctx, "", append([]string{"exec", from.Name, "--"}, b.Args...)...))
	case client && len(b.Args) == 2 && b.Args[0] == "goes":
		return w.goes(from, b.Args[1])
	}
	b.Fatalf("no such command")
	return ""
}

// print returns what a command has printed, and whether it failed.
func (w *walk) print(out string, err error) string {
	if err != nil {
		w.t.Logf("%v", err)
		out += "exit 1\n"
	}
	// kubectl rollout status says what it waits for, or not.
	return regexp.MustCompile(`(?m)^Waiting for .*\n`).ReplaceAllString(strings.TrimRight(out, "\n")+"\n", "")
}

// goes makes a connection to a service and says what the node tunnel has written about it.
func (w *walk) goes(from cluster.Pod, to string) string {
	name, portName, _ := strings.Cut(to, ":")
	number := 0
	fmt.Sscan(portName, &number)
	a := request(w.ctx, from, w.vip("default", name, number), "GET", "/health")
	if a.err != nil {
		return a.err.Error()
	}
	time.Sleep(300 * time.Millisecond) // for the line to be written
	out := w.kubectl("-n", "istio-system", "logs", w.ztunnel(from.Node).Name, "--tail=1000")
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "src.addr="+a.local.String()) || !strings.Contains(line, "connection complete") {
			continue
		}
		field := func(name string) string {
			m := regexp.MustCompile(regexp.QuoteMeta(name) + `="?([^" ]+)`).FindStringSubmatch(line)
			if m == nil {
				return ""
			}
			return m[1]
		}
		if field("dst.hbone_addr") == "" {
			return "TCP to " + field("dst.addr") + "\n"
		}
		return fmt.Sprintf("HBONE to %s\nfrom %s\nto %s\n", w.app(field("dst.addr")), field("src.identity"), field("dst.identity"))
	}
	return "no node tunnel has seen it\n"
}

// app returns what runs at an address: the first word of its pod's name.
func (w *walk) app(address string) string {
	host, _, _ := net.SplitHostPort(address)
	out := w.kubectl("get", "pods", "-A", "--field-selector=status.podIP="+host, "-o", "jsonpath={.items[*].metadata.name}")
	name, _, _ := strings.Cut(out, "-")
	return name
}

// waypoint applies deploy/waypoint.yaml for a namespace, and its files; or its files alone.
func (r *rig) waypoint(namespace string, all bool) string {
	r.t.Helper()
	printed := ""
	if all {
		text, err := os.ReadFile("../deploy/waypoint.yaml")
		if err != nil {
			r.t.Fatal(err)
		}
		manifests := strings.NewReplacer("namespace: shop", "namespace: "+namespace, "shop/waypoint", namespace+"/waypoint",
			"waypoint.shop.svc", "waypoint."+namespace+".svc", "image: waystone/waypoint", "image: "+mesh.Waypoint+"\n        imagePullPolicy: Never").Replace(string(text))
		out, err := r.Kubectl(r.ctx, manifests, "apply", "-f", "-")
		if err != nil {
			r.t.Fatal(err)
		}
		printed = out
	}
	out := r.configure(namespace, "waypoint-config")
	verb := "configured"
	if all {
		verb = "created"
	}
	// kubelet looks at a pod's ConfigMaps when something is new about the pod.
	_, _ = r.Kubectl(r.ctx, "", "-n", namespace, "annotate", "pods", "-l", "gateway.networking.k8s.io/gateway-name=waypoint", "--overwrite", "e2e/configured="+fmt.Sprint(time.Now().UnixNano()))
	return printed + strings.Replace(out, "serverside-applied", verb, 1)
}

// configure puts what there is now into a ConfigMap, and returns what kubectl says.
func (r *rig) configure(namespace, name string) string {
	r.t.Helper()
	kinds := "namespaces,serviceaccounts,services,pods,authorizationpolicies.security.istio.io,gateways.gateway.networking.k8s.io,httproutes.gateway.networking.k8s.io"
	now, err := r.Kubectl(r.ctx, "", "get", kinds, "-A", "-o", "yaml")
	if err != nil {
		r.t.Fatal(err)
	}
	dir := r.t.TempDir()
	if err := os.WriteFile(dir+"/mesh.yaml", []byte(now), 0o600); err != nil {
		r.t.Fatal(err)
	}
	config := r.kubectl("create", "configmap", name, "-n", namespace, "--from-file="+dir+"/mesh.yaml", "--dry-run=client", "-o", "yaml")
	// Server-side: as an annotation it would be too long.
	out, err := r.Kubectl(r.ctx, config, "apply", "--server-side", "-f", "-")
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}
