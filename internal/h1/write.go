package h1

import (
	"strconv"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// A delimiter is how the end of what we write is told.
type delimiter uint8

const (
	byNothing delimiter = iota // no content may follow: what comes is dropped
	byLength
	byChunks
	byClose // also the raw bytes after a 101
)

// An outgoing is one direction of a connection as it is written.
type outgoing struct {
	stream flow.Stream
	by     delimiter
	begun  bool  // the head is written
	done   bool  // so is the end
	closed bool  // our direction is closed
	hold   bool  // see Server.Hold
	left   int64 // bytes still to come, by length

	pending *bufs.Buffer // a head that is held, and what followed it

	// Bytes that wait in the stream. Which of them leave first is not known:
	// framing is taken to, so that content is never reported too early.
	framing, content int
}

// small is how much content is worth copying so that it shares a Write with its
// framing: beyond it, a Write of its own costs less than the copy.
const small = 8 << 10

// next sets the writer up for another message.
func (o *outgoing) next() { o.begun, o.done, o.hold, o.by, o.left = false, false, false, byNothing, 0 }

// head writes b, the whole of a head.
func (o *outgoing) head(b []byte) {
	if o.hold && len(b) < bufs.Small {
		o.pending = bufs.Get(bufs.Small)
		o.pending.B = append(o.pending.B, b...)
		return
	}
	o.framing += o.stream.Write(b)
}

// write sends content and returns how much of it waits; ok is false when it is
// more than was declared.
func (o *outgoing) write(p []byte) (queued int, ok bool) {
	switch o.by {
	case byNothing:
		return 0, true
	case byLength:
		if o.left -= int64(len(p)); o.left < 0 {
			return 0, false
		}
	}
	if len(p) == 0 {
		return 0, true
	}
	if o.pending != nil {
		if len(o.pending.B)+len(p)+chunkFrame <= cap(o.pending.B) {
			// Held content counts as sent: it is no more than a buffer's worth.
			o.pending.B = o.frame(o.pending.B, p)
			return 0, true
		}
		o.flush()
	}
	switch {
	case o.by != byChunks:
		queued = o.stream.Write(p)
	case len(p) <= small:
		buf := bufs.Get(len(p) + chunkFrame)
		q := o.stream.Write(o.frame(buf.B, p))
		buf.Free()
		// The last q bytes wait: the CRLF, then content, then the size.
		queued = min(max(q-2, 0), len(p))
		o.framing += q - queued
	default:
		var size [chunkFrame]byte
		o.framing += o.stream.Write(appendSize(size[:0], len(p)))
		queued = o.stream.Write(p)
		o.framing += o.stream.Write(crlf)
	}
	o.content += queued
	return queued, true
}

// chunkFrame is the most that framing adds to a chunk: sixteen digits and two
// CRLF.
const chunkFrame = 20

// frame appends content as it goes on the wire.
func (o *outgoing) frame(b, p []byte) []byte {
	if o.by != byChunks {
		return append(b, p...)
	}
	return append(append(appendSize(b, len(p)), p...), crlf...)
}

func appendSize(b []byte, n int) []byte {
	return append(strconv.AppendUint(b, uint64(n), 16), crlf...)
}

// end completes the message; ok is false when it is shorter than declared.
func (o *outgoing) end(trailers l7.Fields) (ok bool) {
	o.done = true
	if o.by == byLength && o.left > 0 {
		return false
	}
	if o.by == byChunks {
		o.endChunks(trailers)
	}
	o.flush()
	return true
}

func (o *outgoing) endChunks(trailers l7.Fields) {
	if len(trailers) == 0 && o.pending == nil {
		o.framing += o.stream.Write(lastChunk)
		return
	}
	buf := o.pending
	if buf == nil {
		buf = bufs.Get(sizeOf(trailers))
	}
	o.pending = nil
	b := append(buf.B, '0', '\r', '\n')
	for i := range trailers {
		// A trailer that cannot be written is left out: the content is complete,
		// and nothing may hang on what comes after it.
		f := &trailers[i]
		if name := f.Name; !hopByHop(name) && name != "content-length" && name != "host" && name != "trailer" && validField(f) {
			b = appendField(b, name, f.Value)
		}
	}
	o.framing += o.stream.Write(append(b, crlf...))
	buf.Free()
}

// flush writes what is held.
func (o *outgoing) flush() {
	o.hold = false
	if buf := o.pending; buf != nil {
		o.pending = nil
		o.framing += o.stream.Write(buf.B)
		buf.Free()
	}
}

func (o *outgoing) drop() {
	if o.pending != nil {
		o.pending.Free()
		o.pending = nil
	}
	o.hold, o.framing, o.content = false, 0, 0
}

// sent tells how much of n bytes that left was content.
func (o *outgoing) sent(n int) (content int) {
	framing := min(n, o.framing)
	o.framing -= framing
	content = min(n-framing, o.content)
	o.content -= content
	return content
}

func (o *outgoing) close() {
	if !o.closed {
		o.closed = true
		o.flush()
		o.stream.CloseWrite()
	}
}

// appendFields appends the fields that are the message's own: those of the
// connection and of its framing are written by who knows them. ok is false when
// one cannot be written.
func appendFields(b []byte, fields l7.Fields, request bool) (_ []byte, ok bool) {
	cookies := 0
	for i := range fields {
		f := &fields[i]
		switch f.Name {
		case "connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "content-length":
			continue
		case "host":
			if request {
				continue
			}
		case "cookie":
			if cookies++; request && cookies > 1 {
				continue
			}
		}
		if !validField(f) {
			return b, false
		}
		b = appendField(b, f.Name, f.Value)
		if f.Name == "cookie" && request {
			if b, ok = appendCookies(b, fields[i+1:]); !ok {
				return b, false
			}
		}
	}
	return b, true
}

// appendCookies adds further cookie fields to the one that b ends with: HTTP/2
// may cut it up, and HTTP/1.1 may not see the pieces (RFC 9113, section 8.2.3).
func appendCookies(b []byte, fields l7.Fields) (_ []byte, ok bool) {
	for i := range fields {
		if f := &fields[i]; f.Name == "cookie" {
			if !validField(f) {
				return b, false
			}
			b = append(b[:len(b)-len(crlf)], "; "...)
			b = append(append(b, f.Value...), crlf...)
		}
	}
	return b, true
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, crlf...)
}

