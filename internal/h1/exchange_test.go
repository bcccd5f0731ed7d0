package h1

import (
	"errors"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// serve returns a server whose handler answers only when the test does.
func serve(t *testing.T, l Limits) (*Server, *asked, *wire) {
	t.Helper()
	holdsNothing(t)
	w, a := &wire{}, &asked{answer: func(*asked) {}}
	a.c = NewServer(w, a, l)
	return a.c, a, w
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if got != want {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

func TestServerKeepsPipelinedBytesUncredited(t *testing.T) {
	c, a, w := serve(t, Limits{})
	get := lines("GET /%d HTTP/1.1\nHost: a\n\n")
	c.Data([]byte(strings.Repeat(get, 3)[:2*len(get)+5]))
	want(t, "requests", len(a.all), 1)
	want(t, "credited", w.credited, len(get))
	want(t, "bufs.InUse() > 0", bufs.InUse() > 0, true)
	c.Data([]byte(get[5:]))
	for i := 1; i <= 3; i++ {
		want(t, "requests", len(a.all), i)
		want(t, "Idle", c.Idle(), false)
		if err := c.Respond(&l7.Response{Status: 200, Length: 0}, true); err != nil {
			t.Fatal(err)
		}
	}
	want(t, "credited", w.credited, 3*len(get))
	want(t, "Idle", c.Idle(), true)
	want(t, "writes", w.writes, 3)
}

func TestServerAnnouncesNextWhenContentHasLeft(t *testing.T) {
	c, a, w := serve(t, Limits{})
	w.tight = true
	c.Data([]byte(strings.Repeat(lines("GET / HTTP/1.1\nHost: a\n\n"), 2)))
	w.room = 1000
	_ = c.Respond(&l7.Response{Status: 200, Length: -1}, false)
	w.room = 5
	want(t, "Write(4)", c.Write([]byte("abcd")), 2) // size and CRLF went, and two bytes
	want(t, "Write(2)", c.Write([]byte("ef")), 2)
	w.room = 0
	c.Write(nil)
	c.End(nil)
	want(t, "queued", w.queued, 2+2+7+5)
	want(t, "requests", len(a.all), 1)
	w.drain(c, 12) // taken for framing: 2+5+5
	want(t, "requests", len(a.all), 1)
	w.drain(c, 3)
	want(t, "requests", len(a.all), 1)
	w.drain(c, 1)
	want(t, "requests", len(a.all), 2)
	if got, w := a.String(), "sent 3\nsent 1\n"; !strings.Contains(got, w) {
		t.Errorf("events\n%swant among them\n%s", got, w)
	}
	c.Abort(nil)
}

func TestServerTellsOfEOF(t *testing.T) {
	c, a, w := serve(t, Limits{})
	c.Data([]byte(strings.Repeat(lines("GET / HTTP/1.1\nHost: a\n\n"), 2)))
	c.EOF()
	want(t, "events", a.String(), "request GET a / length=0 end=true HTTP/1.1\neof\n")
	_ = c.Respond(&l7.Response{Status: 200}, true)
	want(t, "requests", len(a.all), 2)
	want(t, "closed", w.closed, false)
	_ = c.Respond(&l7.Response{Status: 200}, true)
	want(t, "closed", w.closed, true)
	if got, want := a.String(), "eof\nrequest GET a / length=0 end=true HTTP/1.1\neof\nclosed well\n"; !strings.HasSuffix(got, want) {
		t.Errorf("events\n%swant at their end\n%s", got, want)
	}
}

func TestServerClosedWaitsForTheLastByte(t *testing.T) {
	c, a, w := serve(t, Limits{})
	w.tight = true
	c.Data([]byte(lines("GET / HTTP/1.1\nHost: a\nConnection: close\n\n")))
	_ = c.Respond(&l7.Response{Status: 200, Length: 3}, false)
	want(t, "Write", c.Write([]byte("abc")), 3)
	c.End(nil)
	want(t, "closed", w.closed, true)
	c.EOF()
	if got := a.String(); strings.Contains(got, "closed") {
		t.Errorf("events\n%swithout closed wanted", got)
	}
	w.drain(c, w.queued)
	if got, want := a.String(), "sent 3\nclosed well\n"; !strings.HasSuffix(got, want) {
		t.Errorf("events\n%swant at their end\n%s", got, want)
	}
}

func TestServerHold(t *testing.T) {
	const headOf = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"
	get := []byte(lines("GET / HTTP/1.1\nHost: a\n\n"))
	c, _, w := serve(t, Limits{})
	begin := func(length int64) {
		t.Helper()
		w.out.Reset()
		w.writes = 0
		c.Data(append([]byte(nil), get...))
		c.Hold()
		if err := c.Respond(&l7.Response{Status: 200, Length: length}, false); err != nil {
			t.Fatal(err)
		}
		want(t, "writes", w.writes, 0)
	}

	begin(4)
	want(t, "Write", c.Write([]byte("ab")), 0)
	c.Write([]byte("cd"))
	c.End(nil)
	want(t, "writes", w.writes, 1)
	want(t, "output", w.out.String(), headOf+"abcd")

	begin(4)
	c.Flush()
	want(t, "output", w.out.String(), headOf)
	c.Write([]byte("abcd"))
	c.Flush()
	c.End(nil)
	want(t, "writes", w.writes, 2)

	begin(-1)
	c.Write([]byte("abc"))
	c.End(l7.Fields{{Name: "sum", Value: "3"}})
	want(t, "writes", w.writes, 1)
	want(t, "output", w.out.String(), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nsum: 3\r\n\r\n")

	begin(5000)
	c.Write(make([]byte, 5000))
	c.End(nil)
	want(t, "writes", w.writes, 2)

	begin(4)
	c.Write([]byte("ab"))
	c.Reset(errTest)
}

func TestServerRefusesWrongLengths(t *testing.T) {
	for _, f := range []func(*Server){
		func(c *Server) { c.Write([]byte("abcde")) },
		func(c *Server) { c.Write([]byte("abc")); c.Write([]byte("de")) },
		func(c *Server) { c.Write([]byte("abc")); c.End(nil) },
	} {
		c, a, w := serve(t, Limits{})
		c.Data([]byte(lines("GET / HTTP/1.1\nHost: a\n\n")))
		_ = c.Respond(&l7.Response{Status: 200, Length: 4}, false)
		f(c)
		want(t, "reset", w.reset, true)
		want(t, "err", w.err, ErrLength)
		if strings.Contains(w.out.String(), "abcd") {
			t.Errorf("output %q has more than was declared", w.out.String())
		}
		end := "reset content does not have the declared length\nclosed content does not have the declared length\n"
		if got := a.String(); !strings.HasSuffix(got, end) {
			t.Errorf("events\n%swant at their end\n%s", got, end)
		}
	}
}

func TestServerRespondErrors(t *testing.T) {
	field := func(name, value string) *l7.Response {
		return &l7.Response{Status: 200, Fields: l7.Fields{{Name: "x", Value: "y"}, {Name: name, Value: value}}}
	}
	c, _, w := serve(t, Limits{})
	want(t, "Respond without request", c.Respond(field("a", "b"), true), ErrState)
	c.Data([]byte(lines("GET / HTTP/1.1\nHost: a\n\n")))
	for _, r := range []*l7.Response{
		field("a", "b\r\nc: d"), field("a", "b\nc"), field("a", "b\x00"), field("a", "\x7f"), field("a\r\nb", "c"), field("", "c"),
		field("a b", "c"), field("a:", "c"), field(":status", "200"), field("Content-Length", "5"), {Status: 99}, {Status: 1000}, {Status: 0},
		{Status: 200, Length: 5},
		{Status: 103, Fields: l7.Fields{{Name: "a", Value: "\n"}}},
	} {
		want(t, "Respond", c.Respond(r, true), ErrInvalid)
	}
	want(t, "Respond 101 unasked", c.Respond(&l7.Response{Status: 101, Upgrade: "websocket"}, false), ErrState)
	want(t, "output", w.out.String(), "")
	want(t, "Respond", c.Respond(field("a", "tab\there \xe9"), true), nil)
	want(t, "Respond again", c.Respond(field("a", "b"), true), ErrState)

	c.Data([]byte(lines("GET / HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: websocket\n\n")))
	want(t, "Respond 101", c.Respond(&l7.Response{Status: 101, Upgrade: "a\r\nb: c"}, false), ErrInvalid)
	want(t, "Respond 101", c.Respond(&l7.Response{Status: 101}, false), ErrState)
	bad := field("a", "\n")
	bad.Status, bad.Upgrade = 101, "websocket"
	want(t, "Respond 101", c.Respond(bad, false), ErrInvalid)
	c.Abort(nil)
	c.Abort(nil)
}

func TestServerCloseAfter(t *testing.T) {
	c, a, w := serve(t, Limits{})
	get := lines("GET / HTTP/1.1\nHost: a\n\n")
	c.Data([]byte(get[:8]))
	c.CloseAfter() // a head has begun: it is answered
	want(t, "closed", w.closed, false)
	c.Data([]byte(get[8:] + get))
	_ = c.Respond(&l7.Response{Status: 200}, true)
	want(t, "output", w.out.String(), "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
	want(t, "closed", w.closed, true)
	want(t, "requests", len(a.all), 1)
	want(t, "credited", w.credited, 2*len(get))
	c.EOF()

	c, a, w = serve(t, Limits{})
	c.CloseAfter()
	want(t, "closed", w.closed, true)
	want(t, "events", a.String(), "")
	c.EOF()
	want(t, "events", a.String(), "closed well\n")
}

func TestServerTiresOfDropping(t *testing.T) {
	c, a, w := serve(t, Limits{Drain: 100})
	c.Data([]byte("\n"))
	want(t, "closed", w.closed, true)
	c.Data(make([]byte, 100))
	want(t, "reset", w.reset, false)
	c.Data(make([]byte, 1))
	want(t, "reset", w.reset, true)
	want(t, "events", a.String(), "malformed 400 line ends without CR\nclosed line ends without CR\n")

	// Chunks without end after an early answer.
	c, _, w = serve(t, Limits{Drain: 100})
	c.Data([]byte(lines("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n1\nx\n")))
	_ = c.Respond(&l7.Response{Status: 403}, true)
	want(t, "closed", w.closed, false)
	for range 101 {
		c.Data([]byte("1\r\nx\r\n"))
	}
	want(t, "closed", w.closed, true)
}

// An answered request goes wrong, or ends, before it is whole: the answer stands.
func TestServerAnsweredEarlyThenBroken(t *testing.T) {
	for _, f := range []func(*Server){
		func(c *Server) { c.Data([]byte("z")) },
		func(c *Server) { c.EOF() },
	} {
		c, a, w := serve(t, Limits{})
		c.Data([]byte(lines("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n1\nx\n")))
		_ = c.Respond(&l7.Response{Status: 403}, true)
		n := len(a.String())
		want(t, "closed", w.closed, false)
		f(c)
		want(t, "reset", w.reset, false)
		want(t, "closed", w.closed, true)
		want(t, "output", w.out.String(), "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
		c.EOF()
		if got := a.String()[n:]; !strings.HasPrefix(got, "closed ") {
			t.Errorf("events %q, want closed alone", got)
		}
	}
}

func TestServerReset(t *testing.T) {
	c, a, _ := serve(t, Limits{})
	c.Data([]byte(lines("POST / HTTP/1.1\nHost: a\nContent-Length: 5\n\nh")))
	c.Reset(errTest)
	if got, want := a.String(), "content \"h\"\nreset gone\nclosed gone\n"; !strings.HasSuffix(got, want) {
		t.Errorf("events\n%swant at their end\n%s", got, want)
	}
	n := len(a.String())
	c.Data([]byte("ello"))
	c.Sent(3)
	c.EOF()
	c.Reset(nil)
	c.Credit(5)
	c.End(nil)
	c.Flush()
	want(t, "Write", c.Write([]byte("x")), 0)
	want(t, "Respond", c.Respond(&l7.Response{Status: 200}, true), ErrState)
	want(t, "len(events)", len(a.String()), n)
}

// A handler may abort from any call, with pipelined bytes and views about.
func TestServerAbortFromWithin(t *testing.T) {
	in := lines("POST /1 HTTP/1.1\nHost: a\nContent-Length: 2\n\nhiPOST /2 HTTP/1.1\nHost: abcd\nContent-Length: 2\n\nhiGET /3 HTTP/1.1\nHost: a\n\n")
	c, a, w := serve(t, Limits{})
	c.Data([]byte(in))
	a.head = func(a *asked) {
		c.Abort(nil)
		want(t, "Path", a.last.Path, "/2")
	}
	_ = c.Respond(&l7.Response{Status: 200}, true)
	want(t, "reset", w.reset, true)
	want(t, "requests", len(a.all), 2)
	if strings.Contains(a.String(), "closed") {
		t.Errorf("events\n%swithout closed wanted", a.String())
	}
}

func TestServerCreditsNoMoreThanItLent(t *testing.T) {
	c, _, w := serve(t, Limits{})
	in := lines("POST / HTTP/1.1\nHost: a\nContent-Length: 9\n\nhi")
	a := &lender{}
	c.h = a
	c.Data([]byte(in))
	want(t, "credited", w.credited, len(in)-2)
	c.Credit(1)
	want(t, "credited", w.credited, len(in)-1)
	c.Credit(100)
	want(t, "credited", w.credited, len(in))
	c.Data([]byte("1234567"))
	want(t, "credited", w.credited, len(in))
	_ = c.Respond(&l7.Response{Status: 200}, true)
	want(t, "credited", w.credited, len(in)+7) // the exchange is over
}

// lender never credits.
type lender struct{ asked }

func (*lender) Content([]byte)            {}
func (*lender) End(l7.Fields)             {}
func (*lender) Request(*l7.Request, bool) {}

func TestServerGathersLargeHeads(t *testing.T) {
	for _, size := range []int{100, 5000, 40_000, 65_000} {
		c, a, w := serve(t, Limits{})
		in := lines("GET / HTTP/1.1\nHost: a\nA: " + strings.Repeat("x", size) + "\n\n")
		for i := 0; i < len(in); i += 1000 {
			c.Data([]byte(in[i:min(i+1000, len(in))]))
		}
		want(t, "requests", len(a.all), 1)
		want(t, "len(a)", len(a.last.Fields.Get("a")), size)
		want(t, "credited", w.credited, len(in))
		_ = c.Respond(&l7.Response{Status: 200, Fields: a.last.Fields}, true)
		want(t, "Idle", c.Idle(), true)
	}
	c, a, _ := serve(t, Limits{})
	c.Data([]byte("GET / HTTP/1.1\r\nHost: a\r\n"))
	for range 70 {
		c.Data([]byte(strings.Repeat("A", 1000)))
	}
	want(t, "events", a.String(), "malformed 431 head is too large\n")
}

func TestErrorsAre(t *testing.T) {
	var e *Error
	if !errors.As(error(errBoth), &e) || e.Status != 400 {
		t.Errorf("errors.As(%v) = %v", errBoth, e)
	}
	want(t, "Error()", errBoth.Error(), "h1: both Content-Length and Transfer-Encoding")
	for s := 100; s < 600; s++ {
		if r := reason(s); strings.ContainsAny(r, "\r\n") {
			t.Errorf("reason(%d) = %q", s, r)
		}
	}
}
