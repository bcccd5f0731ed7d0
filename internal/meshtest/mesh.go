// Package meshtest is a mesh in one process, for tests: a certificate
// authority, a network, workloads, and real waypoints and node tunnels between
// them. A test says what is there in Kubernetes objects, asks for something as
// a workload, and looks at the answer, the metrics and the log.
//
//	m := meshtest.New(t)
//	m.Workload("default/web")
//	m.Workload("default/items").Serve(meshtest.Echo)
//	m.Service("items", 80).Waypoint()
//	m.Apply(denyPost)
//	m.From("web").Post("http://items/", "").Want(403)
//	m.WantMetric(`istio_requests_total{reporter="waypoint",response_code="403"}`, 1)
//
// A mesh ends with its test, and then checks that nothing is left: no tunnel, no
// buffer, no goroutine.
package meshtest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
	"github.com/waystone-mesh/waystone/waypoint"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// TrustDomain is that of every mesh here.
const TrustDomain = "cluster.local"

// A Mesh is a mesh. Its methods are for the test's goroutine.
type Mesh struct {
	t       testing.TB
	options Options
	net     Network
	ca      identity.Source
	index   *manifest.Index
	loops   *loop.Group
	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup

	programs  []*program
	workloads map[string]*Workload // by namespace/name
	nextIP    int
	objects   map[mesh.Key]bool
	log       lineLog
	buffers   int64 // out when the mesh began
	routines  int   // of ours, likewise
}

// Options choose what a mesh runs on.
type Options struct {
	// Loopback uses sockets on 127/8 addresses, and epoll where there is any,
	// rather than the network in memory.
	Loopback bool

	// Network is used instead of either; its sockets are the kernel's. It is closed
	// with the mesh.
	Network Network

	Loops    int    // per process; 1
	Text     bool   // node tunnels log text rather than JSON
	Level    string // at this level; info
	Waypoint func(*waypoint.Options)
	Ztunnel  func(*ztunnel.Options)
}

// A program is a waypoint or a node tunnel, with the store that feeds it.
type program struct {
	name   string
	store  *config.Store
	tel    *telemetry.Telemetry
	tunnel *ztunnel.Ztunnel // nil for a waypoint
	settle func()           // returns when the program has done what its store asks
	stop   func(context.Context) error

	held bool // it is told nothing; see Hold
	late []config.Update
}

// New returns a mesh with two nodes, node-a and node-b, and a node tunnel on
// each.
func New(t testing.TB) *Mesh { return With(t, Options{}) }

