//go:build netns && linux

package ztunnelcmd

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waystone-mesh/waystone/internal/netns"
	"github.com/waystone-mesh/waystone/internal/program/programtest"
)

// A machine has network namespaces as `ip netns` makes them, by a file each in
// a directory, and no CNI agent. The one called node forwards between the others.
type machine struct {
	t   *testing.T
	dir string
	ns  map[string]*netns.Netns
}

func newMachine(t *testing.T) *machine {
	if os.Geteuid() != 0 {
		t.Skip("not root, who alone may make network namespaces")
	}
	for _, program := range []string{"ip", "nft", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s", program)
		}
	}
	m := &machine{t, t.TempDir(), map[string]*netns.Netns{}}
	m.add("node")
	m.run("node", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	// The node is no pod, and its file is elsewhere.
	m.must(unix.Unmount(filepath.Join(m.dir, "node"), unix.MNT_DETACH))
	m.must(os.Remove(filepath.Join(m.dir, "node")))
	return m
}

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// add makes a namespace with a file.
func (m *machine) add(name string) {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	m.must(os.WriteFile(path, nil, 0o600))
	m.must(exec.Command("unshare", "--net="+path, "true").Run())
	m.t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	ns, err := netns.Open(path)
	m.must(err)
	m.t.Cleanup(func() { ns.Close() })
	m.ns[name] = ns
	m.run(name, "ip", "link", "set", "lo", "up")
}

// pod makes one with the address 10.78.n.2.
func (m *machine) pod(name string, n int) {
	m.t.Helper()
	m.add(name)
	m.run("node", "ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", filepath.Join(m.dir, name))
	for ns, of := range map[string][2]string{"node": {name, "1"}, name: {"eth0", "2"}} {
		m.run(ns, "ip", "addr", "add", fmt.Sprintf("10.78.%d.%s/24", n, of[1]), "dev", of[0])
		m.run(ns, "ip", "link", "set", of[0], "up")
	}
	m.run(name, "ip", "route", "add", "default", "via", fmt.Sprintf("10.78.%d.1", n))
}

// run runs a program inside, and returns what it says.
func (m *machine) run(name string, argv ...string) string {
	m.t.Helper()
	out, err := m.try(name, argv...)
	if err != nil {
		m.t.Fatalf("%s: %v: %v: %s", name, argv, err, out)
	}
	return out
}

func (m *machine) try(name string, argv ...string) (out string, err error) {
	err = m.ns[name].Do(func() error {
		b, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		out = string(b)
		return err
	})
	return out, err
}

// rules is all that redirects in a namespace.
func (m *machine) rules(name string) string {
	m.t.Helper()
	var all strings.Builder
	for _, cmd := range []string{"nft -s list ruleset", "ip -4 rule", "ip -6 rule", "ip -4 route show table all", "ip -6 route show table all"} {
		for line := range strings.Lines(m.run(name, strings.Fields(cmd)...)) {
			if !strings.Contains(line, "fe80:") && !strings.HasPrefix(line, "multicast ff00:") { // which come in their own time
				all.WriteString(line)
			}
		}
	}
	return all.String()
}

func (m *machine) curl(from, to string) string {
	m.t.Helper()
	out, err := m.try(from, "curl", "-sS", "--max-time", "5", to)
	if err != nil {
		return err.Error()
	}
	return out
}

// serve answers in a namespace with who asked.
func (m *machine) serve(name, addr string) {
	m.t.Helper()
	var ln net.Listener
	m.must(m.ns[name].Do(func() (err error) {
		ln, err = net.Listen("tcp", addr)
		return err
	}))
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		io.WriteString(w, name+" was asked by "+host)
	})}
	go s.Serve(ln)
	m.t.Cleanup(func() { s.Close() })
}

