package waypoint_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/waystone-mesh/waystone/internal/meshtest"
)

// A words message is its own encoding.
type words struct{ s string }

type wordsCodec struct{}

func (wordsCodec) Marshal(v any) ([]byte, error)      { return []byte(v.(*words).s), nil }
func (wordsCodec) Unmarshal(data []byte, v any) error { v.(*words).s = string(data); return nil }
func (wordsCodec) Name() string                       { return "words" }

// A caller is a gRPC client in the mesh, and what its server has noticed.
type caller struct {
	t      *testing.T
	m      *meshtest.Mesh
	conn   *grpc.ClientConn
	server *grpc.Server
	gone   chan string // the methods whose call was given up by the client
	begun  chan string // the methods that wait for that
}

// gRPC runs a mesh in which web calls items on a port of a protocol.
func gRPC(t *testing.T, m *meshtest.Mesh, protocol string) *caller {
	c := &caller{t: t, m: m, gone: make(chan string, 10), begun: make(chan string, 10)}
	web := m.Workload("web")
	items := m.Workload("items")
	c.server = grpc.NewServer(grpc.ForceServerCodec(wordsCodec{}), grpc.UnknownServiceHandler(c.serve))
	ln := items.Listen(meshtest.AppPort)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.server.Serve(ln)
	}()
	m.Service("items", 80).Protocol(protocol).Waypoint()
	var err error
	c.conn, err = grpc.NewClient("passthrough:///items:80",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return web.Dial(ctx, addr) }),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(wordsCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.conn.Close()
		c.server.Stop()
		<-done
	})
	return c
}

// serve answers a call of any method.
func (c *caller) serve(_ any, s grpc.ServerStream) error {
	name, _ := grpc.MethodFromServerStream(s)
	md, _ := metadata.FromIncomingContext(s.Context())
	_ = s.SetHeader(metadata.Pairs("x-asked", strings.Join(md.Get("x-ask"), ",")))
	s.SetTrailer(metadata.Pairs("x-after", name))
	var in words
	switch name {
	case "/t.S/Unary":
		if err := s.RecvMsg(&in); err != nil {
			return err
		}
		return s.SendMsg(&words{"got " + in.s})
	case "/t.S/Gather": // client streaming
		n := 0
		for {
			if err := s.RecvMsg(&in); errors.Is(err, io.EOF) {
				return s.SendMsg(&words{fmt.Sprint(n)})
			} else if err != nil {
				return err
			}
			n += len(in.s)
		}
	case "/t.S/Scatter": // server streaming
		if err := s.RecvMsg(&in); err != nil {
			return err
		}
		for i := range 100 {
			if err := s.SendMsg(&words{fmt.Sprint(in.s, i)}); err != nil {
				return err
			}
		}
		return nil
	case "/t.S/Chat": // both
		for {
			if err := s.RecvMsg(&in); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(&words{in.s + "!"}); err != nil {
				return err
			}
		}
	case "/t.S/Fail":
		return status.Error(codes.FailedPrecondition, "not today, 100 % sure: ü")
	case "/t.S/FailLate":
		_ = s.SendMsg(&words{"one"})
		return status.Error(codes.DataLoss, "lost")
	case "/t.S/Wait":
		_ = s.SendMsg(&words{"waiting"})
		c.begun <- name
		<-s.Context().Done()
		c.gone <- name
		return s.Context().Err()
	}
	return status.Error(codes.Unimplemented, name)
}

func (c *caller) stream(ctx context.Context, method string) grpc.ClientStream {
	c.t.Helper()
	s, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		c.t.Fatalf("%s: %v", method, err)
	}
	return s
}

// want checks the next message of a stream, or its end.
func want(t *testing.T, s grpc.ClientStream, message string, code codes.Code) {
	t.Helper()
	var out words
	err := s.RecvMsg(&out)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if got := status.Code(err); got != code || out.s != message {
		t.Errorf("got %q and %v (%v), want %q and %v", out.s, got, err, message, code)
	}
}

// eachPort runs a test on a port that declares gRPC and on one that declares
// nothing, on both networks.
func eachPort(t *testing.T, f func(t *testing.T, c *caller)) {
	for _, protocol := range []string{"grpc", ""} {
		t.Run("port "+protocol, func(t *testing.T) {
			eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) { f(t, gRPC(t, m, protocol)) })
		})
	}
}

