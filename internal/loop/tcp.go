package loop

import (
	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/flow"
)

// TCP is a [flow.Stream] over a plain socket: one leg of a tunnel, or a
// connection under an HTTP/1.1 codec.
//
// Write only queues; the loop writes at the end of the batch, once for
// everything that was written in it. So every byte counts as queued, and is
// reported by Sent when the kernel has taken it, usually in the same batch.
// Writing at once was as cheap for long writes and dearer for short ones, and
// would have to report what left in the middle of a Write.
type TCP struct {
	s      *Socket
	r      flow.Receiver
	window int
	owed   int // received and not credited
	q      bufs.Queue
	paused bool
	ended  bool // CloseWrite was called
	over   bool // nothing more is told to r
}

// defaultWindow is how much a TCP lets wait uncredited: as a stream of HTTP/2.
const defaultWindow = 256 << 10

// NewTCP has l adopt s and returns the stream on it, whose bytes r receives. The
// stream stops reading when window bytes are uncredited; 0 means 256 KiB. It
// must be called on l; r is not called before it returns.
func NewTCP(l *Loop, s *Socket, window int, r flow.Receiver) *TCP {
	if window <= 0 {
		window = defaultWindow
	}
	t := &TCP{s: s, r: r, window: window}
	s.most = window
	l.Adopt(s, t)
	return t
}

// Socket returns the socket beneath, for its addresses.
func (t *TCP) Socket() *Socket { return t.s }

// SetReceiver has r receive what is still to come.
func (t *TCP) SetReceiver(r flow.Receiver) { t.r = r }

// Write implements [flow.Stream]. All of p is queued.
func (t *TCP) Write(p []byte) (queued int) {
	if t.ended || t.over || len(p) == 0 {
		return 0
	}
	t.q.Append(p)
	t.s.Wake()
	return len(p)
}

// CloseWrite implements [flow.Stream].
func (t *TCP) CloseWrite() {
	if !t.ended && !t.over {
		t.ended = true
		t.s.CloseWrite()
	}
}

// Credit implements [flow.Stream].
func (t *TCP) Credit(n int) {
	t.owed -= n
	// Half a window at a time: reading whatever little was credited would cost
	// a system call each time.
	if t.owed <= t.window/2 {
		t.s.most = t.window - t.owed
		if t.paused {
			t.paused = false
			t.s.Resume()
		}
	}
}

// Reset implements [flow.Stream]: the peer gets a TCP reset.
func (t *TCP) Reset(err error) {
	if !t.over {
		t.over = true
		t.q.Clear()
		t.s.Abort(err)
	}
}

// Queued implements [flow.Stream].
func (t *TCP) Queued() int { return t.q.Len() }

// Receive implements [Driver].
func (t *TCP) Receive(p []byte) error {
	t.owed += len(p)
	if t.owed >= t.window {
		t.paused = true
		t.s.Pause()
	} else {
		t.s.most = t.window - t.owed
	}
	t.r.Data(p)
	return nil
}

// EOF implements [Driver].
func (t *TCP) EOF() error {
	t.r.EOF()
	return nil
}

// Output implements [Driver].
func (t *TCP) Output() []byte { return t.q.Front() }

// wrote is told how much of Output has left.
func (t *TCP) wrote(n int) {
	if n > 0 {
		t.q.Consume(n)
		if !t.over {
			t.r.Sent(n)
		}
	}
}

// Closed implements [Driver].
func (t *TCP) Closed(err error) {
	t.q.Clear()
	if !t.over {
		t.over = true
		if err != nil {
			t.r.Reset(err)
		}
	}
}
