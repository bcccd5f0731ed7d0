package h2

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"maps"
	"slices"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// A Role says which end of the connection a Conn is.
type Role uint8

// The roles.
const (
	Client Role = iota
	Server
)

// A Handler is told what happens on a connection. Every call is made inside
// Receive, EOF, Output, Tick or Closed, and may call back into the Conn and its
// Streams, except those five.
type Handler interface {
	// Headers delivers a field section, pseudo-fields first. A server's first
	// on a stream opens it; a client's are informational (1xx) until the final
	// response; a later one, with end, holds trailers. f is valid for the call.
	Headers(s *Stream, f l7.Fields, end bool)

	// Data lends p for the call. Its bytes are uncredited until [Stream.Credit].
	// p may be empty when end is set.
	Data(s *Stream, p []byte, end bool)

	// Sent says that n bytes which [Stream.Write] had queued are on the output.
	Sent(s *Stream, n int)

	// Reset says that the stream is gone: the peer reset it or broke the rules
	// on it, will not serve it ([Refused]), or the connection closed. Nothing
	// follows on it.
	Reset(s *Stream, err error)

	// Changed says that Available or Drained may have changed: the peer's
	// SETTINGS or GOAWAY arrived, or a stream is gone.
	Changed()

	// Closed is the last call.
	Closed(err error)
}

// A Conn is one HTTP/2 connection. It is not safe for concurrent use: it
// belongs to one loop.
type Conn struct {
	// Immutable.
	role Role
	o    Options
	h    Handler

	now time.Time     // of the last Tick
	at  time.Duration // now, since the connection was made
	err error         // why the connection is over; set once

	// Streams.
	streams  map[uint32]*Stream
	latest   *Stream // the one last looked up
	nextID   uint32  // a client's next stream
	peerID   uint32  // the highest stream that a client has opened
	resetIDs recent  // streams that we reset: the peer may not know it yet
	endedIDs recent  // streams that ended otherwise
	changed  bool    // Changed is to be called

	// Receiving: at most one of these parts of a frame is under way.
	preface  string  // what is to come of the client's preface
	carry    []byte  // the start of a frame, until all of it is here
	need     int     // how long it will be; 0 until its header is complete
	skip     int     // bytes to come of a frame that is ignored
	data     payload // a DATA frame
	greeted  bool    // the peer's first SETTINGS have arrived
	heard    bool    // something has arrived since the last Tick
	src      bytes.Reader
	framer   *http2.Framer
	dec      *hpack.Decoder
	block    block // a header block
	inflow   inflow
	ourAcked bool // the peer knows our SETTINGS

	// Sending.
	out     output
	woken   bool // Wake has been called since Output last returned nil
	ready   ring
	outflow outflow
	enc     encoder
	peer    settings

	// Time and trust.
	spent       budgets
	born        time.Time
	lastHeard   time.Time
	pinging     bool      // a keepalive PING is out
	pinged      time.Time // since when
	slowChecked time.Time
	drain       drainStage
	drainSince  time.Time
	gone        *ConnError // the peer's GOAWAY
}

// A drainStage is how far a graceful end has come.
type drainStage uint8

const (
	open      drainStage = iota
	announced            // GOAWAY with the highest possible id, and a PING
	final                // GOAWAY with the real id, one round trip later
)

const clientPreface = http2.ClientPreface

// New returns a connection on which nothing has been received, with our preface
// in its output. now is what Tick's times are measured from.
func New(role Role, o Options, h Handler, now time.Time) *Conn {
	c := &Conn{
		role: role, o: o.withDefaults(), h: h,
		now: now, born: now, lastHeard: now, slowChecked: now, spent: budgets{since: now},
		streams: map[uint32]*Stream{}, nextID: 1,
		inflow:  newInflow(initialWindow),
		outflow: outflow{initialWindow},
		peer:    initialSettings,
		woken:   true,
	}
	c.newFramer()
	c.dec = hpack.NewDecoder(tableSize, c.field)
	c.dec.SetMaxStringLength(c.o.maxBlock())
	c.enc.init()
	if role == Server {
		c.preface = clientPreface
	} else {
		c.out.room(len(clientPreface))
		c.out.b = append(c.out.b, clientPreface...)
	}
	c.announce()
	return c
}

