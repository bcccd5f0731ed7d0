package flow

// A Pair joins two streams: what arrives on one is written to the other, ends
// and resets included, with back-pressure. It owns no bytes.
//
// Half-close is kept: an end on one side closes the write direction of the
// other, and the pair is done when both directions have ended, or at the first
// reset.
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
}

// Join makes a and b a pair. The caller installs p.A as the receiver of a and
// p.B as that of b. done is called once: with nil when both directions have
// ended, else with what reset the pair.
func (p *Pair) Join(a, b Stream, done func(error)) {
	p.a = end{pair: p, stream: a, other: &p.b}
	p.b = end{pair: p, stream: b, other: &p.a}
	p.done = done
}

// A returns the Receiver for the first stream.
func (p *Pair) A() Receiver { return &p.a }

// B returns the Receiver for the second stream.
func (p *Pair) B() Receiver { return &p.b }

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
	if e.other.eof {
		e.pair.finish(nil)
	}
}

func (e *end) Sent(n int) { e.other.stream.Credit(n) }

func (e *end) Reset(err error) {
	e.other.stream.Reset(err)
	e.pair.finish(err)
}
