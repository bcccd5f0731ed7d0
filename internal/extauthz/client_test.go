package extauthz

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// aRequest is what the tests ask about.
func aRequest() *Request {
	return &Request{
		Source: netip.MustParseAddrPort("10.0.0.1:4000"), Dest: netip.MustParseAddrPort("10.96.0.10:80"),
		Peer: identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "sleep"},
		At:   time.Unix(1000, 0),
		Head: &l7.Request{
			Method: "POST", Scheme: "http", Authority: "items:80", Path: "/admin?x=1", Length: 5,
			Fields: l7.Fields{{Name: "authorization", Value: "Bearer t"}, {Name: "x-a", Value: "1"}, {Name: "x-a", Value: "2"}, {Name: "x-b", Value: "\xff"}, {Name: "x-request-id", Value: "id"}},
		},
		Content: []byte("hello"),
	}
}

func dialTo(addr string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
}

// ask makes a Client of p and asks it about r.
func ask(t *testing.T, p authz.Provider, addr string, r *Request) Answer {
	t.Helper()
	c, err := New(&p, Options{Dial: dialTo(addr)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answers := make(chan Answer, 1)
	c.Ask(r, func(a Answer) { answers <- a })
	return <-answers
}

// An authorizer is a gRPC service that says what it is told to.
type authorizer struct {
	authv3.UnimplementedAuthorizationServer
	check func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error)
}

func (a *authorizer) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return a.check(ctx, r)
}

func serveGRPC(t testing.TB, check func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, &authorizer{check: check})
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(s.Stop)
	return ln.Addr().String()
}

func option(name, value string, appended *wrapperspb.BoolValue) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}, Append: appended} //nolint:staticcheck // as authorizers do
}

func TestGRPCSeesTheRequest(t *testing.T) {
	var got *authv3.AttributeContext
	addr := serveGRPC(t, func(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		got = r.GetAttributes()
		return &authv3.CheckResponse{}, nil
	})
	p := authz.Provider{Name: "x", Kind: authz.GRPC, Service: "foo/authz.foo.svc", Port: 9000, Body: &authz.Body{Max: 10, AllowPartial: true}}
	if a := ask(t, p, addr, aRequest()); !a.Allowed || a.Err != nil {
		t.Fatalf("the answer is %+v", a)
	}
	h := got.GetRequest().GetHttp()
	for _, x := range []struct{ what, got, want string }{
		{"method", h.GetMethod(), "POST"}, {"path", h.GetPath(), "/admin?x=1"}, {"host", h.GetHost(), "items:80"},
		{"id", h.GetId(), "id"}, {"body", h.GetBody(), "hello"}, {"protocol", h.GetProtocol(), "HTTP/1.1"},
		{"principal", got.GetSource().GetPrincipal(), "spiffe://cluster.local/ns/default/sa/sleep"},
		{"our principal", got.GetDestination().GetPrincipal(), ""},
		{"source", got.GetSource().GetAddress().GetSocketAddress().GetAddress(), "10.0.0.1"},
		{"x-a", h.GetHeaders()["x-a"], "1,2"}, {"x-b", h.GetHeaders()["x-b"], "!"}, {":path", h.GetHeaders()[":path"], "/admin?x=1"},
		{"authorization", h.GetHeaders()["authorization"], "Bearer t"}, {partialBody, h.GetHeaders()[partialBody], "false"},
	} {
		if x.got != x.want {
			t.Errorf("%s is %q, want %q", x.what, x.got, x.want)
		}
	}
	if h.GetSize() != 5 || got.GetDestination().GetAddress().GetSocketAddress().GetPortValue() != 80 || got.GetRequest().GetTime().GetSeconds() != 1000 {
		t.Errorf("size, port or time: %v", got)
	}
}

func TestGRPCBodyAsBytes(t *testing.T) {
	var got []byte
	addr := serveGRPC(t, func(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		got = r.GetAttributes().GetRequest().GetHttp().GetRawBody()
		return &authv3.CheckResponse{}, nil
	})
	ask(t, authz.Provider{Kind: authz.GRPC, Service: "a", Port: 1, Body: &authz.Body{Max: 10, AsBytes: true}}, addr, aRequest())
	if string(got) != "hello" {
		t.Errorf("raw_body is %q, want hello", got)
	}
}

