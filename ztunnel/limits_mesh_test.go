package ztunnel_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/ztunnel"
)

func TestConnectionsOfAnIdentityAreLimited(t *testing.T) {
	onBoth(t, meshtest.Options{Ztunnel: func(o *ztunnel.Options) { o.MaxPerIdentity = 2 }}, func(t *testing.T, m *meshtest.Mesh) {
		web, items, other, more := m.Workload("web"), m.Workload("items"), m.Workload("other"), m.Workload("more")
		serve(items, echo)
		serve(more, echo)
		target := items.IP.String() + ":8080"
		one, two := dial(t, web, target), dial(t, web, target)
		wantRefused(t, web, target, 5)
		m.WantLog("direction", "inbound", "level", "error", "src.workload", "web",
			"error", "the client's identity has as many connections to the pod as it may: 2 of spiffe://cluster.local/ns/default/sa/web")
		m.WantLog("direction", "outbound", "error", "hbone: the peer answered the CONNECT with 503")
		m.WantMetric(`istio_tcp_connections_failed_total{reporter="destination",response_flags="UO",source_workload="web"}`, 1)
		for _, nc := range []net.Conn{dial(t, other, target), dial(t, web, more.IP.String()+":8080"), one} { // another's, another pod, and what there is
			wantEcho(t, nc)
			nc.Close()
		}
		m.Until("two are closed", func() bool {
			return len(opened(t, m, "items").Inbound) == 1
		})
		three := dial(t, web, target)
		wantEcho(t, three)
		three.Close()
		two.Close()
	})
}

// Who is refused by a policy, or finds nobody, does not count.
func TestRefusedConnectionsDoNotCount(t *testing.T) {
	m := meshtest.With(t, meshtest.Options{Ztunnel: func(o *ztunnel.Options) { o.MaxPerIdentity, o.MaxConnections = 1, 3 }})
	web, items := m.Workload("web"), m.Workload("items")
	target := items.IP.String() + ":8080"
	m.Apply(policy("p", "DENY", "selector: {}", `from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]`))
	for range 10 {
		wantRefused(t, web, target, 2)
	}
	m.Delete("AuthorizationPolicy/default/p")
	for range 10 {
		wantRefused(t, web, target, 5)
	}
	serve(items, echo)
	nc := dial(t, web, target)
	wantEcho(t, nc)
	nc.Close()
}

func TestConnectionsOfANodeAreLimited(t *testing.T) {
	onBoth(t, meshtest.Options{Ztunnel: func(o *ztunnel.Options) { o.MaxConnections = 3 }}, func(t *testing.T, m *meshtest.Mesh) {
		web, items := m.Workload("web"), m.Workload("items")
		serve(items, echo)
		target := items.IP.String() + ":8080"
		var open []net.Conn
		for range 3 {
			open = append(open, dial(t, web, target))
		}
		wantRefused(t, web, target, 5)
		m.WantLog("message", "connection failed", "direction", "outbound", "error", "the node tunnel has as many connections open as it may")
		raw := web.Connect(items, "CONNECT", target) // another client, to the pod's node tunnel
		if raw.Status != 503 {
			t.Errorf("got %d, want 503", raw.Status)
		}
		m.WantLog("direction", "inbound", "error", "the node tunnel has as many connections open as it may: 3")
		m.WantMetric(`istio_tcp_connections_failed_total{reporter="destination",response_flags="UO"}`, 1)
		for _, nc := range open {
			wantEcho(t, nc)
			nc.Close()
		}
		m.Until("they are closed", func() bool { n, _ := m.Metric("istio_tcp_sockets_open"); return n == 0 })
		nc := dial(t, web, target)
		wantEcho(t, nc)
		nc.Close()
	})
}

