package h1

import "github.com/waystone-mesh/waystone/internal/l7"

// A stage is what the next byte of a direction belongs to.
type stage uint8

const (
	atHead     stage = iota
	atLength         // content of a declared length
	atSize           // digits of a chunk's size
	atSpace          // white space after them, which must lead to an extension
	atExt            // extensions
	atSizeLF         // the LF that ends the size
	atData           // content of a chunk
	atDataCR         // what follows it
	atDataLF         //
	atTrailers       // fields after the last chunk
	untilClose       // content that ends with the connection
	raw              // another protocol's bytes
	complete         // the message is over; bytes belong to the next
	dropping         // we have closed; nothing that comes matters
)

// An incoming is one direction of a connection as it is read.
type incoming struct {
	stage  stage
	digits uint8 // of the chunk size, without leading zeros
	line   int   // bytes of the chunk-size line
	extra  int   // bytes of all extensions of the message
	left   int64 // bytes of content, or of the chunk
	heads  scanner
	held   int // bytes of content lent and not credited
}

// begin sets the reader up for the content of a message: length is -1 for
// chunks.
func (in *incoming) begin(length int64) {
	in.extra, in.left = 0, length
	switch {
	case length > 0:
		in.stage = atLength
	case length == 0:
		in.stage = complete
	default:
		in.chunk()
	}
}

func (in *incoming) chunk() { in.stage, in.left, in.digits, in.line = atSize, 0, 0, 0 }

// next reads from p, which is not empty, at a stage between atLength and raw.
// Of the n bytes used, either all are content or all are framing. When the
// message is complete, last is the head that holds its trailers, to be
// released, or nil.
func (in *incoming) next(p []byte, l *Limits) (n int, content bool, last *head, err *Error) {
	switch in.stage {
	case atLength, atData:
		n = int(min(int64(len(p)), in.left))
		if in.left -= int64(n); in.left == 0 {
			if in.stage == atData {
				in.stage = atDataCR
			} else {
				in.stage = complete
			}
		}
		return n, true, nil, nil
	case untilClose, raw:
		return len(p), true, nil, nil
	case atTrailers:
		return in.trailers(p, l)
	}
	for n < len(p) && in.stage != atData && in.stage != atTrailers {
		if err := in.frame(p[n], l); err != nil {
			return n, false, nil, err
		}
		n++
	}
	return n, false, nil, nil
}

// frame reads one byte of the framing of chunks (RFC 9112, section 7.1).
func (in *incoming) frame(c byte, l *Limits) *Error {
	switch in.stage {
	case atSize:
		in.line++
		if v, ok := hexDigit(c); ok {
			if in.digits > 0 || v != 0 {
				in.digits++
			}
			if in.digits > 15 { // 16¹⁵ < 2⁶³
				return errChunkHuge
			}
			in.left = in.left<<4 | int64(v)
			break
		}
		switch {
		case in.line == 1: // no digit
			return errChunkSize
		case c == '\r':
			in.stage = atSizeLF
		case c == ';':
			in.stage = atExt
		case c == ' ' || c == '\t':
			// White space is only good before an extension; one of its own would
			// be read as part of the size, or as its end, by different readers.
			in.stage = atSpace
		default:
			return errChunkSize
		}
	case atSpace:
		in.line++
		in.extra++
		switch c {
		case ' ', '\t':
		case ';':
			in.stage = atExt
		default:
			return errChunkSize
		}
	case atExt:
		in.line++
		in.extra++
		switch {
		case c == '\r':
			in.stage = atSizeLF
		case c < 0x20 && c != '\t' || c == 0x7f:
			return errChunkByte
		}
	case atSizeLF:
		if c != '\n' {
			return errChunkByte
		}
		if in.stage = atData; in.left == 0 {
			in.stage = atTrailers
		}
		return nil
	case atDataCR:
		if c != '\r' {
			return errChunkEnd
		}
		in.stage = atDataLF
		return nil
	case atDataLF:
		if c != '\n' {
			return errChunkEnd
		}
		in.chunk()
		return nil
	}
	return in.tooLong(l)
}

func (in *incoming) tooLong(l *Limits) *Error {
	// One long line, or a message of which most is extensions: neither is
	// anything but an attempt to make us read for nothing.
	if in.line > l.ChunkLine || in.extra > l.Head {
		return errChunkLine
	}
	return nil
}

func (in *incoming) trailers(p []byte, l *Limits) (n int, content bool, last *head, err *Error) {
	h, b, n, err := in.heads.feed(trailers, p, l)
	if h == nil || err != nil {
		return n, false, nil, err
	}
	if err := h.parseFields(b, 0, 0); err != nil {
		h.release()
		return n, false, nil, err
	}
	in.stage = complete
	return n, false, h, nil
}

// fieldsOf returns the trailers in h, which may be nil.
func fieldsOf(h *head) l7.Fields {
	if h == nil || len(h.fields) == 0 {
		return nil
	}
	return h.fields
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case digit(c):
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
