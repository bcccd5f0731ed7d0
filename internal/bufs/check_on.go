//go:build race || invariants

package bufs

import (
	"fmt"
	"runtime"
	"strings"
)

// check finds buffers that are freed twice or used after they were freed.
type check struct {
	free  bool
	where [12]uintptr // who freed it
}

func (c *check) taken() { c.free = false }

func (c *check) freed(b []byte) {
	if c.free {
		var again [12]uintptr
		runtime.Callers(3, again[:])
		panic(fmt.Sprintf("bufs: freed twice\nfirst:\n%ssecond:\n%s", trace(c.where[:]), trace(again[:])))
	}
	c.free = true
	clear(c.where[:])
	runtime.Callers(3, c.where[:])
	for i := range b {
		b[i] = 0xdb
	}
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
