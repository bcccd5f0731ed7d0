package waypoint

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

const rigConfig = `
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: default}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
status: {addresses: [{type: IPAddress, value: 10.0.0.9}]}
---
apiVersion: v1
kind: Service
metadata: {name: items, namespace: default, labels: {istio.io/use-waypoint: waypoint}}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  selector: {app: items}
  ports: [{name: main, port: 80, targetPort: 8080}]
`

const rigPod = `
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: default, labels: {app: items}}
spec: {nodeName: node-a, serviceAccountName: items, containers: [{name: app, image: app}]}
status: {phase: Running, podIP: ADDRESS, podIPs: [{ip: ADDRESS}], conditions: [{type: Ready, status: "True"}]}
`

// A rig is a waypoint of which a test plays everything around: the tunnels of
// clients, the connections to endpoints, the authorizers. Everything happens on
// the loop, in do.
type rig struct {
	t        testing.TB
	w        *Waypoint
	k        *worker
	loop     *loop.Loop
	store    *config.Store
	dials    []*dialing
	asked    []*question
	lines    *lines
	log      *telemetry.Writer
	pumps    []func() (moved bool)
	closers  []func() // of what the test's own actors hold
	inUse    int64
	sessions []*session
}

// A dialing is a connection that the waypoint asked for.
type dialing struct {
	origin   *origin
	ready    dialed
	canceled bool
	leg      *wire
}

// A question is one that an authorizer was asked.
type question struct {
	*extauthz.Request
	say      func(extauthz.Answer)
	canceled bool
}

// answer says yes, or no for a reason.
func (q *question) answer(err error) {
	q.say(extauthz.Answer{Allowed: err == nil, Status: 403, Err: err})
}

// lines gathers the access log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func newRig(t testing.TB, change func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, lines: &lines{}, inUse: bufs.InUse()}
	var err error
	if r.log, err = telemetry.NewWriter(telemetry.WriterOptions{Output: r.lines, Linger: -1}); err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.New(telemetry.Options{Program: telemetry.Waypoint, AccessLog: r.log})
	if err != nil {
		t.Fatal(err)
	}
	ca, err := identity.Open("self:"+t.TempDir(), identity.Options{TrustDomain: "cluster.local"})
	if err != nil {
		t.Fatal(err)
	}
	loops, err := loop.NewGroup(1, loop.Options{Portable: true, Lead: -1})
	if err != nil {
		t.Fatal(err)
	}
	r.store = config.NewStore(config.Options{Gateway: mesh.Key{Kind: "Gateway", Namespace: "default", Name: "waypoint"}, TrustDomain: "cluster.local"})
	yaml := rigConfig
	for _, pod := range []string{"a 10.0.0.1", "b 10.0.0.2", "c 10.0.0.3"} {
		name, address, _ := strings.Cut(pod, " ")
		yaml += "---" + strings.NewReplacer("NAME", name, "ADDRESS", address).Replace(rigPod)
	}
	r.apply(yaml)
	r.store.Synced()
	o := Options{
		Self: identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "waypoint"}, Identity: ca,
		Store: r.store, Telemetry: tel, Loops: loops,
		Dial: func(context.Context, netip.Addr, netip.AddrPort) (net.Conn, error) {
			return nil, errors.New("there is no network")
		},
	}
	if change != nil {
		change(&o)
	}
	if r.w, err = New(o); err != nil {
		t.Fatal(err)
	}
	r.loop = o.Loops.Loops()[0]
	r.k = r.w.workers[r.loop]
	r.do(func() { r.k.dial = r.dial })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := r.w.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		loops.Close()
		_ = o.Telemetry.Shutdown(ctx)
		_ = tel.Shutdown(ctx)
		_ = r.log.Close(ctx)
	})
	return r
}

func (r *rig) apply(yaml string) {
	r.t.Helper()
	index := manifest.NewIndex(manifest.Options{ByLabel: true})
	f := manifest.Decode("rig.yaml", []byte(yaml))
	var changes []manifest.Change
	for _, o := range f.Objects {
		if o.Err != nil {
			r.t.Fatal(o.Err)
		}
		changes = append(changes, manifest.Change{Key: o.Key, Object: o})
	}
	if err := r.store.Apply(index.Apply(changes...)); err != nil {
		r.t.Fatal(err)
	}
}

