package loop

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

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
