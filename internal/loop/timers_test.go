package loop

import (
	"slices"
	"testing"
	"time"
)

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
	f.Add([]byte{0, 10, 0, 20, 1, 15, 255, 30}) // put off, but not beyond the others
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
