package h2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// A loop drives a Conn by these four.
var _ interface {
	Receive(p []byte) error
	EOF() error
	Output() []byte
	Closed(err error)
} = (*Conn)(nil)

var _ flow.Stream = (*Stream)(nil)

var (
	epoch     = time.Unix(1e9, 0)
	ok        = l7.Fields{{Name: ":status", Value: "200"}}
	toTunnel  = l7.Fields{{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: "10.0.0.1:80"}}
	toRequest = l7.Fields{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: "/"}}
)

// A pair is both roles, back to back in memory.
type pair struct {
	tb             testing.TB
	client, server *Conn
}

func newPair(tb testing.TB, o Options, client, server Handler) *pair {
	p := &pair{tb, New(Client, o, client, epoch), New(Server, o, server, epoch)}
	p.settle()
	return p
}

// settle carries output over until there is none.
func (p *pair) settle() {
	for {
		a, b := p.client.Output(), p.server.Output()
		if a == nil && b == nil {
			return
		}
		if err := p.server.Receive(a); err != nil {
			p.tb.Fatal("server:", err)
		}
		if err := p.client.Receive(b); err != nil {
			p.tb.Fatal("client:", err)
		}
	}
}

func (p *pair) open(f l7.Fields, end bool) *Stream {
	p.tb.Helper()
	s, err := p.client.Open(f, end)
	if err != nil {
		p.tb.Fatal(err)
	}
	return s
}

// watch is a Handler whose events are what a test cares about.
type watch struct {
	ignore
	headers func(s *Stream, f l7.Fields, end bool)
	data    func(s *Stream, p []byte, end bool)
	sent    func(s *Stream, n int)
	reset   func(s *Stream, err error)
	changed func()
}

func (w *watch) Headers(s *Stream, f l7.Fields, end bool) {
	if w.headers != nil {
		w.headers(s, f, end)
	}
}

func (w *watch) Data(s *Stream, p []byte, end bool) {
	if w.data != nil {
		w.data(s, p, end)
	}
}

func (w *watch) Sent(s *Stream, n int) {
	if w.sent != nil {
		w.sent(s, n)
	}
}

func (w *watch) Reset(s *Stream, err error) {
	if w.reset != nil {
		w.reset(s, err)
	}
}

func (w *watch) Changed() {
	if w.changed != nil {
		w.changed()
	}
}

func TestPairEchoesMoreThanTheWindows(t *testing.T) {
	before := bufs.InUse()
	content := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	var got [5][]byte
	ended := 0
	p := newPair(t, Options{}, &watch{data: func(s *Stream, b []byte, end bool) {
		i := s.Value.(int)
		got[i] = append(got[i], b...)
		s.Credit(len(b))
		if end {
			ended++
		}
	}}, echo{})
	for i := range got {
		s := p.open(toTunnel, false)
		s.Value = i
		s.Write(content)
		s.CloseWrite()
	}
	p.settle()
	for i := range got {
		if !bytes.Equal(got[i], content) {
			t.Errorf("stream %d: got %d bytes, want %d", i, len(got[i]), len(content))
		}
	}
	if ended != len(got) || p.client.Active() != 0 || p.server.Active() != 0 {
		t.Errorf("%d have ended, %d and %d are left", ended, p.client.Active(), p.server.Active())
	}
	if n := bufs.InUse() - before; n != 0 {
		t.Errorf("%d bytes of buffers are kept by idle connections", n)
	}
}

// What is queued is limited by what the other side has not credited: the memory
// rule of package flow.
func TestStalledStreamHoldsNoMoreThanItsWindow(t *testing.T) {
	const window = 100_000
	uncredited, most := 0, 0
	p := newPair(t, Options{StreamWindow: window}, ignore{}, &watch{data: func(s *Stream, b []byte, end bool) {
		uncredited += len(b)
		most = max(most, uncredited)
	}})
	stalled := p.open(toTunnel, false)
	stalled.Write(make([]byte, 10*window))
	p.settle()
	if most != window {
		t.Errorf("got %d bytes, want the window of %d", most, window)
	}
	if got, want := stalled.Queued(), 9*window; got != want {
		t.Errorf("got %d queued, want %d", got, want)
	}
	// The connection is free for others.
	other := p.open(toTunnel, false)
	if n := other.Write(make([]byte, 1000)); n != 0 {
		t.Errorf("%d bytes of another stream wait", n)
	}
	stalled.Reset(nil)
	other.Reset(nil)
}

