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
//
// It ends in two steps: dying, it lets its last frames out (a GOAWAY that says
// why); gone, it has closed its direction of the tunnel and waits for the peer
// to close the other. For neither does it wait long.
type inner struct {
	worker *worker
	conn   *h2.Conn
	leg    flow.Stream
	waking bool
	dying  bool
	gone   bool
	eof    bool      // the peer has ended its direction
	since  time.Time // when it began to die
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
				in.leg.CloseWrite()
				in.close(nil)
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
	in.eof = true
	if in.gone {
		in.forget()
		return
	}
	_ = in.conn.EOF() // either way the peer will send nothing more
	in.die()
}

func (in *inner) Sent(int) { in.wake() }

func (in *inner) Reset(err error) {
	in.eof = true
	if in.gone {
		in.forget()
		return
	}
	in.close(err)
}

func (in *inner) tick(now time.Time) {
	switch {
	case in.dying && now.Sub(in.since) > closeTimeout:
		in.leg.Reset(nil)
		in.Reset(nil)
	case in.dying:
	case in.conn.Tick(now) != nil:
		in.die()
	default:
		in.settle()
	}
}

// settle ends a connection that has drained.
func (in *inner) settle() {
	if !in.dying && in.conn.Drained() {
		in.die()
	}
}

func (in *inner) die() {
	if !in.dying {
		in.dying, in.since = true, in.worker.loop.Now()
		in.wake()
	}
}

// close ends the streams that there are.
func (in *inner) close(err error) {
	in.gone, in.dying = true, true
	in.conn.Closed(err)
	in.onGone()
	if in.eof {
		in.forget()
	}
}

func (in *inner) forget() { delete(in.worker.inners, in) }
