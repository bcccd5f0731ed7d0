package inner

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/memnet"
)

// A rig is a client's and a server's connection on the two ends of a wire, on
// one loop inside a bubble.
type rig struct {
	*testing.T
	loop   *loop.Loop
	set    *Set
	client *Conn
	server *Conn
	got    string // content of the requests that the server was told of
	resets int    // streams of the client's
	over   int    // calls of onGone
	far    *loop.TCP
}

var get = l7.Fields{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/"}}

// each runs f in a bubble. Without serve the far end is a stream that nobody
// speaks HTTP/2 on.
func each(t *testing.T, serve bool, f func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		before := bufs.InUse()
		g, err := loop.NewGroup(1, loop.Options{Portable: true})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{T: t, loop: g.Loops()[0]}
		near, far := memnet.New().Pipe(netip.MustParseAddrPort("10.0.0.1:40000"), netip.MustParseAddrPort("10.0.0.2:80"))
		r.on(func() {
			r.set = NewSet(r.loop, h2.Options{})
			leg := loop.NewTCP(r.loop, loop.Plain(near), 0, nil)
			r.client = r.set.New(leg, h2.Client, (*asker)(r), func() { r.over++ })
			leg.SetReceiver(r.client)
			r.far = loop.NewTCP(r.loop, loop.Plain(far), 0, deaf{})
			if serve {
				r.server = r.set.New(r.far, h2.Server, (*answerer)(r), func() { r.over++ })
				r.far.SetReceiver(r.server)
			}
		})
		f(r)
		g.Close()
		if n := bufs.InUse() - before; n != 0 {
			t.Errorf("%d bytes of buffers are left", n)
		}
	})
}

// on runs f on the loop, and waits until nothing happens any more.
func (r *rig) on(f func()) {
	r.Helper()
	r.loop.Do(f)
	synctest.Wait()
}

func (r *rig) open(end bool) (s *h2.Stream) {
	r.Helper()
	r.on(func() {
		var err error
		if s, err = r.client.Open(get, end); err != nil {
			r.Error(err)
		}
	})
	return s
}

// wantLeft checks how many connections are in the set and how many are over.
func (r *rig) wantLeft(left, over int) {
	r.Helper()
	r.on(func() {
		if n := r.set.Len(); n != left || r.over != over {
			r.Errorf("%d connections are left, %d are over; want %d and %d", n, r.over, left, over)
		}
	})
}

func TestConnCarriesStreamsAndEndsWhenDrained(t *testing.T) {
	each(t, true, func(r *rig) {
		s := r.open(false)
		r.on(func() { s.Write([]byte("ping")) })
		r.on(func() {
			if r.client.Drain(); r.client.Available() != 0 {
				r.Error("a stream is available on a connection that drains")
			}
		})
		r.wantLeft(2, 0) // the stream goes on
		r.on(s.CloseWrite)
		if r.got != "ping" {
			r.Errorf("the server was sent %q", r.got)
		}
		r.wantLeft(0, 2)
	})
}

func TestCloseResetsStreams(t *testing.T) {
	each(t, true, func(r *rig) {
		r.open(false)
		r.on(func() {
			r.client.Close()
			if n := r.client.Available(); n != 0 {
				r.Errorf("%d streams are available on a closed connection", n)
			}
		})
		r.wantLeft(0, 2)
		if r.resets != 1 {
			r.Errorf("%d streams were reset, want 1", r.resets)
		}
	})
}

func TestBrokenStreamResetsStreams(t *testing.T) {
	each(t, true, func(r *rig) {
		r.open(false)
		r.on(func() { r.far.Reset(nil); r.server.Reset(nil) })
		r.wantLeft(0, 2)
		if r.resets != 1 {
			r.Errorf("%d streams were reset, want 1", r.resets)
		}
	})
}

func TestAbortResetsStreams(t *testing.T) {
	each(t, true, func(r *rig) {
		r.open(false)
		r.on(func() {
			r.client.Abort(nil)
			r.client.Abort(nil)
			if r.resets != 0 || r.client.Available() != 0 {
				r.Errorf("at once: %d streams are reset and %d available", r.resets, r.client.Available())
			}
		})
		r.wantLeft(0, 2)
		if r.resets != 1 {
			r.Errorf("%d streams were reset, want 1", r.resets)
		}
	})
}

// TestAbortOfAClosedConnection does not wait for the peer any more.
func TestAbortOfAClosedConnection(t *testing.T) {
	each(t, false, func(r *rig) {
		r.on(func() { r.client.Close() })
		r.wantLeft(1, 1)
		r.on(func() { r.client.Abort(nil) })
		r.wantLeft(0, 1)
	})
}

// TestPeerThatDoesNotCloseIsReset covers both steps: one that reads and does not
// close its end is waited for, but not for ever.
func TestPeerThatDoesNotCloseIsReset(t *testing.T) {
	each(t, false, func(r *rig) {
		r.on(func() { r.client.Close() })
		r.wantLeft(1, 1)
		r.on(func() { r.set.Tick(r.loop.Now().Add(closeTimeout)) })
		r.wantLeft(1, 1)
		r.on(func() { r.set.Tick(r.loop.Now().Add(closeTimeout + time.Millisecond)) })
		r.wantLeft(0, 1)
	})
}

func TestBytesThatAreNotHTTP2CloseTheConnection(t *testing.T) {
	each(t, false, func(r *rig) {
		r.on(func() { r.far.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) })
		r.wantLeft(1, 1)
		r.on(r.far.CloseWrite)
		r.wantLeft(0, 1)
	})
}

// An asker is a rig as its client's handler.
type asker rig

func (*asker) Headers(*h2.Stream, l7.Fields, bool) {}
func (*asker) Data(s *h2.Stream, p []byte, _ bool) { s.Credit(len(p)) }
func (*asker) Sent(*h2.Stream, int)                {}
func (a *asker) Reset(*h2.Stream, error)           { a.resets++ }
func (a *asker) Changed()                          { a.client.Settle() }
func (*asker) Closed(error)                        {}

// An answerer is a rig as its server's handler, which answers when the request
// is whole.
type answerer rig

func (*answerer) Headers(*h2.Stream, l7.Fields, bool) {}
func (a *answerer) Data(s *h2.Stream, p []byte, end bool) {
	a.got += string(p)
	s.Credit(len(p))
	if end {
		s.Headers(l7.Fields{{Name: ":status", Value: "200"}}, true)
	}
}
func (*answerer) Sent(*h2.Stream, int)    {}
func (*answerer) Reset(*h2.Stream, error) {}
func (a *answerer) Changed()              { a.server.Settle() }
func (*answerer) Closed(error)            {}

// deaf reads and says nothing.
type deaf struct{}

func (deaf) Data([]byte) {}
func (deaf) EOF()        {}
func (deaf) Sent(int)    {}
func (deaf) Reset(error) {}

var _ flow.Receiver = deaf{}