func TestWakeIsCalledOncePerOutput(t *testing.T) {
	wakes := 0
	c := New(Client, Options{Wake: func() { wakes++ }}, ignore{}, epoch)
	drain(c)
	if wakes != 0 {
		t.Errorf("New: got %d wakes", wakes)
	}
	s, _ := c.Open(toTunnel, false)
	s.Write([]byte("a"))
	s.Write(make([]byte, 100_000))
	s.CloseWrite()
	if wakes != 1 {
		t.Errorf("after writing: got %d wakes, want 1", wakes)
	}
	drain(c)
	// The window is closed: there is nothing to put out.
	if s.Queued() == 0 || wakes != 1 {
		t.Errorf("got %d queued, %d wakes", s.Queued(), wakes)
	}
	s.Reset(nil)
	if wakes != 2 {
		t.Errorf("after Reset: got %d wakes, want 2", wakes)
	}
}

func drain(c *Conn) (n int) {
	for b := c.Output(); b != nil; b = c.Output() {
		n += len(b)
	}
	return n
}

func TestChangedFollowsWhatOpenCanDo(t *testing.T) {
	changes := 0
	var c *Conn
	p := newPair(t, Options{MaxStreams: 1}, &watch{changed: func() { changes++ }}, echo{})
	c = p.client
	if changes == 0 {
		t.Error("not told of the peer's SETTINGS")
	}
	p.open(toRequest, true)
	if got := c.Available(); got != 0 {
		t.Errorf("got %d available", got)
	}
	changes = 0
	p.settle()
	if changes == 0 || c.Available() != 1 {
		t.Errorf("after the response: %d changes, %d available", changes, c.Available())
	}
	s := p.open(toRequest, true)
	changes = 0
	s.Reset(nil)
	if changes != 0 {
		t.Error("told within the user's own call")
	}
	p.settle()
	if changes == 0 {
		t.Error("not told of the stream that was reset")
	}
	p.server.Drain()
	changes = 0
	p.settle()
	if changes == 0 || !c.Draining() || !c.Drained() || !p.server.Drained() {
		t.Errorf("after GOAWAY: %d changes, draining %t, drained %t and %t", changes, c.Draining(), c.Drained(), p.server.Drained())
	}
}

// The Handler may do anything to any stream from within an event.
func TestHandlerResetsFromWithinEvents(t *testing.T) {
	var streams []*Stream
	killAll := func() {
		for _, s := range streams {
			s.Write([]byte("x"))
			s.Reset(nil)
		}
	}
	for _, when := range []string{"headers", "data", "sent", "reset"} {
		t.Run(when, func(t *testing.T) {
			streams = nil
			w := &watch{}
			kill := func() { killAll() }
			switch when {
			case "headers":
				w.headers = func(*Stream, l7.Fields, bool) { kill() }
			case "data":
				w.data = func(*Stream, []byte, bool) { kill() }
			case "sent":
				w.sent = func(*Stream, int) { kill() }
			case "reset":
				w.reset = func(*Stream, error) { kill() }
			}
			p := newPair(t, Options{}, w, echo{})
			for range 5 {
				s := p.open(toTunnel, false)
				streams = append(streams, s)
				s.Write(make([]byte, 100_000))
				s.CloseWrite()
			}
			p.settle()
			p.client.Closed(errors.New("cut"))
			p.server.Closed(nil)
			if p.client.Active() != 0 || p.server.Active() != 0 {
				t.Errorf("%d and %d streams are left", p.client.Active(), p.server.Active())
			}
		})
	}
}

// A user who gives up whatever ends need not know whether it has ended already.
func TestResetOfWhatHasEndedIsNotSent(t *testing.T) {
	for _, content := range []bool{false, true} {
		ended := 0
		end := func(s *Stream, end bool) {
			if end {
				ended++
				s.Reset(&StreamError{Code: CodeNoError})
			}
		}
		p := newPair(t, Options{}, &watch{
			headers: func(s *Stream, _ l7.Fields, last bool) { end(s, last) },
			data:    func(s *Stream, _ []byte, last bool) { end(s, last) },
		}, &watch{headers: func(s *Stream, _ l7.Fields, _ bool) {
			s.Headers(ok, !content)
			if content {
				s.Write([]byte("x"))
				s.CloseWrite()
			}
		}})
		p.open(toRequest, true)
		for b := p.client.Output(); b != nil; b = p.client.Output() {
			if err := p.server.Receive(b); err != nil {
				t.Fatal(err)
			}
		}
		for b := p.server.Output(); b != nil; b = p.server.Output() {
			if err := p.client.Receive(b); err != nil {
				t.Fatal(err)
			}
		}
		if b := p.client.Output(); ended != 1 || p.client.Active() != 0 || bytes.Contains(b, []byte{0, 0, 4, typeReset}) {
			t.Errorf("content %t: ended %d times, %d streams left, sent %x", content, ended, p.client.Active(), b)
		}
	}
}

