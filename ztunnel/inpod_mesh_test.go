package ztunnel_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/internal/zds"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// An inside is what the pods of both nodes stand on: their network namespaces, in
// memory, and the redirection in them.
type inside struct {
	t     *testing.T
	m     *meshtest.Mesh
	o     ztunnel.Options // as the mesh made them: the network
	mu    sync.Mutex
	busy  error                             // why no port can be opened
	goes  map[netip.AddrPort]netip.AddrPort // what is redirected, by source: where it was going
	ready []bool                            // what was told
}

// inPods returns a mesh whose node tunnels are told of pods.
func inPods(t *testing.T) *inside {
	n := &inside{t: t, goes: map[netip.AddrPort]netip.AddrPort{}}
	n.m = meshtest.With(t, meshtest.Options{Ztunnel: func(o *ztunnel.Options) {
		n.o = *o
		o.InPod = &ztunnel.InPod{Sockets: n.sockets, Ready: func(on bool) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.ready = append(n.ready, on)
		}}
	}})
	return n
}

// sockets returns those of a pod, whose name ends in its address.
func (n *inside) sockets(p zds.Pod) ztunnel.Inside {
	return &podSockets{n, netip.MustParseAddr(p.UID)}
}

type podSockets struct {
	*inside
	ip netip.Addr
}

func (p *podSockets) Listen(a netip.AddrPort) (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy != nil {
		return nil, p.busy
	}
	return p.o.Listen(netip.AddrPortFrom(p.ip, a.Port()))
}

func (p *podSockets) Dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	if !src.IsValid() {
		src = p.ip
	}
	return p.o.Dial(ctx, src, dst)
}

func (p *podSockets) ListenPacket(netip.AddrPort) (*net.UDPConn, error) {
	return nil, errors.ErrUnsupported
}

func (p *podSockets) DialPacket(context.Context, netip.AddrPort) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

func (p *podSockets) Redirected(string, netip.AddrPort, netip.AddrPort) (netip.AddrPort, error) {
	return netip.AddrPort{}, errors.ErrUnsupported
}

func (p *podSockets) Original(c net.Conn) (netip.AddrPort, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if dst, ok := p.goes[c.RemoteAddr().(*net.TCPAddr).AddrPort()]; ok {
		return dst, nil
	}
	return netip.AddrPort{}, errors.New("nothing was redirected")
}

// add tells the node tunnel of a pod. Its UID is its address.
func (n *inside) add(w *meshtest.Workload) error {
	return n.m.Ztunnel(nodeOf(w)).Add(zds.Pod{UID: w.IP.String(), Name: w.Name, Namespace: w.Namespace, ServiceAccount: w.Name})
}

// nodeOf returns the node that the n-th workload is on.
func nodeOf(w *meshtest.Workload) string {
	if b := w.IP.As4(); b[3]%2 == 0 {
		return "node-b"
	}
	return "node-a"
}

func (n *inside) added(names ...string) (pods []*meshtest.Workload) {
	n.t.Helper()
	for _, name := range names {
		w := n.m.Workload(name)
		if err := n.add(w); err != nil {
			n.t.Fatal(err)
		}
		pods = append(pods, w)
	}
	return pods
}

// redirected connects from ip to dst, as the rules in the pod at have it: at its
// port.
func (n *inside) redirected(from, at netip.Addr, port uint16, dst string) net.Conn {
	n.t.Helper()
	n.mu.Lock() // until it is known where it was going
	defer n.mu.Unlock()
	nc, err := n.o.Dial(n.t.Context(), from, netip.AddrPortFrom(at, port))
	if err != nil {
		n.t.Fatal(err)
	}
	if dst != "" {
		n.goes[nc.LocalAddr().(*net.TCPAddr).AddrPort()] = netip.MustParseAddrPort(dst)
	}
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	return nc
}

func (n *inside) sends(w *meshtest.Workload, dst string) net.Conn {
	n.t.Helper()
	return n.redirected(w.IP, w.IP, 15001, dst)
}

func (n *inside) receives(from netip.Addr, w *meshtest.Workload, dst string) net.Conn {
	n.t.Helper()
	return n.redirected(from, w.IP, 15006, dst)
}

