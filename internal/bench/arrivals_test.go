package bench

import (
	"math"
	"sync"
	"testing"
	"time"
)

func TestUniformArrivalsDoNotDrift(t *testing.T) {
	s := newSchedule(&Load{Rate: 30_000, Arrival: arriveUniform})
	var at time.Duration
	for range 30_000 * 100 {
		at = s.next()
	}
	if at != 100*time.Second {
		t.Errorf("request 3,000,000 arrives at %v, want 100 s", at)
	}
}

func TestPoissonArrivals(t *testing.T) {
	const n, rate = 100_000, 1000.0
	l := Load{Rate: rate, Arrival: arrivePoisson}
	s, again := newSchedule(&l), newSchedule(&l)
	var last time.Duration
	mean, square := 0.0, 0.0
	for range n {
		at := s.next()
		if at < last {
			t.Fatalf("%v follows %v", at, last)
		}
		gap := (at - last).Seconds() * rate
		mean, square, last = mean+gap/n, square+gap*gap/n, at
		if again.next() != at {
			t.Fatal("another run has other arrivals")
		}
	}
	// An exponential distribution's deviation is its mean.
	if deviation := math.Sqrt(square - mean*mean); math.Abs(mean-1) > 0.02 || math.Abs(deviation-1) > 0.02 {
		t.Errorf("gaps have a mean of %.3f and a deviation of %.3f, want 1", mean, deviation)
	}
}

func TestSlowScheduleDoesNotOverflow(t *testing.T) {
	s := newSchedule(&Load{Rate: 1e-12, Arrival: arriveUniform})
	if at := s.next(); at < time.Hour {
		t.Errorf("arrives at %v", at)
	}
}

func TestRing(t *testing.T) {
	var r ring[int]
	in, out := 0, 0
	for _, n := range []int{50, -40, 200, -100, 500, -610} {
		for ; n > 0; n-- {
			r.push(in)
			in++
		}
		for ; n < 0; n++ {
			if got := r.pop(); got != out {
				t.Fatalf("got %d, want %d", got, out)
			}
			out++
		}
		if r.len() != in-out || r.len() > 0 && r.get(r.len()-1) != in-1 {
			t.Fatalf("%d in, %d out, %d are left", in, out, r.len())
		}
	}
}

// TestPacerPostsArrivalsInTurn runs it against the clock, and judges only what
// does not depend on how busy the machine is: every arrival that is due comes,
// none before its time, in turn.
func TestPacerPostsArrivalsInTurn(t *testing.T) {
	l := Load{Rate: 20_000, Arrival: arriveUniform}
	p := &pacer{arrive: newSchedule(&l)}
	var mu sync.Mutex
	var got [2][]time.Duration
	var epoch time.Time
	n, done := 0, make(chan struct{})
	for i := range got {
		p.inboxes = append(p.inboxes, newInbox(func(f func()) { f() }, func(at time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			if early := at - time.Since(epoch); early > 0 {
				t.Errorf("%v comes %v early", at, early)
			}
			got[i] = append(got[i], at)
			if n++; n == 200 {
				close(done)
			}
		}))
	}
	epoch = time.Now()
	const begin = time.Millisecond
	p.start(epoch, begin)
	<-done
	p.stop()
	for i := range 200 {
		if at, want := got[i%2][i/2], begin+time.Duration(i+1)*50*time.Microsecond; at != want {
			t.Fatalf("arrival %d is at %v, want %v", i, at, want)
		}
	}
}

// TestInboxWakesOnce posts once for as many arrivals as have come.
func TestInboxWakesOnce(t *testing.T) {
	var posted []func()
	var got []time.Duration
	in := newInbox(func(f func()) { posted = append(posted, f) }, func(at time.Duration) { got = append(got, at) })
	for round := range 3 {
		for i := range 5 {
			in.add(time.Duration(i))
			in.post()
		}
		if len(posted) != 1 {
			t.Fatalf("round %d: posted %d times, want once", round, len(posted))
		}
		posted[0]()
		posted = nil
		if in.post(); len(posted) != 0 || len(got) != 5*(round+1) {
			t.Fatalf("round %d: %d arrivals, %d posts", round, len(got), len(posted))
		}
	}
}
