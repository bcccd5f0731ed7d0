package waypoint

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/h2"
)

// TestAnsweredEarly has the endpoint answer before the request is whole: the
// answer arrives, the upstream is given up, and what is left of the request is
// the client connection's affair.
func TestAnsweredEarly(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%v", http2), func(t *testing.T) {
			r := newRig(t, nil)
			p := &play{r: r, http2: http2}
			r.do(func() { events[0].do(p) })
			r.do(func() { p.client.head(bodySize) })
			r.do(func() { p.client.body(1000) })
			r.do(func() {
				leg := r.dials[0].connected()
				if http2 {
					p.endpoint = newH2Actor(r, leg, h2.Server)
				} else {
					p.endpoint = &h1Actor{w: leg, server: true}
				}
			})
			r.do(func() { p.endpoint.head(10) })
			r.do(func() { p.endpoint.body(10) })
			r.do(func() {
				if got := p.client.received(); got != 10 {
					t.Errorf("the client got %d bytes, want 10", got)
				}
				if !p.endpoint.canceled() {
					t.Errorf("the rest of the request is still awaited")
				}
				if len(r.k.free) != 1 {
					t.Errorf("the exchange was not given back")
				}
				a, ok := p.client.(*h2Actor)
				if ok && !a.gone {
					t.Errorf("the client was not asked to send no more")
				}
				if !ok {
					p.client.body(bodySize - 1000) // and then the next request is read
					p.tunnel.arrive("GET /next HTTP/1.1\r\nHost: items\r\n\r\n")
				}
			})
			if !http2 {
				if n := len(r.dials); n != 2 {
					t.Fatalf("%d connections were dialled, want another for the next request", n)
				}
				r.do(func() { r.dials[1].connected() })
			}
			r.do(func() { p.tunnel.peerReset(errors.New("over")) })
			r.wantNothingLeft()
		})
	}
}

// TestRefusedWithContent has an authorizer refuse a request whose content was
// gathered, and partly sent to an endpoint that refused it: the client gets back
// exactly the credit that it gave.
func TestRefusedWithContent(t *testing.T) {
	r := newRig(t, nil)
	r.consult(shown(2000, true))
	var w *wire
	r.do(func() {
		w = r.open()
		w.arrive("POST / HTTP/1.1\r\nHost: items\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat("x", 2500))
	})
	r.do(func() { r.asked[0].answer(errors.New("no")) })
	r.do(func() { w.arrive(strings.Repeat("x", 2500) + "GET / HTTP/1.1\r\nHost: items\r\n\r\n") })
	r.do(func() {
		if got := string(w.out); !strings.HasPrefix(got, "HTTP/1.1 403 ") {
			t.Errorf("got %q, want 403", got)
		}
		if len(r.asked) != 2 {
			t.Errorf("%d questions, want another for the next request", len(r.asked))
		}
		if w.credited != w.sent {
			t.Errorf("credited %d of %d bytes", w.credited, w.sent)
		}
		w.eof()
	})
	r.wantNothingLeft()
}

// TestCreditAfterRetries counts the credit of a request that is sent three times
// with its content waiting in each.
func TestCreditAfterRetries(t *testing.T) {
	r := newRig(t, nil)
	var w *wire
	var c *h2Actor
	r.do(func() {
		w = r.open()
		c = newH2Actor(r, w, h2.Client)
		c.request(12000)
		c.push()
	})
	r.do(func() { c.body(6000) })
	for i := range 2 {
		var leg *wire
		r.do(func() { leg = r.dials[i].connected() })
		var s *h2Actor
		r.do(func() {
			s = newH2Actor(r, leg, h2.Server)
			s.take = 0 // it takes a window of 4 KiB and no more
		})
		r.do(func() {
			// Refused after it took some: on its word, nothing was done.
			s.stream.Reset(&h2.StreamError{Code: h2.CodeRefusedStream})
			s.push()
		})
		r.do(func() { c.body(1000) })
	}
	var leg *wire
	var s *h2Actor
	r.do(func() {
		leg = r.dials[2].connected()
		s = newH2Actor(r, leg, h2.Server)
		s.take = 0
	})
	r.do(func() { s.leave(3000) })
	r.do(func() { c.body(4000) })
	r.do(func() { s.leave(1 << 20) })
	r.do(func() { s.head(10); s.body(10) })
	r.do(func() {
		if s.content != 12000 || !s.end || c.content != 10 {
			t.Errorf("the endpoint got %d bytes, ended %v; the client %d", s.content, s.end, c.content)
		}
		w.peerReset(errors.New("over"))
	})
	r.wantNothingLeft()
}

// TestUpgradeEnds switches to another protocol and ends either direction first.
func TestUpgradeEnds(t *testing.T) {
	for _, first := range []string{"client", "endpoint"} {
		t.Run(first+" first", func(t *testing.T) {
			r := newRig(t, nil)
			var w, leg *wire
			r.do(func() {
				w = r.open()
				w.arrive("GET /chat HTTP/1.1\r\nHost: items\r\nConnection: upgrade\r\nUpgrade: words\r\n\r\n")
			})
			r.do(func() { leg = r.dials[0].connected() })
			r.do(func() {
				leg.arrive("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: words\r\n\r\nhello")
				w.arrive("good day")
			})
			ends := []func(){w.eof, leg.eof}
			other := leg
			if first == "endpoint" {
				ends[0], ends[1] = ends[1], ends[0]
				other = w
			}
			r.do(ends[0])
			r.do(func() {
				if !other.closed {
					t.Errorf("the end did not arrive")
				}
				if len(r.k.free) != 0 {
					t.Errorf("the exchange was given back with a direction open")
				}
				if first == "client" {
					leg.arrive(" still")
				} else {
					w.arrive(" still")
				}
			})
			r.do(ends[1])
			r.do(func() {
				if len(r.k.free) != 1 {
					t.Errorf("the exchange was not given back")
				}
				w.peerReset(errors.New("over"))
			})
			up, down := string(leg.out), string(w.out)
			if first == "client" {
				down = strings.TrimSuffix(down, " still")
			} else {
				up = strings.TrimSuffix(up, " still")
			}
			if !strings.HasSuffix(up, "\r\n\r\ngood day") || !strings.HasSuffix(down, "\r\n\r\nhello") {
				t.Errorf("got %q and %q", up, down)
			}
			r.wantNothingLeft()
			if lines := r.logged(); len(lines) != 1 || !strings.Contains(lines[0], `"response_code":101`) {
				t.Errorf("records: %q", lines)
			}
		})
	}
}

// TestPipelinedOverOneConnection answers pipelined requests whose responses come
// outside any call of the client's codec: each must find the connection of the
// one before free again.
func TestPipelinedOverOneConnection(t *testing.T) {
	r := newRig(t, nil)
	var w, leg *wire
	r.do(func() {
		w = r.open()
		onlyOne(r)
		w.arrive(strings.Repeat("GET / HTTP/1.1\r\nHost: items\r\n\r\n", 10))
	})
	r.do(func() { leg = r.dials[0].connected() })
	for i := range 10 {
		content := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
		if i%2 == 1 {
			content = "HTTP/1.1 204 No Content\r\n\r\n"
		}
		r.do(func() { leg.arrive(content) })
	}
	r.do(func() {
		if n := len(r.dials); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
		if n := strings.Count(string(w.out), "HTTP/1.1 20"); n != 10 {
			t.Errorf("%d answers, want 10", n)
		}
		if w.credited != w.sent {
			t.Errorf("credited %d of %d bytes", w.credited, w.sent)
		}
		w.eof()
	})
	r.wantNothingLeft()
}
