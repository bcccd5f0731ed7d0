package waypoint_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/waypoint"
)

// Authorizers are what the waypoints of a mesh may ask, by the names of their
// providers. What is under the path /NAME of the service items is asked about.
type authorizers struct {
	t       *testing.T
	m       *meshtest.Mesh
	mu      sync.Mutex
	clients map[string]*extauthz.Client
	config  strings.Builder
}

// withAuthorizers returns a mesh whose waypoints ask authorizers.
func withAuthorizers(t *testing.T, o meshtest.Options) *authorizers {
	t.Helper()
	a := &authorizers{t: t, clients: map[string]*extauthz.Client{}}
	change := o.Waypoint
	o.Waypoint = func(w *waypoint.Options) {
		w.Authorizer = a.client
		if change != nil {
			change(w)
		}
	}
	a.m = meshtest.With(t, o)
	t.Cleanup(func() {
		for _, c := range a.clients {
			c.Close()
		}
	})
	return a
}

func (a *authorizers) client(name string) *extauthz.Client {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.clients[name]
}

// add has p asked, by its policy, about what is under its name.
func (a *authorizers) add(p authz.Provider, o extauthz.Options) {
	a.t.Helper()
	a.addFor(p, o, fmt.Sprintf(`[{to: [{operation: {paths: ["/%[1]s", "/%[1]s/*"]}}]}]`, p.Name))
}