// Open starts a request: a client's stream. The fields, pseudo-fields first, are
// lent for the call. The error is [ErrNoStreams] when Available is 0.
func (c *Conn) Open(f l7.Fields, end bool) (*Stream, error) {
	if c.role != Client {
		return nil, errors.New("h2: open: only a client opens streams")
	}
	if c.err != nil {
		return nil, c.err
	}
	if c.Available() == 0 {
		return nil, ErrNoStreams
	}
	if n := listSize(f); n > int64(c.peer.headerList) {
		return nil, ErrHeaderList
	}
	s := c.newStream(c.nextID)
	c.nextID += 2
	method := f.Get(":method")
	s.connect, s.head = method == "CONNECT", method == "HEAD"
	c.putHeaders(s.id, f, end)
	s.closing, s.outEnd = end, end
	c.wake()
	return s, nil
}

// ErrHeaderList is returned by [Conn.Open] for a head that the peer would not
// accept.
var ErrHeaderList = errors.New("h2: open: the fields are longer than the peer accepts")

func (c *Conn) newStream(id uint32) *Stream {
	window := c.o.StreamWindow
	if !c.ourAcked {
		// The peer may not know our window yet, and assume the initial one.
		window = max(window, initialWindow)
	}
	s := &Stream{
		c: c, id: id, length: -1,
		in:  newInflow(window),
		out: outflow{int64(c.peer.window)},
	}
	c.streams[id] = s
	c.latest = s
	return s
}

// Available returns how many streams Open would grant now: what our own limit
// and the peer's leave. Before the peer's SETTINGS arrive its limit is taken to
// be 100.
func (c *Conn) Available() int {
	if c.role != Client || c.err != nil || c.Draining() {
		return 0
	}
	limit := min(c.o.MaxStreams, c.peer.streams)
	left := (maxStreamID-c.nextID)/2 + 1 // ids are never used twice
	if c.nextID > maxStreamID {
		left = 0
	}
	return max(0, min(int(limit)-len(c.streams), int(left)))
}

// Active returns how many streams there are.
func (c *Conn) Active() int { return len(c.streams) }

// Drain ends the connection gracefully: no new streams, and those that there
// are run to their end. A server says so twice, a round trip apart, so that no
// request in flight is lost (RFC 9113, section 6.8).
func (c *Conn) Drain() {
	if c.drain != open || c.err != nil {
		return
	}
	c.drainSince = c.now
	if c.role == Client {
		c.drain = final
		c.out.goAway(0, CodeNoError, "")
	} else {
		c.drain = announced
		c.out.goAway(maxStreamID, CodeNoError, "")
		c.out.ping(0, pingDrain)
	}
	c.change()
}

// finishDrain names the last stream that will be served.
func (c *Conn) finishDrain() {
	c.drain = final
	c.out.goAway(c.peerID, CodeNoError, "")
	c.change()
}

// Draining reports whether either side has sent GOAWAY.
func (c *Conn) Draining() bool { return c.drain != open || c.gone != nil }

// Drained reports whether the connection is draining, no stream is left and none
// will come, so that it can be closed when its output is empty.
func (c *Conn) Drained() bool {
	return c.Draining() && c.drain != announced && len(c.streams) == 0
}

// change notes that the Handler is to be told, at the end of whatever is being
// done to the Conn, or else in the next Output.
func (c *Conn) change() {
	c.changed = true
	c.wake()
}

func (c *Conn) tell() {
	if c.changed {
		c.changed = false
		c.h.Changed()
	}
}

// fail ends the connection: the peer is told why by a GOAWAY in the output, and
// nothing else is accepted.
func (c *Conn) fail(err error) error {
	if c.err != nil {
		return c.err
	}
	c.err = err
	var e *ConnError
	if errors.As(err, &e) && !e.Remote {
		reason := ""
		if e.Cause != nil {
			reason = e.Cause.Error()
		}
		c.out.goAway(c.peerID, e.Code, reason)
		c.wake()
	}
	c.carry, c.data = nil, payload{}
	c.change()
	return err
}

