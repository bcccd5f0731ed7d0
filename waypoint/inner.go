package waypoint

import (
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h2"
)

// maxAhead is how much output of an inner connection may wait in its tunnel
// before the connection is asked for no more: 64 KiB, one flush.
const maxAhead = 64 << 10

// An inner is HTTP/2 inside a tunnel: it carries bytes between an h2.Conn and
// the stream beneath it. It is that stream's Receiver.
//
// The tunnel is credited on receipt, because the inner connection has windows of
// its own; and its output is pulled once per batch, so that the frames of many
// streams leave in one.
type inner struct {
	worker *worker
	conn   *h2.Conn
	leg    flow.Stream
	waking bool
	dying  bool // our last bytes are on their way out
	gone   bool
	onGone func()
}

// newInner puts HTTP/2 on leg. onGone is called once, when it is over.
func newInner(w *worker, leg flow.Stream, role h2.Role, h h2.Handler, onGone func()) *inner {
	in := &inner{worker: w, leg: leg, onGone: onGone}
	in.conn = h2.New(role, w.h2Options(in.wake), h, w.loop.Now())
	w.inners[in] = struct{}{}
	in.wake()
	return in
}

func (in *inner) wake() {
	if !in.waking {
		in.waking = true
		in.worker.loop.AtBatchEnd(in)
	}
}

// Flush moves output into the tunnel. The loop calls it at the end of the batch.
func (in *inner) Flush() {
	in.waking = false
	if in.gone {
		return
	}
	for in.leg.Queued() < maxAhead {
		p := in.conn.Output()
		if p == nil {
			if in.dying {
				in.end(nil)
			}
			return
		}
		in.leg.Write(p)
	}
}

// Data and what follows are flow.Receiver.
func (in *inner) Data(p []byte) {
	in.leg.Credit(len(p))
	if in.gone || in.dying {
		return
	}
	if err := in.conn.Receive(p); err != nil {
		in.die()
	}
}

func (in *inner) EOF() {
	if in.gone {
		return
	}
	_ = in.conn.EOF() // either way the peer will send nothing more
	in.die()
}

func (in *inner) Sent(int) { in.wake() }

func (in *inner) Reset(err error) {
	if !in.gone {
		in.close(err)
	}
}

func (in *inner) tick(now time.Time) {
	if in.conn.Tick(now) != nil || in.conn.Draining() && in.conn.Drained() {
		in.die()
	}
}

// die lets the last frames out (a GOAWAY that says why) and then ends.
func (in *inner) die() {
	in.dying = true
	in.wake()
}

// end closes the tunnel in good order.
func (in *inner) end(err error) {
	in.leg.CloseWrite()
	in.close(err)
}

func (in *inner) close(err error) {
	in.gone = true
	delete(in.worker.inners, in)
	in.conn.Closed(err)
	in.onGone()
}
