//go:build netns

package nettest_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waystone-mesh/waystone/internal/capture"
	"github.com/waystone-mesh/waystone/internal/netns"
	"github.com/waystone-mesh/waystone/internal/nettest"
)

// A tunnel is a process of cmd/ztunnel, with a network namespace of its own, as
// its pod has. It is told what it is as Istio's chart does it.
type tunnel struct {
	t   *testing.T
	cmd *exec.Cmd
	mu  sync.Mutex
	log bytes.Buffer
}

func (p *tunnel) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *tunnel) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// end has the process drain, and returns when it has gone.
func (p *tunnel) end() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("node tunnel: %v:\n%s", err, p.text())
	}
}

// files returns how many descriptors the process has.
func (p *tunnel) files() int {
	p.t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	return len(list)
}

// threads returns how many threads the process has, and fails the test if one is
// in a pod's network namespace.
func (p *tunnel) threads() int {
	p.t.Helper()
	dir := fmt.Sprintf("/proc/%d/task", p.cmd.Process.Pid)
	list, err := os.ReadDir(dir)
	if err != nil {
		p.t.Fatal(err)
	}
	at := map[string]bool{}
	for _, e := range list {
		if ns, err := os.Readlink(filepath.Join(dir, e.Name(), "ns/net")); err == nil {
			at[ns] = true
		}
	}
	if len(at) != 1 {
		p.t.Errorf("the threads are in %d network namespaces, want one", len(at))
	}
	return len(list)
}

// memory is what the kernel says of the process's resident memory.
func (p *tunnel) memory() string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "VmRSS:") {
			return strings.Join(strings.Fields(line)[1:], " ")
		}
	}
	return "unknown"
}

// programs is where a test's processes have what they share.
type programs struct {
	t      *testing.T
	m      *nettest.Mesh
	binary string
	config string
	ca     string
}

func newPrograms(t *testing.T, m *nettest.Mesh) *programs {
	t.Helper()
	dir := t.TempDir()
	p := &programs{t: t, m: m, binary: filepath.Join(dir, "ztunnel"), config: filepath.Join(dir, "config"), ca: filepath.Join(dir, "ca")}
	build := exec.Command("go", "build", "-o", p.binary, "github.com/waystone-mesh/waystone/cmd/ztunnel")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v:\n%s", err, out)
	}
	if err := os.Mkdir(p.config, 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

// tell writes what there is in the mesh.
func (p *programs) tell(objects ...string) {
	p.t.Helper()
	objects = append(objects, "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio.io/dataplane-mode: ambient}}\n")
	name := filepath.Join(p.config, "mesh.yaml")
	if err := os.WriteFile(name+".new", []byte(strings.Join(objects, "---\n")), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		p.t.Fatal(err)
	}
}

// start starts a node tunnel and waits until it serves the node's pods.
func (p *programs) start(node string) *tunnel {
	p.t.Helper()
	run := p.run(p.m.Space(), node, "NODE_NAME="+node, "INPOD_ENABLED=true", "INPOD_UDS="+p.m.Socket(node), "POD_NAME=ztunnel", "POD_NAMESPACE=istio-system")
	p.m.Greeted(node)
	return run
}

// dedicate starts a node tunnel for one pod, in the pod's network namespace, and waits
// until it serves.
func (p *programs) dedicate(pod *nettest.Pod) *tunnel {
	p.t.Helper()
	run := p.run(pod.Netns(), pod.Name, "NODE_NAME="+pod.Node(), "PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO="+pod.Namespace+"/"+pod.Name+"/"+pod.ID().ServiceAccount, "PACKET_MARK=1337")
	p.m.Until(pod.Name+" is served", func() bool { return strings.Contains(run.text(), "pod is known") })
	return run
}

// run starts a process in a network namespace, with variables as Istio has them.
func (p *programs) run(at *netns.Netns, name string, env ...string) *tunnel {
	p.t.Helper()
	run := &tunnel{t: p.t}
	run.cmd = exec.Command(p.binary, "proxy", "ztunnel", "--config", p.config, "--identity", "self:"+p.ca)
	run.cmd.Env = append(env, "LOG_FORMAT=json", "ISTIO_META_DNS_CAPTURE=false", "TERMINATION_GRACE_PERIOD_SECONDS=4s")
	run.cmd.Stdout, run.cmd.Stderr = run, run
	if err := at.Do(run.cmd.Start); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = run.cmd.Process.Kill() // if it has not gone
		_ = run.cmd.Wait()
		if p.t.Failed() {
			p.t.Logf("%s:\n%s", name, run.text())
		}
	})
	return run
}

