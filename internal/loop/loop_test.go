package loop

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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

func TestTimersFireInOrder(t *testing.T) {
	each(t, func(e *env) {
		var got []string
		done := make(chan struct{})
		timers := map[string]*Timer{}
		for _, name := range []string{"a", "b", "c", "d", "e", "same1", "same2", "stopped", "sooner", "later"} {
			timers[name] = &Timer{F: func() {
				got = append(got, name)
				if name == "e" {
					close(done)
				}
			}}
		}
		e.on(func() {
			ms := func(name string, n int) { e.l.After(timers[name], time.Duration(n)*time.Millisecond) }
			ms("d", 8)
			ms("b", 2)
			ms("a", 0)
			ms("c", 6)
			ms("stopped", 1)
			ms("later", 1)
			ms("later", 7)
			ms("sooner", 9)
			ms("sooner", 3)
			ms("same1", 4)
			ms("same2", 4)
			ms("e", 10)
			if !timers["stopped"].Stop() || timers["stopped"].Stop() || timers["stopped"].Armed() {
				e.Error("Stop does not say whether the timer was armed")
			}
			if !timers["later"].Armed() {
				e.Error("a timer is not armed")
			}
		})
		<-done
		e.on(func() {
			want := []string{"a", "b", "sooner", "same1", "same2", "c", "later", "d", "e"}
			if !slices.Equal(got, want) {
				e.Errorf("fired %v, want %v", got, want)
			}
			if n := len(e.l.timers.heap); n != 0 {
				e.Errorf("%d timers left", n)
			}
		})
	})
}

func TestTimerReArmsItself(t *testing.T) {
	bubble(t, func(e *env) {
		var at []time.Duration
		start := time.Now()
		done := make(chan struct{})
		timer := &Timer{}
		timer.F = func() {
			if at = append(at, time.Since(start)); len(at) == 25 {
				close(done)
				return
			}
			e.l.After(timer, time.Hour)
		}
		e.on(func() { e.l.After(timer, time.Hour) })
		<-done
		for i, d := range at {
			if want := time.Duration(i+1) * time.Hour; d != want {
				e.Errorf("fired at %v, want %v", d, want)
			}
		}
	})
}

// A timer that re-arms itself with nothing lets others have their turn.
func TestTimerOfNothing(t *testing.T) {
	each(t, func(e *env) {
		stop := false
		timer := &Timer{}
		timer.F = func() {
			if !stop {
				e.l.After(timer, 0)
			}
		}
		e.on(func() { e.l.After(timer, 0) })
		for range 10 {
			e.on(func() {})
		}
		e.on(func() { stop = true })
		e.until("the last", func() bool { return !timer.Armed() })
	})
}

// The heap fires what a sorted list would, whatever was done to it.
func FuzzTimers(f *testing.F) {
	f.Add([]byte{1, 10, 2, 20, 1, 30, 3, 5, 129, 0, 255, 25})
	f.Fuzz(func(t *testing.T, script []byte) {
		var h timers
		var ts [8]Timer
		type due struct {
			at  time.Duration
			seq int
			i   int
		}
		var want []due // armed timers
		var got []int
		for i := range ts {
			ts[i].F = func() { got = append(got, i) }
		}
		drop := func(i int) { want = slices.DeleteFunc(want, func(d due) bool { return d.i == i }) }
		now := time.Duration(0)
		for n := 0; n+1 < len(script); n += 2 {
			i, v := int(script[n]%8), time.Duration(script[n+1])
			switch {
			case script[n] < 128:
				drop(i)
				want = append(want, due{now + v, n, i})
				h.arm(&ts[i], now+v)
				ts[i].timers = &h
			case script[n] < 192:
				armed := slices.ContainsFunc(want, func(d due) bool { return d.i == i })
				if ts[i].Stop() != armed {
					t.Fatalf("Stop(%d), want %t", i, armed)
				}
				drop(i)
			default:
				now += v
				slices.SortFunc(want, func(a, b due) int {
					if a.at != b.at {
						return int(a.at - b.at)
					}
					return a.seq - b.seq
				})
				got = got[:0]
				h.fire(now)
				k := 0
				for k < len(want) && want[k].at <= now {
					if k >= len(got) || got[k] != want[k].i {
						t.Fatalf("at %d fired %v, want %v", now, got, want)
					}
					k++
				}
				if len(got) != k {
					t.Fatalf("at %d fired %v, want %v", now, got, want[:k])
				}
				want = want[k:]
			}
		}
	})
}

