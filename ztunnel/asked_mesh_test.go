package ztunnel_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// A teller is a control plane that tells one node tunnel what it is asked for.
type teller struct {
	store *config.Store
	has   map[string][]config.Resource // by the names that it is asked for

	mu      sync.Mutex
	silent  bool     // it does not answer
	asked   []string // guarded by mu
	waiting int
}

func (p *teller) demand(ctx context.Context, name string) error {
	p.mu.Lock()
	p.asked = append(p.asked, name)
	silent := p.silent
	p.waiting++
	p.mu.Unlock()
	defer func() { p.mu.Lock(); p.waiting--; p.mu.Unlock() }()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	var updates []config.Update
	for _, v := range p.has[name] {
		updates = append(updates, config.Update{Value: v})
	}
	return p.store.Apply(updates)
}

func (p *teller) hush() { p.mu.Lock(); p.silent = true; p.mu.Unlock() }

func (p *teller) waits() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting
}

// wantAsked checks what was asked for since it was called last.
func (p *teller) wantAsked(t *testing.T, names ...string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(p.asked, names) {
		t.Errorf("asked for %q, want %q", p.asked, names)
	}
	p.asked = nil
}

// asking runs a node tunnel that knows a pod and is told of others when it asks.
func (f *fabric) asking(node string, edit func(*ztunnel.Options), has map[string][]config.Resource, known ...config.Resource) (*nodeTunnel, *teller) {
	f.t.Helper()
	p := &teller{has: has}
	n := f.node(node, func(o *ztunnel.Options) {
		o.Demand, o.DemandTimeout = p.demand, time.Minute
		if edit != nil {
			edit(o)
		}
	})
	p.store = n.store
	n.apply(known...)
	return n, p
}

func (f *fabric) wantEcho(from, target string) {
	f.t.Helper()
	nc := f.connect(from, target)
	wantEcho(f.t, nc)
	nc.Close()
}

// A connection is decided when its destination is known, with the waypoint that
// the destination turns out to have; and those to the waypoint's pods, when it is
// known that they may be.
func TestDestinationsAndWaypointsAreAskedFor(t *testing.T) {
	f := newFabric(t)
	var (
		web   = aPod("web", "10.0.0.1", "node-a", nil)
		items = aPod("items", "10.0.0.10", "node-b", nil, "items", "guarded")
		gate  = aPod("gate", "10.0.0.20", "node-b", nil, "gate")
		named = &mesh.GatewayAddress{Hostname: aHost("gate"), Port: 15008}
		plain = aService("items", "10.9.0.1", "", nil)
		front = aService("gate", "10.9.0.20", "", func(s *mesh.Service) { s.Ports = []mesh.Port{{Service: 15008, Target: 15008}} })
		guard = aService("guarded", "10.9.0.2", "", func(s *mesh.Service) { s.Waypoint = named })
		gated = aPod("gated", "10.0.0.11", "node-b", func(w *mesh.Workload) { w.Waypoint = named })
	)
	has := map[string][]config.Resource{
		"/10.0.0.1":             {web},
		"/10.9.0.1":             {plain, items},
		aHost("items").String(): {plain, items},
		"/10.9.0.2":             {guard, items},
		"/10.0.0.11":            {gated},
		aHost("gate").String():  {front, gate},
	}
	f.serve("10.0.0.10:8080", echo)
	f.serve("10.0.0.20:80", echo)
	f.serve("10.0.0.20:8080", echo)

	_, here := f.asking("node-a", nil, has, web)
	b, there := f.asking("node-b", nil, has, items, gate)
	f.wantEcho("10.0.0.1", "10.9.0.1:80")
	here.wantAsked(t, "/10.9.0.1")
	there.wantAsked(t, "/10.0.0.1") // who comes there
	if got := b.metric("istio_tcp_connections_opened_total", map[string]string{"reporter": "destination", "source_workload": "web"}); got != 1 {
		t.Errorf("%v connections of web's at the other end, want 1", got)
	}
	f.wantEcho("10.0.0.1", "10.9.0.1:80") // it is known now
	f.wantEcho("10.0.0.1", "10.0.0.10:8080")
	here.wantAsked(t)
	there.wantAsked(t)

	f.wantEcho("10.0.0.1", "10.9.0.2:80")
	here.wantAsked(t, "/10.9.0.2", "default/gate.default.svc.cluster.local")
	there.wantAsked(t, "/10.9.0.2", "default/gate.default.svc.cluster.local")
	f.wantEcho("10.0.0.1", "10.0.0.11:8080") // of a pod's waypoint, which is known
	here.wantAsked(t, "/10.0.0.11")
	there.wantAsked(t, "/10.0.0.11")
}

