package bench

import (
	"encoding/binary"
	"errors"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// gRPC calls are those of grpc.testing.BenchmarkService, so that any server made
// for benchmarks can be the destination, and any client can ask ours:
//
//	message Payload        { PayloadType type = 1; bytes body = 2; }
//	message SimpleRequest  { PayloadType response_type = 1; int32 response_size = 2; Payload payload = 3; … }
//	message SimpleResponse { Payload payload = 1; … }
const (
	unaryCall     = "/grpc.testing.BenchmarkService/UnaryCall"
	streamingCall = "/grpc.testing.BenchmarkService/StreamingCall"

	bodyOfPayload     = 2
	sizeInRequest     = 2
	payloadInRequest  = 3
	payloadInResponse = 1
)

// messagePrefix is what is before each message: whether it is compressed, and
// its length (gRPC over HTTP/2, Length-Prefixed-Message).
const messagePrefix = 5

// maxMessage is the longest message taken: 16 MiB, four times what gRPC's own
// implementations take unless told otherwise.
const maxMessage = 16 << 20

// appendRequest appends a SimpleRequest and its prefix.
func appendRequest(b []byte, size int64, body []byte) []byte {
	n, payload := 0, payloadSize(int64(len(body)))
	if size > 0 {
		n += protowire.SizeTag(sizeInRequest) + protowire.SizeVarint(uint64(size))
	}
	if payload > 0 {
		n += protowire.SizeTag(payloadInRequest) + protowire.SizeBytes(payload)
	}
	b = appendPrefix(b, n)
	if size > 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, sizeInRequest, protowire.VarintType), uint64(size))
	}
	return append(appendPayloadHead(b, payloadInRequest, int64(len(body))), body...)
}

// appendResponseHead appends what comes before the size bytes of a
// SimpleResponse's body, its prefix included.
func appendResponseHead(b []byte, size int64) []byte {
	n, payload := 0, payloadSize(size)
	if payload > 0 {
		n = protowire.SizeTag(payloadInResponse) + protowire.SizeBytes(payload)
	}
	return appendPayloadHead(appendPrefix(b, n), payloadInResponse, size)
}

func appendPrefix(b []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(b, 0), uint32(n))
}

// payloadSize returns how long a Payload is: nothing without a body.
func payloadSize(body int64) int {
	if body == 0 {
		return 0
	}
	return protowire.SizeTag(bodyOfPayload) + protowire.SizeBytes(int(body))
}

// appendPayloadHead appends a Payload without its body's bytes, or nothing
// without a body.
func appendPayloadHead(b []byte, field protowire.Number, body int64) []byte {
	if body == 0 {
		return b
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(payloadSize(body)))
	return protowire.AppendVarint(protowire.AppendTag(b, bodyOfPayload, protowire.BytesType), uint64(body))
}

// A message is what is read of a SimpleRequest or a SimpleResponse.
type message struct {
	size int64 // response_size
	body body  // of the payload
}

// A messageReader reads messages as they come, and keeps nothing of their bodies
// but the CRC: a mebibyte that arrives in frames is not put together again.
type messageReader struct {
	payload protowire.Number // the field of the message that is one
	size    protowire.Number // the field that is the response_size; 0: there is none

	open    bool // the prefix is read, the message is not
	left    int  // of the message
	nested  bool // within the payload
	inside  int  // left of the payload
	rest    int  // left of a field's value
	body    bool // ... which is the body
	field   [20]byte
	have    int // of the prefix or of a field's beginning: a tag, and a number or a length
	message message
}

// read calls whole at the end of every message.
func (r *messageReader) read(p []byte, whole func(message) error) error {
	for len(p) > 0 {
		var n int
		var err error
		switch {
		case r.rest > 0:
			n = r.readValue(p)
		case r.open:
			n, err = r.readField(p)
		default:
			n, err = r.readPrefix(p)
		}
		if err != nil {
			return err
		}
		p = p[n:]
		if r.nested && r.inside == 0 {
			r.nested = false
		}
		if r.open && r.left == 0 {
			r.open = false
			if err := whole(r.message); err != nil {
				return err
			}
		}
	}
	return nil
}

// within reports whether r is in the middle of a message.
func (r *messageReader) within() bool { return r.open || r.have > 0 }

// used takes n bytes off what is left.
func (r *messageReader) used(n int) {
	r.left -= n
	if r.nested {
		r.inside -= n
	}
}

func (r *messageReader) readValue(p []byte) int {
	n := min(r.rest, len(p))
	if r.body {
		r.message.body.add(p[:n])
	}
	r.rest -= n
	r.used(n)
	return n
}

func (r *messageReader) readPrefix(p []byte) (n int, err error) {
	n = copy(r.field[r.have:messagePrefix], p)
	if r.have += n; r.have < messagePrefix {
		return n, nil
	}
	r.have = 0
	size := binary.BigEndian.Uint32(r.field[1:])
	if r.field[0] != 0 || size > maxMessage { // nobody asked for compression
		return n, fault(kindMalformed)
	}
	r.open, r.left, r.message = true, int(size), message{}
	return n, nil
}

// readField reads a field up to its value, if that is bytes, a byte at a time:
// there are few.
func (r *messageReader) readField(p []byte) (n int, err error) {
	for n < len(p) && r.room() > 0 && r.have < len(r.field) {
		r.field[r.have] = p[n]
		r.have++
		n++
		r.used(1)
		if done, err := r.parseField(); done || err != nil {
			r.have = 0
			return n, err
		}
	}
	if r.room() == 0 || r.have == len(r.field) {
		return n, fault(kindMalformed)
	}
	return n, nil
}

// room returns how many bytes are left of what fields are read of.
func (r *messageReader) room() int {
	if r.nested {
		return r.inside
	}
	return r.left
}

// parseField parses what there is of a field, and reports whether that is
// enough.
func (r *messageReader) parseField() (done bool, err error) {
	b := r.field[:r.have]
	number, kind, n := protowire.ConsumeTag(b)
	if n < 0 {
		return false, unlessShort(n)
	}
	var v uint64
	switch kind {
	case protowire.VarintType, protowire.BytesType:
		if v, n = protowire.ConsumeVarint(b[n:]); n < 0 {
			return false, unlessShort(n)
		}
	case protowire.Fixed32Type:
		v = 4
	case protowire.Fixed64Type:
		v = 8
	default: // a group: there were none when these messages were made
		return false, fault(kindMalformed)
	}
	if kind == protowire.VarintType {
		if number == r.size && r.size > 0 && !r.nested {
			r.message.size = int64(int32(v))
			return true, checkSize(r.message.size)
		}
		return true, nil
	}
	if v > uint64(r.room()) {
		return false, fault(kindMalformed)
	}
	isBytes := kind == protowire.BytesType
	switch {
	case isBytes && !r.nested && number == r.payload:
		r.nested, r.inside = v > 0, int(v)
	case isBytes && r.nested && number == bodyOfPayload:
		r.rest, r.body = int(v), true
		r.message.body = body{}
	default:
		r.rest, r.body = int(v), false
	}
	return true, nil
}

func checkSize(n int64) error {
	if n < 0 || n > maxMessage {
		return fault(kindMalformed)
	}
	return nil
}

// unlessShort returns what is wrong with a field, unless that is only that there
// is more of it to come.
func unlessShort(n int) error {
	if errors.Is(protowire.ParseError(n), io.ErrUnexpectedEOF) {
		return nil
	}
	return fault(kindMalformed)
}
