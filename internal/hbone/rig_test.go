package hbone

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/memnet"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

var (
	web    = identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "web"}
	items  = identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "items"}
	itemIP = netip.MustParseAddr("10.0.0.7")
)

// A rig is a server, a pool and what is between them. The server's destinations
// are host names: see serve.
type rig struct {
	t      testing.TB
	net    *memnet.Net // nil: the loopback interface
	ids    identity.Source
	there  *loop.Group // the server's
	here   *loop.Group // the pool's
	srv    *Server
	pool   *Pool
	addr   netip.AddrPort
	served chan error
	conn   func(*Incoming) // takes CONNECTs to "conn"

	mu       sync.Mutex
	incoming []*Incoming // CONNECTs to "hold"
	arrived  chan struct{}
	ends     []*end // what the server accepted for "open"
	failed   []error
}

type rigOptions struct {
	server ServerOptions
	pool   PoolOptions
}

// inMemory runs f with a rig in a synctest bubble.
func inMemory(t *testing.T, o rigOptions, f func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		r := newRig(t, n, n.Listen(netip.AddrPortFrom(itemIP, 15008)), o)
		f(r)
		r.stop()
		synctest.Wait()
		if open := n.Open(); open != 0 {
			t.Errorf("%d ends of connections are open", open)
		}
	})
}

// overTCP runs f with a rig on the loopback interface, with epoll where there
// is one.
func overTCP(t testing.TB, o rigOptions, f func(*rig)) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, nil, ln, o)
	f(r)
	r.stop()
}

func newRig(t testing.TB, n *memnet.Net, ln net.Listener, o rigOptions) *rig {
	t.Helper()
	ids, err := identity.Open("self:"+t.TempDir(), identity.Options{Aliases: []string{"foreign.local"}})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, net: n, ids: ids, addr: addrPort(ln.Addr()), served: make(chan error, 1), arrived: make(chan struct{}, 1)}
	r.there, r.here = r.group(), r.group()

	so := o.server
	so.Self = func(netip.AddrPort) identity.ID { return items }
	so.Identity, so.Loops, so.Connect = ids, r.there, r.serve
	so.Events.HandshakeFailed = r.note
	r.srv = NewServer(so)
	go func() { r.served <- r.srv.Serve(ln) }()

	po := o.pool
	po.Loop = r.here.Loops()[0]
	if po.Identity == nil {
		po.Identity = ids
	}
	if po.Dial == nil && n != nil {
		po.Dial = n.Dial
	}
	r.pool = NewPool(po)
	return r
}

func (r *rig) group() *loop.Group {
	r.t.Helper()
	g, err := loop.NewGroup(1, loop.Options{Portable: r.net != nil, CryptoTLS: *cryptoTLS})
	if err != nil {
		r.t.Fatal(err)
	}
	return g
}

func (r *rig) note(_ netip.AddrPort, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, err)
}

// stop shuts everything down, at once.
func (r *rig) stop() {
	r.t.Helper()
	done, cancel := context.WithCancel(context.Background())
	cancel()
	_ = r.pool.Shutdown(done)
	_ = r.srv.Shutdown(done)
	if err := <-r.served; err != nil {
		r.t.Errorf("Serve: %v", err)
	}
	r.here.Close()
	r.there.Close()
	if n := r.srv.Open(); n != 0 {
		r.t.Errorf("the server has %d connections left", n)
	}
}

// serve is the server's Connect.
func (r *rig) serve(in *Incoming) {
	switch host := in.Authority.Host; {
	case host == "echo":
		e := &echo{}
		e.t = in.Accept(e, l7.Fields{{Name: "baggage", Value: "k8s.namespace.name=default,service.name=items"}})
	case host == "sink":
		x := &sink{}
		x.t = in.Accept(x, nil)
	case host == "open":
		e := newEnd()
		e.adopt(in.Accept(e, nil))
		r.mu.Lock()
		r.ends = append(r.ends, e)
		r.mu.Unlock()
		r.tell()
	case host == "conn":
		r.conn(in)
	case host == "hold":
		r.mu.Lock()
		r.incoming = append(r.incoming, in)
		r.mu.Unlock()
		r.tell()
	case strings.HasPrefix(host, "status-"):
		status, _ := strconv.Atoi(host[len("status-"):])
		in.Refuse(status)
	default:
		in.Refuse(404)
	}
}

func (r *rig) tell() {
	select {
	case r.arrived <- struct{}{}:
	default:
	}
}

// held waits for the n-th CONNECT to "hold".
func (r *rig) held(n int) *Incoming { return await(r, &r.incoming, n) }

// end waits for the n-th tunnel to "open".
func (r *rig) end(n int) *end { return await(r, &r.ends, n) }