func appendLength(b []byte, n int64) []byte {
	b = append(b, "content-length: "...)
	return append(strconv.AppendInt(b, n, 10), crlf...)
}

// appendConnection appends the Connection field and the fields that it names.
func appendConnection(b []byte, te bool, upgrade string) []byte {
	switch {
	case te && upgrade != "":
		b = append(b, "connection: te, upgrade\r\n"...)
	case te:
		b = append(b, "connection: te\r\n"...)
	case upgrade != "":
		b = append(b, "connection: upgrade\r\n"...)
	}
	if te {
		b = append(b, "te: trailers\r\n"...)
	}
	if upgrade != "" {
		b = appendField(b, "upgrade", upgrade)
	}
	return b
}

// validField reports whether f can be written: a value from HTTP/2 or from a
// filter may hold anything, and a name in upper case would slip past those that
// are looked for by name.
func validField(f *l7.Field) bool {
	return validName(f.Name) && validValue(bytesOf(f.Value))
}

func validName(s string) bool {
	for i := range len(s) {
		if c := s[i]; c == 0 || lower[c] != c {
			return false
		}
	}
	return s != ""
}

func validMethod(s string) bool {
	for i := range len(s) {
		if lower[s[i]] == 0 {
			return false
		}
	}
	return s != "" && s != "CONNECT"
}

func validPath(s, method string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '#' {
			return false
		}
	}
	if s == "*" {
		return method == "OPTIONS"
	}
	return s != "" && s[0] == '/'
}

// sizeOf is roughly what fields take on the wire.
func sizeOf(fields l7.Fields) int {
	n := 64
	for i := range fields {
		n += len(fields[i].Name) + len(fields[i].Value) + 4
	}
	return n
}

var (
	crlf      = []byte("\r\n")
	lastChunk = []byte("0\r\n\r\n")
)
