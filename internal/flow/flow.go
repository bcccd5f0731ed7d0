// Package flow names what a tunnel, a TCP connection and an HTTP/2 stream have
// in common: bytes both ways, in order, with credit.
//
// Whoever produces bytes (an HBONE tunnel, a TCP connection on a loop)
// implements Stream; whoever consumes them (an HTTP codec, an exchange)
// implements Receiver. The codecs can therefore run on either, and [Pair]
// copies a tunnel to a socket or to another tunnel in the same few lines.
//
// The memory rule: bytes that were received and not yet credited are the only
// bytes that may be waiting anywhere. A consumer that passes bytes on credits
// them when they have left, not when it has taken them, so that what a stalled
// stream holds is bounded by its receive window.
package flow

// A Stream is the near end of a two-way byte stream. It belongs to one loop,
// and every call is made there.
type Stream interface {
	// Write sends p, which is lent for the call. What the peer's window or the
	// bounded output has no room for is copied and waits its turn. Write returns
	// how many of p's bytes are waiting; [Receiver.Sent] reports them as they
	// leave. Writing after CloseWrite or Reset drops p and returns 0.
	Write(p []byte) (queued int)

	// CloseWrite ends our direction once everything queued has left.
	CloseWrite()

	// Credit says that n received bytes have been passed on, so that the peer
	// may send as many more.
	Credit(n int)

	// Reset gives the stream up in both directions. The Receiver is told
	// nothing more. A nil error means that we no longer care (CANCEL).
	Reset(err error)

	// Queued returns how many written bytes have not left yet.
	Queued() int
}

// A Receiver takes what arrives on a Stream. Every call is made on the
// stream's loop; it may call back into the Stream.
type Receiver interface {
	// Data lends p for the call. Its bytes stay uncredited until the Receiver
	// calls [Stream.Credit].
	Data(p []byte)

	// EOF says that the peer has ended its direction; ours is still open.
	EOF()

	// Sent says that n bytes which Write had queued have now left.
	Sent(n int)

	// Reset says that the stream is gone in both directions: the peer gave it
	// up, or the connection beneath it failed. Nothing follows.
	Reset(err error)
}
