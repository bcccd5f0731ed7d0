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

// The two sizes of buffer that are lent.
const (
	Small = 4 << 10  // 4 KiB: a head, or the tail of a small message
	Large = 32 << 10 // 32 KiB: two TLS records of plaintext
)

// tiny is what a Queue begins with. 1 KiB holds most heads: a thousand requests
// that wait for the window of one fresh connection are 1 MiB, not 4.
const tiny = 1 << 10

// A Buffer is a pooled slice with exactly one owner.
//
// Passing a *Buffer to a function that says it "takes" the buffer gives up
// ownership; the caller must not touch it again. Whoever owns it last calls
// Free, once.
type Buffer struct {
	B []byte // len is what is in it; cap, when lent, is Small or Large

	whole []byte  // B as it was lent: whoever has it may cut B at either end
	next  *Buffer // in a Queue
	check check
}

var (
	inUse  atomic.Int64
	tinies = poolOf(tiny)
	smalls = poolOf(Small)
	larges = poolOf(Large)
)

func poolOf(size int) *sync.Pool {
	return &sync.Pool{New: func() any { return &Buffer{whole: make([]byte, size)} }}
}

func poolFor(size int) *sync.Pool {
	switch size {
	case tiny:
		return tinies
	case Small:
		return smalls
	}
	return larges
}

// Get returns an empty buffer with room for n bytes, or for Large bytes when n
// is more than that.
func Get(n int) *Buffer {
	if n > Small {
		return get(Large)
	}
	return get(Small)
}

func get(size int) *Buffer {
	b := poolFor(size).Get().(*Buffer)
	b.B = b.whole[:0]
	b.check.taken(b.whole)
	inUse.Add(int64(size))
	return b
}

// Free gives the buffer back. Under -race or -tags invariants its bytes are
// poisoned; a second Free panics with the stacks of both, and so does the next
// Get of a buffer that was written to in between.
func (b *Buffer) Free() {
	b.check.freed(b.whole)
	b.B, b.next = nil, nil
	inUse.Add(-int64(len(b.whole)))
	poolFor(len(b.whole)).Put(b)
}

// InUse returns how many bytes of buffers are out, in the whole process.
func InUse() int64 { return inUse.Load() }
