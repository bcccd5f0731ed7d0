package flow

// A Pair joins two streams: what arrives on one is written to the other, ends
// and resets included, with back-pressure. It owns no bytes.
//
// Half-close is kept: an end on one side closes the write direction of the
// other, and the pair is done when both directions have ended and everything
// has left, or at the first reset.
type Pair struct {
	a, b end
	done func(error)
}

// An end is the Receiver of one of the two streams.
type end struct {
	pair   *Pair
	stream Stream
	other  *end
	eof    bool
	bytes  uint64
	before int // queued on stream when it was joined: Sent counts it first
}

// Join makes a and b a pair. The caller installs p.A as the receiver of a and
// p.B as that of b. done is called once: with nil when both directions have
// ended, else with what reset the pair. What was written to either before is
// none of the other's bytes, and is not credited there.
func (p *Pair) Join(a, b Stream, done func(error)) {
	p.a = end{pair: p, stream: a, other: &p.b, before: a.Queued()}
	p.b = end{pair: p, stream: b, other: &p.a, before: b.Queued()}
	p.done = done
}

// A returns the Receiver for the first stream.
func (p *Pair) A() Receiver { return &p.a }

// B returns the Receiver for the second stream.
func (p *Pair) B() Receiver { return &p.b }

// Streams returns the two streams, nil before Join.
func (p *Pair) Streams() (a, b Stream) { return p.a.stream, p.b.stream }

// Bytes returns how many bytes have arrived on each stream.
func (p *Pair) Bytes() (fromA, fromB uint64) { return p.a.bytes, p.b.bytes }

// Reset gives both streams up; done is called with err.
func (p *Pair) Reset(err error) {
	if p.done == nil {
		return
	}
	p.a.stream.Reset(err)
	p.b.stream.Reset(err)
	p.finish(err)
}

func (p *Pair) finish(err error) {
	if done := p.done; done != nil {
		p.done = nil
		done(err)
	}
}

func (e *end) Data(b []byte) {
	e.bytes += uint64(len(b))
	if gone := len(b) - e.other.stream.Write(b); gone > 0 {
		e.stream.Credit(gone)
	}
}

func (e *end) EOF() {
	e.eof = true
	e.other.stream.CloseWrite()
	e.pair.settle()
}

func (e *end) Sent(n int) {
	k := min(n, e.before)
	e.before -= k
	if n -= k; n > 0 {
		e.other.stream.Credit(n)
	}
	e.pair.settle()
}

// settle finishes the pair when nothing more comes and nothing waits. Whoever
// drains waits for pairs, and what is still queued would be lost.
func (p *Pair) settle() {
	if p.a.eof && p.b.eof && p.a.stream.Queued() == 0 && p.b.stream.Queued() == 0 {
		p.finish(nil)
	}
}

func (e *end) Reset(err error) {
	e.other.stream.Reset(err)
	e.pair.finish(err)
}