// A server whose answers are not read refuses to make more of them.
func TestServerRefusesWhileItsOutputIsClogged(t *testing.T) {
	refused := 0
	big := append(l7.Fields{}, ok...)
	big = append(big, l7.Field{Name: "x", Value: strings.Repeat("y", 5000)})
	p := newPair(t, Options{MaxStreams: 10_000}, &watch{reset: func(s *Stream, err error) {
		if Refused(err) {
			refused++
		}
	}}, &watch{headers: func(s *Stream, f l7.Fields, end bool) { s.Headers(big, true) }})
	for range 1000 {
		p.open(toRequest, true)
	}
	for b := p.client.Output(); b != nil; b = p.client.Output() {
		if err := p.server.Receive(b); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.server.out.waiting(); n > clogged+100<<10 {
		t.Errorf("%d bytes wait", n)
	}
	p.settle()
	if refused == 0 {
		t.Error("nothing was refused")
	}
}

// Fields may be views of a buffer that is overwritten: nothing of them is kept.
func TestHeadersKeepsNoStrings(t *testing.T) {
	var got []string
	p := newPair(t, Options{}, ignore{}, &watch{headers: func(s *Stream, f l7.Fields, end bool) {
		got = append(got, fmt.Sprint(f[4:]))
		s.Headers(ok, true)
	}})
	buf := []byte("x-name value value-two authorization secret")
	view := func(from, to int) string { return unsafe.String(&buf[from], to-from) }
	f := append(l7.Fields{}, toRequest...)
	f = append(f, l7.Field{Name: view(0, 6), Value: view(7, 12)}, l7.Field{Name: view(23, 36), Value: view(37, 43)})
	want := fmt.Sprint(f[4:])
	p.open(f, true)
	p.settle()
	copy(buf, "x-oops other")
	f[4] = l7.Field{Name: "x-oops", Value: "other"}
	p.open(f, true)
	p.settle()
	copy(buf, "x-name value")
	f[4] = l7.Field{Name: "x-name", Value: "value"}
	p.open(f, true)
	p.settle()
	if got[0] != want || got[2] != want || got[1] == want {
		t.Errorf("got %v", got)
	}
}

func TestManyFieldsDoNotFillTheEncoder(t *testing.T) {
	var e encoder
	e.init()
	for i := range 10_000 {
		e.encode(l7.Fields{{Name: "x", Value: fmt.Sprint(i)}, {Name: "y", Value: "same"}})
	}
	if n := len(e.kept); n > maxKept/33 {
		t.Errorf("%d fields are kept", n)
	}
	one := len(e.encode(l7.Fields{{Name: "y", Value: "same"}}))
	if one > 2 {
		t.Errorf("a field that comes again takes %d bytes", one)
	}
	for range 2 {
		if n := len(e.encode(l7.Fields{{Name: "cookie", Value: "secret"}})); n < 5 {
			t.Errorf("a secret was indexed: it takes %d bytes", n)
		}
	}
}

func TestStreamNumbersAreNotUsedTwice(t *testing.T) {
	p := newPair(t, Options{}, ignore{}, ignore{})
	p.client.nextID = maxStreamID - 2
	for want := range 2 {
		if got := p.client.Available(); got != 2-want {
			t.Errorf("got %d available, want %d", got, 2-want)
		}
		p.open(toTunnel, false)
	}
	if _, err := p.client.Open(toTunnel, false); !errors.Is(err, ErrNoStreams) {
		t.Errorf("got %v, want ErrNoStreams", err)
	}
	if _, err := p.server.Open(toTunnel, false); err == nil {
		t.Error("a server opened a stream")
	}
}

func TestEOFIsAnError(t *testing.T) {
	c := New(Server, Options{}, ignore{}, epoch)
	if err := c.EOF(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want EOF", err)
	}
	if err := c.EOF(); !errors.Is(err, io.EOF) {
		t.Errorf("again: got %v, want EOF", err)
	}
	p := newPair(t, Options{}, ignore{}, ignore{})
	if err := p.server.Receive([]byte{0, 0, 8, 6}); err != nil {
		t.Fatal(err)
	}
	if err := p.server.EOF(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("within a frame: got %v, want unexpected EOF", err)
	}
}

func TestErrorsSayWhoAndWhy(t *testing.T) {
	refused := &StreamError{Code: CodeRefusedStream, Remote: true}
	for _, tt := range []struct {
		err     error
		text    string
		refused bool
	}{
		{refused, "h2: stream: REFUSED_STREAM from the peer", true},
		{fmt.Errorf("hbone: open: %w", refused), "hbone: open: h2: stream: REFUSED_STREAM from the peer", true},
		{&StreamError{Code: CodeRefusedStream}, "h2: stream: REFUSED_STREAM", false},
		{&StreamError{Code: CodeCancel, Remote: true}, "h2: stream: CANCEL from the peer", false},
		{&ConnError{Code: 99, Cause: errors.New("why")}, "h2: connection: 0x63: why", false},
		{nil, "", false},
	} {
		if got := Refused(tt.err); got != tt.refused {
			t.Errorf("Refused(%v): got %t", tt.err, got)
		}
		if tt.err != nil && tt.err.Error() != tt.text {
			t.Errorf("got %q, want %q", tt.err, tt.text)
		}
	}
}
