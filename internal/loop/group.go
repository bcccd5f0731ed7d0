package loop

import (
	"runtime"
	"time"
)

// Options of a Group. The zero value is right for the proxies.
type Options struct {
	// Portable forces the channel and the goroutines where epoll would serve: in
	// a synctest bubble, say.
	Portable bool

	// Lead is how many sockets a loop may have more than the one with the
	// fewest, as long as it has time to spare. 0 means 64; less than 0, none:
	// sockets are spread evenly.
	Lead int

	// CryptoTLS leaves the records of TLS to crypto/tls after the handshake too. A
	// connection then costs a copy more in each direction, two allocations for
	// each record that is read, and a record's worth of memory while it is idle.
	CryptoTLS bool

	// Slow is from when on a batch counts in Stats.Slow. 0 means 10 ms.
	Slow time.Duration

	// Hang is from when on a batch counts in Stats.Hangs, and [Group.Watch] tells
	// of it. 0 means 1 s.
	Hang time.Duration
}

// busy is from when on a loop gets no new sockets if another has time to spare:
// 70 % of a core.
const busy = 700 // per mille

// A Group is the loops of a process.
type Group struct {
	// Immutable.
	loops []*Loop
	lead  int64
	hang  time.Duration
}

// NewGroup starts n loops; 0 means one per core.
func NewGroup(n int, o Options) (*Group, error) {
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	if o.Slow <= 0 {
		o.Slow = 10 * time.Millisecond
	}
	if o.Hang <= 0 {
		o.Hang = time.Second
	}
	g := &Group{lead: int64(o.Lead), hang: o.Hang}
	if o.Lead == 0 {
		g.lead = 64
	}
	for i := range n {
		p, err := newPoller(o.Portable)
		if err != nil {
			g.Close()
			return nil, err
		}
		l := newLoop(p, o.Slow)
		l.number, l.hang, l.cryptoTLS = i, o.Hang, o.CryptoTLS
		g.loops = append(g.loops, l)
		go l.run()
	}
	return g, nil
}

// Loops returns the loops. The slice is not to be changed.
func (g *Group) Loops() []*Loop { return g.loops }

// Pick returns the loop for a new socket. It may be called from anywhere; the
// socket counts once it is adopted, so pick after the handshake, not before.
//
// That is the first loop which has time to spare: two half idle loops cost twice
// the system calls of one busy loop (measured: 33 µs against 16.5 µs per request
// at 8000 a second). A socket never moves, however, and a burst of them comes
// before anything can be measured; so a loop may lead the others by so many and
// no more. When no loop has time to spare it is the one with the fewest sockets.
func (g *Group) Pick() *Loop {
	fewest := g.loops[0]
	for _, l := range g.loops[1:] {
		if l.meter.sockets.Load() < fewest.meter.sockets.Load() {
			fewest = l
		}
	}
	if g.lead < 0 {
		return fewest
	}
	most := fewest.meter.sockets.Load() + g.lead
	for _, l := range g.loops {
		if l.meter.sockets.Load() < most && l.meter.load(l) < busy {
			return l
		}
	}
	return fewest
}

// Close aborts every socket, tells its driver ErrClosed, and waits until the
// loops and the goroutines of their sockets have ended. It must not be called
// on a loop.
func (g *Group) Close() {
	for _, l := range g.loops {
		l.Do(l.shut)
	}
	for _, l := range g.loops {
		<-l.done
		l.wires.Wait()
	}
}

// Stats returns what each loop has done so far.
func (g *Group) Stats() []Stats {
	s := make([]Stats, len(g.loops))
	for i, l := range g.loops {
		s[i] = l.Stats()
	}
	return s
}
