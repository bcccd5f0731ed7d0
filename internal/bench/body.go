package bench

import "hash/crc32"

// want is what the content of an answer has to be.
type want struct {
	size    int64  // as asked for; 0: whatever the server likes
	crc     uint32 // of that much of the pattern
	sentCRC uint32 // of a request's content
}

// body is the content of an answer so far.
type body struct {
	n   int64
	crc uint32
}

func (b *body) add(p []byte) {
	b.n += int64(len(p))
	b.crc = crc32.Update(b.crc, castagnoli, p)
}

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
func newWant(l *Load) want { return want{size: l.Size} }

const (
	crcField  = "x-bench-crc32c"
	sizeField = "x-bench-size"
)