// await waits for the n-th of what r gathers.
func await[T any](r *rig, list *[]T, n int) T {
	for {
		r.mu.Lock()
		if len(*list) >= n {
			defer r.mu.Unlock()
			return (*list)[n-1]
		}
		r.mu.Unlock()
		<-r.arrived
	}
}

func (r *rig) key() Key { return Key{Self: web, Wants: items.String(), Addr: r.addr} }

func connectTo(host string) *Connect {
	return &Connect{Authority: mesh.Authority{Host: host, Port: 80}}
}

// An opening is a call of Pool.Open.
type opening struct {
	e      *end
	err    chan error
	cancel func()
}

func (r *rig) begin(k Key, c *Connect) *opening {
	o := &opening{e: newEnd(), err: make(chan error, 1)}
	on(r.pool.o.Loop, func() {
		o.cancel = r.pool.Open(k, c, o.e, func(t *Tunnel, err error) {
			if err == nil {
				o.e.adopt(t)
			}
			o.err <- err
		})
	})
	return o
}

// open waits for a tunnel to host.
func (r *rig) open(host string) *end {
	r.t.Helper()
	o := r.begin(r.key(), connectTo(host))
	if err := <-o.err; err != nil {
		r.t.Fatalf("open %s: %v", host, err)
	}
	return o.e
}

func (r *rig) openErr(k Key, host string) error { return <-r.begin(k, connectTo(host)).err }

func (r *rig) stats() (s Stats) {
	on(r.pool.o.Loop, func() { s = r.pool.Stats() })
	return s
}

// settle waits until stats satisfies ok: what the peer has to hear of first
// takes a moment.
func (r *rig) settle(what string, ok func(Stats) bool) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(r.stats()); {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: %+v", what, r.stats())
		}
		if r.net != nil {
			time.Sleep(time.Millisecond) // of the bubble
		}
	}
}

// on runs f on l and waits.
func on(l *loop.Loop, f func()) {
	done := make(chan struct{})
	l.Do(func() { defer close(done); f() })
	<-done
}

// An end is a tunnel seen from a goroutine.
type end struct {
	tun *Tunnel

	mu     sync.Mutex
	got    bytes.Buffer
	sent   int
	eof    bool
	err    error
	change chan struct{}
}

var _ flow.Receiver = (*end)(nil)

func newEnd() *end { return &end{change: make(chan struct{}, 1)} }

func (e *end) adopt(t *Tunnel) { e.tun = t }

func (e *end) Data(p []byte) {
	e.update(func() { e.got.Write(p) })
	e.tun.Credit(len(p))
}
func (e *end) EOF()            { e.update(func() { e.eof = true }) }
func (e *end) Sent(n int)      { e.update(func() { e.sent += n }) }
func (e *end) Reset(err error) { e.update(func() { e.err = err }) }

func (e *end) update(f func()) {
	e.mu.Lock()
	f()
	e.mu.Unlock()
	select {
	case e.change <- struct{}{}:
	default:
	}
}

// until waits until ok holds, which it is asked with e's lock.
func (e *end) until(ok func() bool) {
	for {
		e.mu.Lock()
		done := ok()
		e.mu.Unlock()
		if done {
			return
		}
		<-e.change
	}
}

func (e *end) write(p []byte)    { on(e.tun.Loop(), func() { e.tun.Write(p) }) }
func (e *end) closeWrite()       { on(e.tun.Loop(), func() { e.tun.CloseWrite() }) }
func (e *end) reset(err error)   { on(e.tun.Loop(), func() { e.tun.Reset(err) }) }
func (e *end) untilEOF()         { e.until(func() bool { return e.eof || e.err != nil }) }
func (e *end) untilReset() error { e.until(func() bool { return e.err != nil }); return e.err }
func (e *end) untilBytes(n int)  { e.until(func() bool { return e.got.Len() >= n || e.err != nil }) }
func (e *end) roundTrip(s string) string {
	e.mu.Lock()
	e.got.Reset()
	e.mu.Unlock()
	e.write([]byte(s))
	e.untilBytes(len(s))
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.got.String()
}

// An echo sends back what it receives.
type echo struct{ t *Tunnel }

func (e *echo) Data(p []byte) { e.t.Credit(len(p) - e.t.Write(p)) }
func (e *echo) Sent(n int)    { e.t.Credit(n) }
func (e *echo) EOF()          { e.t.CloseWrite() }
func (e *echo) Reset(error)   {}

// A sink takes what it receives.
type sink struct{ t *Tunnel }

func (x *sink) Data(p []byte) { x.t.Credit(len(p)) }
func (x *sink) Sent(int)      {}
func (x *sink) EOF()          { x.t.CloseWrite() }
func (x *sink) Reset(error)   {}
