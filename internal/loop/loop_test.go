package loop

import (
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestDoFromManyGoroutines(t *testing.T) {
	each(t, func(e *env) {
		const goroutines, each = 20, 500
		sum := 0 // the loop's: the race detector is the test
		var last [goroutines]int
		var wg sync.WaitGroup
		for i := range goroutines {
			wg.Go(func() {
				for n := range each {
					e.l.Do(func() {
						sum++
						if last[i] != n {
							e.Errorf("goroutine %d: %d ran out of order", i, n)
						}
						last[i] = n + 1
					})
				}
			})
		}
		wg.Wait()
		e.on(func() {
			if sum != goroutines*each {
				e.Errorf("%d functions ran, want %d", sum, goroutines*each)
			}
		})
	})
}

func TestDoFromTheLoop(t *testing.T) {
	each(t, func(e *env) {
		order := make(chan string, 3)
		e.on(func() {
			e.l.Do(func() { order <- "later" })
			order <- "now"
		})
		if a, b := <-order, <-order; a != "now" || b != "later" {
			e.Errorf("%s, %s", a, b)
		}
	})
}

type flusher func()

func (f flusher) Flush() { f() }

func TestAtBatchEnd(t *testing.T) {
	each(t, func(e *env) {
		var order []string
		d := &driver{}
		d.output = func() []byte {
			order = append(order, "output")
			return nil
		}
		e.adopt(d)
		e.on(func() { order = nil })
		e.on(func() {
			d.s.Wake()
			e.l.AtBatchEnd(flusher(func() {
				order = append(order, "first")
				d.s.Wake()
				e.l.AtBatchEnd(flusher(func() { order = append(order, "again") }))
			}))
			e.l.AtBatchEnd(flusher(func() { order = append(order, "second") }))
			order = append(order, "event")
		})
		want := "event first second again output"
		e.on(func() {
			if got := strings.Join(order, " "); got != want {
				e.Errorf("%s, want %s", got, want)
			}
		})
	})
}

// A Flusher that never has enough does not stop the loop.
func TestAtBatchEndForEver(t *testing.T) {
	each(t, func(e *env) {
		runs, seen := 0, 0
		var f flusher
		f = func() {
			if runs++; runs == 1 {
				e.l.Do(func() { seen = runs })
			}
			if runs < 1000 {
				e.l.AtBatchEnd(f)
			}
		}
		e.on(func() { e.l.AtBatchEnd(f) })
		e.until("the end", func() bool { return runs == 1000 })
		if seen != maxPasses {
			e.Errorf("%d runs before anything else", seen)
		}
	})
}

func TestNowIsTheBatchs(t *testing.T) {
	bubble(t, func(e *env) {
		e.wait(time.Minute)
		e.on(func() {
			if now := e.l.Now(); !now.Equal(time.Now()) {
				e.Errorf("Now is %v, want %v", now, time.Now())
			}
		})
	})
}

func TestErrors(t *testing.T) {
	err := error(&Error{Op: "read", Err: io.ErrNoProgress})
	if !errors.Is(err, io.ErrNoProgress) || !strings.HasPrefix(err.Error(), "loop: read: ") {
		t.Errorf("%v", err)
	}
	if !errWait.Timeout() || errWait.Error() == "" {
		t.Error("errWait is not a timeout")
	}
}
