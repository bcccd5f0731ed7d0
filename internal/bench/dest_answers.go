package bench

import (
	"time"

	"github.com/waystone-mesh/waystone/internal/loop"
)

// An answers is what is owed on one stream: content in the order in which it was
// asked for, each when it is due and there is room. It writes the content; what
// comes before and after is for whoever has it to write.
type answers struct {
	p     *place
	out   download
	owed  []owed
	first int        // of owed
	timer loop.Timer // fires when the first is due
	held  int        // bytes received that are not credited yet
}

// An owed is an answer that was not begun.
type owed struct {
	size int64
	at   time.Time // when it is due
}

// maxOwed is how many answers may be owed on a stream before what else comes on
// it is left uncredited: who asks and does not read is not remembered without
// end.
const maxOwed = 1024

// begin has pump called when an answer is due that was not.
func (a *answers) begin(p *place, pump func()) { a.p, a.timer.F = p, pump }

// ask notes that size bytes are owed.
func (a *answers) ask(size int64) {
	if a.first > 0 && len(a.owed) == cap(a.owed) {
		a.owed, a.first = a.owed[:copy(a.owed, a.owed[a.first:])], 0
	}
	o := owed{size: size}
	if a.p.Delay > 0 {
		o.at = a.p.loop.Now().Add(a.p.Delay)
	}
	a.owed = append(a.owed, o)
}

// written writes what there is room for, and reports whether there is room for
// more: no answer is half written.
func (a *answers) written(w writer) bool {
	if left := a.out.left; left > 0 {
		a.out.pump(w)
		a.p.served.BytesSent += left - a.out.left
	}
	return a.out.left == 0 && a.out.waiting < maxWaiting
}

// next begins the next answer, if one is due and none is half written.
func (a *answers) next(w writer) (size int64, ok bool) {
	if !a.written(w) || a.first == len(a.owed) {
		return 0, false
	}
	o := a.owed[a.first]
	if a.p.Delay > 0 {
		if wait := o.at.Sub(a.p.loop.Now()); wait > 0 {
			a.p.loop.After(&a.timer, wait)
			return 0, false
		}
	}
	if a.first++; a.first == len(a.owed) {
		a.owed, a.first = a.owed[:0], 0
	}
	a.out.begin(o.size)
	return o.size, true
}

// none reports whether nothing is owed.
func (a *answers) none() bool { return a.out.left == 0 && a.first == len(a.owed) }

// credit returns how many received bytes may be credited, n that have just come
// and those that could not be before.
func (a *answers) credit(n int) int {
	a.held += n
	if len(a.owed)-a.first > maxOwed {
		return 0
	}
	n, a.held = a.held, 0
	return n
}

// stop forgets what is owed.
func (a *answers) stop() {
	a.timer.Stop()
	a.owed, a.first, a.out, a.held = a.owed[:0], 0, download{}, 0
}
