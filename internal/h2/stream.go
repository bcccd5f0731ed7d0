package h2

import (
	"errors"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// A Stream is one request and its response, or one tunnel. It is gone, and every
// method on it does nothing, once both directions have ended or either side has
// reset it.
type Stream struct {
	// Value is the caller's.
	Value any

	c  *Conn
	id uint32

	in  inflow
	out outflow

	// length is the declared content-length still to come, or -1.
	length int64

	queue    bufs.Queue    // written, with no room on the output
	trailers l7.Fields     // they follow the queue
	stalled  time.Duration // since when the queue has not moved, as Conn.at
	next     *Stream       // in the ring of streams whose turn comes
	ready    bool          // in that ring

	connect bool // the request is a CONNECT
	tunnel  bool // ... and has been granted
	head    bool // the request is a HEAD
	answer  bool // a client's: the final response has begun
	inEnd   bool // the peer has ended its direction
	closing bool // ours ends when the queue is empty
	outEnd  bool // ... has ended
	served  bool // we have sent content
	dead    bool // gone
}

var _ flow.Stream = (*Stream)(nil)

// ID returns the stream's number on its connection.
func (s *Stream) ID() uint32 { return s.id }

// Conn returns the connection that the stream is on.
func (s *Stream) Conn() *Conn { return s.c }

// Queued returns how many written bytes wait for the peer's window or for room
// on the output.
func (s *Stream) Queued() int { return s.queue.Len() }

// Headers sends a field section, pseudo-fields first: a server's informational
// and final responses, and with end trailers, which wait for what is queued. The
// fields are lent for the call.
func (s *Stream) Headers(f l7.Fields, end bool) {
	if s.dead || s.closing || s.c.err != nil {
		return
	}
	if end && len(f) == 0 {
		s.CloseWrite()
		return
	}
	if s.connect && s.c.role == Server && len(f) > 0 && len(f[0].Value) == 3 && f[0].Value[0] == '2' {
		s.tunnel = true
	}
	if s.queue.Len() > 0 {
		s.trailers, s.closing = f.Clone(), end
		return
	}
	s.c.putHeaders(s.id, f, end)
	s.c.wake()
	if end {
		s.closing = true
		s.ended()
	}
}

// Write sends p, which is lent for the call, and returns how many of its bytes
// have to wait. [Handler.Sent] reports them as they leave. After CloseWrite or
// Reset it drops p.
func (s *Stream) Write(p []byte) (queued int) {
	c := s.c
	if s.dead || s.closing || c.err != nil || len(p) == 0 {
		return 0
	}
	// With others waiting for their turn, this stream waits for its own.
	if s.queue.Len() == 0 && c.ready.first == nil {
		for c.out.waiting() < hold {
			n := s.sendable(len(p))
			if n == 0 {
				break
			}
			s.put(p[:n], false)
			if p = p[n:]; len(p) == 0 {
				return 0
			}
		}
	}
	if s.queue.Len() == 0 {
		s.stalled = c.at
	}
	s.queue.Append(p)
	s.schedule()
	return len(p)
}

// CloseWrite ends our direction once everything queued has left.
func (s *Stream) CloseWrite() {
	if s.dead || s.closing || s.c.err != nil {
		return
	}
	s.closing = true
	if s.queue.Len() > 0 {
		return
	}
	if !s.c.out.endTail(s) {
		s.c.out.data(s, nil, true)
		s.c.wake()
	}
	s.ended()
}

// Credit says that n bytes of DATA have been passed on, so that the peer may
// send as many more.
func (s *Stream) Credit(n int) {
	if s.dead {
		return
	}
	if k := s.in.credit(n, s.c.o.StreamWindow); k > 0 && !s.inEnd && s.c.err == nil {
		s.c.out.word(typeWindowUpdate, s.id, k)
		s.c.wake()
	}
}

// Reset gives the stream up in both directions. The code is that of the
// *StreamError in err, else CANCEL. The Handler is told nothing more about it.
// Of a stream that has ended in both, as within the event that says so, the peer
// is told nothing: nothing may be sent on it (RFC 9113, section 5.1), and peers
// take offence at many resets.
func (s *Stream) Reset(err error) {
	if s.dead {
		return
	}
	if s.inEnd && s.outEnd {
		s.finish()
		return
	}
	code := CodeCancel
	var e *StreamError
	if errors.As(err, &e) {
		code = e.Code
	}
	if s.c.err == nil {
		s.c.putReset(s.id, code)
	}
	s.drop()
}

// sendable returns how many of n bytes fit in the next DATA frame.
func (s *Stream) sendable(n int) int {
	most := min(s.out.avail, s.c.outflow.avail, int64(s.c.peer.frame), turn)
	return max(0, min(n, int(most)))
}

// put sends one DATA frame; all says that it empties the queue, and so is the
// last of a stream that is closing without trailers.
func (s *Stream) put(p []byte, all bool) {
	c := s.c
	c.out.data(s, p, all && s.closing && s.trailers == nil)
	s.served = true
	s.out.avail -= int64(len(p))
	c.outflow.avail -= int64(len(p))
	c.spent.idle = max(0, c.spent.idle-updatesPerData)
	c.wake()
}

// finishQueue does what was waiting for the queue to empty.
func (s *Stream) finishQueue() {
	if s.queue.Len() > 0 {
		return
	}
	if f := s.trailers; f != nil {
		s.trailers = nil
		s.c.putHeaders(s.id, f, s.closing)
	}
	if s.closing {
		s.ended()
	}
}

// schedule gives the stream a turn if it has something to send and may.
func (s *Stream) schedule() {
	if s.dead || s.queue.Len() == 0 || s.out.avail <= 0 {
		return
	}
	s.c.ready.push(s)
	if s.c.outflow.avail > 0 {
		s.c.wake()
	}
}

// ended notes that END_STREAM is on the output.
func (s *Stream) ended() {
	s.outEnd = true
	s.finish()
}

// finish forgets a stream of which both directions have ended.
func (s *Stream) finish() {
	if s.inEnd && s.outEnd && !s.dead {
		s.c.endedIDs.add(s.id, rememberEnded)
		s.drop()
	}
}

// drop takes the stream off its connection.
func (s *Stream) drop() {
	c := s.c
	s.dead = true
	s.queue.Clear()
	s.trailers = nil
	delete(c.streams, s.id)
	if c.latest == s {
		c.latest = nil
	}
	c.change()
}
