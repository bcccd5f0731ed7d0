package h2

import (
	"encoding/binary"
	"sync"

	"github.com/waystone-mesh/waystone/internal/bufs"
)

// Frame types and flags, for the frames that are written here and for those
// that go past the Framer.
const (
	typeData         = 0x0
	typeHeaders      = 0x1
	typePriority     = 0x2
	typeReset        = 0x3
	typeSettings     = 0x4
	typePushPromise  = 0x5
	typePing         = 0x6
	typeGoAway       = 0x7
	typeWindowUpdate = 0x8
	typeContinuation = 0x9

	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8

	headerLen = 9
)

// An output is the frames that are ready to go, in order. It holds a buffer
// only while there are some, and a small one for small things: a stalled peer
// costs what is waiting for it.
type output struct {
	b     []byte
	taken int          // of b, handed out already
	lease *bufs.Buffer // what b is in, up to bufs.Large
	wide  *[]byte      // what b is in, up to wideSize; beyond that b is just a slice

	// The last frame in b when that is DATA: where it starts, and whose.
	// CloseWrite ends the stream with it when it can.
	tail      *Stream
	tailStart int
}

// wideSize is what the output needs when DATA fills it: hold, a turn beyond it,
// and some control frames.
const wideSize = hold + turn + 16<<10

var wides = sync.Pool{New: func() any { b := make([]byte, 0, wideSize); return &b }}

// waiting returns how many bytes have not been handed out.
func (o *output) waiting() int { return len(o.b) - o.taken }

// room makes space for n more bytes.
func (o *output) room(n int) {
	if cap(o.b)-len(o.b) >= n {
		return
	}
	rest := o.b[o.taken:]
	need := len(rest) + n
	if o.taken > 0 && need <= cap(o.b) && o.taken >= len(rest) {
		copy(o.b[:len(rest)], rest)
		o.b = o.b[:len(rest)]
	} else {
		was := *o
		switch {
		case need <= bufs.Large:
			o.lease, o.wide = bufs.Get(need), nil
			o.b = o.lease.B
		case need <= wideSize:
			o.lease, o.wide = nil, wides.Get().(*[]byte)
			o.b = (*o.wide)[:0]
		default:
			o.lease, o.wide = nil, nil
			o.b = make([]byte, 0, 2*need)
		}
		o.b = append(o.b, rest...)
		was.release()
	}
	o.tailStart -= o.taken
	o.taken = 0
}

// release gives the buffer back and leaves the output empty.
func (o *output) release() {
	if o.lease != nil {
		o.lease.Free()
	}
	if o.wide != nil {
		wides.Put(o.wide)
	}
	*o = output{}
}

// frame starts a frame of n bytes of payload, which the caller appends.
func (o *output) frame(typ, flags byte, id uint32, n int) {
	o.room(headerLen + n)
	o.tail = nil
	o.b = append(o.b, byte(n>>16), byte(n>>8), byte(n), typ, flags, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

// word puts a frame whose payload is one 32-bit number.
func (o *output) word(typ byte, id, v uint32) {
	o.frame(typ, 0, id, 4)
	o.b = binary.BigEndian.AppendUint32(o.b, v)
}

func (o *output) ping(flags byte, data [8]byte) {
	o.frame(typePing, flags, 0, 8)
	o.b = append(o.b, data[:]...)
}

func (o *output) goAway(last uint32, code ErrCode, reason string) {
	o.frame(typeGoAway, 0, 0, 8+len(reason))
	o.b = binary.BigEndian.AppendUint32(o.b, last)
	o.b = binary.BigEndian.AppendUint32(o.b, uint32(code))
	o.b = append(o.b, reason...)
}

// data puts a DATA frame of s.
func (o *output) data(s *Stream, p []byte, end bool) {
	var flags byte
	if end {
		flags = flagEndStream
	}
	o.frame(typeData, flags, s.id, len(p))
	o.tail, o.tailStart = s, len(o.b)-headerLen
	o.b = append(o.b, p...)
}

// endTail sets END_STREAM on the last frame if that is DATA of s which has not
// been handed out, and reports whether it was.
func (o *output) endTail(s *Stream) bool {
	if o.tail != s || o.tailStart < o.taken {
		return false
	}
	o.b[o.tailStart+4] |= flagEndStream
	o.tail = nil
	return true
}

// take hands out up to flush bytes, nil when there is nothing.
func (o *output) take() []byte {
	n := min(o.waiting(), flush)
	if n == 0 {
		return nil
	}
	p := o.b[o.taken : o.taken+n]
	o.taken += n
	return p
}

// wake tells the driver that there is output, unless it knows.
func (c *Conn) wake() {
	if !c.woken {
		c.woken = true
		c.o.Wake()
	}
}

// Output returns what is to be written now, at most 64 KiB of it, and nil when
// there is nothing. It is lent until the next call on c, and the caller writes
// or keeps all of it.
func (c *Conn) Output() []byte {
	for c.out.waiting() == 0 {
		if c.out.b != nil {
			c.out.b, c.out.taken, c.out.tail = c.out.b[:0], 0, nil
		}
		c.spent.replies = 0
		c.tell()
		c.refill()
		if c.out.waiting() == 0 && !c.changed {
			c.out.release()
			c.woken = false
			return nil
		}
	}
	return c.out.take()
}

// refill moves what streams have queued to the output, a turn each, as long as
// the connection's window lasts and the output is not full.
func (c *Conn) refill() {
	for c.out.waiting() < flush && c.outflow.avail > 0 && c.err == nil {
		s := c.ready.pop()
		if s == nil {
			return
		}
		if s.dead {
			continue
		}
		p := s.queue.Front()
		n := s.sendable(len(p))
		if n == 0 {
			continue // its window closed while it waited
		}
		s.put(p[:n], n == s.queue.Len())
		s.queue.Consume(n)
		s.stalled = c.at
		s.finishQueue()
		s.schedule()
		c.h.Sent(s, n)
	}
}

// A ring is the streams that have data and window, in the order of their turns.
type ring struct{ first, last *Stream }

func (r *ring) push(s *Stream) {
	if s.ready {
		return
	}
	s.ready = true
	if r.last == nil {
		r.first = s
	} else {
		r.last.next = s
	}
	r.last = s
}

func (r *ring) pop() *Stream {
	s := r.first
	if s == nil {
		return nil
	}
	if r.first = s.next; r.first == nil {
		r.last = nil
	}
	s.next, s.ready = nil, false
	return s
}
