// Package loop drives sockets: it reads what is there, hands it to whoever
// serves the socket, and writes what they have to say.
//
// A Loop is one goroutine. Everything that a connection owns belongs to the
// loop that adopted it and is touched nowhere else, so nothing on the data path
// locks. A loop works in batches: it handles every event that is ready, runs
// what was posted to it and the timers that are due, and only then writes, once
// per socket. Do is the only way in from another goroutine.
//
// How a loop waits and how a socket moves bytes are two seams. On Linux the
// loop waits on an epoll descriptor which is itself parked in Go's poller, and a
// TCP socket has no goroutine. Elsewhere, and for connections that are not TCP
// sockets (tests on an in-memory network), the loop waits on a channel, and a
// socket has one goroutine that reads and one that writes. TLS, timers and
// drivers run on the loop in both.
//
// TLS is crypto/tls up to the end of the handshake, and package record after it:
// records are opened to where drivers receive them, and sealed where they are
// written from. Options.CryptoTLS leaves them to crypto/tls.
//
// Nothing may block on a loop. A handshake, a dial, a call to the world runs on
// a goroutine of its own, which posts its result with Do.
package loop

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/waystone-mesh/waystone/internal/record"
)

// ErrClosed is what drivers are told when their Group closes.
var ErrClosed = errors.New("loop: closed")

// A Driver is what a socket serves: an HTTP/2 connection, one leg of a tunnel.
// Every call is made on the socket's loop, and none from within another.
type Driver interface {
	// Receive takes bytes that have arrived; p is lent for the call. An error
	// is a connection error: what Output still has is flushed and the socket
	// closes.
	Receive(p []byte) error

	// EOF says that the peer has ended its direction. The other stays open until
	// the driver calls CloseWrite, Close or Abort; an error closes as in Receive.
	EOF() error

	// Output returns what is to be written now, empty when there is nothing. It
	// stays valid until the next call on the driver, and counts as written: the
	// loop writes or holds all of it. While the socket is full Output is not
	// called.
	Output() []byte

	// Closed says that the socket is gone. It is the last call, and it is always
	// made: with nil after Close or when both directions ended in order, with the
	// reason otherwise.
	Closed(err error)
}

// A Flusher has something to do when the batch is over.
type Flusher interface{ Flush() }

// A Loop runs drivers. Its methods other than Do are for functions that are
// running on it.
type Loop struct {
	// Immutable.
	number int // in its Group
	poller poller
	epoch  time.Time // Timers count from here
	slow   time.Duration
	hang   time.Duration
	done   chan struct{}  // closed when run has returned
	wires  sync.WaitGroup // the goroutines of sockets without a descriptor

	cryptoTLS bool // Options.CryptoTLS

	// Guarded by mu.
	mu      sync.Mutex
	queue   []func()
	parked  bool // the loop waits, or is about to: wake it
	over    bool // run has returned: whoever calls Do runs what it posts
	running bool // with over: somebody is running the queue

	// Owned by the loop.
	now     time.Time
	at      time.Duration // now, since epoch
	closing bool
	spare   []func() // the other half of queue
	timers  timers
	enders  []Flusher
	ending  []Flusher // the other half of enders
	dirty   []*Socket // have something to flush
	flushed []*Socket // the other half of dirty
	spent   []*Socket // dirty, but have had their turn: for the end of the next batch
	owed    []*Socket // the other half of spent: this is the next batch
	late    []*Socket // have something to read, and are to come after the others
	carried int       // bytes read since the last flush
	ready   []*Socket // have something to read that no event will tell
	reading []*Socket // the other half of ready
	sockets []*Socket // all of them, each knowing its index
	in      []byte    // what a socket is read into
	plain   []byte    // what TLS is opened into
	sealed  []byte    // what TLS gathers while a socket flushes
	meter   meter
}

