package nettest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/capture"
	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/internal/netns"
	"github.com/waystone-mesh/waystone/internal/zds"
	"github.com/waystone-mesh/waystone/internal/zds/zdstest"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// Options choose what a mesh is like.
type Options struct {
	meshtest.Options // Network and Ztunnel.InPod are ours

	Capture capture.Options // of captured pods

	// External leaves it to the test to run node tunnels.
	External bool
}

// A Mesh is a mesh in network namespaces. Its methods are for the test's
// goroutine.
type Mesh struct {
	*meshtest.Mesh
	t       testing.TB
	options Options
	network *network
	agents  map[string]*zdstest.Agent // by node
	paths   map[string]string         // of their sockets
	clients map[string][]func()       // what ends those of node tunnels, by node
	greeted map[string]int            // how many have been told of all pods, by node
	pods    []*Pod                    // that the agents know
	uids    int
}

// New returns a mesh of two nodes, node-a and node-b, each with an agent and a
// node tunnel. Without root the test is skipped.
func New(t testing.TB, o Options) *Mesh {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root, who alone may make network namespaces")
	}
	m := &Mesh{t: t, options: o, agents: map[string]*zdstest.Agent{}, paths: map[string]string{}, clients: map[string][]func(){}, greeted: map[string]int{}}
	var err error
	if m.network, err = newNetwork(); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "nettest") //nolint:usetesting // t.TempDir may be longer than sockets' paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	mo, mine := o.Options, o.Ztunnel
	mo.Network = m.network
	mo.Ztunnel = func(z *ztunnel.Options) {
		z.InPod, z.Listen, z.Dial = &ztunnel.InPod{}, nil, nil
		if mine != nil {
			mine(z)
		}
	}
	m.Mesh = meshtest.With(t, mo)
	t.Cleanup(m.close)
	for _, node := range nodeNames {
		m.paths[node] = filepath.Join(dir, node+".sock")
		m.StartAgent(node)
		if !o.External {
			m.Attach(node, m.Ztunnel(node))
		}
	}
	return m
}

func (m *Mesh) close() {
	for node := range m.paths {
		for len(m.clients[node]) > 0 {
			m.Detach(node)
		}
		m.StopAgent(node)
	}
}

// StartAgent starts the agent of a node, which knows of the pods that are
// enrolled, and waits until it has told the node tunnels.
func (m *Mesh) StartAgent(node string) {
	m.t.Helper()
	a := zdstest.NewAgent()
	m.agents[node] = a
	for _, p := range m.pods {
		if p.node != node {
			continue
		}
		if err := p.Enroll(); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := a.Listen(m.paths[node]); err != nil {
		m.t.Fatal(err)
	}
	m.greeted[node] = len(m.clients[node])
	a.WaitFor(m.greeted[node])
}

// StopAgent stops it.
func (m *Mesh) StopAgent(node string) {
	if a := m.agents[node]; a != nil {
		a.Close()
		delete(m.agents, node)
	}
}

// Attach has the agent of a node tell a node tunnel of its pods.
func (m *Mesh) Attach(node string, z *ztunnel.Ztunnel) {
	m.t.Helper()
	c, err := zds.New(zds.Options{Path: m.paths[node], Handler: z, Connected: z.Connected, MaxBackoff: 50 * time.Millisecond})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := c.Run(ctx); err != nil {
			m.t.Errorf("%s: %v", node, err)
		}
	}()
	m.clients[node] = append(m.clients[node], func() {
		cancel()
		<-ended
	})
	m.Greeted(node)
}

// Greeted waits until the agent of a node has told one more node tunnel of all
// pods: that which the test has just started.
func (m *Mesh) Greeted(node string) {
	m.greeted[node]++
	m.agents[node].WaitFor(m.greeted[node])
}

// Socket is where the agent of a node listens.
func (m *Mesh) Socket(node string) string { return m.paths[node] }

// Space makes a network namespace with nothing but a loopback interface.
func (m *Mesh) Space() *netns.Netns {
	m.t.Helper()
	s, err := newSpace()
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = s.close() })
	return s.Netns
}

// Detach has the node tunnel that came first to the agent of a node leave it, as
// one does that is to end.
func (m *Mesh) Detach(node string) {
	m.clients[node][0]()
	m.clients[node] = m.clients[node][1:]
}

