package program

import (
	"runtime"
	"testing"
)

func TestMemoryIsGivenBackWhenItIsQuietAndWorthIt(t *testing.T) {
	const mib = 1 << 20
	tidied, was := heap{allocated: 90 * mib}, heap{allocated: 100 * mib}
	for _, row := range []struct {
		name string
		h    heap
		want bool
	}{
		{"after a burst", heap{allocated: 100 * mib, objects: 12 * mib}, true},
		{"at work", heap{allocated: 101 * mib, objects: 12 * mib}, false},
		{"little for so large a heap", heap{allocated: 100 * mib, objects: 100 * mib}, false},
		{"much for any heap", heap{allocated: 100 * mib, objects: 100 * mib, free: 20 * mib}, true},
	} {
		if got := row.h.untidy(was, tidied); got != row.want {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
	}
	for _, row := range []struct {
		name string
		h    heap
		want bool
	}{
		{"tidy", heap{allocated: 91 * mib, objects: 5 * mib}, false},
		{"scraped for long enough", heap{allocated: 95 * mib, objects: 9 * mib}, true},
		{"free pages", heap{allocated: 91 * mib, objects: 5 * mib, free: 4 * mib}, true},
	} {
		if got := row.h.untidy(heap{allocated: row.h.allocated}, tidied); got != row.want {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
	}
}

// What a look sees is there: the runtime renames nothing.
func TestTheHeapIsRead(t *testing.T) {
	keep := make([]byte, 8<<20)
	h := readHeap()
	if h.allocated < int64(len(keep)) || h.objects < int64(len(keep)) {
		t.Errorf("got %+v, with %d bytes allocated", h, len(keep))
	}
	runtime.KeepAlive(keep)
}
