//go:build race || invariants

package bufs

import (
	"fmt"
	"strings"
	"testing"
)

const checked = true

func panics(f func()) (said string) {
	defer func() {
		if r := recover(); r != nil {
			said = fmt.Sprint(r)
		}
	}()
	f()
	return ""
}

func firstOwner(b *Buffer)  { b.Free() }
func secondOwner(b *Buffer) { b.Free() }

func TestDoubleFreePanics(t *testing.T) {
	b := &Buffer{whole: make([]byte, Small)} // not the pool's
	defer inUse.Add(Small)
	firstOwner(b)
	said := panics(func() { secondOwner(b) })
	if !strings.Contains(said, "firstOwner") || !strings.Contains(said, "secondOwner") {
		t.Errorf("panic %q does not name both", said)
	}
}

func TestUseAfterFree(t *testing.T) {
	var c check
	b := []byte("secret")
	c.freed(b)
	if b[0] != poison || b[5] != poison {
		t.Errorf("a freed buffer has %x", b)
	}
	c.taken(b)
	copy(b, "mine!!")
	c.freed(b)
	b[3] = 'x'
	if said := panics(func() { c.taken(b) }); !strings.Contains(said, "byte 3") {
		t.Errorf("panic %q", said)
	}
}