// twoPods has two pods of a mesh, and a policy that tells them from others.
const twoPods = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: %s}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: n1, serviceAccountName: web, containers: [{name: a, image: a}]}
status: {phase: Running, podIP: 10.78.1.2, podIPs: [{ip: 10.78.1.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: items, namespace: shop}
spec: {nodeName: n1, serviceAccountName: items, containers: [{name: a, image: a}]}
status: {phase: Running, podIP: 10.78.2.2, podIPs: [{ip: 10.78.2.2}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec:
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]
`

func TestEnrollCapturesPlainNamespaces(t *testing.T) {
	m := newMachine(t)
	m.pod("web", 1)
	m.pod("items", 2)
	m.pod("stranger", 3)
	m.serve("items", "10.78.2.2:8080")
	const asked = "items was asked by 10.78.1.2"
	before := map[string]string{}
	for name := range m.ns {
		before[name] = m.rules(name)
	}
	bare := func(when string) {
		t.Helper()
		for name, want := range before {
			if got := m.rules(name); got != want {
				t.Errorf("%s, there is left in %s:\n%s\nbefore:\n%s", when, name, got, want)
			}
		}
	}

	log, args := programtest.Quiet(t)
	write := func(mode string) {
		t.Helper()
		name := filepath.Join(args[1], "mesh.yaml")
		m.must(os.WriteFile(name+".new", fmt.Appendf(nil, twoPods, mode), 0o600))
		m.must(os.Rename(name+".new", name))
	}
	logged := func(n int, line string) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for {
			b, _ := os.ReadFile(log)
			if strings.Count(string(b), line) >= n {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("not %d lines with %q in the log:\n%s", n, line, b)
			}
			<-time.After(time.Millisecond)
		}
	}
	start := func() (end func()) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		c := Command()
		c.SetArgs(append(args, "--node", "n1", "--enroll", "netns:"+m.dir))
		go func() { ended <- c.ExecuteContext(ctx) }()
		return func() {
			t.Helper()
			cancel()
			m.must(<-ended)
		}
	}
	write("ambient")
	end := start()
	logged(2, "pod is captured")

	if got := m.curl("web", "http://10.78.2.2:8080/"); got != asked {
		t.Errorf("from web, captured: %q, want %q", got, asked)
	}
	if got := m.curl("stranger", "http://10.78.2.2:8080/"); strings.Contains(got, "asked") {
		t.Errorf("from a stranger, whom the policy does not name: %q", got)
	}
	if got := m.rules("stranger"); got != before["stranger"] {
		t.Errorf("the stranger is captured: %s", got)
	}
	programtest.WantLines(t, log, `spiffe://cluster.local/ns/shop/sa/web`)

	// Out of the mesh, and into it again.
	write("none")
	logged(2, "pod is released")
	bare("after the label was removed")
	if got := m.curl("stranger", "http://10.78.2.2:8080/"); got != "items was asked by 10.78.3.2" {
		t.Errorf("from a stranger, outside the mesh: %q", got)
	}
	write("ambient")
	logged(4, "pod is captured")

	// A tunnel that ends leaves the pods cut off, not in the open; its successor
	// takes them over.
	captured := m.rules("web")
	end()
	if got := m.rules("web"); got != captured {
		t.Errorf("a tunnel that ended left:\n%s\nof:\n%s", got, captured)
	}
	if got := m.curl("web", "http://10.78.2.2:8080/"); strings.Contains(got, "asked") {
		t.Errorf("without a tunnel: %q", got)
	}
	end = start()
	logged(6, "pod is captured")
	if got := m.curl("web", "http://10.78.2.2:8080/"); got != asked {
		t.Errorf("with its successor: %q, want %q", got, asked)
	}

	// A namespace that is made anew, under the same name.
	m.must(unix.Unmount(filepath.Join(m.dir, "web"), unix.MNT_DETACH))
	m.run("node", "ip", "link", "del", "web")
	m.pod("web", 1)
	logged(7, "pod is captured")
	if got := m.curl("web", "http://10.78.2.2:8080/"); got != asked {
		t.Errorf("from a namespace made anew: %q, want %q", got, asked)
	}

	// Rules of who is in no manifest any more are swept by the next.
	end()
	m.must(os.Remove(filepath.Join(args[1], "mesh.yaml")))
	end = start()
	logged(2, "rules of an earlier process are removed")
	bare("after its successor had swept")
	write("ambient")
	logged(9, "pod is captured")
	end()

	var out strings.Builder
	c := Command()
	c.SetArgs([]string{"unenroll", "--from", "netns:" + m.dir})
	c.SetOut(&out)
	m.must(c.ExecuteContext(t.Context()))
	if out.String() != "rules removed from 2 network namespaces\n" {
		t.Errorf("unenroll says %q", out.String())
	}
	bare("after unenroll")
}