// addFor has p asked about what matches rules.
func (a *authorizers) addFor(p authz.Provider, o extauthz.Options, rules string) {
	a.t.Helper()
	c, err := extauthz.New(&p, o)
	if err != nil {
		a.t.Fatal(err)
	}
	a.mu.Lock()
	a.clients[p.Name] = c
	a.mu.Unlock()
	a.configure(&p)
	a.m.Apply(fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %[1]s, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  action: CUSTOM
  provider: {name: %[1]s}
  rules: %[2]s
`, p.Name, rules))
}

// configure adds p to MeshConfig.
func (a *authorizers) configure(p *authz.Provider) {
	a.t.Helper()
	kind := "envoyExtAuthzGrpc"
	if p.Kind == authz.HTTP {
		kind = "envoyExtAuthzHttp"
	}
	fmt.Fprintf(&a.config, "    - name: %s\n      %s: {service: authz.default.svc.cluster.local, port: 9000}\n", p.Name, kind)
	a.m.Apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    extensionProviders:\n" + a.config.String())
}

// inProcess is an authorizer in this process.
func inProcess(f func(context.Context, *extauthz.Request) (extauthz.Answer, error)) extauthz.Options {
	return extauthz.Options{Ask: f}
}

// A kind is one of the two protocols that services speak, with a server of it.
type kind struct {
	name  string
	kind  authz.ProviderKind
	serve func(t *testing.T) (addr string)
}

var kinds = []kind{{"grpc", authz.GRPC, serveCheck}, {"http", authz.HTTP, serveHTTP}}

// seen is what a test's service answers on the path /NAME/seen: how much content
// it was shown, of which the last is said to be a part or not.
func seen(content, partial string) string { return strconv.Itoa(len(content)) + "," + partial }

// A checker is a service that does what the last part of a path says.
type checker struct {
	authv3.UnimplementedAuthorizationServer
}

func (checker) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	h := r.GetAttributes().GetRequest().GetHttp()
	if h == nil && strings.HasSuffix(r.GetAttributes().GetSource().GetPrincipal(), "/banned") {
		return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.PermissionDenied)}}, nil
	}
	field := func(name, value string) []*corev3.HeaderValueOption {
		return []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: name, Value: value}}}
	}
	switch h.GetPath()[strings.LastIndexByte(h.GetPath(), '/')+1:] {
	case "deny":
		return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.PermissionDenied)}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: 401}, Headers: field("www-authenticate", `Basic realm="items"`), Body: "who are you?",
		}}}, nil
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
		Headers:              append(field("x-user", "ann"), field("x-seen", seen(h.GetBody(), h.GetHeaders()["x-envoy-auth-partial-body"]))...),
		HeadersToRemove:      []string{"x-secret"},
		ResponseHeadersToAdd: field("x-checked", "yes"),
	}}}, nil
}

// serveCheck runs an Envoy ext_authz service on a socket of its own.
func serveCheck(t *testing.T) string {
	t.Helper()
	ln := listen(t)
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, checker{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ln) // until it is stopped
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return ln.Addr().String()
}

// serveHTTP runs the same over HTTP.
func serveHTTP(t *testing.T) string {
	t.Helper()
	ln := listen(t)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		switch r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:] {
		case "deny":
			w.Header().Set("www-authenticate", `Basic realm="items"`)
			w.WriteHeader(401)
			fmt.Fprint(w, "who are you?")
		case "slow":
			<-r.Context().Done()
		default:
			w.Header().Set("x-user", "ann")
			w.Header().Set("x-checked", "yes")
			w.Header().Set("x-seen", seen(string(content), r.Header.Get("x-envoy-auth-partial-body")))
			w.Header().Set("x-envoy-auth-headers-to-remove", "x-secret")
		}
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ln) // until it is closed
	}()
	t.Cleanup(func() { s.Close(); <-done })
	return ln.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func dialTo(addr string) extauthz.Options {
	return extauthz.Options{Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}}
}

// TestAuthorizersOnSockets asks real services of both protocols about the requests
// of clients of both versions of HTTP.
func TestAuthorizersOnSockets(t *testing.T) {
	a := withAuthorizers(t, meshtest.Options{})
	m := a.m
	shop(m, "http", meshtest.Echo)
	for _, k := range kinds {
		addr := k.serve(t)
		add := func(name, addr string, change func(*authz.Provider)) {
			p := authz.Provider{
				Name: k.name + "-" + name, Kind: k.kind, Service: "authz.default.svc.cluster.local", Port: 9000,
				HeadersToUpstream: []string{"x-user", "x-seen"}, HeadersToClient: []string{"x-checked"},
			}
			change(&p)
			a.add(p, dialTo(addr))
		}
		add("ask", addr, func(*authz.Provider) {})
		add("hasty", addr, func(p *authz.Provider) { p.Timeout, p.StatusOnError = time.Millisecond, 503 })
		add("lenient", addr, func(p *authz.Provider) { p.Timeout, p.FailOpen = time.Millisecond, true })
		add("whole", addr, func(p *authz.Provider) { p.Body = &authz.Body{Max: 8 << 10} })
		add("part", addr, func(p *authz.Provider) { p.Body = &authz.Body{Max: 8 << 10, AllowPartial: true} })
		closed := listen(t)
		closed.Close()
		add("nobody", closed.Addr().String(), func(*authz.Provider) {})
		add("lost", addr, func(*authz.Provider) {})
		a.mu.Lock()
		gone := a.clients[k.name+"-lost"]
		delete(a.clients, k.name+"-lost")
		a.mu.Unlock()
		gone.Close()
	}
	long := strings.Repeat("12345678", 2500)
	for _, k := range kinds {
		for version, c := range map[string]*meshtest.Client{"HTTP/1.1": m.From("web"), "HTTP/2": m.FromHTTP2("web")} {
			t.Run(k.name+" "+version, func(t *testing.T) {
				url := "http://items/" + k.name + "-"
				r := c.Do("GET", url+"ask/yes", "", "x-secret", "s", "x-user", "root").Want(200).WantBody("X-User: ann\r\n")
				if strings.Contains(r.Body, "X-Secret") || strings.Contains(r.Body, "root") || r.Header.Get("x-checked") != "yes" {
					t.Errorf("an answer was not applied: %v, %q", r.Header, r.Body)
				}
				c.Post(url+"ask/yes", long).Want(200).WantBody(long)

				r = c.Post(url+"ask/deny", long).Want(401).WantBody("who are you?")
				if got := r.Header.Get("www-authenticate"); got != `Basic realm="items"` {
					t.Errorf("www-authenticate is %q", got)
				}
				c.Get(url + "hasty/slow").Want(503)
				c.Get(url + "lenient/slow").Want(200)
				c.Get(url + "nobody/yes").Want(403)
				c.Get(url + "lost/yes").Want(403).WantBody("RBAC: access denied")

				c.Post(url+"whole/seen", long[:8<<10]).Want(200).WantBody("X-Seen: 8192,false").WantBody(long[:8<<10])
				c.Post(url+"whole/seen", "").Want(200).WantBody("X-Seen: 0,false")
				c.Post(url+"whole/seen", long).Want(413).WantBody("Payload Too Large")
				c.Do("POST", url+"whole/seen", long, "expect", "100-continue").Want(413)
				c.Do("POST", url+"whole/seen", long[:9], "expect", "100-continue").Want(200).WantBody("X-Seen: 9,false").WantBody(long[:9])
				c.Post(url+"part/seen", long).Want(200).WantBody("X-Seen: 8192,true").WantBody(long)
				c.Post(url+"part/seen", long[:9]).Want(200).WantBody("X-Seen: 9,false").WantBody(long[:9])
				c.Get("http://items/").Want(200) // and not about others
			})
		}
		m.WantLog("path", "/"+k.name+"-ask/deny", "response_code", 401, "response_flags", "UAEX", "response_code_details", "ext_authz_denied")
		m.WantLog("path", "/"+k.name+"-hasty/slow", "response_code", 503, "response_flags", "UAEX", "response_code_details", "ext_authz_error")
		m.WantLog("path", "/"+k.name+"-nobody/yes", "response_code", 403, "response_flags", "UAEX", "response_code_details", "ext_authz_error")
		m.WantLog("path", "/"+k.name+"-lost/yes", "response_code", 403, "response_flags", "-", "response_code_details",
			"rbac_access_denied_matched_policy[istio-ext-authz-"+k.name+"-lost-ns[default]-policy["+k.name+"-lost]-rule[0]-deny-due-to-bad-CUSTOM-action]")
		m.WantLog("path", "/"+k.name+"-whole/seen", "response_code", 413, "response_flags", "-", "response_code_details", "request_payload_too_large")
	}
}

// TestAuthorizersInTurn has two authorizers asked about one request, of which the
// second and the policies after it see what the first has changed.
func TestAuthorizersInTurn(t *testing.T) {
	a := withAuthorizers(t, meshtest.Options{})
	m := a.m
	shop(m, "http", meshtest.Echo)
	var mu sync.Mutex
	var second []string
	a.addFor(authz.Provider{Name: "first"}, inProcess(func(_ context.Context, r *extauthz.Request) (extauthz.Answer, error) {
		answer := extauthz.Answer{
			Allowed: true, Edits: []extauthz.Edit{{Name: "x-role", Value: r.Head.Fields.Get("x-claims")}},
			SetQuery: []extauthz.Parameter{{Name: "by", Value: "a b&c"}, {Name: "q", Value: "2"}}, RemoveQuery: []string{"secret"},
			Response: []extauthz.Edit{{Name: "x-first", Value: "1"}},
		}
		return answer, nil
	}), "[{}]")
	a.addFor(authz.Provider{Name: "second"}, inProcess(func(_ context.Context, r *extauthz.Request) (extauthz.Answer, error) {
		mu.Lock()
		second = append(second, r.Head.Path+" "+r.Head.Fields.Get("x-role"))
		mu.Unlock()
		return extauthz.Answer{Allowed: true, Response: []extauthz.Edit{{Name: "x-second", Value: "2"}}}, nil
	}), `[{when: [{key: "request.headers[x-role]", values: ["*"]}]}]`)
	m.Apply(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: admins, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  rules: [{when: [{key: "request.headers[x-role]", values: [admin]}]}]
`)
	for _, c := range []*meshtest.Client{m.From("web"), m.FromHTTP2("web")} {
		r := c.Do("GET", "http://items/a?q=1&secret=x&r=%20", "", "x-claims", "admin", "x-role", "none").
			Want(200).WantBody("GET /a?q=2&r=%20&by=a%20b%26c ").WantBody("X-Role: admin\r\n")
		denied := c.Do("GET", "http://items/b?secret", "", "x-claims", "guest", "x-role", "admin").Want(403).WantBody("RBAC: access denied")
		for _, h := range []http.Header{r.Header, denied.Header} {
			if h.Get("x-first") != "1" || h.Get("x-second") != "2" {
				t.Errorf("the answers of the authorizers are not in the response: %v", h)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if got, want := strings.Join(second[:2], "; "), "/a?q=2&r=%20&by=a%20b%26c admin; /b?by=a%20b%26c&q=2 guest"; got != want {
		t.Errorf("the second was asked about %s, want %s", got, want)
	}
}

// TestAuthorizerSeesWhoAsks looks at what there is in a question besides the
// request.
func TestAuthorizerSeesWhoAsks(t *testing.T) {
	a := withAuthorizers(t, meshtest.Options{})
	m := a.m
	shop(m, "http", meshtest.Echo)
	got := make(chan *extauthz.Request, 1)
	a.add(authz.Provider{Name: "see"}, inProcess(func(_ context.Context, r *extauthz.Request) (extauthz.Answer, error) {
		got <- r
		return extauthz.Answer{Allowed: true}, nil
	}))
	m.From("web").Get("http://items/see//a/../b").Want(200)
	r := <-got
	if r.Peer.Principal() != "cluster.local/ns/default/sa/web" || r.Self.ServiceAccount != "waypoint" || r.Dest.Port() != 80 || r.At.IsZero() {
		t.Errorf("the question is about %v at %v, from %v to %v, at %v", r.Peer, r.Source, r.Self, r.Dest, r.At)
	}
	if r.Head.Path != "/see//b" || r.Head.Authority != "items" {
		t.Errorf("the question is about %s%s", r.Head.Authority, r.Head.Path)
	}
}

// An authorizer that may want a megabyte gets what a request can wait with, and is
// told when that is not all; one that must have all of it does without the request.
func TestAuthorizerWantsMoreThanIsHeld(t *testing.T) {
	const held = 128<<10 - 1
	for _, partial := range []bool{false, true} {
		t.Run(fmt.Sprint("a part will do: ", partial), func(t *testing.T) {
			a := withAuthorizers(t, meshtest.Options{})
			m := a.m
			shop(m, "http", meshtest.Echo)
			var mu sync.Mutex
			var seen []string
			a.add(authz.Provider{Name: "greedy", Body: &authz.Body{Max: 1 << 20, AllowPartial: partial}}, inProcess(func(_ context.Context, r *extauthz.Request) (extauthz.Answer, error) {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, fmt.Sprint(len(r.Content), " ", r.Partial))
				return extauthz.Answer{Allowed: true}, nil
			}))
			longer := 413
			want := []string{fmt.Sprint(held, " false"), fmt.Sprint(held, " false")}
			if partial {
				longer = 200
				want = []string{fmt.Sprint(held, " false"), fmt.Sprint(held, " true"), fmt.Sprint(held, " false"), fmt.Sprint(held, " true")}
			}
			for _, c := range []*meshtest.Client{m.From("web"), m.FromHTTP2("web")} {
				c.Post("http://items/greedy/", strings.Repeat("x", held)).Want(200)
				c.Post("http://items/greedy/", strings.Repeat("x", held+1)).Want(longer)
			}
			mu.Lock()
			if !slices.Equal(seen, want) {
				t.Errorf("it saw %q, want %q", seen, want)
			}
			mu.Unlock()
		})
	}
}
