package bench

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync"
)

// pattern is what all content consists of: 64 KiB that do not compress, over
// and over. Both ends know it, so neither has to be sent what to compare with.
var pattern = sync.OnceValue(newPattern)

func newPattern() []byte {
	p := make([]byte, 64<<10)
	_, _ = rand.NewChaCha8([32]byte([]byte("waystone bench: content, seed 01"))).Read(p) // it never fails
	return p
}

// contentAt returns content from an offset on, as much as is in one piece. It is
// not to be changed.
func contentAt(offset int64) []byte {
	p := pattern()
	return p[offset%int64(len(p)):]
}

// content returns the first n bytes, as a slice of the caller's.
func content(n int64) []byte {
	b := make([]byte, 0, n)
	for int64(len(b)) < n {
		p := contentAt(int64(len(b)))
		b = append(b, p[:min(int64(len(p)), n-int64(len(b)))]...)
	}
	return b
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// contentCRC returns the CRC-32C of the first n bytes.
func contentCRC(n int64) (crc uint32) {
	for offset := int64(0); offset < n; {
		p := contentAt(offset)
		p = p[:min(int64(len(p)), n-offset)]
		crc = crc32.Update(crc, castagnoli, p)
		offset += int64(len(p))
	}
	return crc
}

// crcText is a CRC-32C as crcField has it.
func crcText(crc uint32) string { return fmt.Sprintf("%08x", crc) }

// A download is what is left to write of content.
type download struct {
	offset, left int64
	waiting      int // bytes written that have not left
}

// pump writes what there is room for, and reports whether that was the last.
func (d *download) pump(w writer) bool {
	for d.left > 0 && d.waiting < maxWaiting {
		p := contentAt(d.offset)
		p = p[:min(int64(len(p)), d.left)]
		d.offset += int64(len(p)) // before it is reported
		d.left -= int64(len(p))
		d.waiting += w.Write(p)
	}
	return d.left == 0
}

// begin makes d the content of another answer.
func (d *download) begin(size int64) { d.offset, d.left = 0, size }
