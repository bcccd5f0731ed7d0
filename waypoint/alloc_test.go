package waypoint

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/telemetry"
)

const (
	allocSessions = 64
	browser       = "GET /productpage?u=normal HTTP/1.1\r\n" +
		"Host: items.default.svc.cluster.local\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n" +
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" +
		"Accept-Encoding: gzip, deflate\r\n" +
		"Cookie: session=eyJ1c2VyIjoibm9ybWFsIn0.ZgF3xQ.5c0vXk1f8a2yF0m3n4o5p6q7r8s\r\n" +
		"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n" +
		"\r\n"
)

// page is a response with n bytes of content.
func page(n int) []byte {
	head := "HTTP/1.1 200 OK\r\nServer: gunicorn\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: " + strconv.Itoa(n) + "\r\n\r\n"
	return append([]byte(head), make([]byte, n)...)
}

// A quiet is a wire that remembers nothing but that it was written to.
type quiet struct {
	wire
	written int
}

func (q *quiet) Write(p []byte) int { q.written += len(p); return 0 }

// silent leaves the access log out, which a test would pay for.
func silent(o *Options) {
	tel, err := telemetry.New(telemetry.Options{Program: telemetry.Waypoint}) // metrics alone
	if err != nil {
		panic(err)
	}
	o.Telemetry = tel
}

// A hub drives exchanges through a worker, in batches of one for each session:
// every client asks, every endpoint answers.
type hub struct {
	r       *rig
	clients []*quiet
	legs    []*quiet
	request []byte
	answer  []byte
	asked   int // how often endpoints were
	batch   func()
	done    chan struct{}
	serve   func()
	finish  func()
}

func newHub(tb testing.TB, content int) *hub {
	h := &hub{r: newRig(tb, silent), request: []byte(browser), answer: page(content), done: make(chan struct{})}
	r := h.r
	r.do(func() {
		r.k.dial = func(_ *origin, ready dialed) func() {
			leg := &quiet{}
			h.legs = append(h.legs, leg)
			r.loop.Do(func() { ready(leg, leg.SetReceiver, nil) })
			return func() {}
		}
		for range allocSessions {
			c := &quiet{}
			r.openOn(c)
			h.clients = append(h.clients, c)
		}
	})
	h.finish = func() { h.done <- struct{}{} }
	h.serve = func() {
		for _, leg := range h.legs {
			if leg.written > 0 {
				leg.written = 0
				h.asked++
				leg.r.Data(h.answer)
			}
		}
		r.loop.Do(h.finish)
	}
	h.batch = func() {
		for _, c := range h.clients {
			c.written = 0
			c.r.Data(h.request)
		}
		r.loop.Do(h.serve)
	}
	for range 3 { // until every session has a connection
		r.do(func() {
			for _, c := range h.clients {
				c.r.Data(h.request)
			}
		})
		r.do(func() {
			for _, leg := range h.legs {
				if leg.written > 0 {
					leg.written = 0
					leg.r.Data(h.answer)
				}
			}
		})
	}
	return h
}

// withToken has requests bring a token, and destinations take it.
func (h *hub) withToken() {
	i := NewIssuer(1)
	h.r.apply(fmt.Sprintf(TakesTokens, "jwks: '"+i.Keys()+"'"))
	h.request = []byte(strings.Replace(browser, "Accept:", "Authorization: Bearer "+i.Token(nil)+"\r\nAccept:", 1))
}

// run carries one exchange through every session.
func (h *hub) run() {
	h.r.loop.Do(h.batch)
	<-h.done
}

func (h *hub) close() {
	h.r.do(func() {
		for _, c := range h.clients {
			c.r.EOF()
		}
	})
	for _, leg := range h.legs {
		h.r.do(func() { leg.r.Reset(nil) })
	}
}

// TestExchangeAllocs counts what an HTTP/1.1 exchange allocates on its way
// through the waypoint: codecs, exchange, policy, route, record. The tunnels are
// the test's, so nothing is counted of HBONE and TLS.
func TestExchangeAllocs(t *testing.T) { testAllocs(t, newHub(t, 16)) }

// TestExchangeAllocsOfAToken counts the same for requests that bring a token, which
// was verified before: it is taken out, and its subject told to the destination.
func TestExchangeAllocsOfAToken(t *testing.T) {
	h := newHub(t, 16)
	h.withToken()
	testAllocs(t, h)
}

func testAllocs(t *testing.T, h *hub) {
	t.Helper()
	defer h.close()
	if raceOn {
		t.Skip("pools are leaky under the race detector")
	}
	h.run()
	const rounds = 100
	got := testing.AllocsPerRun(rounds, h.run) / allocSessions
	if got >= 0.1 {
		t.Errorf("%.3f allocations for each exchange, want less than 0.1", got)
	}
	h.asked = 0
	if h.run(); h.asked != allocSessions {
		t.Errorf("%d of %d requests came to an endpoint", h.asked, allocSessions)
	}
	for i, c := range h.clients {
		if c.written == 0 {
			t.Fatalf("client %d has no answer", i)
		}
	}
}

// BenchmarkMachinery is an exchange between tunnels that cost nothing: HTTP/1.1 on
// both sides, 64 clients, without HBONE, TLS and sockets.
func BenchmarkMachinery(b *testing.B) {
	for _, c := range []struct {
		name    string
		content int
	}{{"get", 0}, {"token", 0}, {"1k", 1 << 10}, {"64k", 64 << 10}} {
		b.Run(c.name, func(b *testing.B) {
			h := newHub(b, c.content)
			defer h.close()
			if c.name == "token" {
				h.withToken()
			}
			b.SetBytes(int64(c.content))
			b.ReportAllocs()
			b.ResetTimer()
			for range (b.N + allocSessions - 1) / allocSessions {
				h.run()
			}
		})
	}
}