const strict = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
`

var stranger = netip.MustParseAddr("192.0.2.7")

func TestRedirectedConnectionIsCarried(t *testing.T) {
	n := inPods(t)
	pods := n.added("web", "items")
	web, items := pods[0], pods[1]
	s := n.m.Service("items", 80)
	conns := taken(items)
	for _, dst := range []string{s.IP.String() + ":80", items.IP.String() + ":8080"} {
		nc := n.sends(web, dst)
		app := <-conns
		if got := app.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != web.IP {
			t.Errorf("%s: the application sees %v, want the client, %v", dst, got, web.IP)
		}
		say(t, nc, "question")
		wantRead(t, app, "question")
		say(t, app, "answer")
		wantRead(t, nc, "answer")
		nc.Close()
		app.Close()
	}
	n.m.WaitMetric(`istio_tcp_connections_closed_total{reporter="source",connection_security_policy="mutual_tls",source_workload="web",destination_workload="items"}`, 2)
	n.m.WaitMetric(`istio_tcp_connections_closed_total{reporter="destination",connection_security_policy="mutual_tls",source_principal="spiffe://cluster.local/ns/default/sa/web"}`, 2)
	if _, pools := n.m.Ztunnel("node-a").OpenForTest(); pools.Conns != 1 {
		t.Errorf("%d connections between the pods, want 1", pools.Conns)
	}
}

func TestRedirectedConnectionIsRefused(t *testing.T) {
	n := inPods(t)
	pods := n.added("web", "items")
	web, items := pods[0], pods[1]
	for what, nc := range map[string]net.Conn{
		"to nobody":                           n.sends(web, items.IP.String()+":9"),
		"to our port, not redirected":         n.sends(web, ""),
		"to our port on loopback":             n.sends(web, "127.0.0.1:15006"),
		"to our port of another":              n.sends(web, items.IP.String()+":15001"),
		"plaintext to our port":               n.receives(stranger, items, items.IP.String()+":15001"),
		"plaintext to our port, by itself":    n.receives(stranger, items, ""),
		"plaintext to where nobody listens":   n.receives(stranger, items, items.IP.String()+":9"),
		"plaintext to the HBONE port of ours": n.receives(stranger, items, items.IP.String()+":15008"),
	} {
		t.Run(what, func(t *testing.T) { wantOver(t, nc) })
	}
	// 15080 is nobody's but the pod's.
	ln := items.Listen(15080)
	nc := n.sends(web, items.IP.String()+":15080")
	app, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	say(t, app, "mine")
	wantRead(t, nc, "mine")
	app.Close()
	nc.Close()
}

func TestPlaintext(t *testing.T) {
	n := inPods(t)
	items := n.added("items")[0]
	conns := taken(items)
	dst := items.IP.String() + ":8080"
	nc := n.receives(stranger, items, dst)
	say(t, nc, "question")
	app := <-conns
	if got := app.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != stranger {
		t.Errorf("the application sees %v, want the client, %v", got, stranger)
	}
	wantRead(t, app, "question")
	say(t, app, "answer")
	wantRead(t, nc, "answer")
	const series = `{reporter="destination",connection_security_policy="unknown",source_principal="unknown",destination_principal="unknown",destination_workload="items",response_flags="-"}`
	n.m.WantMetric("istio_tcp_connections_opened_total"+series, 1)

	n.m.Apply(strict)
	wantOver(t, nc)
	wantOver(t, app)
	n.m.WaitMetric(`istio_tcp_connections_closed_total{reporter="destination",connection_security_policy="unknown",response_flags="DENY"}`, 1)
	n.m.WantLog("direction", "inbound", "dst.addr", dst, "src.addr", nc.LocalAddr().String(), "bytes_sent", 6, "bytes_recv", 8, "src.identity", "<nil>", "dst.hbone_addr", "<nil>")
	wantOver(t, n.receives(stranger, items, dst))
	n.m.WaitMetric(`istio_tcp_connections_failed_total{reporter="destination",response_flags="DENY"}`, 2)

	n.m.Delete("PeerAuthentication/default/default")
	nc = n.receives(stranger, items, dst)
	app = <-conns
	say(t, app, "answer")
	wantRead(t, nc, "answer")
	nc.Close()
	app.Close()
}

// A pod is told of before the control plane has heard of it: its connections wait,
// but not for ever.
func TestPodIsKnownLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := inPods(t)
		items := n.added("items")[0]
		serve(items, echo)
		dst := items.IP.String() + ":8080"
		web := n.m.Workload("web")
		web.Remove()
		if err := n.add(web); err != nil {
			t.Fatal(err)
		}
		nc, late, plain := n.sends(web, dst), n.sends(web, dst), n.receives(stranger, web, web.IP.String()+":8080")
		<-time.After(6 * time.Second)
		wantOver(t, nc)
		wantOver(t, late)
		wantOver(t, plain)

		nc = n.sends(web, dst)
		say(t, nc, "hello")
		<-time.After(4 * time.Second)
		web.Ready(true)
		wantRead(t, nc, "hello")
		nc.Close()
	})
}

func TestPodIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := inPods(t)
		z := n.m.Ztunnel("node-a")
		web := n.m.Workload("web")
		counts := func(active, pending, started, stopped float64) {
			t.Helper()
			n.m.WantMetric("workload_manager_active_proxy_count", active)
			n.m.WantMetric("workload_manager_pending_proxy_count", pending)
			n.m.WantMetric("workload_manager_proxies_started_total", started)
			n.m.WantMetric("workload_manager_proxies_stopped_total", stopped)
		}
		told := func(want ...bool) {
			t.Helper()
			n.mu.Lock()
			defer n.mu.Unlock()
			for i := range max(len(want), len(n.ready)) {
				if i >= len(want) || i >= len(n.ready) || want[i] != n.ready[i] {
					t.Errorf("told %v, want %v", n.ready, want)
					break
				}
			}
		}
		why := errors.New("the port is taken")
		n.busy = why
		z.Connected(true)
		for range 2 {
			if err := n.add(web); err == nil || err.Error() != why.Error() {
				t.Errorf("got %v, want %v", err, why)
			}
		}
		z.Synced()
		counts(0, 1, 0, 0)
		told()
		open, err := z.Open(t.Context())
		if p := open[web.IP.String()]; err != nil || p == nil || p.State != ztunnel.Pending || p.Reason != why.Error() || p.Workload.Name != "web" {
			t.Errorf("got %+v, %v", p, err)
		}
		n.mu.Lock()
		n.busy = nil
		n.mu.Unlock()
		<-time.After(2500 * time.Millisecond)
		synctest.Wait()
		counts(1, 0, 1, 0)
		told(true)
		if err := n.add(web); err != nil { // again
			t.Error(err)
		}
		counts(1, 0, 1, 0)
		z.Connected(false)
		told(true, false)
		z.Connected(true)
		z.Keep(web.IP.String())
		z.Synced()
		told(true, false, true)
		counts(1, 0, 1, 0)

		items := n.added("items")[0]
		conns := taken(items)
		nc := n.sends(web, items.IP.String()+":8080")
		app := <-conns
		z.Remove(web.IP.String())
		z.Remove(web.IP.String())
		wantOver(t, nc)
		app.Close()
		counts(1, 0, 2, 1)
	})
}

// A pod that is about to go tells its peers, and those who come later too: their
// connections end with what they carry.
func TestPodIsAboutToGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := inPods(t)
		pods := n.added("web", "items")
		web, items := pods[0], pods[1]
		serve(items, echo)
		conns := func(want int) {
			t.Helper()
			synctest.Wait()
			if _, pools := n.m.Ztunnel("node-a").OpenForTest(); pools.Conns != want {
				t.Errorf("%d connections between the pods, want %d", pools.Conns, want)
			}
		}
		open := func() net.Conn {
			t.Helper()
			nc := n.sends(web, items.IP.String()+":8080")
			wantEcho(t, nc)
			return nc
		}
		one, idle := open(), open()
		idle.Close()
		conns(1)
		items.Ready(false)
		wantEcho(t, one)
		two, three := open(), open()
		conns(2) // one of them to end with one
		one.Close()
		two.Close()
		conns(1)
		<-time.After(6 * time.Second)
		wantEcho(t, three)
		three.Close()
		conns(0)

		items.Ready(true) // it was only unwell
		<-time.After(6 * time.Second)
		open().Close()
		<-time.After(6 * time.Second)
		conns(1)
	})
}

// Our own pod is reached over HBONE as any other, by who may; nothing is
// redirected there.
func TestOwnPod(t *testing.T) {
	n := inPods(t)
	web := n.added("web")[0]
	own := n.m.Workload("own")
	z := n.m.Ztunnel(nodeOf(own))
	if err := z.ServeSelf(zds.Pod{UID: own.IP.String(), Name: own.Name, Namespace: own.Namespace, ServiceAccount: own.Name}); err != nil {
		t.Fatal(err)
	}
	conns := taken(own)
	nc := n.sends(web, own.IP.String()+":8080")
	app := <-conns
	if got := app.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != own.IP {
		t.Errorf("we are asked from %v, want ourselves, %v", got, own.IP)
	}
	say(t, app, "metrics")
	wantRead(t, nc, "metrics")
	n.m.WantMetric(`istio_tcp_connections_opened_total{reporter="destination",connection_security_policy="mutual_tls",destination_principal="spiffe://cluster.local/ns/default/sa/own"}`, 1)
	n.m.WantMetric("workload_manager_active_proxy_count", 1) // of whom we were told
	n.m.Apply(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: default}
spec: {selector: {matchLabels: {app: own}}, action: DENY, rules: [{}]}
`)
	wantOver(t, nc)
	app.Close()
	wantOver(t, n.sends(web, own.IP.String()+":8080"))
	if _, err := n.o.Dial(t.Context(), web.IP, netip.AddrPortFrom(own.IP, 15006)); err == nil {
		t.Error("the port for plaintext is open")
	}
}
