package waypoint

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/inner"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

// benchStreams is how many requests are under way at a time.
const benchStreams = 64

// BenchmarkExchange carries requests from a client's HBONE pool through a
// waypoint to a destination's HBONE server: mTLS on both legs, over the loopback
// interface, 64 requests at a time, a loop each for the client, the waypoint and
// the destination, all in this process. cpu-µs/op is what all three take
// together; the client and the destination speak the protocol in the same codecs
// but do nothing else.
func BenchmarkExchange(b *testing.B) {
	for _, http2 := range []bool{false, true} {
		for _, c := range []struct {
			name    string
			content int
		}{{"get", 0}, {"1k", 1 << 10}, {"64k", 64 << 10}} {
			b.Run(map[bool]string{false: "h1/", true: "h2/"}[http2]+c.name, func(b *testing.B) { benchExchange(b, http2, c.content) })
		}
	}
}

func benchExchange(b *testing.B, http2 bool, content int) {
	m := newBenchMesh(b, http2, content)
	m.run(500)
	b.ReportAllocs()
	b.SetBytes(int64(content))
	b.ResetTimer()
	before := cpu(b)
	m.run(b.N)
	spent := cpu(b) - before
	b.StopTimer()
	b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "cpu-µs/op")
	if m.failed != nil {
		b.Fatal(m.failed)
	}
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A benchMesh is a client and a destination around a rig's waypoint.
type benchMesh struct {
	loop    *loop.Loop // the client's
	askers  []func()   // each sends a request
	toAsk   int
	toCome  int
	done    chan struct{}
	failed  error
	content []byte
}

// run makes n requests.
func (m *benchMesh) run(n int) {
	m.done = make(chan struct{})
	m.loop.Do(func() {
		m.toAsk, m.toCome = n, n
		for _, ask := range m.askers {
			m.next(ask)
		}
	})
	<-m.done
}

func (m *benchMesh) next(ask func()) {
	if m.toAsk > 0 {
		m.toAsk--
		ask()
	}
}

// answered counts an answer, and has its asker ask again.
func (m *benchMesh) answered(ask func()) {
	if m.toCome--; m.toCome == 0 {
		close(m.done)
		return
	}
	m.next(ask)
}

func newLoops(tb testing.TB) *loop.Group {
	g, err := loop.NewGroup(1, loop.Options{Lead: -1})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(g.Close)
	return g
}

func newBenchMesh(b *testing.B, http2 bool, content int) *benchMesh {
	m := &benchMesh{content: make([]byte, content)}
	var dialer net.Dialer
	dial := func(ctx context.Context, _ netip.Addr, a netip.AddrPort) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", a.String())
	}
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		return ln
	}
	dest, front := listen(), listen()
	destAddr := netip.MustParseAddrPort(dest.Addr().String())
	self := identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "web"}

	// The waypoint, and one endpoint: every pod's address leads to the destination.
	var ca identity.Source
	r := newRig(b, func(o *Options) {
		ca = o.Identity
		tel, err := telemetry.New(telemetry.Options{Program: telemetry.Waypoint})
		if err != nil {
			b.Fatal(err)
		}
		o.Telemetry, o.Loops = tel, newLoops(b)
		o.Dial = func(ctx context.Context, src netip.Addr, _ netip.AddrPort) (net.Conn, error) {
			return dial(ctx, src, destAddr)
		}
	})
	r.do(func() { r.k.dial = dialOrigin })
	go func() { _ = r.w.Serve(front) }()

	// The destination.
	worker2 := func(l *loop.Loop) *worker {
		return &worker{Waypoint: &Waypoint{}, loop: l, inners: inner.NewSet(l, h2.Options{})}
	}
	destLoops := newLoops(b)
	destWorker := worker2(destLoops.Loops()[0])
	srv := hbone.NewServer(hbone.ServerOptions{
		Self: func(netip.AddrPort) identity.ID {
			return identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "items"}
		},
		Identity: ca, Loops: destLoops,
		Connect: func(in *hbone.Incoming) {
			t := in.Accept(nil, nil)
			if http2 {
				s := &benchServer2{content: m.content}
				t.SetReceiver(destWorker.inners.New(t, h2.Server, s, func() {}))
				return
			}
			s := &benchServer1{content: m.content, loop: in.Loop}
			s.codec = h1.NewServer(t, s, h1.Limits{})
			t.SetReceiver(s.codec)
		},
	})
	go func() { _ = srv.Serve(dest) }()

	// The client.
	clientLoops := newLoops(b)
	m.loop = clientLoops.Loops()[0]
	pool := hbone.NewPool(hbone.PoolOptions{Loop: m.loop, Identity: ca, Dial: dial, MaxStreams: 16})
	key := hbone.Key{Self: self, Wants: identity.JoinIDs(r.w.options.Self), Addr: netip.MustParseAddrPort(front.Addr().String())}
	tunnels, each := benchStreams, 1
	if http2 {
		tunnels, each = 4, benchStreams/4
	}
	opened := make(chan error, tunnels)
	clientWorker := worker2(m.loop)
	m.loop.Do(func() {
		for range tunnels {
			c := &hbone.Connect{Authority: mesh.Authority{IP: netip.MustParseAddr("10.96.0.1"), Port: 80}}
			pool.Open(key, c, nil, func(t *hbone.Tunnel, err error) {
				if err == nil {
					m.client(t, clientWorker, http2, each)
				}
				opened <- err
			})
		}
	})
	for range tunnels {
		if err := <-opened; err != nil {
			b.Fatal(err)
		}
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		_ = pool.Shutdown(ctx) // cuts its tunnels
		_ = r.w.Shutdown(ctx)
		_ = srv.Shutdown(ctx)
	})
	return m
}

