package flow

import (
	"errors"
	"slices"
	"testing"
)

// A stream is a Stream which writes down what is done to it.
type stream struct {
	written int
	queue   bool // Write queues everything
	queued  int
	credit  int
	ended   bool
	reset   error
}

func (s *stream) Write(p []byte) int {
	s.written += len(p)
	if s.queue {
		s.queued += len(p)
		return len(p)
	}
	return 0
}
func (s *stream) CloseWrite()     { s.ended = true }
func (s *stream) Credit(n int)    { s.credit += n }
func (s *stream) Reset(err error) { s.reset = err }
func (s *stream) Queued() int     { return s.queued }

func join() (p *Pair, a, b *stream, ends *[]error) {
	p, a, b, ends = &Pair{}, &stream{}, &stream{}, new([]error)
	p.Join(a, b, func(err error) { *ends = append(*ends, err) })
	return p, a, b, ends
}

func TestPairCreditsWhatHasLeft(t *testing.T) {
	p, a, b, _ := join()
	p.A().Data(make([]byte, 10))
	if b.written != 10 || a.credit != 10 {
		t.Errorf("wrote %d, credited %d at once; want 10, 10", b.written, a.credit)
	}
	b.queue = true
	p.A().Data(make([]byte, 7))
	if b.written != 17 || a.credit != 10 {
		t.Errorf("wrote %d, credited %d before anything left", b.written, a.credit)
	}
	p.B().Sent(3)
	if a.credit != 13 || b.credit != 0 {
		t.Errorf("credited %d and %d after 3 bytes left", a.credit, b.credit)
	}
	p.B().Data(make([]byte, 5))
	if a.written != 5 || b.credit != 5 {
		t.Errorf("the other way wrote %d, credited %d", a.written, b.credit)
	}
	if x, y := p.Bytes(); x != 17 || y != 5 {
		t.Errorf("Bytes %d, %d", x, y)
	}
}

func TestPairHalfCloses(t *testing.T) {
	p, a, b, ends := join()
	p.A().EOF()
	if !b.ended || a.ended || len(*ends) != 0 {
		t.Errorf("after one end: b ended %t, a ended %t, done %v", b.ended, a.ended, *ends)
	}
	p.B().Data(make([]byte, 5))
	p.B().EOF()
	if !a.ended || a.written != 5 || !slices.Equal(*ends, []error{nil}) {
		t.Errorf("after both ends: a ended %t with %d bytes, done %v", a.ended, a.written, *ends)
	}
	p.Reset(errors.New("too late"))
	if a.reset != nil || b.reset != nil {
		t.Error("Reset after the end resets")
	}
}

func TestPairCreditsNothingThatWasWrittenBefore(t *testing.T) {
	p, a, b := &Pair{}, &stream{queue: true}, &stream{}
	a.Write(make([]byte, 12))
	p.Join(a, b, func(error) {})
	p.B().Data(make([]byte, 8))
	for _, row := range []struct{ sent, credit int }{{10, 0}, {5, 3}, {5, 8}} {
		p.A().Sent(row.sent)
		if b.credit != row.credit {
			t.Errorf("after %d more bytes: credited %d, want %d", row.sent, b.credit, row.credit)
		}
	}
}

func TestPairIsDoneWhenAllHasLeft(t *testing.T) {
	p, a, b, ends := join()
	a.queue = true
	p.B().Data(make([]byte, 9))
	p.A().EOF()
	p.B().EOF()
	if !a.ended || !b.ended || len(*ends) != 0 {
		t.Errorf("with 9 bytes queued: ended %t and %t, done %v", a.ended, b.ended, *ends)
	}
	a.queued = 0
	p.A().Sent(9)
	if !slices.Equal(*ends, []error{nil}) {
		t.Errorf("done %v", *ends)
	}
}

func TestPairResets(t *testing.T) {
	why := errors.New("why")
	p, a, b, ends := join()
	p.A().Reset(why)
	if !errors.Is(b.reset, why) || a.reset != nil || !slices.Equal(*ends, []error{why}) {
		t.Errorf("a gone: b reset with %v, a with %v, done %v", b.reset, a.reset, *ends)
	}

	p, a, b, ends = join()
	p.Reset(why)
	p.Reset(why)
	if !errors.Is(b.reset, why) || !errors.Is(a.reset, why) || !slices.Equal(*ends, []error{why}) {
		t.Errorf("given up: b reset with %v, a with %v, done %v", b.reset, a.reset, *ends)
	}
}
