package h1

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// wire is a stream that notes what is done to it. It has room for room bytes
// more; the rest waits until drain.
type wire struct {
	out      bytes.Buffer
	writes   int
	credited int
	closed   bool
	reset    bool
	err      error
	tight    bool // room counts
	room     int
	queued   int
}

func (w *wire) Write(p []byte) int {
	if w.closed || w.reset {
		return 0
	}
	w.writes++
	w.out.Write(p)
	if !w.tight {
		return 0
	}
	q := max(len(p)-w.room, 0)
	w.room -= len(p) - q
	w.queued += q
	return q
}
func (w *wire) CloseWrite()     { w.closed = true }
func (w *wire) Credit(n int)    { w.credited += n }
func (w *wire) Reset(err error) { w.reset, w.err = true, err }
func (w *wire) Queued() int     { return w.queued }

// drain lets n of the waiting bytes leave.
func (w *wire) drain(r flow.Receiver, n int) {
	n = min(n, w.queued)
	w.queued -= n
	r.Sent(n)
}

// journal is what a handler was told, one line an event; consecutive content is
// one event, for where it is cut means nothing.
type journal struct {
	b       strings.Builder
	content strings.Builder
	in      bool
}

func (j *journal) add(format string, args ...any) {
	j.flush()
	fmt.Fprintf(&j.b, format+"\n", args...)
}

func (j *journal) data(p []byte) { j.content.Write(p); j.in = true }

func (j *journal) flush() {
	if j.in {
		j.in = false
		fmt.Fprintf(&j.b, "content %q\n", j.content.String())
		j.content.Reset()
	}
}

func (j *journal) fields(f l7.Fields) {
	for _, f := range f {
		j.add("  %s: %s", f.Name, f.Value)
	}
}

func (j *journal) String() string { j.flush(); return j.b.String() }

func text(err error) string {
	if err == nil {
		return "well"
	}
	return strings.TrimPrefix(err.Error(), "h1: ")
}

// asked is a ServerHandler that journals, credits what it is lent, and answers
// complete requests.
type asked struct {
	journal
	c      *Server
	last   *l7.Request   // of the exchange
	answer func(*asked)  // to a complete request; nil answers 200 ok
	head   func(*asked)  // to a head, before its content; nil does nothing
	raw    func([]byte)  // to bytes after a 101
	all    []*l7.Request // every request
	bodies []string      // and its content
	done   []bool        // and whether it was complete
	up     bool
}

func (a *asked) Request(r *l7.Request, end bool) {
	a.add("request %s %s %s length=%d end=%v %v", r.Method, r.Authority, r.Path, r.Length, end, r.Protocol)
	a.fields(r.Fields)
	if r.Upgrade != "" {
		a.add("  upgrade to %s", r.Upgrade)
	}
	a.last = r.Clone()
	a.all, a.bodies, a.done = append(a.all, a.last), append(a.bodies, ""), append(a.done, end)
	if a.head != nil {
		a.head(a)
	}
	if end {
		a.respond()
	}
}

func (a *asked) respond() {
	if a.answer != nil {
		a.answer(a)
		return
	}
	if err := a.c.Respond(&l7.Response{Status: 200, Length: 2}, false); err == nil {
		a.c.Write([]byte("ok"))
		a.c.End(nil)
	}
}

func (a *asked) Content(p []byte) {
	a.data(p)
	a.bodies[len(a.bodies)-1] += string(p)
	a.c.Credit(len(p))
	if a.raw != nil {
		a.raw(p)
	}
}

func (a *asked) End(t l7.Fields) {
	a.add("end")
	a.fields(t)
	if a.up {
		a.c.End(nil)
		return
	}
	a.done[len(a.done)-1] = true
	a.respond()
}

func (a *asked) Sent(n int)                 { a.add("sent %d", n) }
func (a *asked) EOF()                       { a.add("eof") }
func (a *asked) Reset(err error)            { a.add("reset %s", text(err)) }
func (a *asked) Malformed(s int, err error) { a.add("malformed %d %s", s, text(err)) }
func (a *asked) Closed(err error)           { a.add("closed %s", text(err)) }

// answered is a ClientHandler that journals and credits what it is lent.
type answered struct {
	journal
	c       *Client
	last    *l7.Response
	body    string
	trailer l7.Fields
	whole   bool
	failed  bool
	done    func() // when the response is complete
}

func (a *answered) Response(r *l7.Response, end bool) {
	a.add("response %d length=%d end=%v", r.Status, r.Length, end)
	a.fields(r.Fields)
	if r.Upgrade != "" {
		a.add("  upgrade to %s", r.Upgrade)
	}
	if r.Status >= 200 || r.Status == 101 {
		a.last = r.Clone()
	}
	if end {
		a.complete()
	}
}

func (a *answered) complete() {
	a.whole = true
	if a.done != nil {
		a.done()
	}
}

func (a *answered) Content(p []byte) {
	a.data(p)
	a.body += string(p)
	a.c.Credit(len(p))
}

func (a *answered) End(t l7.Fields) {
	a.add("end")
	a.fields(t)
	a.trailer = t.Clone()
	a.complete()
}

func (a *answered) Sent(n int)      { a.add("sent %d", n) }
func (a *answered) Reset(err error) { a.failed = true; a.add("reset %s", text(err)) }
func (a *answered) Closed(err error) {
	a.failed = a.failed || err != nil
	a.add("closed %s", text(err))
}

// pieces calls f with every way to cut in: whole, in two at every byte, and
// byte by byte. A piece is overwritten after its call, as a read buffer is.
func pieces(in string, f func(name string, feed func(flow.Receiver))) {
	give := func(r flow.Receiver, s string) {
		if s == "" {
			return
		}
		p := []byte(s)
		r.Data(p)
		for i := range p {
			p[i] = '?'
		}
	}
	f("whole", func(r flow.Receiver) { give(r, in) })
	for i := 1; i < len(in); i++ {
		f(fmt.Sprintf("cut at %d", i), func(r flow.Receiver) { give(r, in[:i]); give(r, in[i:]) })
	}
	f("byte by byte", func(r flow.Receiver) {
		for i := range len(in) {
			give(r, in[i:i+1])
		}
	})
}

// crlf turns the lines of a script into those of the wire.
func lines(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// holdsNothing fails the test if buffers are out at its end that were not at
// its start.
func holdsNothing(t testing.TB) {
	t.Helper()
	before := bufs.InUse()
	t.Cleanup(func() {
		if after := bufs.InUse(); after != before {
			t.Errorf("bufs.InUse() = %d, want %d", after, before)
		}
	})
}

var errTest = errors.New("gone")
