package extauthz

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// What an authorizer says of who the client is must not stand beside what the
// client says; but all of what it says counts, and so do all its cookies.
func TestHeadersOfOneName(t *testing.T) {
	a, err := fromCheck(&authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
		Headers:              []*corev3.HeaderValueOption{option("x-role", "guest", nil), option("X-Role", "reader", nil)},
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{option("set-cookie", "a=1", nil), option("set-cookie", "b=2", nil)},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := Apply(l7.Fields{{Name: "x-role", Value: "admin"}}, a.Edits), (l7.Fields{{Name: "x-role", Value: "guest"}, {Name: "x-role", Value: "reader"}}); !slices.Equal(got, want) {
		t.Errorf("the request has %v, want %v", got, want)
	}
	cookies := l7.Fields{{Name: "set-cookie", Value: "a=1"}, {Name: "set-cookie", Value: "b=2"}}
	if got := Apply(nil, a.Response); !slices.Equal(got, cookies) {
		t.Errorf("the response has %v", got)
	}
	a, err = fromCheck(&authv3.CheckResponse{Status: &status.Status{Code: 7}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
		Headers: []*corev3.HeaderValueOption{option("set-cookie", "a=1", nil), option("Set-Cookie", "b=2", nil), option(":status", "200", nil)},
		Body:    strings.Repeat("x", maxAnswer+1),
	}}})
	if err != nil || !slices.Equal(a.Fields, cookies) || len(a.Body) != maxAnswer {
		t.Errorf("the refusal is %v with %d bytes, %v", a.Fields, len(a.Body), err)
	}
}

func TestHeadersAreAllThereAre(t *testing.T) {
	r := aRequest()
	r.Head.Upgrade = "websocket"
	got := Headers(&authz.Provider{Body: &authz.Body{Max: 1}}, r)
	want := l7.Fields{
		{Name: ":method", Value: "POST"}, {Name: ":path", Value: "/admin?x=1"}, {Name: ":authority", Value: "items:80"}, {Name: ":scheme", Value: "http"},
		{Name: "authorization", Value: "Bearer t"}, {Name: "x-a", Value: "1,2"}, {Name: "x-b", Value: "!"}, {Name: "x-request-id", Value: "id"},
		{Name: "upgrade", Value: "websocket"}, {Name: "content-length", Value: "5"}, {Name: partialBody, Value: "false"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Several endpoints share the questions, and when one goes none is left unanswered.
func TestEndpointsShareQuestions(t *testing.T) {
	var asked [2]atomic.Int64
	var addrs [2]string
	var servers [2]*grpc.Server
	for i := range addrs {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		servers[i], addrs[i] = grpc.NewServer(), ln.Addr().String()
		authv3.RegisterAuthorizationServer(servers[i], &authorizer{check: func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
			asked[i].Add(1)
			return &authv3.CheckResponse{}, nil
		}})
		go func() { _ = servers[i].Serve(ln) }()
		t.Cleanup(servers[i].Stop)
	}
	var dials atomic.Int64
	c, err := New(&authz.Provider{Kind: authz.GRPC, Service: "a", Port: 1}, Options{Dial: func(ctx context.Context) (net.Conn, error) {
		n := dials.Add(1)
		conn, err := dialTo(addrs[n%2])(ctx)
		if err != nil {
			conn, err = dialTo(addrs[(n+1)%2])(ctx)
		}
		return conn, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	askAll := func() {
		t.Helper()
		answers := make(chan Answer)
		for range 40 {
			c.Ask(aRequest(), func(a Answer) { answers <- a })
			if a := <-answers; !a.Allowed {
				t.Fatal(a.Err)
			}
		}
	}
	askAll()
	if a, b := asked[0].Load(), asked[1].Load(); a+b != 40 || a < 10 || b < 10 {
		t.Errorf("they were asked %d and %d times", a, b)
	}
	servers[0].Stop()
	askAll()
	if a, b := asked[0].Load(), asked[1].Load(); a+b != 80 {
		t.Errorf("they were asked %d and %d times", a, b)
	}
}

// Whatever an authorizer answers, what comes of it can be written.
func FuzzCheckResponse(f *testing.F) {
	for _, text := range []string{
		`{"status": {}, "okResponse": {"headers": [{"header": {"key": "X-A", "value": "b"}, "append": true}], "headersToRemove": ["x"], "queryParametersToSet": [{"key": "a", "value": "b"}]}}`,
		`{"status": {"code": 7}, "deniedResponse": {"status": {"code": 302}, "headers": [{"header": {"key": "a b", "value": "c\r\nd"}, "appendAction": 2}], "body": "x"}}`,
		`{"status": {"code": 16}, "errorResponse": {}}`, `{"dynamicMetadata": {"a": 1}}`,
	} {
		var m authv3.CheckResponse
		if err := protojson.Unmarshal([]byte(text), &m); err != nil {
			f.Fatal(err)
		}
		b, err := proto.Marshal(&m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m authv3.CheckResponse
		if proto.Unmarshal(b, &m) != nil {
			return // it is none
		}
		a, err := fromCheck(&m)
		switch {
		case err != nil && a.Allowed, a.Allowed && m.GetStatus().GetCode() != 0:
			t.Errorf("allowed by %v", &m)
		case err == nil && !a.Allowed && (a.Status < 200 || a.Status > 599 || len(a.Body) > maxAnswer):
			t.Errorf("refused with status %d and %d bytes", a.Status, len(a.Body))
		}
		for _, e := range slices.Concat(a.Edits, a.Response) {
			if !e.Valid() {
				t.Errorf("the edit %+v cannot be made", e)
			}
		}
		for _, x := range a.Fields {
			if !(Edit{Name: x.Name, Value: x.Value}).Valid() {
				t.Errorf("the field %+v cannot be written", x)
			}
		}
	})
}

// BenchmarkGRPC is a question to a service on the loopback interface.
func BenchmarkGRPC(b *testing.B) {
	addr := serveGRPC(b, func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		return &authv3.CheckResponse{}, nil
	})
	c, err := New(&authz.Provider{Name: "x", Kind: authz.GRPC, Service: "a", Port: 1}, Options{Dial: dialTo(addr)})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	answers, r := make(chan Answer, 1), aRequest()
	answer := func(a Answer) { answers <- a }
	b.ReportAllocs()
	for b.Loop() {
		c.Ask(r, answer)
		if a := <-answers; !a.Allowed {
			b.Fatal(a.Err)
		}
	}
}
