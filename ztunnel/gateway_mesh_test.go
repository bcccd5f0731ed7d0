package ztunnel_test

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// A gateway stands before a network: it terminates the outer tunnel and hands the
// stream, as it is, to port 15008 of a workload over there.
type gateway struct {
	f      *fabric
	server *hbone.Server

	mu    sync.Mutex
	to    []netip.AddrPort // the backends, by turns
	heads []hbone.Connect  // of the CONNECTs
	conns int
}

func (f *fabric) gateway(name, addr string, to ...string) *gateway {
	g := &gateway{f: f}
	for _, a := range to {
		g.to = append(g.to, netip.MustParseAddrPort(a))
	}
	g.server = hbone.NewServer(hbone.ServerOptions{
		Self: func(netip.AddrPort) identity.ID {
			return identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: name}
		},
		Identity: f.ca, Loops: f.loops, Connect: g.connect,
		Events: hbone.Events{Opened: func(netip.AddrPort, identity.ID) { g.mu.Lock(); g.conns++; g.mu.Unlock() }},
	})
	ln := f.net.Listen(netip.MustParseAddrPort(addr))
	go func() { _ = g.server.Serve(ln) }()
	f.ends = append(f.ends, func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = g.server.Shutdown(ctx)
	})
	return g
}

func (g *gateway) connect(in *hbone.Incoming) {
	g.mu.Lock()
	dst := g.to[len(g.heads)%len(g.to)]
	g.heads = append(g.heads, in.Connect)
	g.mu.Unlock()
	go func() {
		nc, err := g.f.net.Dial(context.Background(), netip.Addr{}, dst)
		in.Loop.Do(func() {
			if err != nil {
				in.Refuse(503)
				return
			}
			p := &flow.Pair{}
			t := loop.NewTCP(in.Loop, loop.Plain(nc), 64<<10, nil)
			tunnel := in.Accept(nil, nil)
			p.Join(tunnel, t, func(error) {})
			tunnel.SetReceiver(p.A())
			t.SetReceiver(p.B())
		})
	}()
}

func (g *gateway) seen() (heads []hbone.Connect, conns int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]hbone.Connect(nil), g.heads...), g.conns
}

func inNetwork(name string) func(*ztunnel.Options) {
	return func(o *ztunnel.Options) { o.Network = name }
}

func of(network string) func(*mesh.Workload) {
	return func(w *mesh.Workload) { w.Network = network }
}

// behind is what stands in one network for workloads of another.
func behind(network string, gw mesh.GatewayAddress) func(*mesh.Workload) {
	return func(w *mesh.Workload) { w.Network, w.Gateway = network, &gw }
}

func byAddress(network, addr string) mesh.GatewayAddress {
	return mesh.GatewayAddress{Address: mesh.Address{Network: network, IP: netip.MustParseAddr(addr)}, Port: 15008}
}

func native(network string) func(*mesh.Workload) {
	return func(w *mesh.Workload) { w.Network, w.NativeTunnel = network, true }
}

// east has a client and what it knows of west: a service whose endpoints are
// behind a gateway. sans is who the service says that they are.
func east(sans []string, gateways ...*mesh.Workload) []config.Resource {
	values := []config.Resource{
		aPod("web", "10.0.0.1", "node-east", of("east")),
		aPod("far", "", "", behind("west", mesh.GatewayAddress{Hostname: aHost("gateway"), Port: 15008}), "items"),
		aService("items", "10.9.0.1", "east", func(s *mesh.Service) { s.SANs = sans }),
		aService("gateway", "10.9.0.2", "east", func(s *mesh.Service) { s.Ports = []mesh.Port{{Service: 15008, Target: 15008}} }),
	}
	for _, g := range gateways {
		values = append(values, g)
	}
	return values
}

// west has the service itself, at an address that in east is another's.
func west(f *fabric, edit func(*ztunnel.Options), more ...config.Resource) *nodeTunnel {
	return f.node("node-west", func(o *ztunnel.Options) {
		o.Network = "west"
		if edit != nil {
			edit(o)
		}
	}, append([]config.Resource{
		aPod("items", "10.1.0.10", "node-west", of("west"), "items"),
		aService("items", "10.9.0.1", "west", nil),
	}, more...)...)
}

func TestAnotherNetworkIsReachedByItsGateway(t *testing.T) {
	f := newFabric(t)
	there := west(f, nil)
	here := f.node("node-east", inNetwork("east"), east([]string{spiffe("items")}, aPod("gateway", "10.0.0.40", "", native("east"), "gateway"))...)
	g := f.gateway("gateway", "10.0.0.40:15008", "10.1.0.10:15008")
	f.serve("10.1.0.10:8080", echo)
	var conns []net.Conn
	for range 3 {
		nc := f.connect("10.0.0.1", "items:80")
		wantEcho(t, nc)
		conns = append(conns, nc)
	}
	heads, outer := g.seen()
	if outer != 1 || len(heads) != 3 {
		t.Errorf("%d connections with %d tunnels to the gateway, want 1 with 3: the inner connections are not shared", outer, len(heads))
	}
	for _, h := range heads {
		if h.Authority.String() != "items.default.svc.cluster.local:80" || h.Network != "" || h.Traceparent == "" {
			t.Errorf("the gateway is asked %+v", h)
		}
	}
	for _, nc := range conns {
		closeBoth(t, nc)
	}
	closed := func(n *nodeTunnel, want float64) {
		t.Helper()
		f.until("the connections are closed", func() bool { return n.metric("istio_tcp_connections_closed_total", nil) == want })
	}
	closed(here, 3)
	closed(there, 3)
	for _, n := range []*nodeTunnel{here, there} {
		for _, family := range []string{"istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"} {
			if got := n.metric(family, map[string]string{
				"source_workload": "web", "source_principal": spiffe("web"), "source_canonical_revision": "v1",
				"destination_workload": "items", "destination_principal": spiffe("items"),
				"destination_service": aHost("items").Host, "response_flags": "-", "connection_security_policy": "mutual_tls",
			}); got != 3 {
				t.Errorf("%s: got %v, want 3", family, got)
			}
		}
	}
	f.wantLine("connection complete", `src.workload="web"`, "dst.addr=10.0.0.40:15008", `dst.hbone_addr=items.default.svc.cluster.local:80`,
		`dst.workload="items"`, `dst.identity="`+spiffe("items")+`"`, `direction="outbound"`, "bytes_sent=5")
	f.wantLine("connection complete", `dst.workload="items"`, `direction="inbound"`, "dst.hbone_addr=items.default.svc.cluster.local:80")
	f.until("nothing is left of the inner connections", func() bool { n, _ := here.z.OpenForTest(); return n == 0 })
}

