package program

import (
	"runtime"
	"testing"
)

func TestMemoryIsGivenBackWhenItIsQuietAndWorthIt(t *testing.T) {
	const mib = 1 << 20
	was := heap{allocated: 100 * mib}
	for _, row := range []struct {
		name string
		h    heap
		want bool
	}{
		{"nothing to gain", heap{allocated: 100 * mib, live: 5 * mib, objects: 6 * mib, free: mib}, false},
		{"garbage", heap{allocated: 100 * mib, live: 5 * mib, objects: 9 * mib}, true},
		{"free pages", heap{allocated: 100 * mib, live: 5 * mib, objects: 5 * mib, free: 4 * mib}, true},
		{"at work", heap{allocated: 101 * mib, live: 5 * mib, objects: 40 * mib}, false},
		{"little for so large a heap", heap{allocated: 100 * mib, live: 100 * mib, objects: 110 * mib}, false},
		{"much for any heap", heap{allocated: 100 * mib, live: 100 * mib, objects: 110 * mib, free: 20 * mib}, true},
	} {
		if got := row.h.untidy(was); got != row.want {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
	}
}

// What a look sees is there: the runtime renames nothing.
func TestTheHeapIsRead(t *testing.T) {
	keep := make([]byte, 8<<20)
	runtime.GC()
	h := readHeap()
	if h.allocated < int64(len(keep)) || h.objects < int64(len(keep)) || h.live <= 0 {
		t.Errorf("got %+v, with %d bytes allocated", h, len(keep))
	}
	runtime.KeepAlive(keep)
}
