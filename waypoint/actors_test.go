package waypoint

import (
	"strconv"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// An actor plays one end of one exchange: the client, or the endpoint.
type actor interface {
	part()           // half of the head of the request
	head(length int) // the head, or the rest of it
	body(n int)      // content; what completes the declared length ends the message
	received() int   // content that has come from the waypoint
	begun() bool     // its head has come
	ended() bool     // and its end
	canceled() bool  // the waypoint gave the exchange up
	leave(n int)     // n more bytes of content from the waypoint are taken
}

// An h1Actor speaks HTTP/1.1.
type h1Actor struct {
	w      *wire
	server bool
	half   bool
}

func (a *h1Actor) text(length int) string {
	if a.server {
		return "HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(length) + "\r\n\r\n"
	}
	return "POST /thing HTTP/1.1\r\nHost: items\r\nContent-Length: " + strconv.Itoa(length) + "\r\n\r\n"
}

func (a *h1Actor) part() { a.half = true; a.w.arrive(a.text(0)[:20]) }
func (a *h1Actor) head(length int) {
	text := a.text(length)
	if a.half {
		text = text[20:]
	}
	a.w.arrive(text)
}
func (a *h1Actor) body(n int) { a.w.arrive(strings.Repeat("x", n)) }
func (a *h1Actor) content() (string, bool) {
	_, content, ok := strings.Cut(string(a.w.out), "\r\n\r\n")
	return content, ok
}
func (a *h1Actor) received() int  { content, _ := a.content(); return len(content) - a.w.queued }
func (a *h1Actor) begun() bool    { _, ok := a.content(); return ok }
func (a *h1Actor) ended() bool    { return a.received() == bodySize }
func (a *h1Actor) canceled() bool { return a.w.reset }
func (a *h1Actor) leave(n int)    { a.w.leave(n) }

// An h2Actor speaks HTTP/2. Of content it credits what it was told to take.
type h2Actor struct {
	w      *wire
	conn   *h2.Conn
	stream *h2.Stream
	server bool
	refuse bool // every stream
	taken  int  // of w.out
	half   string
	left   int // of the content that we declared
	take   int // content that we will still credit
	owed   int // content that we have not credited

	content int
	open    bool
	end     bool
	gone    bool
}

// newH2Actor puts HTTP/2 on w. It is pumped by the rig.
func newH2Actor(r *rig, w *wire, role h2.Role) *h2Actor {
	a := &h2Actor{w: w, server: role == h2.Server, take: 1 << 30}
	a.conn = h2.New(role, h2.Options{StreamWindow: 4 << 10, Keepalive: -1}, a, time.Now())
	r.pumps = append(r.pumps, a.pump)
	r.closers = append(r.closers, func() { a.conn.Closed(nil) })
	return a
}

func (a *h2Actor) pump() (moved bool) {
	for a.taken < len(a.w.out) && !a.w.over {
		p := a.w.out[a.taken:]
		a.taken = len(a.w.out)
		_ = a.conn.Receive(p)
		moved = true
	}
	if a.half == "" {
		moved = a.push() || moved
	}
	return moved
}

func (a *h2Actor) push() (moved bool) {
	for p := a.conn.Output(); p != nil; p = a.conn.Output() {
		a.w.arrive(string(p))
		moved = true
	}
	return moved
}

func (a *h2Actor) request(length int) {
	a.left = length
	a.stream, _ = a.conn.Open(l7.Fields{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "items"},
		{Name: ":path", Value: "/thing"}, {Name: "content-length", Value: strconv.Itoa(length)},
	}, false)
}

func (a *h2Actor) part() {
	a.request(bodySize)
	p := string(a.conn.Output())
	a.half = p[len(p)-10:]
	a.w.arrive(p[:len(p)-10])
}

func (a *h2Actor) head(length int) {
	switch {
	case a.server:
		a.left = length
		a.stream.Headers(l7.Fields{{Name: ":status", Value: "200"}, {Name: "content-length", Value: strconv.Itoa(length)}}, false)
	case a.half != "":
		half := a.half
		a.half = ""
		a.w.arrive(half)
	default:
		a.request(length)
	}
	a.push()
}

func (a *h2Actor) body(n int) {
	a.stream.Write([]byte(strings.Repeat("x", n)))
	if a.left -= n; a.left == 0 {
		a.stream.CloseWrite()
	}
	a.push()
}

func (a *h2Actor) received() int  { return a.content }
func (a *h2Actor) begun() bool    { return a.open }
func (a *h2Actor) ended() bool    { return a.end }
func (a *h2Actor) canceled() bool { return a.gone || a.w.reset }
func (a *h2Actor) leave(n int)    { a.take += n; a.credit() }

func (a *h2Actor) credit() {
	n := min(a.take, a.owed)
	a.take -= n
	a.owed -= n
	if a.stream != nil {
		a.stream.Credit(n)
	}
}

// Headers and what follows are h2.Handler.
func (a *h2Actor) Headers(s *h2.Stream, _ l7.Fields, end bool) {
	if a.refuse {
		s.Reset(&h2.StreamError{Code: h2.CodeRefusedStream})
		return
	}
	a.stream, a.open, a.end = s, true, end
}

func (a *h2Actor) Data(_ *h2.Stream, p []byte, end bool) {
	a.content += len(p)
	a.owed += len(p)
	a.end = a.end || end
	a.credit()
}

func (a *h2Actor) Sent(*h2.Stream, int)    {}
func (a *h2Actor) Reset(*h2.Stream, error) { a.gone = true }
func (a *h2Actor) Changed()                {}
func (a *h2Actor) Closed(error)            {}
