package waypoint

import (
	"errors"
	"testing"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// get sends a request without content on a stream of its own.
func (a *h2Actor) get() *h2.Stream {
	s, _ := a.conn.Open(l7.Fields{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "items"}, {Name: ":path", Value: "/"},
	}, true)
	a.push()
	return s
}

// onlyOne leaves one endpoint, so that requests go to the same connection.
func onlyOne(r *rig) {
	d := r.sessions[0].dest
	d.Endpoints = d.Endpoints[:1]
}

// TestWaitersShareADial opens one HTTP/2 connection for many exchanges; one that
// gives up leaves it to the others, and when it fails they all go on.
func TestWaitersShareADial(t *testing.T) {
	r := newRig(t, nil)
	var w *wire
	var c *h2Actor
	var streams []*h2.Stream
	r.do(func() {
		w = r.open()
		onlyOne(r)
		c = newH2Actor(r, w, h2.Client)
		for range 5 {
			streams = append(streams, c.get())
		}
	})
	if n := len(r.dials); n != 1 {
		t.Fatalf("%d dials, want 1", n)
	}
	r.do(func() {
		streams[1].Reset(nil)
		c.push()
	})
	r.do(func() { r.dials[0].refused() })
	var leg *wire
	if n := len(r.dials); n != 2 {
		t.Fatalf("%d dials after the first failed, want one more for all", n)
	}
	r.do(func() { leg = r.dials[1].connected() })
	var s *h2Actor
	r.do(func() { s = newH2Actor(r, leg, h2.Server) })
	r.do(func() {
		if n := s.conn.Active(); n != 4 {
			t.Errorf("%d streams on the connection, want 4", n)
		}
		w.peerReset(errors.New("over"))
	})
	r.do(func() {
		if n := s.conn.Active(); n != 0 {
			t.Errorf("%d streams are left on it", n)
		}
	})
	r.wantNothingLeft()
}

// TestConnectionAtItsLimit opens another connection when the endpoint takes one
// stream at a time, and uses each again.
func TestConnectionAtItsLimit(t *testing.T) {
	r := newRig(t, func(o *Options) { o.HTTP2.MaxStreams = 1 })
	var tunnels []*wire
	var clients []*h2Actor
	r.do(func() {
		for range 3 {
			w := r.open()
			onlyOne(r)
			tunnels = append(tunnels, w)
			clients = append(clients, newH2Actor(r, w, h2.Client))
		}
	})
	for _, c := range clients {
		r.do(func() { c.get() })
	}
	servers := map[*wire]*h2Actor{}
	for i := 0; i < len(r.dials); i++ {
		r.do(func() {
			leg := r.dials[i].connected()
			servers[leg] = newH2Actor(r, leg, h2.Server)
		})
	}
	if n := len(r.dials); n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
	for range 2 {
		r.do(func() {
			for _, s := range servers {
				s.stream.Headers(l7.Fields{{Name: ":status", Value: "204"}}, true)
				s.push()
			}
		})
		for _, c := range clients {
			r.do(func() {
				if !c.end {
					t.Errorf("a client has no answer")
				}
				c.end = false
				c.get()
			})
		}
	}
	if n := len(r.dials); n != 3 {
		t.Errorf("%d connections after more requests, want the same 3", n)
	}
	r.do(func() {
		for _, w := range tunnels {
			w.eof()
		}
	})
	r.wantNothingLeft()
}

// TestOriginForgottenWhileInUse lets a worker forget an endpoint whose only
// connection is in use: the connection comes back all the same, and is used
// again.
func TestOriginForgottenWhileInUse(t *testing.T) {
	r := newRig(t, nil)
	var w, leg *wire
	ask := func() { w.arrive("GET / HTTP/1.1\r\nHost: items\r\n\r\n") }
	r.do(func() {
		w = r.open()
		onlyOne(r)
		ask()
	})
	r.do(func() { leg = r.dials[0].connected() })
	r.do(r.k.tick)
	r.do(func() {
		if n := len(r.k.origins); n != 0 {
			t.Errorf("%d origins, want none", n)
		}
		leg.arrive("HTTP/1.1 204 No Content\r\n\r\n")
	})
	r.do(ask)
	r.do(func() {
		if len(r.dials) != 1 || len(r.k.origins) != 1 {
			t.Errorf("%d dials and %d origins, want the connection back in its place", len(r.dials), len(r.k.origins))
		}
		leg.arrive("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	})
	r.do(func() {
		if !leg.closed || len(r.k.closing) != 1 {
			t.Errorf("closed %v, %d closing", leg.closed, len(r.k.closing))
		}
		leg.eof()
		w.eof()
	})
	r.wantNothingLeft()
}