// rigPolicy has a provider asked about everything, or about connections that a
// DENY policy would not refuse.
const rigPolicy = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: NAME, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  action: CUSTOM
  provider: {name: NAME}
  rules: [{}]
`

// consult has authorizers asked about everything. They answer when the test says
// so.
func (r *rig) consult(providers ...*authz.Provider) {
	r.t.Helper()
	m := &config.Mesh{Providers: map[string]*authz.Provider{}}
	clients := map[string]*extauthz.Client{}
	for _, p := range providers {
		m.Providers[p.Name] = p
		c, err := extauthz.New(p, extauthz.Options{Ask: func(context.Context, *extauthz.Request) (extauthz.Answer, error) {
			return extauthz.Answer{}, errors.New("the rig is asked in its place")
		}})
		if err != nil {
			r.t.Fatal(err)
		}
		clients[p.Name] = c
	}
	if err := r.store.Apply([]config.Update{{Value: m}}); err != nil {
		r.t.Fatal(err)
	}
	for name := range clients {
		r.apply(strings.ReplaceAll(rigPolicy, "NAME", name))
	}
	r.do(func() {
		r.w.options.Authorizer = func(name string) *extauthz.Client { return clients[name] }
		r.k.ask = func(_ *extauthz.Client, req *extauthz.Request, say func(extauthz.Answer)) func() {
			q := &question{Request: req, say: say}
			r.asked = append(r.asked, q)
			return func() { q.canceled = true }
		}
	})
}

// shown is a provider that is shown so much content, or with part the beginning of
// what is longer.
func shown(content int, part bool) *authz.Provider {
	p := &authz.Provider{Name: "asked", Kind: authz.GRPC, Service: "asked.default.svc.cluster.local", Port: 9000}
	if content > 0 {
		p.Body = &authz.Body{Max: content, AllowPartial: part}
	}
	return p
}

func (r *rig) dial(o *origin, ready dialed) func() {
	d := &dialing{origin: o, ready: ready}
	r.dials = append(r.dials, d)
	return func() { d.canceled = true }
}

// do runs f on the loop, and then whatever follows from it.
func (r *rig) do(f func()) {
	r.t.Helper()
	done := make(chan struct{})
	r.loop.Do(f)
	var round func()
	quiet := 0
	round = func() {
		moved := false
		for _, pump := range r.pumps {
			moved = pump() || moved
		}
		if quiet++; moved {
			quiet = 0
		}
		if quiet == 4 { // a batch for what was posted, one for what that asked for at its end
			close(done)
			return
		}
		r.loop.Do(round)
	}
	r.loop.Do(round)
	<-done
}

// open begins a tunnel from a client to the service.
func (r *rig) open() *wire {
	w := newWire()
	r.openOn(w)
	return w
}

func (r *rig) openOn(tun tunnel) { r.openFrom(rigClient(r.loop), tun) }

// rigClient returns a client's connection.
func rigClient(l *loop.Loop) *hbone.Connection {
	return &hbone.Connection{
		Peer:   identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "web"},
		Source: netip.MustParseAddrPort("10.0.0.8:4242"), Loop: l,
	}
}

func (r *rig) openFrom(from *hbone.Connection, tun tunnel) {
	s := &session{worker: r.k, from: from, authority: mesh.Authority{IP: netip.MustParseAddr("10.96.0.1"), Port: 80}, tunnel: tun}
	if s.destination() == nil {
		r.t.Fatal("the service is not served")
	}
	r.k.add(s)
	r.sessions = append(r.sessions, s)
	s.tunnel.SetReceiver(s.detect())
}

// connected lets a dial succeed.
func (d *dialing) connected() *wire {
	d.leg = newWire()
	d.ready(d.leg, d.leg.SetReceiver, nil)
	return d.leg
}

func (d *dialing) refused() { d.ready(nil, nil, errors.New("connection refused")) }

// logged returns the access log.
func (r *rig) logged() []string {
	r.t.Helper()
	if err := r.log.Flush(context.Background()); err != nil {
		r.t.Fatal(err)
	}
	r.lines.mu.Lock()
	defer r.lines.mu.Unlock()
	text := strings.TrimSpace(r.lines.b.String())
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// wantNothingLeft checks that no exchange, session, buffer or count of load is
// left, once every client has gone and every connection to an endpoint too.
func (r *rig) wantNothingLeft() {
	r.t.Helper()
	r.do(func() {
		for _, d := range r.dials {
			if d.leg != nil && !d.leg.over {
				d.leg.peerReset(errors.New("the endpoint went away"))
			}
		}
	})
	r.pumps = nil
	r.do(func() {
		for _, f := range r.closers {
			f()
		}
		for _, x := range r.k.free {
			if x.held.Len() != 0 || x.replay.Len() != 0 || x.session != nil || x.up != nil {
				r.t.Errorf("a free exchange holds on to something: %+v", x)
			}
		}
		if n := len(r.k.sessions); n != 0 {
			r.t.Errorf("%d sessions are left", n)
		}
		if n := r.k.inners.Len(); n != 0 {
			r.t.Errorf("%d inner connections are left", n)
		}
		if n := len(r.k.closing); n != 0 {
			r.t.Errorf("%d connections are left that were closed", n)
		}
		for _, o := range r.k.origins {
			if !o.empty() {
				r.t.Errorf("an origin is left: %d idle, %d connections", len(o.idle), len(o.conns))
			}
		}
		d := r.store.Snapshot().Lookup("", "default", mesh.Authority{IP: netip.MustParseAddr("10.96.0.1"), Port: 80})
		for i := range d.Endpoints {
			if n := d.Endpoints[i].Load.Load(); n != 0 {
				r.t.Errorf("endpoint %v has a load of %d", d.Endpoints[i].Addr, n)
			}
		}
		if n := bufs.InUse() - r.inUse; n != 0 {
			r.t.Errorf("%d bytes of buffers are left", n)
		}
	})
}

// A wire is a stream of which the test is the far end.
type wire struct {
	r        flow.Receiver
	out      []byte // everything that was written
	room     int    // how much more leaves at once
	queued   int
	credited int
	sent     int // delivered to the waypoint
	closed   bool
	reset    bool // by the waypoint
	over     bool // reset by either
}

var _ tunnel = (*wire)(nil)

func newWire() *wire { return &wire{room: 1 << 30} }

func (w *wire) SetReceiver(r flow.Receiver) { w.r = r }

func (w *wire) Write(p []byte) int {
	if w.over || w.closed {
		return 0
	}
	w.out = append(w.out, p...)
	n := min(len(p), w.room)
	w.room -= n
	w.queued += len(p) - n
	return len(p) - n
}

func (w *wire) CloseWrite()  { w.closed = true }
func (w *wire) Credit(n int) { w.credited += n }
func (w *wire) Queued() int  { return w.queued }
func (w *wire) Reset(error)  { w.reset, w.over, w.queued = true, true, 0 }

// arrive delivers bytes to the waypoint.
func (w *wire) arrive(p string) {
	if !w.over {
		w.sent += len(p)
		w.r.Data([]byte(p))
	}
}

// leave lets n more bytes leave.
func (w *wire) leave(n int) {
	k := min(n, w.queued)
	w.room += n - k
	if w.queued -= k; k > 0 && !w.over {
		w.r.Sent(k)
	}
}

func (w *wire) eof() {
	if !w.over {
		w.r.EOF()
	}
}

func (w *wire) peerReset(err error) {
	if !w.over {
		w.over, w.queued = true, 0
		w.r.Reset(err)
	}
}

// declare has the service's port say HTTP/1.1.
func (r *rig) declare() {
	d := r.store.Snapshot().Lookup("", "default", mesh.Authority{IP: netip.MustParseAddr("10.96.0.1"), Port: 80})
	port := *d.Port
	port.Protocol = mesh.HTTP1
	d.Port = &port
}