func (m *benchMesh) client(t *hbone.Tunnel, w *worker, http2 bool, each int) {
	if !http2 {
		c := &benchClient1{m: m, req: l7.Request{Method: "GET", Authority: "items", Path: "/productpage?u=normal", Fields: benchFields}}
		c.codec = h1.NewClient(t, c, h1.Limits{})
		t.SetReceiver(c.codec)
		m.askers = append(m.askers, c.ask)
		return
	}
	c := &benchClient2{m: m}
	in := w.inners.New(t, h2.Client, c, func() {})
	t.SetReceiver(in)
	head := append(l7.Fields{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "items"},
		{Name: ":path", Value: "/productpage?u=normal"}}, benchFields...)
	for range each {
		var ask func()
		ask = func() {
			s, err := in.Open(head, true)
			if err != nil {
				m.fail(err)
				return
			}
			s.Value = &ask
		}
		m.askers = append(m.askers, ask)
	}
}

func (m *benchMesh) fail(err error) {
	if m.failed == nil {
		m.failed = err
		close(m.done)
		m.toAsk, m.toCome = 0, 1<<30
	}
}

var benchFields = l7.Fields{
	{Name: "user-agent", Value: "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"},
	{Name: "accept", Value: "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"},
	{Name: "accept-encoding", Value: "gzip, deflate"},
	{Name: "cookie", Value: "session=" + strings.Repeat("0f4b3a5e", 8)},
}

// A benchClient1 asks over HTTP/1.1, one request after the other.
type benchClient1 struct {
	m     *benchMesh
	codec *h1.Client
	req   l7.Request
}

func (c *benchClient1) ask() {
	if err := c.codec.Request(&c.req, true); err != nil {
		c.m.fail(err)
	}
}

func (c *benchClient1) Response(r *l7.Response, end bool) {
	if r.Status != 200 {
		c.m.fail(fmt.Errorf("status %d", r.Status))
	} else if end {
		c.m.answered(c.ask)
	}
}
func (c *benchClient1) Content(p []byte) { c.codec.Credit(len(p)) }
func (c *benchClient1) End(l7.Fields)    { c.m.answered(c.ask) }
func (c *benchClient1) Sent(int)         {}
func (c *benchClient1) Reset(err error)  { c.m.fail(err) }
func (c *benchClient1) Closed(error)     {}

// A benchClient2 asks over HTTP/2.
type benchClient2 struct{ m *benchMesh }

func (c *benchClient2) Headers(s *h2.Stream, f l7.Fields, end bool) {
	if f.Get(":status") != "200" {
		c.m.fail(fmt.Errorf("status %s", f.Get(":status")))
	} else if end {
		c.m.answered(*s.Value.(*func()))
	}
}

func (c *benchClient2) Data(s *h2.Stream, p []byte, end bool) {
	s.Credit(len(p))
	if end {
		c.m.answered(*s.Value.(*func()))
	}
}
func (c *benchClient2) Sent(*h2.Stream, int)        {}
func (c *benchClient2) Reset(_ *h2.Stream, e error) { c.m.fail(e) }
func (c *benchClient2) Changed()                    {}
func (c *benchClient2) Closed(error)                {}

// A benchServer1 answers over HTTP/1.1.
type benchServer1 struct {
	codec   *h1.Server
	loop    *loop.Loop
	content []byte
	res     l7.Response
}

func (s *benchServer1) Request(*l7.Request, bool) {
	s.res = l7.Response{Status: 200, Length: int64(len(s.content)), Fields: s.res.Fields[:0]}
	s.res.Fields = append(s.res.Fields, l7.Field{Name: "content-type", Value: "text/html; charset=utf-8"})
	if len(s.content) > 0 {
		s.codec.Hold()
	}
	_ = s.codec.Respond(&s.res, len(s.content) == 0)
	if len(s.content) > 0 {
		s.codec.Write(s.content)
		s.codec.End(nil)
	}
}
func (*benchServer1) Content([]byte)       {}
func (*benchServer1) End(l7.Fields)        {}
func (*benchServer1) Sent(int)             {}
func (*benchServer1) EOF()                 {}
func (*benchServer1) Reset(error)          {}
func (*benchServer1) Malformed(int, error) {}
func (*benchServer1) Closed(error)         {}

// A benchServer2 answers over HTTP/2.
type benchServer2 struct{ content []byte }

func (s *benchServer2) Headers(t *h2.Stream, _ l7.Fields, _ bool) {
	f := [...]l7.Field{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "text/html; charset=utf-8"}, {Name: "content-length", Value: strconv.Itoa(len(s.content))}}
	t.Headers(f[:], len(s.content) == 0)
	if len(s.content) > 0 {
		t.Write(s.content)
		t.CloseWrite()
	}
}
func (*benchServer2) Data(*h2.Stream, []byte, bool) {}
func (*benchServer2) Sent(*h2.Stream, int)          {}
func (*benchServer2) Reset(*h2.Stream, error)       {}
func (*benchServer2) Changed()                      {}
func (*benchServer2) Closed(error)                  {}
