package bench

import (
	"fmt"
	"testing"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// onPlace runs f on the loop of a destination that listens to nothing.
func onPlace(t *testing.T, d Destination, f func(*place)) {
	t.Helper()
	loops, err := loop.NewGroup(1, loop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer loops.Close()
	s := newServing(d.withDefaults(), loops)
	done := make(chan struct{})
	loops.Loops()[0].Do(func() {
		defer close(done)
		f(s.places[loops.Loops()[0]])
	})
	<-done
}

// A slowStream queues what is written to it, or not.
type slowStream struct {
	receiver flow.Receiver
	queues   bool
	queued   int
	written  int64
	writes   int
	credited int
}

func (s *slowStream) Write(p []byte) int {
	s.written += int64(len(p))
	s.writes++
	if !s.queues {
		return 0
	}
	s.queued += len(p)
	return len(p)
}

func (s *slowStream) CloseWrite()  {}
func (s *slowStream) Credit(n int) { s.credited += n }
func (s *slowStream) Reset(error)  {}
func (s *slowStream) Queued() int  { return s.queued }

// read has the peer read n bytes.
func (s *slowStream) read(n int) {
	s.queued -= n
	s.receiver.Sent(n)
}

// serveSlow has p serve a stream as what text begins with.
func serveSlow(p *place, queues bool, text []byte) *slowStream {
	s := &slowStream{queues: queues}
	first := p.begin()
	first.attach(s, func(r flow.Receiver) { s.receiver = r })
	s.receiver = first
	s.receiver.Data(text)
	return s
}

const gibibyte = 1 << 30

func upgradeText(size int64) []byte {
	return fmt.Appendf(nil, "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: a\r\nsec-websocket-version: 13\r\n%s: %d\r\n\r\n", sizeField, size)
}

// TestLargeAnswersWaitForTheirReader has a reader that stops for a while.
func TestLargeAnswersWaitForTheirReader(t *testing.T) {
	const most = maxWaiting + 64<<10 // and a head
	for name, text := range map[string][]byte{
		"http1":     fmt.Appendf(nil, "GET / HTTP/1.1\r\nhost: a\r\n%s: %d\r\n\r\n", sizeField, gibibyte),
		"websocket": append(upgradeText(gibibyte), appendFrameHead(nil, opBinary, 0, &[4]byte{})...),
		"raw":       appendRawHead(nil, 0, gibibyte),
	} {
		onPlace(t, Destination{}, func(p *place) {
			s := serveSlow(p, true, text)
			if s.queued < maxWaiting || s.queued > most+1000 {
				t.Errorf("%s: %d bytes wait, want %d to %d", name, s.queued, maxWaiting, most)
			}
			for s.queued > 0 {
				s.read(min(s.queued, 100_000))
				if s.queued > most+1000 {
					t.Fatalf("%s: %d bytes wait", name, s.queued)
				}
			}
			if s.written < gibibyte || s.written > gibibyte+1000 || p.served.BytesSent != gibibyte {
				t.Errorf("%s: %d bytes are written, %d counted", name, s.written, p.served.BytesSent)
			}
		})
	}
}

// TestWhoAsksAndDoesNotReadIsStopped by its window.
func TestWhoAsksAndDoesNotReadIsStopped(t *testing.T) {
	const asked = 10 * maxOwed
	for name, c := range map[string]struct{ first, message []byte }{
		"websocket": {upgradeText(maxWaiting), appendFrameHead(nil, opBinary, 0, &[4]byte{})},
		"raw":       {nil, appendRawHead(nil, 0, maxWaiting)},
	} {
		onPlace(t, Destination{}, func(p *place) {
			s := serveSlow(p, true, append(c.first, c.message...))
			sent := len(c.first) + len(c.message)
			for range asked - 1 { // a client whose window is large
				s.receiver.Data(c.message)
				sent += len(c.message)
			}
			if want := (maxOwed + 10) * len(c.message); s.credited > len(c.first)+want {
				t.Errorf("%s: %d bytes are credited, want no more than %d", name, s.credited, want)
			}
			for s.queued > 0 {
				s.read(s.queued)
			}
			if s.credited != sent || p.served.Requests != asked || p.served.BytesSent != asked*maxWaiting {
				t.Errorf("%s: %d bytes credited, want %d; served %+v", name, s.credited, sent, p.served)
			}
		})
	}
}

// TestEmptyAnswersWaitForTheirReaderToo: their frames do.
func TestEmptyAnswersWaitForTheirReaderToo(t *testing.T) {
	onPlace(t, Destination{}, func(p *place) {
		s := serveSlow(p, true, upgradeText(0))
		message := appendFrameHead(nil, opBinary, 0, &[4]byte{})
		for range maxWaiting {
			s.receiver.Data(message)
		}
		if s.queued > maxWaiting+1000 {
			t.Errorf("%d bytes wait", s.queued)
		}
	})
}

// TestHeadAndContentLeaveTogether if the content is small.
func TestHeadAndContentLeaveTogether(t *testing.T) {
	onPlace(t, Destination{}, func(p *place) {
		s := serveSlow(p, false, []byte("GET / HTTP/1.1\r\nhost: a\r\nx-bench-size: 1000\r\n\r\n"))
		if s.writes != 1 || s.written < 1000 {
			t.Errorf("%d bytes left in %d pieces", s.written, s.writes)
		}
	})
}

// TestCallsAreUsedAgain one after the other.
func TestCallsAreUsedAgain(t *testing.T) {
	onPlace(t, Destination{}, func(p *place) {
		client := h2.New(h2.Client, h2.Options{}, deafHTTP2{}, p.loop.Now())
		var s *slowStream
		for range 5 {
			for _, f := range []l7.Fields{
				{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: unaryCall}, {Name: "content-type", Value: "application/grpc"}},
				{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: "/"}, {Name: sizeField, Value: "10"}},
			} {
				call, err := client.Open(f, false)
				if err != nil {
					t.Fatal(err)
				}
				call.Write(appendRequest(nil, 10, nil))
				call.CloseWrite()
				for out := client.Output(); out != nil; out = client.Output() {
					if s == nil {
						s = serveSlow(p, false, out)
					} else {
						s.receiver.Data(out)
					}
				}
			}
		}
		if p.served.Requests != 10 || len(p.calls) != 1 {
			t.Errorf("%d calls for %d requests, want 1 for 10", len(p.calls), p.served.Requests)
		}
	})
}