// A Pod is a pod in a network namespace of its own.
type Pod struct {
	*meshtest.Workload
	m    *Mesh
	node string
	uid  string
	ns   *space
}

// Pod adds a pod, named as in "default/web", that is not captured. It has an IPv4
// address in Kubernetes, and in its namespace IPv6 besides.
func (m *Mesh) Pod(node, name string) *Pod {
	m.t.Helper()
	p := &Pod{Workload: m.WorkloadOn(node, name), m: m, node: node}
	p.Replace()
	return p
}

// Captured adds a pod and captures it.
func (m *Mesh) Captured(node, name string) *Pod {
	m.t.Helper()
	p := m.Pod(node, name)
	p.Capture()
	return p
}

// Replace gives the pod a new network namespace, and takes the former away from
// it. Its uid is another only if it had none.
func (p *Pod) Replace() {
	p.m.t.Helper()
	var err error
	if p.ns, err = p.m.network.place(p.node, p.IP); err != nil {
		p.m.t.Fatal(err)
	}
	if p.uid == "" {
		p.m.uids++
		p.uid = fmt.Sprintf("00000000-0000-4000-8000-%012d", p.m.uids)
	}
}

// Successor adds a captured pod that has the address, the node and the account of
// one that Kubernetes has deleted; its network namespace is another.
func (p *Pod) Successor(name string) *Pod {
	p.m.t.Helper()
	account := p.ID().ServiceAccount
	next := &Pod{Workload: p.m.WorkloadOn(p.node, name), m: p.m, node: p.node}
	next.IP = p.IP
	next.Account(account)
	next.Replace()
	next.Capture()
	return next
}

// Capture redirects the pod's traffic and tells the node tunnel of it.
func (p *Pod) Capture() {
	p.m.t.Helper()
	p.Redirect(p.m.options.Capture)
	if err := p.Enroll(); err != nil {
		p.m.t.Fatalf("%s: %v", p.Name, err)
	}
}

// Redirect programs the rules alone.
func (p *Pod) Redirect(o capture.Options) {
	p.m.t.Helper()
	if err := capture.Apply(p.ns.Netns, o); err != nil {
		p.m.t.Fatal(err)
	}
}

// Enroll tells the node tunnel of the pod, and returns its refusal.
func (p *Pod) Enroll() error {
	if !slices.Contains(p.m.pods, p) {
		p.m.pods = append(p.m.pods, p)
	}
	return p.m.agents[p.node].Add(p.uid, p.Namespace, p.Name, p.ID().ServiceAccount, p.ns.path())
}

// Release ends the capture; the pod goes on without.
func (p *Pod) Release() {
	p.m.t.Helper()
	if err := capture.Remove(p.ns.Netns); err != nil {
		p.m.t.Fatal(err)
	}
	p.Forget()
}

// Delete ends the pod: its application, its network, and what is known of it.
func (p *Pod) Delete() {
	p.m.t.Helper()
	p.Close()
	p.Forget()
	p.Remove()
	if err := p.m.network.remove(p.IP); err != nil {
		p.m.t.Fatal(err)
	}
}

// Vanish takes the pod from what the agent will know when it is started again.
func (p *Pod) Vanish() {
	p.m.pods = slices.DeleteFunc(p.m.pods, func(q *Pod) bool { return q == p })
}

// Forget tells the node tunnels that the pod is gone.
func (p *Pod) Forget() {
	p.m.t.Helper()
	p.Vanish()
	if err := p.m.agents[p.node].Remove(p.uid); err != nil {
		p.m.t.Fatal(err)
	}
}

// Node is the name of the pod's node.
func (p *Pod) Node() string { return p.node }

// IP6 is the pod's IPv6 address, of which Kubernetes knows nothing.
func (p *Pod) IP6() netip.Addr { return six(p.IP) }

// Capture is how the pods are captured.
func (m *Mesh) Capture() capture.Options { return m.options.Capture }

// Netns is the pod's network namespace.
func (p *Pod) Netns() *netns.Netns { return p.ns.Netns }

// Open connects as the pod's application does, who knows of no mesh.
func (p *Pod) Open(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	return p.ns.Dial(ctx, netip.AddrPort{}, dst, netns.SocketOptions{})
}
