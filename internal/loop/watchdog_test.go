package loop

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// watched runs f with a group of two, and with what returns the hangs that have
// been told of.
func watched(t *testing.T, f func(g *Group, told func() []Hang)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g, err := NewGroup(2, Options{Portable: true, Hang: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		ctx, cancel := context.WithCancel(context.Background())
		var mu sync.Mutex
		var told []Hang
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.Watch(ctx, func(h Hang) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, h)
			})
		}()
		f(g, func() []Hang {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(told)
		})
		cancel()
		<-done
	})
}

func dawdle(d time.Duration) { time.Sleep(d) }

func TestAHangIsToldOfOnceAndSoIsItsEnd(t *testing.T) {
	watched(t, func(g *Group, told func() []Hang) {
		g.Loops()[1].Do(func() { dawdle(10 * time.Second) })
		time.Sleep(5 * time.Second)
		hangs := told()
		if len(hangs) != 1 {
			t.Fatalf("after 5 s: %+v, want one hang", hangs)
		}
		h := hangs[0]
		if h.Loop != 1 || h.Over || h.Took < time.Second || h.Took > 1500*time.Millisecond {
			t.Errorf("got %+v, want loop 1 after 1 to 1.25 s", h)
		}
		from, to := strings.Index(h.Stack, "loop.dawdle (watchdog_test.go:"), strings.Index(h.Stack, "loop.(*Loop).batch (loop.go:")
		if from < 0 || to < from {
			t.Errorf("the stack is %q", h.Stack)
		}
		time.Sleep(6 * time.Second)
		if hangs = told(); len(hangs) != 2 {
			t.Fatalf("after 11 s: %+v, want the end of the hang too", hangs)
		}
		if h := hangs[1]; h.Loop != 1 || !h.Over || h.Took != 10*time.Second || h.Stack != "" {
			t.Errorf("got %+v, want the end of loop 1's, after 10 s", h)
		}
		if s := g.Stats(); s[0].Hangs != 0 || s[1].Hangs != 1 {
			t.Errorf("%d and %d hangs are counted, want 0 and 1", s[0].Hangs, s[1].Hangs)
		}
	})
}

// A loop that is slow again and again, or that only waits, does not hang.
func TestWhatIsNoHangIsNotToldOf(t *testing.T) {
	watched(t, func(g *Group, told func() []Hang) {
		l := g.Loops()[0]
		for range 10 {
			l.Do(func() { dawdle(900 * time.Millisecond) })
			time.Sleep(time.Second)
		}
		time.Sleep(time.Hour)
		if hangs := told(); len(hangs) != 0 || l.Stats().Hangs != 0 {
			t.Errorf("got %+v and %d, want none", hangs, l.Stats().Hangs)
		}
	})
}

// One hang after the other is two.
func TestEveryHangIsToldOf(t *testing.T) {
	watched(t, func(g *Group, told func() []Hang) {
		l := g.Loops()[0]
		l.Do(func() {
			l.Do(func() { dawdle(3 * time.Second) }) // for the next batch
			dawdle(2 * time.Second)
		})
		time.Sleep(6 * time.Second)
		h := told()
		if len(h) != 4 || h[0].Over || !h[1].Over || h[2].Over || !h[3].Over || h[1].Took != 2*time.Second || h[3].Took != 3*time.Second {
			t.Errorf("got %+v, want two hangs of 2 and 3 s", h)
		}
	})
}
