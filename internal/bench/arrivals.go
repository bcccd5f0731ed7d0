package bench

import (
	"math"
	"math/rand/v2"
	"time"
)

// A schedule says when requests of an open loop arrive, since the beginning of
// the load. It depends on nothing that happens.
type schedule struct {
	rate float64 // per second
	n    float64 // arrivals so far
	at   float64 // the last, in seconds
	rng  *rand.Rand
}

// newSchedule returns the schedule of l, which is the same in every run.
func newSchedule(l *Load) *schedule {
	s := &schedule{rate: l.Rate}
	if l.Arrival == arrivePoisson {
		s.rng = rand.New(rand.NewPCG(1, 2))
	}
	return s
}

// next returns when the next request arrives.
func (s *schedule) next() time.Duration {
	s.n++
	if s.rng != nil {
		s.at += s.rng.ExpFloat64() / s.rate
	} else {
		s.at = s.n / s.rate // not a sum, which would drift
	}
	return time.Duration(math.Round(math.Min(s.at, math.MaxInt32) * float64(time.Second)))
}

// A ring is a first-in first-out queue that grows.
type ring[T any] struct {
	items []T // as long as a power of two
	first int
	n     int
}

func (r *ring[T]) len() int { return r.n }

func (r *ring[T]) push(v T) {
	if r.n == len(r.items) {
		grown := make([]T, max(64, 2*r.n))
		for i := range r.n {
			grown[i] = r.get(i)
		}
		r.items, r.first = grown, 0
	}
	r.items[(r.first+r.n)&(len(r.items)-1)] = v
	r.n++
}

func (r *ring[T]) pop() T {
	var zero T
	v := r.items[r.first]
	r.items[r.first] = zero
	r.first = (r.first + 1) & (len(r.items) - 1)
	r.n--
	return v
}

// get returns the i-th.
func (r *ring[T]) get(i int) T { return r.items[(r.first+i)&(len(r.items)-1)] }