func TestGRPCAllowsWithEdits(t *testing.T) {
	yes, no := wrapperspb.Bool(true), wrapperspb.Bool(false)
	addr := serveGRPC(t, func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		return &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: []*corev3.HeaderValueOption{
				option("X-A", "new", no), option("x-c", "added", yes), option("x-d", "set", nil), option(":path", "/else", nil), option("Host", "else", nil),
				option("content-length", "9", nil), option("x-bad", "a\r\nb", nil),
				{Header: &corev3.HeaderValue{Key: "x-a", Value: "no"}, AppendAction: corev3.HeaderValueOption_ADD_IF_ABSENT},
				{Header: &corev3.HeaderValue{Key: "x-e", Value: "no"}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS},
			},
			HeadersToRemove:         []string{"Authorization", "host"},
			ResponseHeadersToAdd:    []*corev3.HeaderValueOption{option("x-r", "1", yes)},
			QueryParametersToSet:    []*corev3.QueryParameter{{Key: "x", Value: "2"}},
			QueryParametersToRemove: []string{"y"},
		}}}, nil
	})
	r := aRequest()
	a := ask(t, authz.Provider{Kind: authz.GRPC, Service: "a", Port: 1}, addr, r)
	want := l7.Fields{{Name: "x-a", Value: "new"}, {Name: "x-b", Value: "\xff"}, {Name: "x-request-id", Value: "id"}, {Name: "x-c", Value: "added"}, {Name: "x-d", Value: "set"}}
	if got := Apply(r.Head.Fields, a.Edits); !slices.Equal(got, want) {
		t.Errorf("the request has %v, want %v", got, want)
	}
	if !a.Allowed || len(a.Response) != 1 || a.Response[0] != (Edit{Append, "x-r", "1"}) || a.SetQuery[0] != (Parameter{"x", "2"}) || a.RemoveQuery[0] != "y" {
		t.Errorf("the answer is %+v", a)
	}
}

func TestGRPCRefuses(t *testing.T) {
	for _, x := range []struct {
		name   string
		answer *authv3.CheckResponse
		err    error
		want   int
		body   string
		failed bool
	}{
		{"plainly", &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.PermissionDenied)}}, nil, 403, "", false},
		{"with a response", &authv3.CheckResponse{Status: &status.Status{Code: 7}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: 401}, Body: "who are you",
			Headers: []*corev3.HeaderValueOption{option("WWW-Authenticate", "Basic", nil), option("connection", "close", nil)},
		}}}, nil, 401, "who are you", false},
		{"with no status", &authv3.CheckResponse{Status: &status.Status{Code: 7}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: 0}}}}, nil, 403, "", false},
		{"by an error", nil, errors.New("no"), 503, "", true},
		{"by an error response", &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_ErrorResponse{ErrorResponse: &authv3.DeniedHttpResponse{}}}, nil, 503, "", true},
	} {
		addr := serveGRPC(t, func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) { return x.answer, x.err })
		a := ask(t, authz.Provider{Kind: authz.GRPC, Service: "a", Port: 1, StatusOnError: 503}, addr, aRequest())
		if a.Allowed || a.Status != x.want || string(a.Body) != x.body || (a.Err != nil) != x.failed {
			t.Errorf("%s: %+v, want %d %q", x.name, a, x.want, x.body)
		}
		if x.want == 401 && !slices.Equal(a.Fields, l7.Fields{{Name: "www-authenticate", Value: "Basic"}}) {
			t.Errorf("%s: fields %v", x.name, a.Fields)
		}
	}
}

