package h1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/l7"
)

func TestClientReuse(t *testing.T) {
	holdsNothing(t)
	w := &wire{}
	c := NewClient(w, nil, Limits{})
	for i := range 3 {
		a := &answered{c: c}
		a.done = func() { want(t, "Reusable when told of the end", c.Reusable(), true) }
		c.Attach(a)
		if err := c.Request(get(fmt.Sprintf("/%d", i)), true); err != nil {
			t.Fatal(err)
		}
		want(t, "Reusable", c.Reusable(), false)
		c.Data([]byte(lines("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")))
		want(t, "body", a.body, "ok")
		c.Detach()
	}
	pool := &answered{c: c}
	c.Attach(pool)
	c.EOF()
	want(t, "events", pool.String(), "closed well\n")
	want(t, "Reusable", c.Reusable(), false)
	want(t, "closed", w.closed, true)
	want(t, "Request", c.Request(get("/"), true), ErrState)
}

// A destination answers a request that has not been asked: the next to ask must
// not get it.
func TestClientStrayBytesAreNoResponse(t *testing.T) {
	w := &wire{}
	c := NewClient(w, nil, Limits{})
	a := &answered{c: c}
	a.done = func() { want(t, "Reusable", c.Reusable(), false) }
	c.Attach(a)
	_ = c.Request(get("/1"), true)
	c.Data([]byte(strings.Repeat(lines("HTTP/1.1 200 OK\nContent-Length: 2\n\nok"), 2)))
	want(t, "reset", w.reset, true)
	want(t, "err", w.err, error(errStray))

	w = &wire{}
	pool := &answered{}
	c = NewClient(w, pool, Limits{})
	c.Data([]byte("HTTP/1.1 408 Request Timeout\r\n\r\n"))
	want(t, "reset", w.reset, true)
	want(t, "events", pool.String(), "closed bytes that belong to no response\n")
}

func TestClientNextRequestFromEnd(t *testing.T) {
	w := &wire{}
	c := NewClient(w, nil, Limits{})
	a := &answered{c: c}
	left := 2
	a.done = func() {
		if left--; left > 0 {
			want(t, "Request", c.Request(get("/2"), true), nil)
		}
	}
	c.Attach(a)
	_ = c.Request(get("/1"), true)
	for range 2 {
		c.Data([]byte(lines("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")))
	}
	want(t, "body", a.body, "okok")
	want(t, "Reusable", c.Reusable(), true)
}

func TestClientCreditsAndSent(t *testing.T) {
	w := &wire{tight: true}
	h := &stingy{}
	c := NewClient(w, h, Limits{})
	post := &l7.Request{Method: "POST", Authority: "a", Path: "/", Length: 4}
	w.room = 10
	_ = c.Request(post, false)
	framing := w.queued
	want(t, "Write", c.Write([]byte("abcd")), 4)
	w.drain(c, framing+1)
	c.End(nil)
	in := lines("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello")
	c.Data([]byte(in))
	want(t, "credited", w.credited, len(in)-5)
	want(t, "Reusable with bytes waiting", c.Reusable(), false)
	w.drain(c, 3)
	want(t, "sent", h.sent, 4)
	want(t, "Reusable", c.Reusable(), true)
	c.Credit(2)
	want(t, "credited", w.credited, len(in)-3)
	c.Detach()
	want(t, "credited", w.credited, len(in))
	c.Credit(2)
	want(t, "credited", w.credited, len(in))
}

// What one user of a pooled connection does not credit, the next does not miss.
func TestClientRequestCreditsTheRest(t *testing.T) {
	w := &wire{}
	c := NewClient(w, &stingy{}, Limits{})
	in := lines("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello")
	for i := range 3 {
		want(t, "Request", c.Request(get("/"), true), nil)
		want(t, "credited", w.credited, i*len(in))
		c.Data([]byte(in))
		want(t, "credited", w.credited, (i+1)*len(in)-5)
	}
}

