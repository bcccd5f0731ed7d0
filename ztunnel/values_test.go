package ztunnel_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/memnet"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// A fabric is node tunnels on a network in memory that are told of workloads and
// services by value, each of its own: for what no Kubernetes object says.
type fabric struct {
	t     *testing.T
	net   *memnet.Net
	ca    identity.Source
	loops *loop.Group
	ends  []func()

	mu  sync.Mutex
	log bytes.Buffer // guarded by mu
}

func newFabric(t *testing.T) *fabric {
	t.Helper()
	f := &fabric{t: t, net: memnet.New()}
	var err error
	if f.ca, err = identity.Open("self:"+t.TempDir(), identity.Options{}); err != nil {
		t.Fatal(err)
	}
	before, routines := bufs.InUse(), runtime.NumGoroutine()
	if f.loops, err = loop.NewGroup(1, loop.Options{Portable: true, Lead: -1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for i := len(f.ends) - 1; i >= 0; i-- {
			f.ends[i]()
		}
		f.loops.Close()
		if left := bufs.InUse() - before; left != 0 {
			t.Errorf("%d bytes of buffers were never freed", left)
		}
		f.until("no goroutine is left", func() bool { return runtime.NumGoroutine() <= routines })
		if t.Failed() {
			t.Log(f.lines())
		}
	})
	return f
}

// Write takes what is logged.
func (f *fabric) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.Write(p)
}

func (f *fabric) lines() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.String()
}

func (f *fabric) until(what string, ok func() bool) {
	f.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			f.t.Fatalf("never: %s", what)
		}
	}
}

func (f *fabric) wantLine(parts ...string) {
	f.t.Helper()
	f.until("a line with "+strings.Join(parts, " and "), func() bool {
		for line := range strings.Lines(f.lines()) {
			all := true
			for _, p := range parts {
				all = all && strings.Contains(line, p)
			}
			if all {
				return true
			}
		}
		return false
	})
}

// A nodeTunnel is one of a fabric.
type nodeTunnel struct {
	f     *fabric
	z     *ztunnel.Ztunnel
	store *config.Store
	tel   *telemetry.Telemetry
}

// node runs a node tunnel that knows of values.
func (f *fabric) node(name string, edit func(*ztunnel.Options), values ...config.Resource) *nodeTunnel {
	f.t.Helper()
	log, err := telemetry.NewLog(telemetry.LogOptions{Output: f, Level: "debug"})
	if err != nil {
		f.t.Fatal(err)
	}
	n := &nodeTunnel{f: f}
	if n.tel, err = telemetry.New(telemetry.Options{Program: telemetry.Ztunnel, Log: log}); err != nil {
		f.t.Fatal(err)
	}
	o := ztunnel.Options{
		Node: name, Identity: f.ca, Telemetry: n.tel, Loops: f.loops,
		Listen: func(a netip.AddrPort) (net.Listener, error) { return f.net.Listen(a), nil },
		Dial: func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
			return f.net.Dial(ctx, src, dst)
		},
	}
	if edit != nil {
		edit(&o)
	}
	n.store = config.NewStore(config.Options{Node: name, Network: o.Network})
	o.Store = n.store
	if n.z, err = ztunnel.New(o); err != nil {
		f.t.Fatal(err)
	}
	n.apply(values...)
	f.ends = append(f.ends, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := n.z.Shutdown(ctx); err != nil {
			f.t.Errorf("%s: shutdown: %v", name, err)
		}
		_ = n.tel.Shutdown(ctx)
	})
	return n
}

func (n *nodeTunnel) apply(values ...config.Resource) {
	n.f.t.Helper()
	var updates []config.Update
	for _, v := range values {
		updates = append(updates, config.Update{Value: v})
	}
	if err := n.store.Apply(updates); err != nil {
		n.f.t.Fatal(err)
	}
	n.z.Reconcile()
}

func (n *nodeTunnel) remove(keys ...mesh.Key) {
	n.f.t.Helper()
	var updates []config.Update
	for _, k := range keys {
		updates = append(updates, config.Update{Key: k})
	}
	if err := n.store.Apply(updates); err != nil {
		n.f.t.Fatal(err)
	}
	n.z.Reconcile()
}