// With is New on something else than the defaults.
func With(t testing.TB, o Options) *Mesh {
	t.Helper()
	if o.Loops == 0 {
		o.Loops = 1
	}
	m := &Mesh{
		t: t, options: o, workloads: map[string]*Workload{}, objects: map[mesh.Key]bool{},
		index:    manifest.NewIndex(manifest.Options{TrustDomain: TrustDomain, ByLabel: true}),
		buffers:  bufs.InUse(),
		routines: len(routines()),
	}
	m.ctx, m.stop = context.WithCancel(context.Background())
	var err error
	if m.net, err = newNetwork(o); err != nil {
		t.Fatal(err)
	}
	if m.ca, err = identity.Open("self:"+t.TempDir(), identity.Options{TrustDomain: TrustDomain}); err != nil {
		t.Fatal(err)
	}
	if m.loops, err = loop.NewGroup(o.Loops, loop.Options{Portable: !o.Loopback && o.Network == nil, Lead: -1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	m.Apply(`
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Node
metadata: {name: node-a}
---
apiVersion: v1
kind: Node
metadata: {name: node-b}
`)
	m.startZtunnel("node-a")
	m.startZtunnel("node-b")
	return m
}

// close ends everything and checks that nothing is left.
func (m *Mesh) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, w := range m.workloads {
		w.Close()
	}
	for i := len(m.programs) - 1; i >= 0; i-- {
		if p := m.programs[i]; p.stop != nil {
			if err := p.stop(ctx); err != nil {
				m.t.Errorf("%s: shutdown: %v", p.name, err)
			}
		}
	}
	m.stop()
	m.running.Wait()
	m.loops.Close()
	m.net.Close()
	if m.t.Failed() {
		for _, line := range m.log.lines() {
			m.t.Log(line)
		}
	}
	for _, p := range m.programs {
		_ = p.tel.Shutdown(ctx)
	}
	m.log.close(ctx)
	if left := bufs.InUse() - m.buffers; left != 0 {
		m.t.Errorf("%d bytes of buffers were never freed", left)
	}
	m.wantRoutines()
}

// Until waits until f holds, and fails the test when it does not within ten
// seconds.
func (m *Mesh) Until(what string, f func() bool) {
	m.t.Helper()
	if !poll(f) {
		m.t.Errorf("never: %s", what)
	}
}

// poll looks every millisecond, for ten seconds, whether f holds.
func poll(f func() bool) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !f(); <-tick.C {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// Apply adds objects, or new versions of them. They are in force when it
// returns. A refused object fails the test.
func (m *Mesh) Apply(yaml string) {
	m.t.Helper()
	for _, err := range m.TryApply(yaml) {
		m.t.Error(err)
	}
}

// TryApply is Apply for objects some of which are to be refused.
func (m *Mesh) TryApply(yaml string) (refused []error) {
	f := manifest.Decode("test.yaml", []byte(yaml))
	for _, e := range f.Errors {
		refused = append(refused, e)
	}
	var changes []manifest.Change
	for _, o := range f.Objects {
		if o.Err != nil {
			refused = append(refused, o.Err)
		}
		m.objects[o.Key] = true
		changes = append(changes, manifest.Change{Key: o.Key, Object: o})
	}
	m.publish(m.index.Apply(changes...))
	return refused
}

// Delete removes an object, named as in "AuthorizationPolicy/default/deny".
func (m *Mesh) Delete(name string) {
	m.t.Helper()
	part := strings.Split(name, "/")
	if len(part) != 3 {
		m.t.Fatalf("Delete(%q): want Kind/namespace/name", name)
	}
	key := mesh.Key{Kind: part[0], Namespace: part[1], Name: part[2]}
	if !m.objects[key] {
		m.t.Fatalf("Delete(%q): there is no such object", name)
	}
	delete(m.objects, key)
	m.publish(m.index.Delete(key))
}

func (m *Mesh) publish(updates []config.Update) {
	for _, p := range m.programs {
		if p.held {
			p.late = append(p.late, updates...)
			continue
		}
		_ = p.store.Apply(updates) // what is refused was reported by the index
		if p.settle != nil {
			p.settle()
		}
	}
}

// newStore returns a store that has everything there is.
func (m *Mesh) newStore(o config.Options) *config.Store {
	o.TrustDomain = TrustDomain
	s := config.NewStore(o)
	var all []config.Update
	for key, r := range m.index.Resources() {
		all = append(all, config.Update{Key: key, Value: r})
	}
	_ = s.Apply(all)
	s.Synced()
	return s
}

func (m *Mesh) newTelemetry(p telemetry.Program) *telemetry.Telemetry {
	m.t.Helper()
	w, err := telemetry.NewWriter(telemetry.WriterOptions{Output: &m.log, Linger: -1, Queue: 16 << 20})
	if err != nil {
		m.t.Fatal(err)
	}
	o := telemetry.Options{Program: p, AccessLog: w}
	if p == telemetry.Ztunnel {
		o.AccessLog = nil
		if o.Log, err = telemetry.NewLog(telemetry.LogOptions{Output: w, JSON: !m.options.Text, Level: m.options.Level}); err != nil {
			m.t.Fatal(err)
		}
	}
	tel, err := telemetry.New(o)
	if err != nil {
		m.t.Fatal(err)
	}
	m.log.add(w)
	return tel
}

func (m *Mesh) startZtunnel(node string) *ztunnel.Ztunnel {
	m.t.Helper()
	p := &program{name: "ztunnel " + node, store: m.newStore(config.Options{Node: node}), tel: m.newTelemetry(telemetry.Ztunnel)}
	o := ztunnel.Options{
		Node: node, Identity: m.ca, Store: p.store, Telemetry: p.tel, Loops: m.loops,
		Listen: m.net.Listen, Dial: m.net.Dial,
	}
	if m.options.Ztunnel != nil {
		m.options.Ztunnel(&o)
	}
	z, err := ztunnel.New(o)
	if err != nil {
		m.t.Fatal(err)
	}
	m.running.Go(func() { _ = z.Run(m.ctx) })
	p.stop, p.settle, p.tunnel = z.Shutdown, z.Reconcile, z
	m.programs = append(m.programs, p)
	return z
}

// Upgrade starts another node tunnel beside the one that a node has, which
// StopZtunnel then stops.
func (m *Mesh) Upgrade(node string) *ztunnel.Ztunnel {
	m.t.Helper()
	return m.startZtunnel(node)
}

// startWaypoint runs the waypoint of a Gateway at an address, as an account.
func (m *Mesh) startWaypoint(gateway mesh.Key, ip netip.Addr, account string) {
	m.t.Helper()
	p := &program{name: "waypoint " + gateway.Name, store: m.newStore(config.Options{Gateway: gateway}), tel: m.newTelemetry(telemetry.Waypoint)}
	o := waypoint.Options{
		Self:     identity.ID{TrustDomain: TrustDomain, Namespace: gateway.Namespace, ServiceAccount: account},
		Identity: m.ca, Store: p.store, Telemetry: p.tel, Loops: m.loops,
		Dial: func(ctx context.Context, _ netip.Addr, dst netip.AddrPort) (net.Conn, error) {
			return m.net.Dial(ctx, ip, dst)
		},
	}
	if m.options.Waypoint != nil {
		m.options.Waypoint(&o)
	}
	w, err := waypoint.New(o)
	if err != nil {
		m.t.Fatal(err)
	}
	ln, err := m.net.Listen(netip.AddrPortFrom(ip, 15008))
	if err != nil {
		m.t.Fatal(err)
	}
	m.running.Go(func() {
		if err := w.Serve(ln); err != nil {
			m.t.Errorf("%s: %v", p.name, err)
		}
	})
	p.stop = w.Shutdown
	m.programs = append(m.programs, p)
}

// Ztunnel returns the node tunnel of a node.
func (m *Mesh) Ztunnel(node string) *ztunnel.Ztunnel {
	for _, p := range m.programs {
		if p.tunnel != nil && p.name == "ztunnel "+node {
			return p.tunnel
		}
	}
	m.t.Helper()
	m.t.Fatalf("there is no node %q", node)
	return nil
}

// StopWaypoint has the waypoint of a Gateway drain, as SIGTERM would.
func (m *Mesh) StopWaypoint(ctx context.Context, gateway string) error {
	return m.stopProgram(ctx, "waypoint "+gateway)
}

// StopZtunnel has the node tunnel of a node drain likewise.
func (m *Mesh) StopZtunnel(ctx context.Context, node string) error {
	return m.stopProgram(ctx, "ztunnel "+node)
}

func (m *Mesh) stopProgram(ctx context.Context, name string) error {
	for _, p := range m.programs {
		if p.name == name && p.stop != nil {
			stop := p.stop
			p.stop = nil
			return stop(ctx)
		}
	}
	return fmt.Errorf("there is no %s", name)
}
