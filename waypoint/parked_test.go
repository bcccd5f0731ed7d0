package waypoint_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/meshtest"
)

// A gate is an authorizer that answers when it is told to.
type gate struct {
	asked  chan *extauthz.Request
	answer chan extauthz.Answer
	open   atomic.Int64 // questions
}

func newGate() *gate {
	return &gate{asked: make(chan *extauthz.Request, 10000), answer: make(chan extauthz.Answer, 10000)}
}

func (g *gate) ask(ctx context.Context, r *extauthz.Request) (extauthz.Answer, error) {
	g.open.Add(1)
	defer g.open.Add(-1)
	g.asked <- r
	select {
	case a := <-g.answer:
		return a, nil
	case <-ctx.Done():
		return extauthz.Answer{}, ctx.Err()
	}
}

func (g *gate) yes() { g.answer <- extauthz.Answer{Allowed: true} }

// gated is a mesh in which web asks items, and a gate is asked about all of it.
func gated(t *testing.T, p authz.Provider) (*meshtest.Mesh, *gate) {
	t.Helper()
	a, g := withAuthorizers(t, meshtest.Options{}), newGate()
	shop(a.m, "http", meshtest.Echo)
	p.Name = "gate"
	a.addFor(p, inProcess(g.ask), "[{}]")
	return a.m, g
}

// TestContentComesDuringAQuestion sends content while nobody may pass it on, of
// which the authorizer sees nothing.
func TestContentComesDuringAQuestion(t *testing.T) {
	m, g := gated(t, authz.Provider{})
	for _, c := range []*meshtest.Client{m.From("web"), m.FromHTTP2("web")} {
		body, w := io.Pipe()
		done := make(chan *http.Response)
		go func() {
			resp, err := c.HTTP.Post("http://items/", "text/plain", body)
			if err != nil {
				t.Error(err)
			}
			done <- resp
		}()
		if r := <-g.asked; len(r.Content) != 0 {
			t.Errorf("it was shown %d bytes", len(r.Content))
		}
		part := strings.Repeat("x", 10<<10)
		for range 5 {
			_, _ = io.WriteString(w, part)
		}
		g.yes()
		for range 50 {
			_, _ = io.WriteString(w, part)
		}
		w.Close()
		resp := <-done
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if n := strings.Count(string(got), "x"); err != nil || n < 55*len(part) {
			t.Errorf("%d bytes arrived, and %v; want %d", n, err, 55*len(part))
		}
	}
}

// TestContentComesSlowly has content come bit by bit that the authorizer is to see
// some of, from a client that asks first whether it may send it.
func TestContentComesSlowly(t *testing.T) {
	m, g := gated(t, authz.Provider{Body: &authz.Body{Max: 16}})
	nc, err := m.Workload("raw").Dial(t.Context(), "items:80")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	r := bufio.NewReader(nc)
	for range 3 {
		_, _ = io.WriteString(nc, "POST /slow HTTP/1.1\r\nHost: items\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
		if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 100 {
			t.Fatalf("got %v, %v; want 100", resp, err)
		}
		for range 4 {
			_, _ = io.WriteString(nc, "4\r\nabcd\r\n")
		}
		_, _ = io.WriteString(nc, "0\r\n\r\n")
		if q := <-g.asked; string(q.Content) != "abcdabcdabcdabcd" || q.Partial || q.Head.Fields.Has("expect") {
			t.Errorf("it was asked about %q, a part %v, fields %v", q.Content, q.Partial, q.Head.Fields)
		}
		g.yes()
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("got %v, %v; want 200", resp, err)
		}
		if body, _ := io.ReadAll(resp.Body); !strings.HasSuffix(string(body), "\nabcdabcdabcdabcd") {
			t.Errorf("the destination got %q", body)
		}
	}
}