func TestNamesAreAskedFor(t *testing.T) {
	f := newFabric(t)
	items := aPod("items", "10.0.0.10", "node-a", nil, "items")
	_, p := f.asking("node-a", nil, map[string][]config.Resource{
		aHost("items").String(): {aService("items", "10.9.0.1", "", nil)},
	}, aPod("web", "10.0.0.1", "node-a", nil), items)
	f.serve("10.0.0.10:8080", echo)
	f.wantEcho("10.0.0.1", "items:80")
	p.wantAsked(t, "default/items", "default/items.default.svc.cluster.local")
	f.wantRefused("10.0.0.1", "nowhere.other:80")
	p.wantAsked(t, "default/nowhere.other", "default/nowhere.other.default.svc.cluster.local", "other/nowhere.other.svc.cluster.local")
}

func TestGatewaysAreAskedFor(t *testing.T) {
	f := newFabric(t)
	west(f, nil)
	f.serve("10.1.0.10:8080", echo)
	f.gateway("gateway", "10.0.0.9:15008", "10.1.0.10:15008")
	all := east([]string{spiffe("items")}, aPod("gateway", "10.0.0.9", "", native("east"), "gateway"))
	_, p := f.asking("node-east", inNetwork("east"), map[string][]config.Resource{
		"east/10.9.0.1":           {all[1], all[2]},
		aHost("gateway").String(): {all[3], all[4]},
	}, all[0])
	f.wantEcho("10.0.0.1", "10.9.0.1:80")
	p.wantAsked(t, "east/10.9.0.1", "default/gateway.default.svc.cluster.local")
}

// What is not in the mesh passes once that is known, and not before: it might be
// for a waypoint.
func TestNothingPassesUnlessItIsKnownThatItMay(t *testing.T) {
	f := newFabric(t)
	_, p := f.asking("node-a", func(o *ztunnel.Options) { o.DemandTimeout = 20 * time.Millisecond }, nil, aPod("web", "10.0.0.1", "node-a", nil))
	f.serve("192.0.2.7:443", echo)
	f.wantEcho("10.0.0.1", "192.0.2.7:443")
	p.wantAsked(t, "/192.0.2.7")
	p.hush()
	f.wantRefused("10.0.0.1", "192.0.2.7:443")
	f.wantLine("connection failed", "the control plane has not said what is there: /192.0.2.7")
	if n := p.waits(); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

// Who is only unknown by name is let in all the same, after a while, and the next
// at once.
func TestClientsNeedNotBeKnown(t *testing.T) {
	f := newFabric(t)
	web, items := aPod("web", "10.0.0.1", "node-a", nil), aPod("items", "10.0.0.10", "node-b", nil)
	f.node("node-a", nil, web, items)
	_, p := f.asking("node-b", func(o *ztunnel.Options) { o.DemandTimeout = 20 * time.Millisecond }, nil, items)
	p.hush()
	f.serve("10.0.0.10:8080", echo)
	for range 3 {
		f.wantEcho("10.0.0.1", "10.0.0.10:8080")
	}
	p.wantAsked(t, "/10.0.0.1")
}

// A connection whose pod gives up, or whose node tunnel ends, waits no more.
func TestNobodyWaitsForAnAnswerInVain(t *testing.T) {
	f := newFabric(t)
	web, items := aPod("web", "10.0.0.1", "node-a", nil), aPod("items", "10.0.0.10", "node-b", nil)
	a, here := f.asking("node-a", nil, nil, web)
	here.hush()
	src := netip.MustParseAddr("10.0.0.1")
	nc, err := f.net.Dial(t.Context(), src, netip.AddrPortFrom(src, 15080))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write([]byte{5, 1, 0, 5, 1, 0, 1, 10, 9, 0, 1, 0, 80}); err != nil {
		t.Fatal(err)
	}
	f.until("it is asked for", func() bool { return here.waits() == 1 })
	nc.Close()
	f.until("nobody waits", func() bool { conns, _ := a.z.OpenForTest(); return here.waits() == 0 && conns == 0 })

	release := a.z.FillAskingForTest()
	f.wantRefused("10.0.0.1", "10.9.0.1:80")
	f.wantLine("connection failed", "too many connections wait for the control plane")
	release()

	b, there := f.asking("node-b", nil, nil, items)
	there.hush()
	a.apply(items)
	f.serve("10.0.0.10:8080", func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc); nc.Close() })
	one, other := f.later("10.0.0.1", "10.0.0.10:8080"), f.later("10.0.0.1", "10.9.0.1:80")
	f.until("both wait", func() bool { return here.waits() == 1 && there.waits() == 1 })
	for _, n := range []*nodeTunnel{b, a} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = n.z.Shutdown(ctx)
	}
	if <-one != nil || <-other != nil {
		t.Error("a connection, although nothing was answered")
	}
	if here.waits()+there.waits() != 0 {
		t.Error("somebody still waits")
	}
}