func TestClientClosedFromItsLastEvent(t *testing.T) {
	for _, in := range []string{
		"HTTP/1.1 200 OK\n\nuntil close",
		"HTTP/1.1 200 OK\nConnection: close\nContent-Length: 2\n\nok",
		"HTTP/1.1 200 OK\nContent-Length: 2\n\nokstray",
	} {
		w := &wire{}
		a := &answered{}
		c := NewClient(w, a, Limits{})
		a.c, a.done = c, c.Close
		_ = c.Request(get("/"), true)
		c.Data([]byte(lines(in)))
		c.EOF()
		want(t, "closed", w.closed, true)
		want(t, "closings", strings.Count(a.String(), "closed well\n"), 1)
	}
}

func TestClientDetachedGoesOn(t *testing.T) {
	w := &wire{}
	c := NewClient(w, nil, Limits{})
	_ = c.Request(get("/"), true)
	in := lines("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n0\n\n")
	c.Data([]byte(in))
	want(t, "credited", w.credited, len(in))
	want(t, "Reusable", c.Reusable(), true)
	_ = c.Request(get("/"), true)
	c.EOF()
	want(t, "reset", w.reset, true)
}

// stingy is a handler that credits nothing.
type stingy struct {
	answered
	sent int
}

func (*stingy) Content([]byte)                  {}
func (*stingy) Response(r *l7.Response, _ bool) {}
func (*stingy) End(l7.Fields)                   {}
func (s *stingy) Sent(n int)                    { s.sent += n }

func TestClientRefusesWrongLengths(t *testing.T) {
	for _, f := range []func(*Client){
		func(c *Client) { c.Write([]byte("abcde")) },
		func(c *Client) { c.Write([]byte("abc")); c.End(nil) },
	} {
		w, a := &wire{}, &answered{}
		c := NewClient(w, a, Limits{})
		_ = c.Request(&l7.Request{Method: "POST", Authority: "a", Path: "/", Length: 4}, false)
		f(c)
		want(t, "err", w.err, ErrLength)
		want(t, "events", a.String(), "reset content does not have the declared length\nclosed content does not have the declared length\n")
	}
}

func TestClientSwitched(t *testing.T) {
	w, a := &wire{}, &answered{}
	c := NewClient(w, a, Limits{})
	a.c = c
	_ = c.Request(&l7.Request{Method: "GET", Authority: "a", Path: "/", Upgrade: "websocket"}, true)
	want(t, "Write before the 101", c.Write([]byte("x")), 0)
	c.Data([]byte(lines("HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: upgrade\n\n")))
	w.out.Reset()
	c.Write([]byte("raw\r\n"))
	want(t, "output", w.out.String(), "raw\r\n")
	c.EOF()
	want(t, "closed", w.closed, false)
	c.Write([]byte("more"))
	c.End(nil)
	want(t, "closed", w.closed, true)
	want(t, "output", w.out.String(), "raw\r\nmore")
	want(t, "events", a.String(), "response 101 length=0 end=false\n  upgrade to websocket\nend\nclosed well\n")
	want(t, "Reusable", c.Reusable(), false)
}

func TestClientCloseAndReset(t *testing.T) {
	w, a := &wire{}, &answered{}
	c := NewClient(w, a, Limits{})
	c.Close()
	want(t, "closed", w.closed, true)
	want(t, "Reusable", c.Reusable(), false)
	c.Data([]byte("late"))
	c.EOF()
	want(t, "events", a.String(), "closed well\n")

	w, a = &wire{}, &answered{}
	c = NewClient(w, a, Limits{})
	_ = c.Request(get("/"), true)
	c.Close()
	want(t, "reset", w.reset, true)
	want(t, "events", a.String(), "")

	w, a = &wire{}, &answered{}
	c = NewClient(w, a, Limits{})
	_ = c.Request(get("/"), true)
	c.Reset(errTest)
	c.Data([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	c.EOF()
	c.Sent(1)
	c.Abort(nil)
	c.Flush()
	want(t, "events", a.String(), "reset gone\nclosed gone\n")
}
