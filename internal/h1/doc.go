// Package h1 is HTTP/1.1, bytes in and events out.
//
//	flow.Stream ⇄ Server ⇄ ServerHandler      what clients send us
//	flow.Stream ⇄ Client ⇄ ClientHandler      what we send destinations
//
// A codec is the flow.Receiver of its stream. It does no I/O of its own, reads
// no clock and starts no goroutine: it is a function of the bytes and calls it
// is given, on the loop of its stream.
//
// The one idea is that a proxy must never be unsure where a message ends. Of
// two ways to read a head, neither is taken: the request is refused and the
// connection closed, for the next reader might take the other (RFC 9112,
// section 11.2). What is written is built anew from the parsed head, never
// copied from what arrived, and a message that does not come out as long as
// its head said is cut off by a reset.
//
// The memory rule is flow's. Framing (heads, chunk sizes, trailers) is credited
// as it is read; content when the handler says so; and the bytes of a pipelined
// request wait, uncredited, until the exchange before it is over.
//
// A codec holds no buffer between messages.
package h1

import "errors"

// Limits bounds what a peer may make us hold or do. A zero field means its
// default.
type Limits struct {
	Head      int // bytes of a head or of trailers, line ends included; 64 KiB, a little above Envoy's 60
	Target    int // bytes of a request target; default Head
	Fields    int // fields in a head or in trailers; 100, as Envoy's
	ChunkLine int // bytes of a chunk-size line with its extensions; 1 KiB, for extensions mean nothing to us
	Drain     int // bytes of request content read and dropped to keep a connection whose request was answered early; 64 KiB
}

// defaults is what nearly every codec has: they share it.
var defaults = Limits{}.withDefaults()

// orDefaults returns l with every zero field filled in.
func (l Limits) orDefaults() *Limits {
	if l == (Limits{}) {
		return &defaults
	}
	l = l.withDefaults()
	return &l
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Head, 64<<10)
	def(&l.Target, l.Head)
	def(&l.Fields, 100)
	def(&l.ChunkLine, 1<<10)
	def(&l.Drain, 64<<10)
	return l
}

// An Error is a fault of the peer's: a message that breaks HTTP/1.1, or is
// refused because it could be read in two ways.
type Error struct {
	Status int    // what a server answers it with
	Reason string // which rule was broken
}

func (e *Error) Error() string { return "h1: " + e.Reason }

// What callers branch on. Other faults of the peer's are an *Error.
var (
	// ErrNoResponse: the destination closed before the first byte of a response.
	// It is what a request sees that crossed the end of a pooled connection.
	ErrNoResponse = errors.New("h1: connection closed before a response")

	// ErrCut: the peer closed within a message.
	ErrCut = errors.New("h1: connection closed within a message")

	// ErrLength: our side wrote more content than it had declared, or less.
	ErrLength = errors.New("h1: content does not have the declared length")

	// ErrState: the call does not fit where the exchange is (a second response,
	// a request while another is open, a switch that was not asked for), or the
	// connection is gone.
	ErrState = errors.New("h1: call out of turn")

	// ErrInvalid: a head to be written has a byte or a value that HTTP/1.1 has
	// no place for, such as a line break in a field. Nothing was written.
	ErrInvalid = errors.New("h1: head cannot be written")
)
