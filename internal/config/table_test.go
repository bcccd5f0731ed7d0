package config

import (
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A numbered is found by its number.
type numbered struct{ number, version int }

type number int

func (n number) finds(v *numbered) bool { return int(n) == v.number }

// contents returns the values of a table by their keys.
func contents(t table[number, numbered]) map[number]*numbered {
	out := map[number]*numbered{}
	for v := range t.all() {
		out[number(v.number)] = v
	}
	return out
}

func TestTableIsAMapThatKeepsItsPast(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var c table[number, numbered]
	want := map[number]*numbered{}
	for round := range 200 {
		before, beforeWant := c, maps.Clone(want)
		e := editTable(c)
		for range rnd.IntN(400) {
			k := number(rnd.IntN(20_000)) // some twenty a shard
			if rnd.IntN(3) < 1+round/100 {
				e.remove(k)
				delete(want, k)
			} else {
				v := &numbered{int(k), rnd.Int()}
				e.set(k, v)
				want[k] = v
			}
			if e.get(k) != want[k] {
				t.Fatalf("in an edit: got %v, want %v", e.get(k), want[k])
			}
		}
		c = e.done()
		if got := contents(c); !maps.Equal(got, want) || c.n != len(want) {
			t.Fatalf("after an edit: %d entries (%d counted), want %d", len(got), c.n, len(want))
		}
		if got := contents(before); !maps.Equal(got, beforeWant) || before.n != len(beforeWant) {
			t.Fatalf("the predecessor changed: %d entries, want %d", len(got), len(beforeWant))
		}
		if round%40 == 0 {
			for k := range number(20_000) {
				if c.get(k) != want[k] {
					t.Fatalf("%d: got %v, want %v", k, c.get(k), want[k])
				}
			}
		}
	}
}

// Whatever the order in which they come and go, those of one hash and of hashes
// that lie around the end of a shard are found.
func TestShardKeepsWhatCollides(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		s := (*shard[numbered])(nil).clone()
		hashes := map[number]uint32{}
		here := map[number]bool{}
		for range 40 {
			k := number(rnd.IntN(12))
			if hashes[k] == 0 {
				hashes[k] = []uint32{1, 1 << 31, 1<<32 - 1, 1<<32 - 1, rnd.Uint32() | 1}[rnd.IntN(5)]
			}
			at, ok := find(s, k, hashes[k])
			if ok != here[k] {
				t.Fatalf("%d is there: got %t, want %t", k, ok, here[k])
			}
			switch {
			case ok:
				s.free(at)
				s.n--
			case s.full():
				s.grow()
				at, _ = find(s, k, hashes[k])
				fallthrough
			default:
				s.hashes[at], s.values[at] = hashes[k], &numbered{number: int(k)}
				s.n++
			}
			here[k] = !ok
		}
	}
}

func TestTableOfNothing(t *testing.T) {
	var c table[number, numbered]
	if got := c.get(1); got != nil {
		t.Errorf("got %v, want nil", got)
	}
	e := editTable(c)
	e.remove(1)
	if d := e.done(); d.shards != nil || d.n != 0 {
		t.Error("removing nothing from nothing made something")
	}
}

func TestStagedPartsArePublishedByApply(t *testing.T) {
	s := NewStore(Options{})
	if err := s.Stage(updates(pod("default/a", "10.0.0.1"))); err != nil {
		t.Fatal(err)
	}
	if err := s.Stage([]Update{{Value: new(mesh.Workload)}}); err == nil {
		t.Error("a workload without a UID was staged")
	}
	if lookup(t, s, "default", "10.0.0.1:80") != nil {
		t.Error("a part was published")
	}
	if err := s.Apply(nil); err != nil {
		t.Fatal(err)
	}
	if lookup(t, s, "default", "10.0.0.1:80") == nil {
		t.Error("what had been staged was not published")
	}
}
