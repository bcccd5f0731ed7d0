package h2

import "time"

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

	// MaxResets is how many streams per second the peer may cancel, or have
	// reset by breaking the rules, before the connection is closed with
	// ENHANCE_YOUR_CALM (CVE-2023-44487, CVE-2025-8671). The larger of 500 and
	// twice MaxStreams.
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