// Sizes of a loop's own buffers. Measured: 128 KiB is the best size for a read,
// more leaves the second-level cache; a read of that size ends in a part of a
// record, which is put in front of the next.
const (
	readSize  = 128 << 10
	plainSize = 64 << 10
	sealSize  = 64 << 10 // gathered records are written from here on
)

// The budgets of one socket in one batch, so that one that never falls silent
// does not starve the others. What comes for them meanwhile waits for its turn to
// end: 0.15 ms for a read of the whole size, with what becomes of it. Twice and
// four times as much was no cheaper by the byte.
const (
	maxReads     = 4
	maxReadBytes = 64 << 10 // after as much, no further read
	maxFlush     = 128 << 10
)

// maxCarried is how much is read before a batch flushes and goes on: 512 KiB. It
// is when many have much to say that nobody's answer should wait for all of it.
const maxCarried = 512 << 10

// maxPasses bounds how often the end of a batch starts over because flushing
// one thing gave another something to say. What is left goes first in the next
// batch.
const maxPasses = 16

func newLoop(p poller, slow time.Duration) *Loop {
	l := &Loop{
		poller: p,
		epoch:  time.Now(),
		slow:   slow,
		done:   make(chan struct{}),
		in:     make([]byte, readSize+maxRecord),
		plain:  make([]byte, plainSize+record.Room-record.MaxContent),
		sealed: make([]byte, 0, 2*sealSize+4<<10),
	}
	l.now = l.epoch
	return l
}

// Do runs f on the loop, after what was posted before it. It may be called from
// anywhere and does not wait. Once the Group is closed there is no loop left,
// and f runs on a goroutine that calls Do, still one at a time.
func (l *Loop) Do(f func()) {
	l.mu.Lock()
	l.queue = append(l.queue, f)
	wake, run := l.parked, l.over && !l.running
	l.parked = false
	l.running = l.running || run
	l.mu.Unlock()
	if wake {
		l.poller.wake()
	}
	if run {
		l.runLeft()
	}
}

// Now returns the time at which the batch began. The clock is read once per
// batch.
func (l *Loop) Now() time.Time { return l.now }

// AtBatchEnd runs f once, after the events of this batch, or those up to where it
// flushes, and before its sockets are flushed. It may be called from within a Flush; each call is one run, so
// whoever calls often keeps a mark.
func (l *Loop) AtBatchEnd(f Flusher) { l.enders = append(l.enders, f) }

// Adopt makes the loop own s, which d serves from now on. Bytes that arrived
// with the end of the handshake are delivered first; d.Output is pulled at the
// end of the batch. d is not called before Adopt returns.
func (l *Loop) Adopt(s *Socket, d Driver) {
	s.loop, s.d = l, d
	s.index = len(l.sockets)
	l.sockets = append(l.sockets, s)
	l.meter.sockets.Store(int64(len(l.sockets)))
	s.mark()
	switch {
	case s.phase == gone: // closed before it was adopted
		s.phase = open
		s.fail(s.cause)
	case l.closing:
		s.phase = open
		s.fail(ErrClosed)
	default:
		s.start()
	}
}

// run is the loop's goroutine.
func (l *Loop) run() { l.labelled(l.serve) }

func (l *Loop) serve(context.Context) {
	defer close(l.done)
	for !l.closing {
		l.batch()
	}
	l.mu.Lock()
	l.over, l.running = true, true
	l.mu.Unlock()
	l.runLeft()
	l.poller.close()
}

// batch waits until there is something to do and does all of it.
func (l *Loop) batch() {
	until := l.timers.next()
	l.owed, l.spent = l.spent, l.owed
	idle := len(l.ready)+len(l.dirty)+len(l.enders)+len(l.owed) == 0
	events := l.poller.wait(l, idle, until)
	l.tick()
	l.poller.dispatch(l, events)
	l.runReady()
	l.runQueue()
	l.timers.fire(l.at)
	l.end()
	l.runLate()
	l.meter.batch(l, events)
}