// EOF says that the peer will send nothing more. That ends an HTTP/2 connection,
// so the error is never nil: it carries the code of the peer's GOAWAY if there
// was one, and wraps io.EOF, or io.ErrUnexpectedEOF in the middle of a frame.
func (c *Conn) EOF() error {
	if c.err != nil {
		return c.err
	}
	e := &ConnError{Remote: true, Cause: io.EOF}
	if c.gone != nil {
		e.Code = c.gone.Code
	}
	if len(c.carry) > 0 || c.skip > 0 || c.data.active || c.block.open {
		e.Cause = io.ErrUnexpectedEOF
	}
	err := c.fail(e)
	c.tell()
	return err
}

// Closed says that the transport is gone. Every stream is reset with err, which
// may be nil, in the order they were opened, and the Handler told.
func (c *Conn) Closed(err error) {
	if c.h == nil {
		return
	}
	if c.err == nil {
		c.err = cmp.Or(err, ErrClosed)
	}
	if err == nil {
		err = c.err
	}
	c.woken = true // nobody will ask for output
	for _, s := range c.ordered() {
		if !s.dead {
			s.drop()
			c.h.Reset(s, err)
		}
	}
	c.out.release()
	c.carry, c.data, c.changed = nil, payload{}, false
	h := c.h
	c.h = nil
	h.Closed(err)
}

// ordered returns the streams by id.
func (c *Conn) ordered() []*Stream {
	return slices.SortedFunc(maps.Values(c.streams), func(a, b *Stream) int { return cmp.Compare(a.id, b.id) })
}

// Tick is to be called about once a second. It looks after the peer's life and
// our age, starts the budgets of a new second, and resets streams whose reader
// has stopped. An error is a connection error, as in Receive.
func (c *Conn) Tick(now time.Time) error {
	if c.err != nil {
		return c.err
	}
	c.now, c.at = now, now.Sub(c.born)
	c.spent.tick(now)
	if err := c.keepalive(); err != nil {
		return c.fail(err)
	}
	if c.o.MaxAge > 0 && now.Sub(c.born) >= c.o.MaxAge {
		c.Drain()
	}
	if c.drain == announced && now.Sub(c.drainSince) >= drainWait {
		c.finishDrain()
	}
	c.dropSlow()
	c.tell()
	return nil
}

var (
	pingAlive = [8]byte{'a', 'l', 'i', 'v', 'e', '?'}
	pingDrain = [8]byte{'d', 'r', 'a', 'i', 'n', 'i', 'n', 'g'}
)

// keepalive asks a silent peer whether it is there. Any byte is an answer: under
// load the acknowledgement itself may be far behind.
func (c *Conn) keepalive() error {
	if c.heard {
		c.heard, c.lastHeard, c.pinging = false, c.now, false
		return nil
	}
	switch {
	case c.o.Keepalive < 0 || c.o.KeepaliveTimeout < 0:
	case c.pinging:
		if c.now.Sub(c.pinged) >= c.o.KeepaliveTimeout {
			return broken(CodeNoError, "keepalive: nothing heard after a PING")
		}
	case c.now.Sub(c.lastHeard) >= c.o.Keepalive:
		c.pinging, c.pinged = true, c.now
		c.out.ping(0, pingAlive)
		c.wake()
	}
	return nil
}

var errSlowReader = errors.New("the peer has granted no window for too long")

// dropSlow resets streams that have had data waiting for too long. It looks
// eight times per period, not every second: the period is minutes.
func (c *Conn) dropSlow() {
	if c.o.SlowReader < 0 || c.now.Sub(c.slowChecked) < c.o.SlowReader/8 {
		return
	}
	c.slowChecked = c.now
	for _, s := range c.streams {
		if s.queue.Len() > 0 && !s.tunnel && c.at-s.stalled >= c.o.SlowReader {
			c.putReset(s.id, CodeCancel)
			s.drop()
			c.h.Reset(s, &StreamError{Code: CodeCancel, Cause: errSlowReader})
		}
	}
}
