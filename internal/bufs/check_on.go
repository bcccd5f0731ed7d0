//go:build race || invariants

package bufs

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// check finds buffers that are freed twice or used after they were freed.
type check struct {
	free  bool
	where [12]uintptr // who freed it
}

// poison is what a freed buffer is full of. Copying and comparing it whole is
// fifty times as fast as a loop when the race detector watches each byte.
const poison = 0xdb

var poisoned = bytes.Repeat([]byte{poison}, Large)

func (c *check) taken(b []byte) {
	if c.free && !bytes.Equal(b, poisoned[:len(b)]) {
		i := slices.IndexFunc(b, func(x byte) bool { return x != poison })
		panic(fmt.Sprintf("bufs: byte %d written after it was freed\nfreed:\n%s", i, trace(c.where[:])))
	}
	c.free = false
}

func (c *check) freed(b []byte) {
	if c.free {
		var again [12]uintptr
		runtime.Callers(3, again[:])
		panic(fmt.Sprintf("bufs: freed twice\nfirst:\n%ssecond:\n%s", trace(c.where[:]), trace(again[:])))
	}
	c.free = true
	clear(c.where[:])
	runtime.Callers(3, c.where[:])
	copy(b, poisoned)
}

func trace(pcs []uintptr) string {
	var s strings.Builder
	frames := runtime.CallersFrames(pcs)
	for {
		f, more := frames.Next()
		if f.PC != 0 {
			fmt.Fprintf(&s, "\t%s\n\t\t%s:%d\n", f.Function, f.File, f.Line)
		}
		if !more {
			return s.String()
		}
	}
}
