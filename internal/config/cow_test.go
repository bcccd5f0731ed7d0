package config

import (
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

func TestCowIsAMapThatKeepsItsPast(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var c cow[int, int]
	want := map[int]int{}
	for range 200 {
		before, beforeWant := c, maps.Clone(want)
		e := editOf(c)
		for range rnd.IntN(50) {
			k := rnd.IntN(3000)
			if rnd.IntN(3) == 0 {
				e.remove(k)
				delete(want, k)
			} else {
				e.set(k, rnd.Int())
				want[k] = e.get(k)
			}
		}
		c = e.done()
		if got := maps.Collect(c.all()); !maps.Equal(got, want) || c.n != len(want) {
			t.Fatalf("after an edit: %d entries (%d counted), want %d", len(got), c.n, len(want))
		}
		if got := maps.Collect(before.all()); !maps.Equal(got, beforeWant) || before.n != len(beforeWant) {
			t.Fatalf("the predecessor changed: %d entries, want %d", len(got), len(beforeWant))
		}
	}
}

func TestCowOfNothing(t *testing.T) {
	var c cow[string, int]
	if got := c.get("a"); got != 0 {
		t.Errorf("got %d, want 0", got)
	}
	e := editOf(c)
	e.remove("a")
	if d := e.done(); d.shards != nil || d.n != 0 {
		t.Error("removing nothing from nothing made something")
	}
}

func TestCowGetAllocatesNothing(t *testing.T) {
	e := editOf(cow[mesh.Hostname, int]{})
	h := host("default/items")
	e.set(h, 1)
	c := e.done()
	if got := testing.AllocsPerRun(100, func() { c.get(h) }); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}
