package waypointcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/memnet"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A reachRig is a network in memory, and a reach on it.
type reachRig struct {
	*reach
	t     *testing.T
	net   *memnet.Net
	ids   identity.Source
	loops *loop.Group
	store *config.Store
	next  byte // the last address
}

func newReachRig(t *testing.T) *reachRig {
	t.Helper()
	loops, err := loop.NewGroup(1, loop.Options{Portable: true})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := identity.Open("self:"+t.TempDir(), identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := &reachRig{t: t, net: memnet.New(), ids: ids, loops: loops, store: config.NewStore(config.Options{})}
	r.reach = &reach{
		open: map[place]int{}, snapshot: r.store.Snapshot, self: account("waypoint"), clusterDomain: "cluster.local", dial: r.net.Dial,
		lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
			switch host {
			case "localhost":
				return []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("127.0.0.1")}, nil
			case "nowhere.example.com":
				return nil, nil
			}
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		},
		pool: hbone.NewPool(hbone.PoolOptions{Loop: loops.Loops()[0], Identity: ids, Dial: r.net.Dial}),
	}
	t.Cleanup(func() {
		if err := r.pool.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		loops.Close()
	})
	return r
}

// service adds a service with port 9000, which leads to port 90 of its pods.
func (r *reachRig) service(namespace, host string, ips ...string) *mesh.Service {
	r.t.Helper()
	s := &mesh.Service{Namespace: namespace, Name: host, Hostname: host, Ports: []mesh.Port{{Service: 9000, Target: 90}}}
	for _, ip := range ips {
		s.Addresses = append(s.Addresses, mesh.Prefix{Prefix: netip.PrefixFrom(netip.MustParseAddr(ip), 32)})
	}
	r.apply(s)
	return s
}

// pod adds a workload of s.
func (r *reachRig) pod(s *mesh.Service, change func(*mesh.Workload)) *mesh.Workload {
	r.t.Helper()
	r.next++
	w := &mesh.Workload{
		UID: fmt.Sprintf("pod-%d", r.next), Name: fmt.Sprintf("pod-%d", r.next), Namespace: "default", ServiceAccount: "authz", TrustDomain: "cluster.local",
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, r.next})}, Services: map[mesh.Hostname]mesh.Membership{},
	}
	if s != nil {
		w.Services[s.Host()] = mesh.Membership{}
	}
	change(w)
	r.apply(w)
	return w
}

func (r *reachRig) apply(x config.Resource) {
	r.t.Helper()
	if err := r.store.Apply([]config.Update{{Value: x}}); err != nil {
		r.t.Fatal(err)
	}
}

// greet serves what is accepted with a word.
func (r *reachRig) greet(addr, word string) {
	ln := r.net.Listen(netip.MustParseAddrPort(addr))
	r.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, word)
			c.Close()
		}
	}()
}

// tunnel serves HBONE for w as id, and greets with what it was asked for.
func (r *reachRig) tunnel(w *mesh.Workload, id identity.ID) {
	s := hbone.NewServer(hbone.ServerOptions{
		Self: func(netip.AddrPort) identity.ID { return id }, Identity: r.ids, Loops: r.loops,
		Connect: func(in *hbone.Incoming) {
			t := in.Accept(nil, nil)
			t.Write([]byte(in.Peer.ServiceAccount + " to " + in.Authority.String()))
			t.CloseWrite()
		},
	})
	ln := r.net.Listen(netip.AddrPortFrom(w.Addresses[0], hbonePort))
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	r.t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
		<-served
	})
}

// said returns how a service greets, or the error of connecting to it.
func (r *reachRig) said(service string) (string, error) {
	c, err := r.connect(r.t.Context(), service, 9000)
	if err != nil {
		return "", err
	}
	defer c.Close()
	text, err := io.ReadAll(c)
	return string(text), err
}

func TestServicesAreFoundAsIstioNamesThem(t *testing.T) {
	r := newReachRig(t)
	r.service("foo", "authz.foo.svc.cluster.local", "10.96.0.1")
	r.service("bar", "authz.example.com")
	r.service("bar", "*.wild.example.com")
	other := r.service("foo", "other.foo.svc.cluster.local")
	other = &mesh.Service{Namespace: other.Namespace, Hostname: other.Hostname, Ports: []mesh.Port{{Service: 1, Target: 1}}}
	r.apply(other)
	r.pod(nil, func(*mesh.Workload) {})
	const authz, none = "foo/authz.foo.svc.cluster.local", ""
	for _, x := range []struct{ service, want, err string }{
		{"authz.foo.svc.cluster.local", authz, ""}, {"foo/authz.foo.svc.cluster.local", authz, ""}, {"authz.foo.svc.cluster.local.", authz, ""},
		{"AUTHZ.foo.svc", authz, ""}, {"authz.foo", authz, ""}, {"foo/authz", authz, ""}, {"10.96.0.1", authz, ""},
		{"authz.example.com", "bar/authz.example.com", ""}, {"bar/authz.example.com", "bar/authz.example.com", ""}, {"a.wild.example.com", "bar/*.wild.example.com", ""},
		{"localhost", none, ""}, {"127.0.0.1", none, ""}, {"authz.elsewhere.com", none, ""}, {"example.com", none, ""}, {"authz", none, ""},
		{"foo/authz.example.com", none, "there is no service foo/authz.example.com"}, {"gone.foo.svc", none, "there is no service gone.foo.svc"},
		{"gone.foo.svc.cluster.local", none, "there is no service"}, {"other.foo", none, "service other.foo has no port 9000"},
		{"foo/other", none, "service foo/other has no port 9000"},
	} {
		d, err := r.find(x.service, 9000)
		got := none
		if d != nil && d.Service != nil {
			got = d.Service.Host().String()
		}
		if got != x.want || (err == nil) != (x.err == "") || err != nil && !strings.Contains(err.Error(), x.err) {
			t.Errorf("%s: found %q, %v, want %q %s", x.service, got, err, x.want, x.err)
		}
	}
	if d, err := r.find("10.0.0.1", 9000); err != nil || d == nil || d.Workload == nil {
		t.Errorf("by the address of a workload: found %+v, %v", d, err)
	}
}

