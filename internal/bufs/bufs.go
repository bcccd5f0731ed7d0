// Package bufs lends out byte buffers and counts what is out.
//
// A connection holds a buffer only while bytes are in it: an idle tunnel holds
// none. The count is what stands behind every window: past a process-wide
// budget a waypoint sheds new requests instead of growing.
package bufs

import (
	"sync"
	"sync/atomic"
)

// The two sizes of buffer.
const (
	Small = 4 << 10  // 4 KiB: a head, or the tail of a small message
	Large = 32 << 10 // 32 KiB: two TLS records of plaintext
)

// A Buffer is a pooled slice with exactly one owner.
//
// Passing a *Buffer to a function that says it "takes" the buffer gives up
// ownership; the caller must not touch it again. Whoever owns it last calls
// Free, once.
type Buffer struct {
	B []byte // len is what is in it; cap, when lent, is Small or Large

	whole []byte // B as it was lent: whoever has it may cut B at either end
	check check
}

var (
	inUse atomic.Int64
	small = sync.Pool{New: func() any { return &Buffer{whole: make([]byte, Small)} }}
	large = sync.Pool{New: func() any { return &Buffer{whole: make([]byte, Large)} }}
)

// Get returns an empty buffer with room for n bytes, or for Large bytes when n
// is more than that.
func Get(n int) *Buffer {
	pool, size := &small, int64(Small)
	if n > Small {
		pool, size = &large, Large
	}
	b := pool.Get().(*Buffer)
	b.B = b.whole[:0]
	b.check.taken(b.whole)
	inUse.Add(size)
	return b
}

// Free gives the buffer back. Under -race or -tags invariants its bytes are
// poisoned; a second Free panics with the stacks of both, and so does the next
// Get of a buffer that was written to in between.
func (b *Buffer) Free() {
	b.check.freed(b.whole)
	b.B = nil
	inUse.Add(-int64(len(b.whole)))
	if len(b.whole) == Small {
		small.Put(b)
	} else {
		large.Put(b)
	}
}

// InUse returns how many bytes of buffers are out, in the whole process.
func InUse() int64 { return inUse.Load() }