type deafHTTP2 struct{}

func (deafHTTP2) Headers(*h2.Stream, l7.Fields, bool) {}
func (deafHTTP2) Data(*h2.Stream, []byte, bool)       {}
func (deafHTTP2) Sent(*h2.Stream, int)                {}
func (deafHTTP2) Reset(*h2.Stream, error)             {}
func (deafHTTP2) Changed()                            {}
func (deafHTTP2) Closed(error)                        {}

// TestExchangesAllocateNothing over HTTP/1.1, WebSocket and raw bytes.
func TestExchangesAllocateNothing(t *testing.T) {
	post := append([]byte("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\nx-bench-size: 100000\r\n\r\n"), content(1000)...)
	message := append(appendFrameHead(nil, opBinary, 1000, &[4]byte{}), content(1000)...)
	raw := append(appendRawHead(nil, 1000, 100_000), content(1000)...)
	for name, c := range map[string]struct{ first, message []byte }{
		"GET":       {nil, []byte("GET / HTTP/1.1\r\nhost: a\r\n\r\n")},
		"POST":      {nil, post},
		"websocket": {upgradeText(1000), message},
		"raw":       {nil, raw},
	} {
		onPlace(t, Destination{}, func(p *place) {
			s := serveSlow(p, false, append(c.first, c.message...))
			if got := testing.AllocsPerRun(200, func() { s.receiver.Data(c.message) }); got > 0 && !poisoned {
				t.Errorf("%s: %v allocations for an exchange", name, got)
			}
			if p.served.Requests != 202 || len(p.served.Errors) > 0 {
				t.Errorf("%s: served %+v", name, p.served)
			}
		})
	}
}