func TestGRPCCallKinds(t *testing.T) {
	eachPort(t, func(t *testing.T, c *caller) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-ask", "a", "x-ask", "b")
		var header, trailer metadata.MD
		var out words
		if err := c.conn.Invoke(ctx, "/t.S/Unary", &words{"this"}, &out, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil || out.s != "got this" {
			t.Errorf("unary: got %q, %v", out.s, err)
		}
		if got := fmt.Sprint(header.Get("x-asked"), trailer.Get("x-after")); got != "[a,b] [/t.S/Unary]" {
			t.Errorf("unary: metadata is %s", got)
		}

		s := c.stream(ctx, "/t.S/Gather")
		for range 100 {
			if err := s.SendMsg(&words{strings.Repeat("x", 5000)}); err != nil {
				t.Fatal(err)
			}
		}
		_ = s.CloseSend()
		want(t, s, "500000", codes.OK)
		want(t, s, "", codes.OK)

		s = c.stream(ctx, "/t.S/Scatter")
		_ = s.SendMsg(&words{"n"})
		_ = s.CloseSend()
		for i := range 100 {
			want(t, s, fmt.Sprint("n", i), codes.OK)
		}
		want(t, s, "", codes.OK)
		if got := s.Trailer().Get("x-after"); len(got) != 1 || got[0] != "/t.S/Scatter" {
			t.Errorf("scatter: trailer is %q", got)
		}

		s = c.stream(ctx, "/t.S/Chat")
		for i := range 20 {
			_ = s.SendMsg(&words{fmt.Sprint(i)})
			want(t, s, fmt.Sprint(i, "!"), codes.OK)
		}
		_ = s.CloseSend()
		want(t, s, "", codes.OK)

		c.m.WaitMetric(`istio_requests_total{reporter="waypoint",request_protocol="grpc",grpc_response_status="0",response_code="200"}`, 4)
		c.m.WaitMetric(`istio_request_messages_total{reporter="waypoint"}`, 1+100+1+20)
		c.m.WaitMetric(`istio_response_messages_total{reporter="waypoint"}`, 1+1+100+20)
		c.m.WantLog("path", "/t.S/Unary", "response_code", 200, "response_flags", "-", "protocol", "HTTP/2")
	})
}

func TestGRPCErrors(t *testing.T) {
	eachPort(t, func(t *testing.T, c *caller) {
		var out words
		var trailer metadata.MD
		err := c.conn.Invoke(t.Context(), "/t.S/Fail", &words{}, &out, grpc.Trailer(&trailer))
		if s := status.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "not today, 100 % sure: ü" || len(trailer.Get("x-after")) != 1 {
			t.Errorf("fail: got %v, trailer %v", err, trailer)
		}
		s := c.stream(t.Context(), "/t.S/FailLate")
		want(t, s, "one", codes.OK)
		want(t, s, "", codes.DataLoss)
		if err := c.conn.Invoke(t.Context(), "/t.S/Nothing", &words{}, &out); status.Code(err) != codes.Unimplemented {
			t.Errorf("unimplemented: got %v", err)
		}
		for _, code := range []codes.Code{codes.FailedPrecondition, codes.DataLoss, codes.Unimplemented} {
			c.m.WaitMetric(fmt.Sprintf(`istio_requests_total{reporter="waypoint",grpc_response_status="%d",response_code="200"}`, code), 1)
		}
	})
}

func TestGRPCDenied(t *testing.T) {
	eachPort(t, func(t *testing.T, c *caller) {
		c.m.Apply(denyPost)
		var out words
		err := c.conn.Invoke(t.Context(), "/t.S/Unary", &words{}, &out)
		if s := status.Convert(err); s.Code() != codes.PermissionDenied || s.Message() != "RBAC: access denied" {
			t.Errorf("got %v, want PermissionDenied and RBAC: access denied", err)
		}
		s := c.stream(t.Context(), "/t.S/Chat") // whose request does not end
		want(t, s, "", codes.PermissionDenied)
		c.m.WaitMetric(`istio_requests_total{reporter="waypoint",grpc_response_status="7",request_protocol="grpc"}`, 2)
		c.m.WantLog("path", "/t.S/Unary", "response_code_details", "rbac_access_denied_matched_policy[ns[default]-policy[deny-post]-rule[0]]")
		c.m.Delete("AuthorizationPolicy/default/deny-post")
		if err := c.conn.Invoke(t.Context(), "/t.S/Unary", &words{}, &out); err != nil {
			t.Errorf("on the same connection, once the policy is gone: %v", err)
		}
	})
}

func TestGRPCCancellation(t *testing.T) {
	eachPort(t, func(t *testing.T, c *caller) {
		ctx, cancel := context.WithCancel(t.Context())
		s := c.stream(ctx, "/t.S/Wait")
		want(t, s, "waiting", codes.OK)
		cancel()
		if got := <-c.gone; got != "/t.S/Wait" {
			t.Errorf("server: %s", got)
		}
		c.m.WaitMetric(`istio_requests_total{reporter="waypoint",response_flags="DC"}`, 1)
		<-c.begun

		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s = c.stream(ctx, "/t.S/Wait")
		want(t, s, "waiting", codes.OK)
		want(t, s, "", codes.DeadlineExceeded)
		<-c.gone
		<-c.begun

		// The other calls on the connection have not noticed.
		var out words
		if err := c.conn.Invoke(t.Context(), "/t.S/Unary", &words{"on"}, &out); err != nil {
			t.Errorf("after cancellations: %v", err)
		}

		// And the other way: the server goes away in the middle of a call.
		s = c.stream(t.Context(), "/t.S/Wait")
		want(t, s, "waiting", codes.OK)
		<-c.begun
		c.server.Stop()
		want(t, s, "", codes.Internal)
		c.m.WaitMetric(`istio_requests_total{reporter="waypoint",response_flags="UC"}`, 1)
	})
}

func TestGRPCWithoutEndpoint(t *testing.T) {
	eachPort(t, func(t *testing.T, c *caller) {
		c.server.Stop()
		var out words
		err := c.conn.Invoke(t.Context(), "/t.S/Unary", &words{}, &out)
		if status.Code(err) != codes.Unavailable {
			t.Errorf("nobody listens: got %v, want Unavailable", err)
		}
		c.m.WaitMetric(`istio_requests_total{reporter="waypoint",grpc_response_status="14",response_flags="UF,URX"}`, 1)
	})
}