// metric sums the series of a family of counters that have some labels.
func (n *nodeTunnel) metric(family string, labels map[string]string) (sum float64) {
	n.f.t.Helper()
	all, err := n.tel.Metrics().Gather()
	if err != nil {
		n.f.t.Fatal(err)
	}
	for _, fam := range all {
		if fam.GetName() != family {
			continue
		}
		for _, s := range fam.GetMetric() {
			found := 0
			for _, l := range s.GetLabel() {
				if v, ok := labels[l.GetName()]; ok && v == l.GetValue() {
					found++
				}
			}
			if found == len(labels) {
				sum += s.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// dial connects as the application at an address does, which may say something
// before it is answered.
func (f *fabric) dial(from, target string, early ...string) (net.Conn, error) {
	src := netip.MustParseAddr(from)
	nc, err := f.net.Dial(f.t.Context(), src, netip.AddrPortFrom(src, 15080))
	if err != nil {
		return nil, err
	}
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second)) // rather than hang
	host, p, _ := net.SplitHostPort(target)
	port, _ := strconv.Atoi(p)
	req := append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(host))}, host...)
	req = append(req, byte(port>>8), byte(port))
	for _, text := range early {
		req = append(req, text...)
	}
	if _, err := nc.Write(req); err != nil {
		return nil, err
	}
	var reply [12]byte
	if _, err := io.ReadFull(nc, reply[:]); err != nil {
		return nil, err
	}
	if reply[3] != 0 {
		nc.Close()
		return nil, fmt.Errorf("socks: reply %d", reply[3])
	}
	return nc, nil
}

func (f *fabric) connect(from, target string) net.Conn {
	f.t.Helper()
	nc, err := f.dial(from, target)
	if err != nil {
		f.t.Fatalf("%s to %s: %v", from, target, err)
	}
	return nc
}

// later is dial on a goroutine of its own. What it returns is told nil when there
// is no connection.
func (f *fabric) later(from, target string, early ...string) <-chan net.Conn {
	done := make(chan net.Conn, 1)
	go func() {
		nc, err := f.dial(from, target, early...)
		if err != nil {
			nc = nil
		}
		done <- nc
	}()
	return done
}

func (f *fabric) wantRefused(from, target string) {
	f.t.Helper()
	if nc, err := f.dial(from, target); err == nil {
		nc.Close()
		f.t.Errorf("%s to %s: a connection, want none", from, target)
	}
}

// serve runs an application, until what it returns is called.
func (f *fabric) serve(addr string, app func(net.Conn)) (stop func()) {
	ln := f.net.Listen(netip.MustParseAddrPort(addr))
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go app(nc)
		}
	}()
	stop = sync.OnceFunc(func() { ln.Close() })
	f.ends = append(f.ends, stop)
	return stop
}

// pod is a workload that speaks HBONE and whose account has its name.
func aPod(name, addr, node string, edit func(*mesh.Workload), services ...string) *mesh.Workload {
	w := &mesh.Workload{
		UID: "Kubernetes//Pod/default/" + name, Name: name, Namespace: "default", ServiceAccount: name,
		TrustDomain: "cluster.local", Tunnel: mesh.HBONE, Node: node, ClusterID: "Kubernetes",
		CanonicalName: name, CanonicalRevision: "v1", OwnerKind: "deployment", OwnerName: name,
		Services: map[mesh.Hostname]mesh.Membership{},
	}
	if addr != "" {
		w.Addresses = []netip.Addr{netip.MustParseAddr(addr)}
	}
	for _, s := range services {
		w.Services[aHost(s)] = mesh.Membership{}
	}
	if edit != nil {
		edit(w)
	}
	return w
}

func aHost(name string) mesh.Hostname {
	return mesh.Hostname{Namespace: "default", Host: name + ".default.svc.cluster.local"}
}

// aService is one whose port 80 leads to 8080.
func aService(name, addr, network string, edit func(*mesh.Service)) *mesh.Service {
	s := &mesh.Service{
		Name: name, Namespace: "default", Hostname: aHost(name).Host, Canonical: true,
		Ports: []mesh.Port{{Name: "http", Service: 80, Target: 8080}},
	}
	if addr != "" {
		s.Addresses = []mesh.Prefix{{Network: network, Prefix: netip.PrefixFrom(netip.MustParseAddr(addr), 32)}}
	}
	if edit != nil {
		edit(s)
	}
	return s
}

func spiffe(name string) string { return "spiffe://cluster.local/ns/default/sa/" + name }