func TestRegistryOnly(t *testing.T) {
	f := newFabric(t)
	values := []config.Resource{
		aPod("web", "10.0.0.1", "node-a", nil),
		aPod("old", "10.0.0.2", "node-a", func(w *mesh.Workload) { w.Tunnel = mesh.Plain }, "old"),
		aService("old", "10.9.0.1", "", nil),
		aService("pass", "10.9.0.2", "", func(s *mesh.Service) { s.Balance.Mode = mesh.Passthrough }),
	}
	f.serve("10.0.0.2:8080", echo)
	f.serve("10.9.0.2:443", echo)
	f.serve("192.0.2.1:443", echo)
	here := f.node("node-a", func(o *ztunnel.Options) { o.RegistryOnly = true }, values...)
	for _, target := range []string{"10.0.0.2:8080", "10.9.0.1:80", "10.9.0.2:443"} {
		nc := f.connect("10.0.0.1", target)
		wantEcho(t, nc)
		nc.Close()
	}
	if _, err := f.dial("10.0.0.1", "192.0.2.1:443"); err == nil || err.Error() != "socks: reply 2" {
		t.Errorf("got %v, want that it is not allowed", err)
	}
	f.wantLine("connection complete", "error", `src.workload="web"`, "dst.addr=192.0.2.1:443", "is not in the registry, and the outbound policy is REGISTRY_ONLY")
	if got := flagged(here, "NR"); got != 1 {
		t.Errorf("%v refused, want 1", got)
	}
	here.apply(aPod("outside", "192.0.2.1", "", func(w *mesh.Workload) { w.Tunnel = mesh.Plain }))
	nc := f.connect("10.0.0.1", "192.0.2.1:443")
	wantEcho(t, nc)
	nc.Close()
}

// waypointed has a service with two waypoints, of which the second takes a share.
// They are pods that are captured themselves. The service's own pods are on
// another node, whose node tunnel requires that a waypoint was passed.
func waypointed(f *fabric, more ...config.Resource) *nodeTunnel {
	waypoint := func(addr string) mesh.GatewayAddress { return byAddress("", addr) }
	values := append([]config.Resource{
		aPod("web", "10.0.0.1", "node-a", nil),
		aPod("stable", "10.0.0.20", "node-a", nil),
		aPod("canary", "10.0.0.21", "node-a", nil),
		aPod("other", "10.0.0.22", "node-a", nil),
		aPod("items", "10.0.0.10", "node-b", nil, "items"),
		aPod("lost", "10.0.0.11", "node-b", nil, "lost"),
		aService("items", "10.9.0.1", "", func(s *mesh.Service) {
			gw := waypoint("10.0.0.20")
			s.Waypoint = &gw
			s.Canary = []mesh.WeightedWaypoint{{Waypoint: gw, Weight: 1}, {Waypoint: waypoint("10.0.0.21"), Weight: 1}}
		}),
		aService("lost", "10.9.0.2", "", func(s *mesh.Service) {
			gw := waypoint("10.0.0.99")
			s.Waypoint = &gw
		}),
	}, more...)
	f.node("node-a", nil, values...)
	return f.node("node-b", func(o *ztunnel.Options) { o.RequireWaypoint = true }, values...)
}

// Either waypoint of a service is taken for its waypoint: by clients, which are
// spread over them; by the node tunnel of the waypoint, which is told of an address
// that is not its pod's; and by the one of the service's pods.
func TestWeightedWaypoints(t *testing.T) {
	f := newFabric(t)
	waypointed(f)
	f.serve("10.0.0.10:8080", echo)
	who := func(name string) func(net.Conn) {
		return func(nc net.Conn) {
			nc.Write([]byte(name)) //nolint:errcheck // the test reads it
			echo(nc)
		}
	}
	f.serve("10.0.0.20:80", who("stable"))
	f.serve("10.0.0.21:80", who("canary"))
	seen := map[string]int{}
	for range 40 {
		nc := f.connect("10.0.0.1", "10.9.0.1:80")
		var name [6]byte
		if _, err := nc.Read(name[:]); err != nil {
			t.Fatal(err)
		}
		seen[string(name[:])]++
		nc.Close()
	}
	if seen["stable"] == 0 || seen["canary"] == 0 || seen["stable"]+seen["canary"] != 40 {
		t.Errorf("got %v, want some of each", seen)
	}
	for _, from := range []string{"10.0.0.20", "10.0.0.21"} {
		for _, target := range []string{"10.0.0.10:8080", "10.9.0.1:80"} { // by the VIP it does not go in a circle
			nc := f.connect(from, target)
			wantEcho(t, nc)
			nc.Close()
		}
	}
	for _, from := range []string{"10.0.0.1", "10.0.0.22"} {
		f.wantRefused(from, "10.0.0.10:8080")
		f.wantLine(`src.workload="web"`, `direction="inbound"`, "bypassed waypoint")
	}
}

