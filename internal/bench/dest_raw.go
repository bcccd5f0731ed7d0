package bench

import "github.com/waystone-mesh/waystone/internal/flow"

// A rawServed answers messages of raw bytes, one after the other.
type rawServed struct {
	p       *place
	stream  flow.Stream
	in      rawReader
	answers answers
	eof     bool
	over    bool
}

func newRawServed(p *place, s flow.Stream) flow.Receiver {
	r := &rawServed{p: p, stream: s}
	r.answers.begin(p, r.pump)
	return r
}

// Data and what follows are flow.Receiver.
func (r *rawServed) Data(p []byte) {
	if r.over {
		r.stream.Credit(len(p))
		return
	}
	if err := r.in.read(p, r.message); err != nil {
		r.end(err)
		r.stream.Reset(err)
		return
	}
	r.stream.Credit(r.answers.credit(len(p)))
	r.pump()
}

func (r *rawServed) message(got body, wanted int64) {
	r.p.took(got)
	r.answers.ask(wanted)
}

// pump writes what there is room for.
func (r *rawServed) pump() {
	for ok := true; ok; {
		_, ok = r.answers.next(r.stream)
	}
	if r.answers.held > 0 {
		r.stream.Credit(r.answers.credit(0))
	}
	if r.eof && !r.over && r.answers.none() {
		r.end(nil)
		r.stream.CloseWrite()
	}
}

func (r *rawServed) EOF() {
	if r.over {
		return
	}
	if r.in.within() {
		r.p.failed(fault(kindClosed))
	}
	r.eof = true
	r.pump()
}

func (r *rawServed) Sent(n int) {
	r.answers.out.waiting -= n
	if !r.over {
		r.pump()
	}
}

// Reset is no error between two messages: nobody needs the stream any more.
func (r *rawServed) Reset(err error) {
	switch {
	case r.over:
	case r.in.within() || !r.answers.none():
		r.end(err)
	default:
		r.end(nil)
	}
}

func (r *rawServed) end(err error) {
	r.over = true
	r.answers.stop()
	r.p.gone(err)
}