func TestServicesAreReached(t *testing.T) {
	r := newReachRig(t)
	hboneOf := func(w *mesh.Workload) { w.Tunnel = mesh.HBONE }
	s := r.service("default", "authz.default.svc.cluster.local")
	r.tunnel(r.pod(s, hboneOf), account("authz"))
	plain := r.service("default", "plain.default.svc.cluster.local")
	r.pod(plain, func(*mesh.Workload) {})
	r.greet("10.0.0.2:90", "plain")
	named := r.service("default", "authz.example.com")
	r.pod(named, func(w *mesh.Workload) { w.Addresses, w.Hostname = nil, "localhost" })
	r.greet("127.0.0.1:90", "by its name")
	r.greet("127.0.0.1:9000", "local")
	for service, want := range map[string]string{
		"authz.default": "waypoint to 10.0.0.1:90", "10.0.0.1": "waypoint to 10.0.0.1:9000", "plain.default": "plain", "authz.example.com": "by its name",
		"localhost": "local", "127.0.0.1": "local",
	} {
		if got, err := r.said(service); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", service, got, err, want)
		}
	}
	empty := r.service("default", "empty.default.svc.cluster.local")
	for service, want := range map[string]string{
		"empty.default": "service empty.default has no endpoint that is ready", "nowhere.example.com": "nowhere.example.com has no address",
		"unknown.example.com": "no such host", "127.0.0.2": "refused",
	} {
		if _, err := r.said(service); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", service, err, want)
		}
	}
	r.pod(empty, func(w *mesh.Workload) { w.Unhealthy = true })
	if _, err := r.said("empty.default"); err == nil {
		t.Error("one that is not ready was asked")
	}
}

// An endpoint that is somebody else, or is not there, is passed over for another;
// if there is no other, its reason is told.
func TestEndpointsArePinnedAndTriedInTurn(t *testing.T) {
	r := newReachRig(t)
	s := r.service("default", "authz.default.svc.cluster.local")
	hboneOf := func(w *mesh.Workload) { w.Tunnel = mesh.HBONE }
	r.tunnel(r.pod(s, hboneOf), account("impostor"))
	_, err := r.said("authz.default")
	var d *hbone.DialError
	if !errors.As(err, &d) || !strings.Contains(err.Error(), "impostor") {
		t.Errorf("the impostor was asked: %v", err)
	}
	r.pod(s, hboneOf) // nobody is there
	r.tunnel(r.pod(s, hboneOf), account("authz"))
	for range 10 {
		if got, err := r.said("authz.default"); err != nil || got != "waypoint to 10.0.0.3:90" {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

// Connections that last are spread over the endpoints.
func TestConnectionsAreSpread(t *testing.T) {
	r := newReachRig(t)
	s := r.service("default", "plain.default.svc.cluster.local")
	for i := range 3 {
		r.pod(s, func(*mesh.Workload) {})
		r.greet(fmt.Sprintf("10.0.0.%d:90", i+1), "hello")
	}
	at := map[string]int{}
	var conns []net.Conn
	for range 12 {
		c, err := r.connect(t.Context(), "plain.default", 9000)
		if err != nil {
			t.Fatal(err)
		}
		at[c.RemoteAddr().String()]++
		conns = append(conns, c)
	}
	for addr, n := range at {
		if n != 4 {
			t.Errorf("%d connections are to %s", n, addr)
		}
	}
	for _, c := range conns {
		c.Close()
		c.Close()
	}
	if len(r.open) != 0 {
		t.Errorf("open still: %v", r.open)
	}
}

// Tunnels to the same endpoint share a connection, as all tunnels do.
func TestConnectionsAreShared(t *testing.T) {
	r := newReachRig(t)
	s := r.service("default", "authz.default.svc.cluster.local")
	r.tunnel(r.pod(s, func(w *mesh.Workload) { w.Tunnel = mesh.HBONE }), account("authz"))
	for range 5 {
		if _, err := r.said("authz.default"); err != nil {
			t.Fatal(err)
		}
	}
	counted := make(chan hbone.Stats)
	r.loops.Loops()[0].Do(func() { counted <- r.pool.Stats() })
	if got := <-counted; got.Conns != 1 {
		t.Errorf("there are %d connections", got.Conns)
	}
}
