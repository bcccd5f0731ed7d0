package bench

import (
	"encoding/binary"

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
	var m []byte
	if size > 0 {
		m = protowire.AppendVarint(protowire.AppendTag(m, sizeInRequest, protowire.VarintType), uint64(size))
	}
	if len(body) > 0 {
		m = appendPayloadHead(m, payloadInRequest, int64(len(body)))
	}
	b = appendPrefix(b, int64(len(m)+len(body)))
	return append(append(b, m...), body...)
}

// appendResponseHead appends what comes before the size bytes of a
// SimpleResponse's body, its prefix included.
func appendResponseHead(b []byte, size int64) []byte {
	if size == 0 {
		return appendPrefix(b, 0)
	}
	m := appendPayloadHead(nil, payloadInResponse, size)
	return append(appendPrefix(b, int64(len(m))+size), m...)
}

func appendPrefix(b []byte, n int64) []byte {
	return binary.BigEndian.AppendUint32(append(b, 0), uint32(n))
}

// appendPayloadHead appends a Payload without its body's bytes.
func appendPayloadHead(b []byte, field protowire.Number, size int64) []byte {
	inner := protowire.SizeTag(bodyOfPayload) + protowire.SizeVarint(uint64(size)) + int(size)
	b = protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(inner))
	return protowire.AppendVarint(protowire.AppendTag(b, bodyOfPayload, protowire.BytesType), uint64(size))
}

// parseRequest reads a SimpleRequest. body is a part of m.
func parseRequest(m []byte) (size int64, body []byte, err error) {
	err = eachField(m, func(n protowire.Number, v uint64, p []byte) error {
		switch n {
		case sizeInRequest:
			size = int64(int32(v))
		case payloadInRequest:
			body, err = parsePayload(p)
		}
		return err
	})
	if size < 0 || size > maxMessage {
		err = fault(kindMalformed)
	}
	return size, body, err
}

// parseResponse reads a SimpleResponse likewise.
func parseResponse(m []byte) (body []byte, err error) {
	err = eachField(m, func(n protowire.Number, _ uint64, p []byte) error {
		if n == payloadInResponse {
			body, err = parsePayload(p)
		}
		return err
	})
	return body, err
}

func parsePayload(m []byte) (body []byte, err error) {
	err = eachField(m, func(n protowire.Number, _ uint64, p []byte) error {
		if n == bodyOfPayload {
			body = p
		}
		return nil
	})
	return body, err
}

// eachField calls f for every field that is a varint or bytes.
func eachField(m []byte, f func(n protowire.Number, v uint64, p []byte) error) error {
	for len(m) > 0 {
		number, kind, n := protowire.ConsumeTag(m)
		if n < 0 {
			return fault(kindMalformed)
		}
		m = m[n:]
		var (
			v uint64
			p []byte
		)
		switch kind {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(m)
		case protowire.BytesType:
			p, n = protowire.ConsumeBytes(m)
		default:
			n = protowire.ConsumeFieldValue(number, kind, m)
		}
		if n < 0 {
			return fault(kindMalformed)
		}
		m = m[n:]
		if err := f(number, v, p); err != nil {
			return err
		}
	}
	return nil
}

// A messageReader cuts content into messages.
type messageReader struct {
	held []byte // of a message that is not whole yet, its prefix included
}

// read takes bytes as they come and calls message, without its prefix, for each
// that is whole; it is lent for the call.
func (r *messageReader) read(p []byte, message func([]byte) error) error {
	for len(p) > 0 {
		b := p
		if len(r.held) > 0 {
			missing := messagePrefix - len(r.held)
			if missing <= 0 {
				n, err := messageSize(r.held)
				if err != nil {
					return err
				}
				missing = messagePrefix + n - len(r.held)
			}
			n := min(missing, len(p))
			r.held = append(r.held, p[:n]...)
			p, b = p[n:], r.held
		}
		if len(b) >= messagePrefix {
			n, err := messageSize(b)
			if err != nil {
				return err
			}
			if whole := messagePrefix + n; len(b) >= whole {
				if len(r.held) > 0 {
					r.held = r.held[:0]
				} else {
					p = p[whole:]
				}
				if err := message(b[messagePrefix:whole]); err != nil {
					return err
				}
				continue
			}
		}
		if len(r.held) == 0 {
			r.held = append(r.held, p...)
			p = nil
		}
	}
	return nil
}

// within reports whether r is in the middle of a message.
func (r *messageReader) within() bool { return len(r.held) > 0 }

// messageSize reads a prefix.
func messageSize(b []byte) (int, error) {
	n := binary.BigEndian.Uint32(b[1:])
	if b[0] != 0 || n > maxMessage { // nobody asked for compression
		return 0, fault(kindMalformed)
	}
	return int(n), nil
}
