package bench

import "hash/crc32"

// The fields by which a request says how much content it wants in answer, and an
// answer, the CRC-32C of the content that came with the request.
const (
	sizeField = "x-bench-size"
	crcField  = "x-bench-crc32c"
)

// body is content as it was received.
type body struct {
	n   int64
	crc uint32
}

func (b *body) add(p []byte) {
	b.n += int64(len(p))
	b.crc = crc32.Update(b.crc, castagnoli, p)
}

// want is what the content of an answer has to be.
type want struct {
	size int64 // as asked for; 0: whatever the server likes to send
	crc  uint32
}

func newWant(size int64) want { return want{size, contentCRC(size)} }

// check reports content that is not what was wanted.
func (b *body) check(w want) error {
	switch {
	case w.size == 0:
		return nil
	case b.n != w.size:
		return fault(kindLength)
	case b.crc != w.crc:
		return fault(kindCRC)
	}
	return nil
}
