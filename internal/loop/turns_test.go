package loop

import (
	"net"
	"slices"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/record"
)

// A plumbing is the poller of a loop whose sockets are all ready all the time. Its
// loop is run by hand, a batch at a time.
type plumbing struct {
	l      *Loop
	taps   []*tap
	log    func(t *tap, read, written int)
	events int // how many of taps are ready
}

func newPlumbing() *plumbing {
	p := &plumbing{log: func(*tap, int, int) {}}
	p.l = newLoop(p, time.Second)
	return p
}

func (p *plumbing) wait(*Loop, bool, time.Duration) int { return p.events }
func (p *plumbing) dispatch(l *Loop, n int) {
	for _, t := range p.taps[:n] {
		t.s.arrives()
		l.breathe()
	}
}
func (p *plumbing) open(s *Socket) wire {
	t := &tap{p: p, s: s}
	p.taps = append(p.taps, t)
	return t
}
func (p *plumbing) wake()  {}
func (p *plumbing) close() {}

// A tap is a wire that always has more and takes everything.
type tap struct {
	p    *plumbing
	s    *Socket
	drip bool // it has only a little at a time
}

func (t *tap) read(p []byte) (int, error) {
	if t.drip {
		p = p[:1]
	}
	t.p.log(t, len(p), 0)
	return len(p), nil
}
func (t *tap) write(p []byte) (int, error) { t.p.log(t, 0, len(p)); return len(p), nil }
func (t *tap) watch(in, out bool)          {}
func (t *tap) more() bool                  { return false }
func (t *tap) closeWrite()                 {}
func (t *tap) close()                      {}
func (t *tap) abort()                      {}

// A torrent is a driver that always has more to say.
type torrent struct{ piece []byte }

func (d *torrent) Receive([]byte) error { return nil }
func (d *torrent) EOF() error           { return nil }
func (d *torrent) Output() []byte       { return d.piece }
func (d *torrent) Closed(error)         {}

// glass is a layer that changes nothing.
type glass struct{}

func (glass) Whole(p []byte) bool { return false }
func (glass) Open(dst, src []byte) (n, used int, err error) {
	n = copy(dst[:min(len(dst), record.MaxContent)], src)
	return n, n, nil
}
func (glass) Owes() bool                             { return false }
func (glass) Seal(dst, p []byte) (b []byte, e error) { return append(dst, p...), nil }
func (glass) Close(dst []byte) []byte                { return dst }
func (glass) Clear()                                 {}

// A socket that never falls silent, either way, moves so much in a batch and no
// more: everybody else waits for the batch.
func TestASocketHasOneTurnInABatch(t *testing.T) {
	for _, layered := range []bool{false, true} {
		p := newPlumbing()
		var read, written int
		p.log = func(_ *tap, r, w int) { read, written = read+r, written+w }
		const piece = 16 << 10
		s := pipeSocket(t)
		if layered {
			s.layer = glass{}
		}
		p.l.Adopt(s, &torrent{piece: make([]byte, piece)})
		p.events = 1
		for batch := range 5 {
			read, written = 0, 0
			p.l.batch()
			if most := maxReadBytes + readSize; read == 0 || read > most {
				t.Errorf("layered %v, batch %d: %d bytes read, want 1 to %d", layered, batch, read, most)
			}
			if most := maxFlush + piece; written < maxFlush || written > most {
				t.Errorf("layered %v, batch %d: %d bytes written, want %d to %d", layered, batch, written, maxFlush, most)
			}
		}
	}
}

// When many have much to say, the first are answered before the last are read.
func TestABatchThatCarriesMuchFlushesInBetween(t *testing.T) {
	p := newPlumbing()
	var unflushed, most, total int
	p.log = func(_ *tap, r, w int) {
		if w > 0 {
			unflushed = 0
		}
		unflushed += r
		total += r
		most = max(most, unflushed)
	}
	for range 50 {
		s := pipeSocket(t)
		p.l.Adopt(s, &answerer{s: s})
	}
	p.events = 50
	p.l.batch()
	if total < 50*readSize {
		t.Errorf("%d bytes were read, want some of everybody", total)
	}
	if bound := maxCarried + maxReadBytes + readSize; most > bound {
		t.Errorf("%d bytes were read between two writes, want at most %d", most, bound)
	}
}

// Who used up the last turn comes after the others have been answered.
func TestTheGreedyComeLast(t *testing.T) {
	p := newPlumbing()
	var order []string
	p.log = func(x *tap, r, w int) {
		who := "greedy"
		if x.drip {
			who = "modest"
		}
		if w > 0 {
			who += " is answered"
		}
		order = append(order, who)
	}
	for range 2 {
		s := pipeSocket(t)
		p.l.Adopt(s, &answerer{s: s})
	}
	p.events = 2
	p.taps[1].drip = true
	p.l.batch()
	order = nil
	p.l.batch()
	want := []string{"modest", "modest is answered", "greedy", "greedy is answered"}
	if !slices.Equal(order, want) {
		t.Errorf("got %q, want %q", order, want)
	}
}

// An answerer says a word when it has heard something.
type answerer struct {
	s    *Socket
	word []byte
}

func (d *answerer) Receive([]byte) error {
	d.word = []byte("yes")
	d.s.Wake()
	return nil
}
func (d *answerer) EOF() error         { return nil }
func (d *answerer) Output() (p []byte) { p, d.word = d.word, nil; return p }
func (d *answerer) Closed(error)       {}

// Who has used up a turn when the loop closes is told.
func TestASpentSocketIsClosedWithItsLoop(t *testing.T) {
	p := newPlumbing()
	s := pipeSocket(t)
	p.l.Adopt(s, &torrent{piece: make([]byte, maxFlush)})
	p.l.batch()
	if len(p.l.spent) != 1 {
		t.Fatalf("%d sockets have had their turn, want 1", len(p.l.spent))
	}
	p.l.shut()
	if s.phase != gone {
		t.Errorf("the socket is in phase %d", s.phase)
	}
}

func pipeSocket(t *testing.T) *Socket {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return Plain(ours)
}
