package bench

import "encoding/binary"

// Raw bytes are exchanged in messages: how many bytes follow and how many are
// wanted back, each as 32 bits, big-endian; then the bytes that follow. The
// answer is content alone. A message is shorter than a gibibyte, so that its
// first byte is never that of an HTTP method.
const (
	rawHead = 8
	maxRaw  = 1 << 30
)

// appendRawHead appends the head of a message.
func appendRawHead(b []byte, follow, wanted int64) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(follow))
	return binary.BigEndian.AppendUint32(b, uint32(wanted))
}

// A rawReader reads messages.
type rawReader struct {
	head [rawHead]byte
	have int // of the head
	left int64
	got  body
}

// read takes bytes as they come and calls message at the end of each message.
func (r *rawReader) read(p []byte, message func(got body, wanted int64)) error {
	for len(p) > 0 {
		if r.have < rawHead {
			n := copy(r.head[r.have:], p)
			r.have += n
			p = p[n:]
			if r.have < rawHead {
				return nil
			}
			r.left, r.got = int64(binary.BigEndian.Uint32(r.head[:])), body{}
			if r.left >= maxRaw {
				return fault(kindMalformed)
			}
		}
		n := min(r.left, int64(len(p)))
		r.got.add(p[:n])
		r.left -= n
		p = p[n:]
		if r.left == 0 {
			r.have = 0
			message(r.got, int64(binary.BigEndian.Uint32(r.head[4:])))
		}
	}
	return nil
}

// within reports whether r is in the middle of a message.
func (r *rawReader) within() bool { return r.have > 0 }