// serveHTTP answers as h does.
func serveHTTP(t *testing.T, h http.HandlerFunc) (addr string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestHTTPSeesWhatItIsToSee(t *testing.T) {
	var got *http.Request
	var body string
	addr := serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
	})
	p := authz.Provider{Kind: authz.HTTP, Service: "authz.foo.svc", Port: 80, PathPrefix: "/check", IncludeHeaders: []string{"X-A", "*-id"}, AdditionalHeaders: l7.Fields{{Name: "x-a", Value: "ours"}, {Name: "x-z", Value: "z"}}}
	if a := ask(t, p, addr, aRequest()); !a.Allowed {
		t.Fatalf("the answer is %+v", a)
	}
	if got.Method != "POST" || got.URL.String() != "/check/admin?x=1" || got.Host != "items:80" || body != "" || got.ContentLength != 0 {
		t.Errorf("it saw %s %s of %s with %q", got.Method, got.URL, got.Host, body)
	}
	want := http.Header{"Authorization": {"Bearer t"}, "X-A": {"ours"}, "X-Z": {"z"}, "X-Request-Id": {"id"}}
	for name, v := range want {
		if !slices.Equal(got.Header[name], v) {
			t.Errorf("%s is %q, want %q", name, got.Header[name], v)
		}
	}
	if got.Header.Get("x-b") != "" || got.Header.Get("user-agent") != "" {
		t.Errorf("it also saw %v", got.Header)
	}

	p.Body = &authz.Body{Max: 10}
	ask(t, p, addr, aRequest())
	if body != "hello" || got.Header.Get(partialBody) != "false" {
		t.Errorf("with a body it saw %q, partial %q", body, got.Header.Get(partialBody))
	}
}

func TestHTTPAllowsWithEdits(t *testing.T) {
	addr := serveHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["X-Up"] = []string{"1", "2"}
		w.Header().Set("X-Down", "3")
		w.Header().Set("X-Envoy-Auth-Headers-To-Remove", "Authorization, x-b")
	})
	r := aRequest()
	a := ask(t, authz.Provider{Kind: authz.HTTP, Service: "a", Port: 1, HeadersToUpstream: []string{"x-up"}, HeadersToClient: []string{"x-d*"}}, addr, r)
	want := l7.Fields{{Name: "x-a", Value: "1"}, {Name: "x-a", Value: "2"}, {Name: "x-request-id", Value: "id"}, {Name: "x-up", Value: "1"}, {Name: "x-up", Value: "2"}}
	if got := Apply(r.Head.Fields, a.Edits); !a.Allowed || !slices.Equal(got, want) {
		t.Errorf("the request has %v, want %v", got, want)
	}
	if !slices.Equal(a.Response, []Edit{{Set, "x-down", "3"}}) {
		t.Errorf("the response gets %v", a.Response)
	}
}

func TestHTTPRefuses(t *testing.T) {
	addr := serveHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://login/")
		w.Header().Set("X-Why", "because")
		w.WriteHeader(http.StatusFound)
		_, _ = io.WriteString(w, "go away")
	})
	a := ask(t, authz.Provider{Kind: authz.HTTP, Service: "a", Port: 1, HeadersToClientNot: []string{"x-other"}}, addr, aRequest())
	if a.Allowed || a.Err != nil || a.Status != 302 || string(a.Body) != "go away" || a.Fields.Get("location") == "" || a.Fields.Has("x-why") {
		t.Errorf("the answer is %+v", a)
	}
	if a = ask(t, authz.Provider{Kind: authz.HTTP, Service: "a", Port: 1}, addr, aRequest()); a.Fields.Get("x-why") != "because" || a.Fields.Has("content-length") {
		t.Errorf("without a list the answer has %v", a.Fields)
	}
}