// TestDedicated has each pod served by a process of its own, beside it in its network
// namespace.
func TestDedicated(t *testing.T) {
	m := nettest.New(t, nettest.Options{External: true, Capture: capture.Options{IPv6: true}})
	p := newPrograms(t, m)
	web, items, other := m.Pod("node-a", "web"), m.Pod("node-b", "items"), m.Pod("node-b", "other")
	plain := m.Pod("node-a", "plain")
	p.tell(dual(web), dual(items), dual(other), onlyWeb)
	for _, pod := range []*nettest.Pod{web, items, other} {
		pod.Redirect(m.Capture())
		echo(pod)
	}
	p.dedicate(web)
	to, last := p.dedicate(items), p.dedicate(other)
	wantOpen(t, web, app(items)).Close()
	wantRefused(t, other, app(items))
	wantRefused(t, plain, app(items))
	for _, want := range []string{`"src.identity":"spiffe://cluster.local/ns/default/sa/web"`, `"dst.identity":"spiffe://cluster.local/ns/default/sa/items"`} {
		m.Until(want, func() bool { return strings.Contains(to.text(), want) })
	}
	last.end()
}

const onlyWeb = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: default}
spec: {rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]}]}
`

// TestProgram runs processes: what two of them carry, an upgrade under load, and
// that neither descriptors nor threads are left of pods that went.
func TestProgram(t *testing.T) {
	m := nettest.New(t, nettest.Options{External: true, Capture: capture.Options{IPv6: true}})
	p := newPrograms(t, m)
	web, items, other := m.Pod("node-a", "web"), m.Pod("node-b", "items"), m.Pod("node-b", "other")
	p.tell(dual(web), dual(items), dual(other), onlyWeb)
	for _, pod := range []*nettest.Pod{web, items, other} {
		pod.Capture()
		echo(pod)
	}
	p.start("node-a")
	old := p.start("node-b")
	wantOpen(t, web, app(items)).Close()
	wantRefused(t, other, app(items))

	// Pods that come and go leave nothing.
	files, threads := old.files(), old.threads()
	for range 200 {
		other.Forget()
		if err := other.Enroll(); err != nil {
			t.Fatal(err)
		}
	}
	m.Until("all descriptors are closed", func() bool { return old.files() <= files })
	if got := old.threads(); got > threads+8 {
		t.Errorf("%d threads, %d before", got, threads)
	}

	// An upgrade.
	long := wantOpen(t, web, app(items))
	_ = long.SetDeadline(time.Now().Add(time.Minute))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var made, lost int
	loaded := make(chan struct{})
	enough := make(chan struct{})
	go func() {
		defer close(loaded)
		for ctx.Err() == nil {
			if err := brief(ctx, web, app(items)); err != nil && ctx.Err() == nil {
				lost++
				t.Logf("connection %d: %v", made, err)
			}
			if made++; made == 50 {
				close(enough)
			}
		}
	}()
	<-enough
	young := p.start("node-b")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		old.end()
	}()
	wantEcho(t, long)
	wantCut(t, long)
	<-ended
	wantOpen(t, web, app(items)).Close()
	stop()
	<-loaded
	t.Logf("upgrade: %d connections, %d lost; the new process has %d threads and %s", made, lost, young.threads(), young.memory())
	if lost > 0 {
		t.Errorf("%d of %d connections were lost", lost, made)
	}
}
