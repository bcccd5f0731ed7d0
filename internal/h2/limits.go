package h2

import "time"

const (
	// 128 KiB: DATA is put on the output while it holds less. Beyond that a
	// queue per stream is fairer and no slower, since the socket is the brake.
	hold = 128 << 10

	// 64 KiB: what Output hands out at a time, four TLS records.
	flush = 64 << 10

	// 32 KiB: the longest DATA frame we send, one pooled buffer, and a stream's
	// turn when several have data.
	turn = 32 << 10

	// 1 MiB: a server with this much waiting to be read by the peer refuses
	// streams, whose answers would only add to it.
	clogged = 1 << 20

	// 16 KiB: the longest SETTINGS or GOAWAY, which have to be held whole; the
	// limit that every peer starts with.
	maxControl = 16 << 10

	// 4 KiB: what the peer's header compression may make us remember, and ours
	// the peer.
	tableSize = 4 << 10

	// 100: streams to open before the peer's SETTINGS say how many it takes
	// (RFC 9113, section 6.5.2, advises peers not to go lower).
	assumedStreams = 100

	// 5 s: how long the PING of a graceful GOAWAY is waited for. It only has to
	// cover a round trip.
	drainWait = 5 * time.Second

	// What a DATA frame of ours adds to the budget of idle frames: the peer will
	// credit it. Some do so for every 4 KiB, on the stream and the connection.
	updatesPerData = 20

	minFrame      = 1 << 14
	maxFrame      = 1<<24 - 1
	initialWindow = 1<<16 - 1 // before SETTINGS say otherwise
	maxStreamID   = 1<<31 - 1
)

// Options is how a [Conn] is set up. The zero value of each field stands for
// its default; values that RFC 9113 does not allow are moved to the nearest one
// that it does.
type Options struct {
	StreamWindow  uint32 // what a stream may have uncredited; 256 KiB
	ConnWindow    uint32 // the connection's window, credited on receipt; 1 MiB, and never under 64 KiB
	MaxFrame      uint32 // the longest frame the peer may send; 1 MiB
	MaxStreams    uint32 // a server's limit on the client's streams, a client's on its own; 200
	MaxHeaderList uint32 // the longest field section accepted, as RFC 9113 counts; 64 KiB

	// Keepalive is how long the peer may be silent before it is sent a PING, and
	// KeepaliveTimeout how long it then has to send anything at all. 10 s and
	// 20 s; negative: never.
	Keepalive, KeepaliveTimeout time.Duration

	// MaxAge is when the connection drains by itself; 0: never. The caller has
	// added the jitter.
	MaxAge time.Duration

	// Wake is called when there is output, at most once until Output has
	// returned nil. New does not call it: there is output from the start. Nil:
	// nobody needs waking.
	Wake func()

	// MaxResets is how many streams per second a client may cancel before it
	// has been sent any content, or have reset by breaking the rules, before the
	// connection is closed with ENHANCE_YOUR_CALM (CVE-2023-44487,
	// CVE-2025-8671). The larger of 500 and twice MaxStreams.
	MaxResets int

	// MaxReplies is how many frames that only answer the peer's (PING and
	// SETTINGS acknowledgements, RST_STREAM) may wait in the output; 2000.
	MaxReplies int

	// MaxIdleFrames is how many frames that move nothing (PING, SETTINGS,
	// PRIORITY, empty DATA, WINDOW_UPDATE beyond what our DATA explains, unknown
	// types) the peer may send per second; 10 000.
	MaxIdleFrames int

	// SlowReader is how long the peer may grant no window to a stream that has
	// data waiting before the stream is reset; 5 minutes; negative: for ever.
	// Tunnels are exempt: their users may be idle as long as they like.
	SlowReader time.Duration
}

// withDefaults returns o with every zero field filled in and every other within
// what the RFC allows.
func (o Options) withDefaults() Options {
	o.StreamWindow = between(1, or(o.StreamWindow, 256<<10), maxWindow)
	o.ConnWindow = between(initialWindow, or(o.ConnWindow, 1<<20), maxWindow)
	o.MaxFrame = between(minFrame, or(o.MaxFrame, 1<<20), maxFrame)
	o.MaxStreams = between(1, or(o.MaxStreams, 200), maxStreamID)
	o.MaxHeaderList = between(1<<10, or(o.MaxHeaderList, 64<<10), 16<<20)
	o.Keepalive = or(o.Keepalive, 10*time.Second)
	o.KeepaliveTimeout = or(o.KeepaliveTimeout, 20*time.Second)
	o.SlowReader = or(o.SlowReader, 5*time.Minute)
	o.MaxResets = or(o.MaxResets, max(500, 2*int(o.MaxStreams)))
	o.MaxReplies = or(o.MaxReplies, 2000)
	o.MaxIdleFrames = or(o.MaxIdleFrames, 10_000)
	if o.Wake == nil {
		o.Wake = func() {}
	}
	return o
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func between(low, v, high uint32) uint32 { return min(max(low, v), high) }

// maxBlock is how many encoded bytes of one header block we decode. Up to here a
// field section that is too long costs its stream; beyond, the connection, since
// the compression state is lost with what is not decoded.
func (o *Options) maxBlock() int { return 2*int(o.MaxHeaderList) + 1<<10 }

// maxFragments is how many frames one header block may come in.
func (o *Options) maxFragments() int { return 32 + int(o.MaxHeaderList)/(8<<10) }

// budgets count what the peer makes us do for nothing. resets and idle start
// again every second, replies whenever the output has been taken whole.
type budgets struct {
	resets, idle, replies int
	since                 time.Time
}

// tick starts a new second when one has passed.
func (b *budgets) tick(now time.Time) {
	if now.Sub(b.since) >= time.Second {
		b.since, b.resets, b.idle = now, 0, 0
	}
}

// idled counts n frames that moved nothing.
func (c *Conn) idled(n int) error {
	if c.spent.idle += n; c.spent.idle > c.o.MaxIdleFrames {
		return broken(CodeEnhanceYourCalm, "too many frames that move nothing")
	}
	return nil
}

// replied counts a frame that answers one of the peer's.
func (c *Conn) replied() error {
	if c.spent.replies++; c.spent.replies > c.o.MaxReplies {
		return broken(CodeEnhanceYourCalm, "answers are asked for and not read")
	}
	return nil
}

// canceled counts a stream that the peer opened for nothing.
func (c *Conn) canceled() error {
	if c.role == Client {
		return nil
	}
	if c.spent.resets++; c.spent.resets > c.o.MaxResets {
		return broken(CodeEnhanceYourCalm, "too many streams are reset")
	}
	return nil
}

// recent remembers the last few of a series of stream ids. It answers only for
// frames on streams that no longer exist, so it is searched, not indexed.
type recent struct {
	ids  []uint32
	next int
}

// add remembers id, instead of the oldest of size ids.
func (r *recent) add(id uint32, size int) {
	if len(r.ids) < size {
		r.ids = append(r.ids, id)
		return
	}
	r.ids[r.next] = id
	r.next = (r.next + 1) % size
}

func (r *recent) has(id uint32) bool {
	for _, v := range r.ids {
		if v == id {
			return true
		}
	}
	return false
}

const (
	rememberReset = 1024 // 4 KiB at most: more than are reset in a round trip
	rememberEnded = 16   // they only make the error code more exact
)
