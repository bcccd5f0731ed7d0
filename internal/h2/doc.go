// Package h2 is HTTP/2 (RFC 9113) as a state machine: bytes in, events out;
// decisions in, bytes out. It opens no socket, starts no goroutine and reads no
// clock, so it can be tested, fuzzed and replayed as a function, and whoever
// drives it decides about threads.
//
//	Receive(bytes) ─► Handler.Headers, Data, Reset     ─► Stream.Credit
//	Stream.Headers, Write, CloseWrite, Reset ─► Output() ─► bytes
//
// A [Conn] plays either role. Both ends of a stream close separately, resets
// carry their codes, and nothing is buffered but what the peer's window or the
// bounded output has no room for. That is what a tunnel needs, and what a
// net/http handler cannot give.
//
// # Reading
//
// Frames are parsed by x/net's Framer, which is given whole frames only: the
// nine-byte header tells how long to wait. DATA goes past it, in whatever pieces
// the network delivered, without a copy; so do frames that are to be ignored,
// however long. Header blocks are decoded fragment by fragment by hpack's
// incremental decoder under limits of our own.
//
// # Flow control
//
// The connection's window is credited on receipt and a stream's when the
// receiver has passed the bytes on ([Stream.Credit]): a hundred stalled streams
// cost what their windows hold and starve nobody.
//
// # Writing
//
// Control frames and header blocks go on the output at once. DATA goes there
// while it holds less than 128 KiB; the rest waits in its stream's queue and is
// taken from there, streams in turn, as Output empties. So a frame that matters
// is never behind more than those 128 KiB and a turn of 32.
//
// # What it will not do
//
// No server push, no priorities (they are parsed and ignored), no upgrade from
// HTTP/1.1, no extended CONNECT.
package h2
