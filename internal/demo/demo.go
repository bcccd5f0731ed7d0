//go:build linux

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/examples/bookinfo"
)

// Options say how the demo runs.
type Options struct {
	Program string // this program's file: it is run again for each process
	Output  io.Writer
	Color   bool
	Keep    bool // leave the mesh running before it is taken apart, until ctx ends
}

// errDiffers is the end of a walk-through in which something was not as expected.
var errDiffers = errors.New("demo: not everything was as expected")

// A demo is one walk-through.
type demo struct {
	*printer
	options Options
	dir     string // of everything that is written
	config  string // the manifests, which all processes watch
	family  *family
	load    *load
	differs int // checks that were not as expected

	nodes    map[string]logFile // the logs of the node tunnels, by node
	waypoint *child             // of productpage, while there is one
	reviews  *child             // the waypoint of reviews
	sleep    client
	notsleep client
	ingress  outside
}

// nodeIPs are where the node tunnels answer questions about themselves.
var nodeIPs = map[string]string{"node-1": "127.244.1.1", "node-2": "127.244.2.1"}

// loadPod runs as sleep, on another node than sleep: what the background sends is
// allowed whenever sleep is, and does not mix with it in the logs.
const (
	loadIP  = "127.244.1.9"
	loadPod = `# The background load of the demo: the same identity as sleep.
apiVersion: v1
kind: Pod
metadata:
  name: sleep-load
  namespace: default
  labels: {app: sleep}
spec:
  nodeName: node-1
  serviceAccountName: sleep
  containers: [{name: load}]
status:
  phase: Running
  podIP: ` + loadIP + `
  conditions: [{type: Ready, status: "True"}]
`
)

// Run walks through. It returns an error when something was not as expected, a
// request was lost, or ctx has ended before the walk-through.
func Run(ctx context.Context, o Options) (err error) {
	d := &demo{
		printer: &printer{color: o.Color, out: o.Output}, options: o, nodes: map[string]logFile{},
		sleep: client{o.Program, "sleep"}, notsleep: client{o.Program, "notsleep"},
		ingress: outside{net.JoinHostPort(bookinfo.IPs["istio-ingressgateway"], "8080")},
	}
	begun := time.Now()
	if err := free(ports()...); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if err := d.prepare(); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			d.line("The logs are left in %s.", filepath.Join(d.dir, "logs"))
			return
		}
		err = errors.Join(err, os.RemoveAll(d.dir))
	}()
	d.family = newFamily(o.Program, filepath.Join(d.dir, "logs"))
	defer func() {
		if closing := d.family.close(); closing != nil {
			err = errors.Join(err, fmt.Errorf("demo: the end: %w", closing))
		}
	}()
	if err := d.start(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	d.line("%s", d.paint(bold, fmt.Sprintf("A mesh on this machine: %d processes, ready in %s.", len(d.family.all), rounded(time.Since(begun)))))
	d.line("Manifests in %s, logs in %s.", d.config, filepath.Join(d.dir, "logs"))

	d.load = startLoad(ctx, loadIP, page, d.ingress.url())
	walked := d.walk(ctx)
	d.finishLoad()
	switch {
	case ctx.Err() != nil:
		return errors.New("demo: interrupted")
	case walked != nil:
		return fmt.Errorf("demo: %w", walked)
	}
	d.line("\n%s", d.summary(time.Since(begun)))
	if o.Keep {
		d.keep()
		<-ctx.Done()
		d.line("\nending everything")
	}
	if d.differs > 0 {
		return errDiffers
	}
	return nil
}

func (d *demo) summary(took time.Duration) string {
	if d.differs > 0 {
		return d.paint(red, fmt.Sprintf("%d checks differ from what was expected (%s).", d.differs, rounded(took)))
	}
	return d.paint(green, fmt.Sprintf("Everything was as expected, in %s.", rounded(took)))
}

func rounded(t time.Duration) string { return t.Round(10 * time.Millisecond).String() }

// ports lists the addresses that the demo listens on.
func ports() []string {
	var out []string
	add := func(ip string, ports ...string) {
		for _, p := range ports {
			out = append(out, net.JoinHostPort(ip, p))
		}
	}
	for pod, ip := range bookinfo.IPs {
		switch {
		case strings.HasSuffix(pod, "-waypoint"):
			add(ip, "15008", "15000", "15020", "15021")
		case pod == "istio-ingressgateway":
			add(ip, "8080", "15008", "15080")
		default:
			add(ip, "9080", "15008", "15080")
		}
	}
	for _, ip := range nodeIPs {
		add(ip, "15000", "15020", "15021")
	}
	add(loadIP, "15008", "15080")
	slices.Sort(out)
	return out
}

