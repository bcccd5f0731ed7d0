package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
	"github.com/waystone-mesh/waystone/telemetry"
)

// A proxy is what all loops share. It is immutable.
type proxy struct {
	telemetry *telemetry.Telemetry
	loops     *loop.Group
	workers   map[*loop.Loop]*worker
	upstream  netip.AddrPort
	http1     bool
	server    *tls.Config // nil: no TLS
	client    *tls.Config

	policies *authz.Set
	routes   *routing.Table
	peer     identity.ID // whom every client is taken for
	source   *mesh.Workload
	service  *mesh.Service
	endpoint *mesh.Workload
}

func newProxy(o *options, t *telemetry.Telemetry, group *loop.Group) (p *proxy, err error) {
	p = &proxy{
		telemetry: t, loops: group, workers: map[*loop.Loop]*worker{}, http1: o.http1,
		peer:     identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "client"},
		source:   &mesh.Workload{UID: "client", Name: "client", Namespace: "default", ServiceAccount: "client"},
		service:  &mesh.Service{Name: "items", Namespace: "default", Hostname: "items.default.svc.cluster.local"},
		endpoint: &mesh.Workload{UID: "server", Name: "server", Namespace: "default", ServiceAccount: "server"},
	}
	if p.upstream, err = netip.ParseAddrPort(o.upstream); err != nil {
		return nil, err
	}
	if p.server, p.client, err = o.secure(); err != nil {
		return nil, err
	}
	if p.policies, err = authz.Compile(authz.Options{}, policy()); err != nil {
		return nil, err
	}
	if p.routes, err = routing.Compile(route()); err != nil {
		return nil, err
	}
	for _, l := range group.Loops() {
		p.workers[l] = newWorker(p, l)
	}
	return p, nil
}

// policy is as that of the service behind a waypoint: three rules by principal,
// method and path, of which the last lets the load pass.
func policy() *authz.Policy {
	rule := func(account string, methods, paths []string) authz.Rule {
		return authz.Rule{
			From: []authz.Source{{Principals: []string{"cluster.local/ns/default/sa/" + account}}},
			To:   []authz.Operation{{Methods: methods, Paths: paths}},
		}
	}
	return &authz.Policy{Namespace: "default", Name: "items", Rules: []authz.Rule{
		rule("monitor", []string{"GET"}, []string{"/metrics", "/healthz"}),
		rule("batch", []string{"POST", "PUT"}, []string{"/import/*"}),
		rule("client", []string{"GET", "POST"}, []string{"/", "/items*"}),
	}}
}

// route is likewise: four rules, of which the last applies, and edits the head.
func route() *routing.Route {
	to := func(m routing.Match, f routing.Filters) routing.RouteRule {
		return routing.RouteRule{Matches: []routing.Match{m}, Filters: f, Backends: []routing.Backend{{Weight: 1}}}
	}
	prefix := func(p string) routing.PathMatch { return routing.PathMatch{Kind: routing.PathPrefix, Value: p} }
	edit := routing.Filters{Request: &routing.HeaderEdit{Set: []l7.Field{{Name: "x-route", Value: "items"}}}}
	parent := routing.Parent{Service: mesh.Hostname{Namespace: "default", Host: "items.default.svc.cluster.local"}}
	return &routing.Route{Namespace: "default", Name: "items", Parents: []routing.Parent{parent}, Rules: []routing.RouteRule{
		to(routing.Match{Path: routing.PathMatch{Kind: routing.PathExact, Value: "/healthz"}}, routing.Filters{}),
		to(routing.Match{Path: prefix("/reports"), Method: "POST"}, routing.Filters{}),
		to(routing.Match{Path: prefix("/"), Headers: []routing.ValueMatch{{Name: "x-canary", Value: "always"}}}, routing.Filters{}),
		to(routing.Match{Path: prefix("/")}, edit),
	}}
}

// A worker is what one loop owns.
type worker struct {
	*proxy
	loop    *loop.Loop
	clients map[*h2Client]struct{} // for their clocks
	shared  []*h2Origin            // connections to the server that many share
	idle    []*h1Origin            // and that one at a time has
	waiting []*exchange            // for one that is being opened
	opening int
	free    []*exchange
	timer   loop.Timer

	// Scratch, lent for one call.
	request  l7.Request
	response l7.Response
	outgoing l7.Fields
	input    authz.Input
}

func newWorker(p *proxy, l *loop.Loop) *worker {
	w := &worker{proxy: p, loop: l, clients: map[*h2Client]struct{}{}}
	w.timer.F = w.tick
	l.Do(w.tick)
	return w
}

// tick passes the time on to HTTP/2, once a second.
func (w *worker) tick() {
	now := w.loop.Now()
	for c := range w.clients {
		if err := c.conn.Tick(now); err != nil {
			c.sock.Abort(err)
		}
	}
	for _, o := range w.shared {
		if err := o.conn.Tick(now); err != nil {
			o.sock.Abort(err)
		}
	}
	w.loop.After(&w.timer, time.Second)
}

// connect finds x a way to the server, or has it wait for a new connection.
func (w *worker) connect(x *exchange) {
	if w.room(x) {
		x.forward()
		return
	}
	w.waiting = append(w.waiting, x)
	// HTTP/1.1 needs a connection for each; HTTP/2, one for all until it says how
	// many it takes.
	if w.http1 || w.opening == 0 {
		w.opening++
		go w.dial()
	}
}

// room gives x a way to the server that is there, if there is one.
func (w *worker) room(x *exchange) bool {
	if n := len(w.idle); n > 0 {
		x.up, w.idle = w.idle[n-1], w.idle[:n-1]
		return true
	}
	for _, o := range w.shared {
		if o.conn.Available() > 0 {
			x.origin, x.up = o, (*h2Ask)(x)
			return true
		}
	}
	return false
}

// dial opens a connection to the server, away from the loop.
func (w *worker) dial() {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", w.upstream.String())
	var sock *loop.Socket
	switch {
	case err != nil:
	case w.http1:
		sock = loop.Plain(nc)
	default:
		sock, err = loop.Handshake(ctx, nc, w.client, loop.ClientSide)
		if err == nil && sock.TLS().NegotiatedProtocol != "h2" {
			err = errors.New("the server does not speak HTTP/2")
			sock.Abort(err)
		}
	}
	w.loop.Do(func() { w.dialled(sock, err) })
}

func (w *worker) dialled(sock *loop.Socket, err error) {
	w.opening--
	switch {
	case err != nil:
	case w.http1:
		w.openHTTP1(sock)
	default:
		w.openHTTP2(sock)
	}
	waiting := w.waiting
	w.waiting = nil
	for _, x := range waiting {
		switch {
		case x.client == nil: // it has gone
			x.release()
		case w.room(x):
			x.forward()
		case err != nil:
			x.refuse(503, "upstream_reset_before_response_started{connection_failure}", telemetry.UF)
		default:
			w.waiting = append(w.waiting, x)
		}
	}
	if len(w.waiting) > 0 && w.opening == 0 {
		w.opening++
		go w.dial()
	}
}

// limits are HTTP/2's: as many streams as generators and servers use by default.
func limits(sock *loop.Socket) h2.Options {
	return h2.Options{MaxStreams: 100, Wake: sock.Wake}
}