func TestReArmingAllocatesNothing(t *testing.T) {
	l := newLoop(newChanPoller(), time.Second)
	var ts [100]Timer
	for i := range ts {
		ts[i].F = func() {}
		l.After(&ts[i], time.Duration(i))
	}
	n := testing.AllocsPerRun(100, func() {
		for i := range ts {
			ts[i].Stop()
			l.After(&ts[i], time.Duration(1000-i))
			l.After(&ts[i], time.Duration(2000-i))
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestGroupClose(t *testing.T) {
	for _, portable := range []bool{false, true} {
		t.Run(fmt.Sprint("portable ", portable), func(t *testing.T) {
			g, err := NewGroup(2, Options{Portable: portable})
			if err != nil {
				t.Fatal(err)
			}
			ours, peer := tcpPair(t)
			d := &driver{eof: make(chan struct{}), closed: make(chan error, 1)}
			d.s = Plain(ours)
			l := g.Loops()[1]
			l.Do(func() { l.Adopt(d.s, d) })
			g.Close()
			if err := <-d.closed; !errors.Is(err, ErrClosed) {
				t.Errorf("Closed(%v)", err)
			}
			if _, err := peer.Read(make([]byte, 1)); err == nil {
				t.Error("the peer's end is open")
			}

			// Posting is still possible, and adopting says that it is not.
			ran := 0
			l.Do(func() {
				l.Do(func() { ran++ })
				ran++
			})
			if ran != 2 {
				t.Errorf("%d functions ran after Close", ran)
			}
			ours, peer = tcpPair(t)
			d = &driver{eof: make(chan struct{}), closed: make(chan error, 1)}
			d.s = Plain(ours)
			l.Do(func() { l.Adopt(d.s, d) })
			if err := <-d.closed; !errors.Is(err, ErrClosed) {
				t.Errorf("Closed(%v)", err)
			}
			if _, err := peer.Read(make([]byte, 1)); err == nil {
				t.Error("the peer's end is open")
			}
		})
	}
}

func TestPick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counts := func(o Options, n int, f func(i int, l *Loop)) string {
			g, err := NewGroup(3, o)
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			for i := range n {
				l := g.Pick()
				l.meter.sockets.Add(1)
				f(i, l)
			}
			var s []int
			for _, st := range g.Stats() {
				s = append(s, st.Sockets)
			}
			return fmt.Sprint(s)
		}
		idle := func(int, *Loop) {}
		if got := counts(Options{Portable: true}, 50, idle); got != "[50 0 0]" {
			t.Errorf("%s: idle loops share a few sockets", got)
		}
		if got := counts(Options{Portable: true}, 150, idle); got != "[71 71 8]" {
			t.Errorf("%s: one loop leads by more than it may", got)
		}
		if got := counts(Options{Portable: true, Lead: -1}, 9, idle); got != "[3 3 3]" {
			t.Errorf("%s: not spread evenly", got)
		}
		full := func(i int, l *Loop) {
			if i == 9 { // a loop that has just been measured to be full
				l.meter.permille.Store(900)
				l.meter.measured.Store(int64(time.Since(l.epoch)))
			}
		}
		if got := counts(Options{Portable: true}, 20, full); got != "[10 10 0]" {
			t.Errorf("%s: a full loop gets more", got)
		}
	})
}

func TestStats(t *testing.T) {
	each(t, func(e *env) {
		d := echo()
		peer := e.adopt(d)
		e.write(peer, []byte("x"))
		e.read(peer, 1)
		e.on(func() {
			if e.l.Stats().Running == 0 {
				e.Error("a batch is running and Running is 0")
			}
		})
		e.until("the counts", func() bool {
			s := e.l.Stats()
			return s.Sockets == 1 && s.Reads > 0 && s.Writes > 0 && s.Posted > 0 && s.Batches > 0
		})
	})
}

// The watchdog: a handler that holds the loop shows while it does, and after.
func TestStatsOfALongBatch(t *testing.T) {
	bubble(t, func(e *env) {
		hold := make(chan struct{})
		e.l.Do(func() { <-hold })
		synctest.Wait()
		time.Sleep(2 * time.Second) // the bubble's time
		if s := e.l.Stats(); s.Running < 2*time.Second-1 || s.Load != 1 {
			e.Errorf("running for %v, load %v", s.Running, s.Load)
		}
		close(hold)
		synctest.Wait()
		s := e.l.Stats()
		if s.Running != 0 || s.Longest < 2*time.Second || s.Slow != 1 || s.Busy < 2*time.Second {
			e.Errorf("after: %+v", s)
		}
		e.wait(time.Minute)
		if s := e.l.Stats(); s.Load > 0.1 {
			e.Errorf("load %v a minute later", s.Load)
		}
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
