package program

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Go collects garbage when the heap has doubled, and otherwise after two minutes;
// and keeps for itself what it has freed. A proxy's burst is a thousand
// connections and their requests, of which nothing is left but idle tunnels, and
// then silence: with 10,000 tunnels two thirds of the memory were such remains. So
// when the program has fallen quiet and there is something to be gained, it
// collects and gives back at once. A proxy at work is left alone: on its data path
// it does not allocate, and GOGC makes no difference to it.
const (
	tidyEvery = 2 * time.Second

	// silence is how much may have been allocated since the last look: 64 KiB a
	// second, as much as scrapes and the ticks of idle connections.
	silence = int64(tidyEvery/time.Second) * 64 << 10

	// worthwhile is how much there must be to be gained: a collection of a small
	// heap takes a few milliseconds.
	worthwhile = 4 << 20
)

// A heap is what was seen of it at one look, in bytes.
type heap struct {
	allocated int64 // ever
	objects   int64 // now, garbage included
	free      int64 // kept, with nothing in it
}

func readHeap() heap {
	s := [...]metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s[:])
	value := func(i int) int64 { return int64(s[i].Value.Uint64()) }
	return heap{allocated: value(0), objects: value(1), free: value(2)}
}

// untidy reports whether memory is to be given back: was is what the last look
// saw, and tidied what was left the last time it was. How much of what has been
// allocated since is garbage only a collection can tell; the one before may have
// been in the middle of the burst.
func (h heap) untidy(was, tidied heap) bool {
	gain := h.allocated - tidied.allocated + h.free
	return h.allocated-was.allocated <= silence && gain >= max(worthwhile, h.objects/4)
}

// tidy gives memory back whenever the program falls quiet.
func (p *Process) tidy() error {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	var was, tidied heap
	for {
		select {
		case <-p.ctx.Done():
			return nil
		case <-tick.C:
		}
		h := readHeap()
		if h.untidy(was, tidied) {
			runtime.GC() // a pool lets go of what was not used between two collections
			debug.FreeOSMemory()
			h = readHeap()
			tidied = h
		}
		was = h
	}
}

// postponeGC has less collected while the configuration is read. A hundred
// services leave 16 MiB of garbage behind; to collect it in steps from 4 MiB on was
// a sixth of what a program takes until it is ready. What counts as live meanwhile
// is memory that nobody touches and that therefore is not there. Unlike a higher
// GOGC it leaves a large configuration what it had; were it larger, so would be
// what is left, since little would be put where garbage was.
func postponeGC() (end func()) {
	ballast := make([]byte, 8<<20)
	return func() { runtime.KeepAlive(ballast) }
}