// tick reads the clock.
func (l *Loop) tick() {
	l.now = time.Now()
	l.at = l.now.Sub(l.epoch)
	l.meter.began.Store(int64(l.at) | 1) // never 0, which is idle
}

// park says that the loop is about to wait: from now on Do wakes it. It reports
// false when there is something to do first.
func (l *Loop) park() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.parked = len(l.queue) == 0
	return l.parked
}

// runQueue runs what was posted before this batch.
func (l *Loop) runQueue() {
	l.mu.Lock()
	q := l.queue
	l.queue = l.spare[:0]
	l.parked = false
	l.mu.Unlock()
	for i, f := range q {
		q[i] = nil
		f()
		l.breathe()
	}
	l.meter.posted += uint64(len(q))
	if cap(q) > 4<<10 {
		q = nil // a burst is not a reason to keep 32 KiB for ever
	}
	l.spare = q[:0]
}

// runLeft runs what is posted when the loop is over, until there is no more.
func (l *Loop) runLeft() {
	for {
		l.tick()
		l.spent = l.takeTurns(l.spent)
		l.runQueue()
		l.end()
		l.mu.Lock()
		l.running = len(l.queue) > 0
		more := l.running
		l.mu.Unlock()
		if !more {
			return
		}
	}
}

// again has s read in the next batch, without an event.
func (l *Loop) again(s *Socket) {
	if !s.again {
		s.again = true
		l.ready = append(l.ready, s)
	}
}

func (l *Loop) runReady() {
	l.ready, l.reading = l.reading[:0], l.ready
	for i, s := range l.reading {
		l.reading[i] = nil
		s.again = false
		s.readable()
		l.breathe()
	}
}

// breathe flushes in the middle of a batch that has carried much.
func (l *Loop) breathe() {
	if l.carried >= maxCarried {
		l.end()
	}
}

// runLate gives those their turn who have used up their last: after everybody
// else, whose answers have left by now.
func (l *Loop) runLate() {
	if len(l.late)+len(l.owed) == 0 {
		return
	}
	l.owed = l.takeTurns(l.owed)
	for i, s := range l.late {
		l.late[i] = nil
		s.readable()
		l.breathe()
	}
	l.late = l.late[:0]
	l.end()
}

// takeTurns has those flushed who have written all that they might in the batch
// before, and returns the list emptied.
func (l *Loop) takeTurns(who []*Socket) []*Socket {
	l.dirty = append(l.dirty, who...)
	clear(who)
	return who[:0]
}

// end runs the Flushers and then flushes the sockets, until nothing has
// anything left to say.
func (l *Loop) end() {
	l.carried = 0
	for range maxPasses {
		switch {
		case len(l.enders) > 0:
			l.runEnders()
		case len(l.dirty) > 0:
			l.flushDirty()
		default:
			return
		}
	}
}

func (l *Loop) runEnders() {
	l.enders, l.ending = l.ending[:0], l.enders
	for i, f := range l.ending {
		l.ending[i] = nil
		f.Flush()
	}
}

func (l *Loop) flushDirty() {
	l.dirty, l.flushed = l.flushed[:0], l.dirty
	for i, s := range l.flushed {
		l.flushed[i] = nil
		s.dirty = false
		s.flush()
	}
}

// forget drops a socket that is gone.
func (l *Loop) forget(s *Socket) {
	last := len(l.sockets) - 1
	l.sockets[s.index] = l.sockets[last]
	l.sockets[s.index].index = s.index
	l.sockets[last] = nil
	l.sockets = l.sockets[:last]
	l.meter.sockets.Store(int64(last))
}

// shut aborts every socket and ends run after this batch.
func (l *Loop) shut() {
	l.closing = true
	l.owed, l.spent = l.takeTurns(l.owed), l.takeTurns(l.spent)
	for _, s := range l.sockets {
		s.fail(ErrClosed)
	}
	l.end()
}
