package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/inner"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// What a scripted answer may end with.
const (
	thenClose = "\x00close"
	thenReset = "\x00reset"
)

// serveText answers the n-th request, of whatever protocol begins with the head
// of an HTTP/1.1 request, with the n-th text, and those after with the last.
func serveText(t *testing.T, answers ...string) Load {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	next := func() string {
		mu.Lock()
		defer mu.Unlock()
		a := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		return a
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { answerText(nc, next) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		all.Wait()
	})
	return Load{Transport: overTCP, Connect: ln.Addr().String(), Tunnels: 1}
}

func answerText(nc net.Conn, next func() string) {
	defer nc.Close()
	in := bufio.NewReader(nc)
	for {
		for line := "x"; strings.TrimSpace(line) != ""; {
			var err error
			if line, err = in.ReadString('\n'); err != nil {
				return
			}
		}
		answer := next()
		text, _, _ := strings.Cut(answer, "\x00")
		if _, err := io.WriteString(nc, text); err != nil {
			return
		}
		if strings.HasSuffix(answer, thenReset) {
			_ = nc.(*net.TCPConn).SetLinger(0)
			return
		}
		if strings.HasSuffix(answer, thenClose) {
			return
		}
	}
}

func httpAnswer(body, fields string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%s\r\n%s", len(body), fields, body)
}

// TestKindsOfErrors has one request fail in each way, after which the run goes
// on, on another tunnel if it has to.
func TestKindsOfErrors(t *testing.T) {
	const size = 10
	good := httpAnswer(string(content(size)), "")
	for _, c := range []struct{ answer, kind string }{
		{"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nno\n", "status 503"},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", "status 302"},
		{httpAnswer("0123456789", ""), kindCRC},
		{httpAnswer(string(content(size-1)), ""), kindLength},
		{httpAnswer(string(content(size+1)), ""), kindLength},
		{httpAnswer(string(content(size)), "x-bench-crc32c: 01234567\r\n"), kindCRC},
		{httpAnswer(string(content(size)), "")[:45] + thenClose, kindClosed},
		{thenClose, kindClosed},
		{"HTTP/1.1 200 OK\r\ncontent-len" + thenReset, kindReset},
		{"220 mail.example.com ESMTP\r\n\r\n", kindMalformed},
		{httpAnswer(string(content(size)), "connection: close\r\n") + thenClose, ""},
	} {
		l := serveText(t, good, c.answer, good)
		l.Size, l.Requests = size, 4
		want := map[string]int64{}
		if c.kind != "" {
			want[c.kind] = 1
		}
		r := mustRun(t, l)
		wantErrors(t, r, want)
		if r.Requests+r.Failed() != 4 || t.Failed() {
			t.Fatalf("%q: %d requests", c.answer, r.Requests)
		}
	}
}

// TestAnswersToNothing are a fault of the destination's.
func TestAnswersToNothing(t *testing.T) {
	n := 0
	l := serveTunnels(t, func(in *hbone.Incoming) {
		e := &echoer{extra: n == 0}
		n++
		e.s = in.Accept(e, nil)
	})
	l.Protocol, l.Tunnels, l.Requests = speakRaw, 1, 3
	r := mustRun(t, l)
	wantErrors(t, r, map[string]int64{kindMalformed: 1})
	if r.Requests != 2 {
		t.Errorf("%d requests were answered, want 2 of 3", r.Requests)
	}
}

// An echoer answers a message with the byte that it asks for, or one more.
type echoer struct {
	closer
	extra bool
}

func (e *echoer) Data([]byte) {
	n := int64(1)
	if e.extra {
		n++
	}
	e.s.Write(content(n))
}

// TestConnectMakesAConnectionForEachRequest, and nothing else.
func TestConnectMakesAConnectionForEachRequest(t *testing.T) {
	peers := map[netip.AddrPort]bool{}
	l := serveTunnels(t, func(in *hbone.Incoming) {
		peers[in.Source] = true
		e := &echoer{}
		e.s = in.Accept(e, nil)
	})
	l.Protocol, l.Tunnels, l.Requests = speakConnect, 3, 20
	r := mustRun(t, l)
	wantErrors(t, r, map[string]int64{})
	if len(peers) != 20 {
		t.Errorf("%d connections were made for 20 requests", len(peers))
	}
}