// TestPipelinedQuestions asks about requests that came at once, one after the
// other, and answers them in order.
func TestPipelinedQuestions(t *testing.T) {
	m, g := gated(t, authz.Provider{})
	nc, err := m.Workload("raw").Dial(t.Context(), "items:80")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	const n = 20
	for i := range n {
		_, _ = fmt.Fprintf(nc, "POST /%d HTTP/1.1\r\nHost: items\r\nContent-Length: 3\r\n\r\nabc", i)
	}
	r := bufio.NewReader(nc)
	for i := range n {
		q := <-g.asked
		if len(g.asked) > 0 {
			t.Errorf("it was asked about %d before %d was answered", i+1, i)
		}
		want := 200
		if i%3 == 1 {
			g.answer <- extauthz.Answer{Status: 401, Body: []byte("no")}
			want = 401
		} else {
			g.yes()
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if path := fmt.Sprintf("/%d", i); err != nil || resp.StatusCode != want || q.Head.Path != path || want == 200 && !strings.Contains(string(body), "POST "+path+" ") {
			t.Errorf("answer %d, to a question about %s: got %d, %q, %v", i, q.Head.Path, resp.StatusCode, body, err)
		}
	}
}

// TestManyStreamsParked has a connection's worth of streams wait at once.
func TestManyStreamsParked(t *testing.T) {
	m, g := gated(t, authz.Provider{Body: &authz.Body{Max: 100, AllowPartial: true}})
	c := m.FromHTTP2("web")
	const n = 100
	var wg sync.WaitGroup
	var passed, refused atomic.Int64
	content := strings.Repeat("0123456789", 50)
	for i := range n {
		wg.Go(func() {
			r := c.Post(fmt.Sprintf("http://items/%d", i), content)
			switch {
			case r.Status == 200 && strings.HasSuffix(r.Body, content):
				passed.Add(1)
			case r.Status == 403:
				refused.Add(1)
			default:
				t.Errorf("got %d, %v", r.Status, r.Err)
			}
		})
	}
	for range n {
		if q := <-g.asked; len(q.Content) != 100 || !q.Partial {
			t.Errorf("it was shown %d bytes, a part %v", len(q.Content), q.Partial)
		}
	}
	for i := range n {
		g.answer <- extauthz.Answer{Allowed: i%2 == 0, Status: 403}
	}
	wg.Wait()
	if passed.Load() != n/2 || refused.Load() != n/2 {
		t.Errorf("%d passed and %d were refused, want %d of each", passed.Load(), refused.Load(), n/2)
	}
}

// TestClientsGoDuringAQuestion gives up a thousand requests while the question
// about them is open, and looks for what they leave behind.
func TestClientsGoDuringAQuestion(t *testing.T) {
	m, g := gated(t, authz.Provider{Body: &authz.Body{Max: 1000, AllowPartial: true}})
	clients := []*meshtest.Client{m.From("web")}
	for range 8 { // so that no connection has more streams reset than is taken for an attack
		clients = append(clients, m.FromHTTP2("web"))
	}
	for _, c := range clients {
		g.yes()
		c.Get("http://items/").Want(200)
		<-g.asked
	}
	before, buffers := runtime.NumGoroutine(), bufs.InUse()
	var wg sync.WaitGroup
	var next atomic.Int64
	var giveUp sync.Map // by path
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for range 1000 {
			cancel, _ := giveUp.Load((<-g.asked).Head.Path)
			cancel.(context.CancelFunc)()
		}
	}()
	for worker := range 8 {
		wg.Go(func() {
			for i := next.Add(1); i <= 1000; i = next.Add(1) {
				c := clients[1+worker] // an HTTP/1.1 request that is given up costs its connection
				if i%8 == 0 {
					c = clients[0]
				}
				ctx, cancel := context.WithCancel(t.Context())
				path := fmt.Sprintf("/%d", i)
				giveUp.Store(path, cancel)
				req, _ := http.NewRequestWithContext(ctx, "POST", "http://items"+path, strings.NewReader(strings.Repeat("x", 2000)))
				if resp, err := c.HTTP.Do(req); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, %v", resp, err)
				}
			}
		})
	}
	wg.Wait()
	<-gone
	m.Until("no question is open", func() bool { return g.open.Load() == 0 })
	m.WaitMetric(`istio_requests_total{reporter="waypoint",response_code="0",response_flags="DC"}`, 1000)
	for _, c := range clients {
		g.yes()
		c.Get("http://items/").Want(200) // all is in order still
		c.HTTP.CloseIdleConnections()
	}
	m.Until("buffers are back", func() bool { return bufs.InUse() <= buffers })
	m.Until("goroutines are back", func() bool { return runtime.NumGoroutine() <= before+4 })
}

// TestDrainDuringAQuestion waits for a question that is open when the drain
// begins, or at the deadline does not.
func TestDrainDuringAQuestion(t *testing.T) {
	for _, answered := range []bool{true, false} {
		t.Run(fmt.Sprintf("answered=%v", answered), func(t *testing.T) {
			m, g := gated(t, authz.Provider{})
			statuses := make(chan int, 2)
			for _, c := range []*meshtest.Client{m.From("web"), m.FromHTTP2("web")} {
				go func() { statuses <- c.Get("http://items/").Status }()
				<-g.asked
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error)
			go func() { done <- m.StopWaypoint(ctx, "waypoint") }()
			if answered {
				g.yes()
				g.yes()
			} else {
				cancel()
			}
			for range 2 {
				if got := <-statuses; (got == 200) != answered {
					t.Errorf("got status %d", got)
				}
			}
			if err := <-done; (err == nil) != answered {
				t.Errorf("shutdown: %v", err)
			}
			m.Until("no question is open", func() bool { return g.open.Load() == 0 })
		})
	}
}

// TestPolicyChangesDuringAQuestion judges a request by the policies that were in
// force when it came, and the next one by what is in force then.
func TestPolicyChangesDuringAQuestion(t *testing.T) {
	m, g := gated(t, authz.Provider{})
	c := m.From("web")
	status := make(chan int)
	go func() { status <- c.Post("http://items/", "").Status }()
	<-g.asked
	m.Apply(denyPost)
	g.yes()
	if got := <-status; got != 200 {
		t.Errorf("got %d, want 200: it came before the policy", got)
	}
	g.yes()
	c.Post("http://items/", "").Want(403).WantBody("RBAC: access denied")
	<-g.asked

	go func() { status <- c.Post("http://items/", "").Status }()
	<-g.asked
	m.Delete("AuthorizationPolicy/default/gate")
	m.Delete("AuthorizationPolicy/default/deny-post")
	g.answer <- extauthz.Answer{Status: 418}
	if got := <-status; got != 418 {
		t.Errorf("got %d, want 418: it came before the policy went", got)
	}
	c.Post("http://items/", "").Want(200)
}

// TestTimeoutOfAQuestion has one answered for the authorizer.
func TestTimeoutOfAQuestion(t *testing.T) {
	m, g := gated(t, authz.Provider{Timeout: time.Millisecond, StatusOnError: 504})
	m.From("web").Get("http://items/").Want(504)
	m.Until("no question is open", func() bool { return g.open.Load() == 0 })
	m.WantLog("response_code", 504, "response_flags", "UAEX", "response_code_details", "ext_authz_error")
}