func TestNoAnswerIsTheProvidersChoice(t *testing.T) {
	broken := serveHTTP(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	silent := serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for name, addr := range map[string]string{"a 500": broken, "silence": silent, "nobody": "127.0.0.1:1"} {
		for _, open := range []bool{false, true} {
			a := ask(t, authz.Provider{Kind: authz.HTTP, Name: "x", Service: "a", Port: 1, FailOpen: open, Timeout: 50 * time.Millisecond}, addr, aRequest())
			if a.Allowed != open || a.Status != 403 || a.Err == nil || !strings.Contains(a.Err.Error(), "authorizer x: ") {
				t.Errorf("%s, failOpen %v: %+v", name, open, a)
			}
		}
	}
}

// Who sends what cannot be asked about does not pass because the provider fails
// open.
func TestWhatCannotBeAskedAboutIsRefused(t *testing.T) {
	broken := aRequest()
	broken.Head.Path = "/%zz"
	for _, r := range []*Request{broken, {}} {
		if a := ask(t, authz.Provider{Kind: authz.HTTP, Service: "a", Port: 1, FailOpen: true}, "127.0.0.1:1", r); a.Allowed || a.Status != 400 || a.Err != nil {
			t.Errorf("the answer is %+v", a)
		}
	}
}

func TestEditsAreApplied(t *testing.T) {
	f := l7.Fields{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}, {Name: "a", Value: "3"}}
	got := Apply(f, []Edit{{Set, "a", "x"}, {Append, "b", "y"}, {AddIfAbsent, "b", "no"}, {AddIfAbsent, "c", "z"}, {SetIfPresent, "d", "no"}, {SetIfPresent, "c", "w"}, {Remove, "a", ""}})
	want := l7.Fields{{Name: "b", Value: "2"}, {Name: "b", Value: "y"}, {Name: "c", Value: "w"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for e, want := range map[Edit]bool{
		{Set, "x-a", "b"}: true, {Set, "x!~", ""}: true, {Set, "", "b"}: false, {Set, ":path", "/"}: false, {Set, "host", "h"}: false, {Set, "connection", "close"}: false,
		{Set, "content-length", "1"}: false, {Set, "X-A", "b"}: false, {Set, "x a", "b"}: false, {Set, "x\u00e9", "b"}: false, {Set, "x", "a\r\nb"}: false, {Set, "x", "a\x00"}: false,
	} {
		if e.Valid() != want {
			t.Errorf("%+v: valid is %v", e, !want)
		}
	}
}

func TestTooMuchContentIsRefusedUnasked(t *testing.T) {
	asked := false
	addr := serveHTTP(t, func(http.ResponseWriter, *http.Request) { asked = true })
	r := aRequest()
	r.Partial = true
	if a := ask(t, authz.Provider{Kind: authz.HTTP, Service: "a", Port: 1, Body: &authz.Body{Max: 5}, FailOpen: true}, addr, r); a.Allowed || a.Status != 413 || asked {
		t.Errorf("the answer is %+v, asked %v", a, asked)
	}
	if a := ask(t, authz.Provider{Kind: authz.HTTP, Service: "a", Port: 1, Body: &authz.Body{Max: 5, AllowPartial: true}}, addr, r); !a.Allowed || !asked {
		t.Errorf("with allowPartialMessage the answer is %+v", a)
	}
}

func TestQuestionsAreBounded(t *testing.T) {
	entered, leave := make(chan bool), make(chan bool)
	addr := serveHTTP(t, func(http.ResponseWriter, *http.Request) { entered <- true; <-leave })
	c, err := New(&authz.Provider{Kind: authz.HTTP, Service: "a", Port: 1}, Options{Dial: dialTo(addr), Pending: 1})
	if err != nil {
		t.Fatal(err)
	}
	first, second := make(chan Answer, 1), make(chan Answer, 1)
	c.Ask(aRequest(), func(a Answer) { first <- a })
	<-entered
	c.Ask(aRequest(), func(a Answer) { second <- a })
	if a := <-second; !errors.Is(a.Err, ErrBusy) || a.Allowed {
		t.Errorf("the second is answered %+v, want ErrBusy", a)
	}
	close(leave)
	if a := <-first; !a.Allowed {
		t.Errorf("the first is answered %+v", a)
	}
	c.Close()
}

func TestCancelIsSilent(t *testing.T) {
	entered := make(chan bool, 1)
	addr := serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) { entered <- true; <-r.Context().Done() })
	c, err := New(&authz.Provider{Kind: authz.HTTP, Service: "a", Port: 1}, Options{Dial: dialTo(addr)})
	if err != nil {
		t.Fatal(err)
	}
	cancel := c.Ask(aRequest(), func(a Answer) { t.Errorf("answered %+v", a) })
	<-entered
	cancel()
	c.Close()
}