// Who answers over there must be one of those whom the service names: that the
// gateway is the right one proves nothing.
func TestWhoAnswersInAnotherNetworkMustBeExpected(t *testing.T) {
	f := newFabric(t)
	west(f, nil)
	here := f.node("node-east", inNetwork("east"), east([]string{spiffe("somebody")}, aPod("gateway", "10.0.0.40", "", native("east"), "gateway"))...)
	f.gateway("gateway", "10.0.0.40:15008", "10.1.0.10:15008")
	f.serve("10.1.0.10:8080", echo)
	f.wantRefused("10.0.0.1", "items:80")
	if got := here.metric("istio_tcp_connections_failed_total", map[string]string{"response_flags": "TLS_FAILURE", "destination_workload": "gateway"}); got != 1 {
		t.Errorf("%v connections failed, want 1", got)
	}
	f.wantLine("connection complete", `direction="outbound"`, "error=", spiffe("items"))
}

func TestGatewayMustBeExpected(t *testing.T) {
	f := newFabric(t)
	west(f, nil)
	f.node("node-east", inNetwork("east"), east([]string{spiffe("items")}, aPod("gateway", "10.0.0.40", "", native("east"), "gateway"))...)
	f.gateway("impostor", "10.0.0.40:15008", "10.1.0.10:15008")
	f.wantRefused("10.0.0.1", "items:80")
}

// A gateway that does not answer is passed over, and one that has nobody behind it
// is not asked twice.
func TestAnotherGatewayIsTried(t *testing.T) {
	f := newFabric(t)
	west(f, nil)
	here := f.node("node-east", inNetwork("east"), east([]string{spiffe("items")},
		aPod("gateway", "10.0.0.40", "", native("east"), "gateway"),
		aPod("dead", "10.0.0.41", "", native("east"), "gateway"))...)
	f.gateway("gateway", "10.0.0.40:15008", "10.1.0.10:15008")
	stop := f.serve("10.1.0.10:8080", echo)
	for range 10 {
		nc := f.connect("10.0.0.1", "items:80")
		wantEcho(t, nc)
		nc.Close()
	}
	if got := here.metric("istio_tcp_connections_failed_total", map[string]string{"destination_workload": "dead"}); got > 1 {
		t.Errorf("the gateway that does not answer was asked %v times: it is to be remembered", got)
	}
	stop()
	f.wantRefused("10.0.0.1", "items:80")
}

// The client is who its certificate says, over there too, and not the gateway.
func TestQuotaIsOfTheClientBehindAGateway(t *testing.T) {
	f := newFabric(t)
	west(f, func(o *ztunnel.Options) { o.MaxPerIdentity = 1 })
	f.node("node-east", inNetwork("east"), append(east([]string{spiffe("items")}, aPod("gateway", "10.0.0.40", "", native("east"), "gateway")),
		aPod("other", "10.0.0.2", "node-east", of("east")))...)
	f.gateway("gateway", "10.0.0.40:15008", "10.1.0.10:15008")
	f.serve("10.1.0.10:8080", echo)
	one := f.connect("10.0.0.1", "items:80")
	wantEcho(t, one)
	two := f.connect("10.0.0.2", "items:80") // another identity
	wantEcho(t, two)
	f.wantRefused("10.0.0.1", "items:80")
	one.Close()
	two.Close()
}

// A gateway may be known by a name in DNS only, as a cloud's load balancer is.
func TestGatewayIsLookedUp(t *testing.T) {
	f := newFabric(t)
	west(f, nil)
	lb := mesh.GatewayAddress{Hostname: mesh.Hostname{Namespace: "default", Host: "lb.example.com"}, Port: 15008}
	here := f.node("node-east", func(o *ztunnel.Options) {
		o.Network = "east"
		o.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
			if host != "lb.example.com" {
				t.Errorf("asked for %s", host)
			}
			return []netip.Addr{netip.MustParseAddr("10.0.0.40")}, nil
		}
	}, aPod("web", "10.0.0.1", "node-east", of("east")),
		aPod("far", "", "", behind("west", lb), "items"),
		aService("items", "10.9.0.1", "east", func(s *mesh.Service) { s.SANs = []string{spiffe("items")} }),
		aPod("gateway", "", "", func(w *mesh.Workload) { w.Network, w.Hostname = "east", "lb.example.com" }))
	f.gateway("gateway", "10.0.0.40:15008", "10.1.0.10:15008")
	f.serve("10.1.0.10:8080", echo)
	for range 2 {
		nc := f.connect("10.0.0.1", "10.9.0.1:80")
		wantEcho(t, nc)
		closeBoth(t, nc)
	}
	f.until("both are counted", func() bool {
		return here.metric("istio_tcp_connections_closed_total", map[string]string{"destination_workload": "items", "response_flags": "-"}) == 2
	})
}