// TestTunnelsThatDoNotOpen says why.
func TestTunnelsThatDoNotOpen(t *testing.T) {
	refused := func(in *hbone.Incoming) { in.Refuse(404) }
	for _, c := range []struct {
		l    Load
		want string
	}{
		{Load{Transport: overTCP, Connect: "127.0.0.1:1"}, "opening tunnels to 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused"},
		{serveTunnels(t, refused), "hbone: the peer answered the CONNECT with 404"},
		{with(serveText(t, "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"), speakWebSocket), "status 403"},
		{with(serveText(t, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n"), speakWebSocket), kindMalformed},
		{with(serveStreams(t, h2.Options{MaxStreams: 3}, nil), speakGRPC), "the server takes 3 streams in a tunnel: lower --concurrency, or raise its limit"},
		{serveTunnelsWith(t, h2.Options{MaxStreams: 16}, func(in *hbone.Incoming) {
			c := &closer{}
			c.s = in.Accept(c, nil)
		}), "takes fewer than 25 tunnels on a connection: raise --conns to 8, or its limit"},
	} {
		l := c.l
		if l.Protocol == speakGRPC {
			l.Concurrency = 4
		}
		if strings.Contains(c.want, "fewer than 25") {
			l.Tunnels = 100
		}
		if _, err := Run(t.Context(), l, nil); err == nil || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func with(l Load, protocol string) Load {
	l.Protocol = protocol
	return l
}

func TestStrangersAreNotTrusted(t *testing.T) {
	l := serveTunnels(t, func(in *hbone.Incoming) { in.Accept(deaf{}, nil) })
	l.Peers = []string{"default/other", "other/items"}
	if _, err := Run(t.Context(), l, nil); err == nil || !strings.Contains(err.Error(), "default/sa/items") {
		t.Errorf("got %v, want who the server is", err)
	}
}

// TestTunnelsThatAreRefusedLater are counted, and tried again.
func TestTunnelsThatAreRefusedLater(t *testing.T) {
	var mu sync.Mutex
	n := 0
	l := serveTunnels(t, func(in *hbone.Incoming) {
		mu.Lock()
		defer mu.Unlock()
		switch n++; n {
		case 1:
			tn := in.Accept(deaf{}, nil)
			tn.SetReceiver(&resetter{tn})
		case 2, 3:
			in.Refuse(503)
		default:
			s := &okServer{}
			tn := in.Accept(nil, nil)
			s.codec = h1.NewServer(tn, s, h1.Limits{})
			tn.SetReceiver(s.codec)
		}
	})
	l.Tunnels, l.Requests = 1, 3
	r := mustRun(t, l)
	wantErrors(t, r, map[string]int64{kindReset: 1, "connect: 503": 2})
	if r.Requests != 2 {
		t.Errorf("%d requests were answered, want 2 of 3", r.Requests)
	}
}

// A resetter gives its tunnel up when something comes.
type resetter struct{ s flow.Stream }

func (r *resetter) Data([]byte) { r.s.Reset(errors.New("no")) }
func (r *resetter) EOF()        {}
func (r *resetter) Sent(int)    {}
func (r *resetter) Reset(error) {}

// A closer ends its direction when the client does.
type closer struct {
	deaf
	s flow.Stream
}

func (c *closer) EOF() { c.s.CloseWrite() }

// An okServer answers 200.
type okServer struct{ codec *h1.Server }

func (s *okServer) Request(*l7.Request, bool) { _ = s.codec.Respond(&l7.Response{Status: 200}, true) }
func (s *okServer) Content(p []byte)          { s.codec.Credit(len(p)) }
func (s *okServer) End(l7.Fields)             {}
func (s *okServer) Sent(int)                  {}
func (s *okServer) EOF()                      {}
func (s *okServer) Reset(error)               {}
func (s *okServer) Malformed(int, error)      {}
func (s *okServer) Closed(error)              {}

func serveTunnels(t *testing.T, on func(*hbone.Incoming)) Load {
	return serveTunnelsWith(t, h2.Options{}, on)
}

// serveTunnelsWith starts an HBONE server.
func serveTunnelsWith(t *testing.T, o h2.Options, on func(*hbone.Incoming)) Load {
	src, err := identity.Open("self:"+t.TempDir(), identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := loop.NewGroup(1, loop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	self := identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "items"}
	srv := hbone.NewServer(hbone.ServerOptions{
		Self: func(netip.AddrPort) identity.ID { return self }, Identity: src, Loops: g, H2: o, Connect: on,
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = srv.Shutdown(ctx)
		if err := <-done; err != nil {
			t.Error(err)
		}
		g.Close()
	})
	return Load{Connect: ln.Addr().String(), source: src, Peers: []string{"default/items"}}
}

// serveStreams starts a server of HTTP/2, which gives the n-th request to on.
func serveStreams(t *testing.T, o h2.Options, on func(n int, s *h2.Stream)) Load {
	var set *inner.Set
	return serveTunnels(t, func(in *hbone.Incoming) {
		if set == nil {
			set = inner.NewSet(in.Loop, o)
		}
		tn := in.Accept(nil, nil)
		s := &streamServer{on: on}
		s.conn = set.New(tn, h2.Server, s, func() {})
		tn.SetReceiver(s.conn)
	})
}

// A streamServer is an h2.Handler that answers when a request has begun.
type streamServer struct {
	conn *inner.Conn
	on   func(n int, s *h2.Stream)
	n    int
}

func (s *streamServer) Headers(st *h2.Stream, _ l7.Fields, end bool) {
	s.n++
	s.on(s.n, st)
}
func (s *streamServer) Data(st *h2.Stream, p []byte, _ bool) { st.Credit(len(p)) }
func (s *streamServer) Sent(*h2.Stream, int)                 {}
func (s *streamServer) Reset(*h2.Stream, error)              {}
func (s *streamServer) Changed()                             { s.conn.Settle() }
func (s *streamServer) Closed(error)                         {}

// TestKindsOfCalls has one gRPC call fail in each way.
func TestKindsOfCalls(t *testing.T) {
	head := l7.Fields{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}}
	ok := l7.Fields{{Name: "grpc-status", Value: "0"}}
	message := func(size int64) []byte { return append(appendResponseHead(nil, size), content(size)...) }
	answer := func(s *h2.Stream, m []byte, trailers l7.Fields) {
		s.Headers(head, false)
		s.Write(m)
		s.Headers(trailers, true)
	}
	for _, c := range []struct {
		kind string
		on   func(s *h2.Stream)
	}{
		{"grpc-status 14", func(s *h2.Stream) {
			s.Headers(append(head.Clone(), l7.Field{Name: "grpc-status", Value: "14"}), true)
		}},
		{"grpc-status 4", func(s *h2.Stream) { answer(s, nil, l7.Fields{{Name: "grpc-status", Value: "4"}}) }},
		{"status 502", func(s *h2.Stream) { s.Headers(l7.Fields{{Name: ":status", Value: "502"}}, true) }},
		{kindMalformed, func(s *h2.Stream) { answer(s, message(100), nil) }},
		{kindMalformed, func(s *h2.Stream) { answer(s, message(100), l7.Fields{{Name: "grpc-status", Value: "fine"}}) }},
		{kindMalformed, func(s *h2.Stream) { answer(s, []byte{1, 0, 0, 0, 0}, ok) }},
		{kindMalformed, func(s *h2.Stream) { answer(s, []byte{0, 0, 0, 0, 1, 0x0a}, ok) }},
		{kindMalformed, func(s *h2.Stream) { answer(s, append(message(100), message(100)...), ok) }},
		{kindClosed, func(s *h2.Stream) { answer(s, message(100)[:50], ok) }},
		{kindClosed, func(s *h2.Stream) { answer(s, nil, ok) }},
		{kindLength, func(s *h2.Stream) { answer(s, message(99), ok) }},
		{kindCRC, func(s *h2.Stream) { answer(s, append(appendResponseHead(nil, 100), make([]byte, 100)...), ok) }},
		{kindReset, func(s *h2.Stream) { s.Reset(&h2.StreamError{Code: h2.CodeInternal}) }},
	} {
		l := serveStreams(t, h2.Options{}, func(n int, s *h2.Stream) {
			if n == 2 {
				c.on(s)
			} else {
				answer(s, message(100), ok)
			}
		})
		l.Protocol, l.Tunnels, l.Size, l.Requests = speakGRPC, 1, 100, 4
		r := mustRun(t, l)
		wantErrors(t, r, map[string]int64{c.kind: 1})
		if r.Requests != 3 {
			t.Errorf("%s: %d requests were answered, want 3 of 4", c.kind, r.Requests)
		}
	}
}

func TestKindOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fault("anything"), "anything"},
		{fmt.Errorf("wrapped: %w", statusFault(500)), "status 500"},
		{&hbone.StatusError{Status: 503}, "connect: 503"},
		{&hbone.DialError{Err: syscall.ECONNREFUSED}, kindRefused},
		{&hbone.DialError{Err: context.DeadlineExceeded}, kindDialTimeout},
		{&hbone.DialError{Err: errors.New("certificate")}, kindDial},
		{&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, kindDial},
		{&net.OpError{Op: "dial", Err: context.DeadlineExceeded}, kindDialTimeout},
		{syscall.ECONNRESET, kindReset},
		{&h2.StreamError{Code: h2.CodeCancel, Remote: true}, kindReset},
		{&h2.ConnError{Remote: true, Cause: io.EOF}, kindClosed},
		{h1.ErrCut, kindClosed},
		{h1.ErrNoResponse, kindClosed},
		{&h1.Error{Status: 502}, kindMalformed},
		{errors.New("anything else"), kindReset},
	} {
		if got := kindOf(c.err); got != c.want {
			t.Errorf("%v is counted as %s, want %s", c.err, got, c.want)
		}
	}
	for status, want := range map[string]string{"14": "grpc-status 14", "": kindMalformed, "-1": kindMalformed} {
		if got := string(grpcFault(status)); got != want {
			t.Errorf("grpc-status %q is counted as %s, want %s", status, got, want)
		}
	}
}