// A waypoint that is named and is not there is closed on both sides.
func TestWaypointThatIsNotThereIsClosed(t *testing.T) {
	f := newFabric(t)
	there := waypointed(f)
	f.serve("10.0.0.11:8080", echo)
	f.wantRefused("10.0.0.1", "10.9.0.2:80")
	f.wantLine("connection failed", "the waypoint is not known: 10.0.0.99")
	f.wantRefused("10.0.0.1", "10.0.0.11:8080")
	f.wantLine(`direction="inbound"`, `dst.workload="lost"`, "bypassed waypoint")

	there.apply(aService("lost", "10.9.0.2", "", nil)) // none is named
	nc := f.connect("10.0.0.1", "10.0.0.11:8080")
	wantEcho(t, nc)
	nc.Close()
}

// Who comes by a gateway and not through the waypoint is refused as anybody is.
func TestRequireWaypointOfAnotherNetworksClients(t *testing.T) {
	f := newFabric(t)
	require := func(o *ztunnel.Options) { o.RequireWaypoint = true }
	guarded := aService("items", "10.9.0.1", "west", func(s *mesh.Service) {
		gw := byAddress("west", "10.1.0.20")
		s.Waypoint = &gw
	})
	there := west(f, require)
	f.node("node-east", inNetwork("east"), east([]string{spiffe("items")}, aPod("gateway", "10.0.0.40", "", native("east"), "gateway"))...)
	f.gateway("gateway", "10.0.0.40:15008", "10.1.0.10:15008")
	f.serve("10.1.0.10:8080", echo)
	nc := f.connect("10.0.0.1", "items:80")
	wantEcho(t, nc)
	there.apply(guarded, aPod("waypoint", "10.1.0.20", "", native("west")))
	wantOver(t, nc)
	f.wantLine(`direction="inbound"`, "connection closed due to policy change")
	f.wantRefused("10.0.0.1", "items:80")
	f.wantLine(`direction="inbound"`, "bypassed waypoint", `src.workload="web"`)
}

// A pod that takes the PROXY protocol has its loopback address dialled where that
// is asked for: it need not listen to anybody else.
func TestLocalhostAppTunnel(t *testing.T) {
	t.Run("loopback address", func(t *testing.T) { localhostAppTunnel(t, true) })
	t.Run("pod's address", func(t *testing.T) { localhostAppTunnel(t, false) })
}

func localhostAppTunnel(t *testing.T, local bool) {
	f := newFabric(t)
	values := []config.Resource{
		aPod("web", "10.0.0.1", "node-a", nil),
		aPod("proxy", "10.0.0.10", "node-b", func(w *mesh.Workload) { w.AppTunnel = &mesh.AppTunnel{Proxy: true, Port: 15088} }),
		aPod("plain", "10.0.0.11", "node-b", func(w *mesh.Workload) { w.AppTunnel = &mesh.AppTunnel{Port: 15088} }),
	}
	f.node("node-a", nil, values...)
	f.node("node-b", func(o *ztunnel.Options) { o.LocalhostAppTunnel = local }, values...)
	peers := make(chan netip.Addr, 1)
	app := func(nc net.Conn) {
		peers <- nc.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		echo(nc)
	}
	listens, source := "10.0.0.10", "10.0.0.1"
	if local {
		listens, source = "127.0.0.1", "127.0.0.1"
	}
	f.serve(listens+":15088", app)
	f.serve("10.0.0.11:15088", app)
	nc := f.connect("10.0.0.1", "10.0.0.10:8080")
	wantRead(t, nc, "\r\n\r\n\x00\r\nQUIT\n\x21\x11")
	if got := (<-peers).String(); got != source {
		t.Errorf("dialled from %s, want %s", got, source)
	}
	nc.Close()
	nc = f.connect("10.0.0.1", "10.0.0.11:8080") // a port of its own, and no header
	if got := (<-peers).String(); got != "10.0.0.1" {
		t.Errorf("without PROXY dialled from %s", got)
	}
	wantEcho(t, nc)
	nc.Close()
}