// prepare makes the directories, with the manifests of the first step.
func (d *demo) prepare() (err error) {
	if d.dir, err = os.MkdirTemp("", "waystone-demo-"); err != nil {
		return err
	}
	d.config = filepath.Join(d.dir, "config")
	for _, sub := range []string{"config", "logs", "ca", "new"} {
		if err := os.Mkdir(filepath.Join(d.dir, sub), 0o700); err != nil {
			return err
		}
	}
	for _, name := range []string{"00-mesh.yaml", "01-bookinfo.yaml", "bookinfo-gateway.yaml"} {
		if err := d.copy(name, name); err != nil {
			return err
		}
	}
	return d.write("load.yaml", []byte(loadPod))
}

// copy puts one of the manifests into the directory, under a name.
func (d *demo) copy(from, to string) error {
	text, err := bookinfo.Manifests.ReadFile(from)
	if err != nil {
		return err
	}
	return d.write(to, text)
}

// write writes a file beside the directory and renames it into it, so that nobody
// reads half of it.
func (d *demo) write(name string, text []byte) error {
	beside := filepath.Join(d.dir, "new", name)
	if err := os.WriteFile(beside, text, 0o600); err != nil {
		return err
	}
	return os.Rename(beside, filepath.Join(d.config, name))
}

func (d *demo) remove(name string) error { return os.Remove(filepath.Join(d.config, name)) }

// start runs what there is from the beginning: the node tunnels, the services and
// the ingress.
func (d *demo) start(ctx context.Context) error {
	var all []*child
	for node, ip := range nodeIPs {
		c, err := d.family.start("ztunnel "+node, "http://"+ip+":15021/healthz/ready", append(d.proxy("ztunnel", ip),
			"--node", node, "--log-steps")...)
		if err != nil {
			return err
		}
		d.nodes[node] = c.log
		all = append(all, c)
	}
	for pod, ip := range bookinfo.IPs {
		args := []string{"bookinfo", pod}
		ready := "http://" + ip + ":9080/health"
		switch {
		case pod == "sleep" || pod == "notsleep" || strings.HasSuffix(pod, "-waypoint"):
			continue
		case pod == "istio-ingressgateway":
			args = append(args, "--config", d.config)
			ready = "" // it knows of nothing but the routes
		}
		c, err := d.family.start(pod, ready, args...)
		if err != nil {
			return err
		}
		if ready != "" {
			all = append(all, c)
		}
	}
	if err := awaitReady(ctx, all...); err != nil {
		return err
	}
	return d.awaitIngress(ctx)
}

// awaitIngress waits until the whole chain from the ingress works: then
// everything does.
func (d *demo) awaitIngress(ctx context.Context) error {
	why := "nothing was asked"
	err := eventually(ctx, startup, func() bool {
		why = lost(d.ingress.ask(ctx, getPage))
		return why == ""
	})
	if err != nil {
		return fmt.Errorf("the ingress at %s: %s", d.ingress.address, why)
	}
	return nil
}

// proxy returns the arguments that the proxies have in common.
func (d *demo) proxy(program, ip string) []string {
	return []string{
		program, "--config", d.config, "--identity", "self:" + filepath.Join(d.dir, "ca"),
		"--admin", ip + ":15000", "--metrics", ip + ":15020", "--readiness", ip + ":15021",
	}
}

// startWaypoint runs the waypoint of a service account before its Gateway is
// there, as a controller would have its pod ready first.
func (d *demo) startWaypoint(ctx context.Context, account string) (*child, error) {
	name := account + "-istio-waypoint"
	ip := bookinfo.IPs[name]
	args := append(d.proxy("waypoint", ip),
		"--gateway", "default/"+account, "--service-account", "default/"+name, "--hbone-address", ip+":15008")
	d.command("waystone " + strings.Join(short(args, d.dir), " ") + " &")
	c, err := d.family.start("waypoint "+account, "http://"+ip+":15021/healthz/ready", args...)
	if err != nil {
		return nil, err
	}
	return c, awaitReady(ctx, c)
}

// short leaves out of arguments where the demo's files are.
func short(args []string, dir string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = strings.ReplaceAll(a, dir, "$DEMO")
	}
	return out
}
