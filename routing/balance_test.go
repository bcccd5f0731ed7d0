package routing

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

func TestPickBackendFollowsWeights(t *testing.T) {
	table := compile(t, "route default/r\nrule\nbackend v1:80 weight=70\nbackend none:80 weight=0\nbackend v2:80 weight=20\nbackend v3:80 weight=10")
	rule := table.Match(parseRequest(t, "GET /"))
	rnd := rand.New(rand.NewPCG(1, 2))
	count := map[string]int{}
	for range 10_000 {
		count[rule.PickBackend(rnd.Uint64()).Service.Host]++
	}
	for host, want := range map[string]int{"v1": 7000, "v2": 2000, "v3": 1000, "none": 0} {
		if got := count[host]; got < want-200 || got > want+200 {
			t.Errorf("%s was picked %d times of 10000, want about %d", host, got, want)
		}
	}
}

func endpoints(loads ...int64) []mesh.Endpoint {
	eps := make([]mesh.Endpoint, len(loads))
	for i, n := range loads {
		eps[i] = mesh.Endpoint{Workload: &mesh.Workload{}, Load: new(atomic.Int64)}
		eps[i].Load.Store(n)
	}
	return eps
}

func TestLeastLoaded(t *testing.T) {
	if got := LeastLoaded(nil, 7); got != nil {
		t.Errorf("of none: %v, want nil", got)
	}
	one := endpoints(9)
	if got := LeastLoaded(one, 7); got != &one[0] {
		t.Error("of one: another")
	}
	two := endpoints(3, 1)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		if got := LeastLoaded(two, rnd.Uint64()); got != &two[1] {
			t.Fatal("of two, the more loaded one")
		}
	}
	// The most loaded of many is never picked: it always meets another.
	many := endpoints(0, 0, 5, 0)
	seen := map[*mesh.Endpoint]int{}
	for range 1000 {
		seen[LeastLoaded(many, rnd.Uint64())]++
	}
	if seen[&many[2]] != 0 || len(seen) != 3 {
		t.Errorf("picked %v of 4, want the three idle ones", len(seen))
	}
}

func TestLeastLoadedKeepsCapacitiesInProportion(t *testing.T) {
	eps := endpoints(0, 0)
	eps[0].Workload = &mesh.Workload{Capacity: 3}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 400 { // nothing ever ends: the loads are what was picked
		LeastLoaded(eps, rnd.Uint64()).Load.Add(1)
	}
	if a, b := eps[0].Load.Load(), eps[1].Load.Load(); a < 2*b || a > 4*b {
		t.Errorf("loads %d and %d, want three to one", a, b)
	}
}

func TestLeastLoadedAllocatesNothing(t *testing.T) {
	eps := endpoints(1, 2, 3)
	if got := testing.AllocsPerRun(100, func() { LeastLoaded(eps, 1<<40) }); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

func TestRetryable(t *testing.T) {
	for _, tt := range []struct {
		f          Failure
		sent, want bool
	}{
		{NoFailure, false, false},
		{ConnectFailure, false, true},
		{ConnectFailure, true, false},
		{RefusedStream, false, true},
		{RefusedStream, true, true},
		{Reset, false, false},
		{Reset, true, false},
		{Timeout, false, false},
	} {
		if got := tt.f.Retryable(tt.sent); got != tt.want {
			t.Errorf("%v, sent %v: retryable %v, want %v", tt.f, tt.sent, got, tt.want)
		}
	}
}

func TestBudget(t *testing.T) {
	retries := func(b *Budget) (n int) {
		for b.Retry() {
			n++
		}
		return n
	}
	var b Budget
	if got := retries(&b); got != 10 {
		t.Errorf("%d retries before any request, want 10", got)
	}
	for range 4 {
		b.Request()
	}
	if b.Retry() {
		t.Error("a retry after four requests")
	}
	b.Request()
	if !b.Retry() || b.Retry() {
		t.Error("not one retry after five requests")
	}
	for range 10_000 {
		b.Request()
	}
	if got := retries(&b); got != 110 {
		t.Errorf("%d retries after many requests, want the hundred saved and ten", got)
	}
}

func TestBudgetIsSafeForConcurrentUse(t *testing.T) {
	var b Budget
	var got atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				b.Request()
				if b.Retry() {
					got.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := got.Load(); n > 8000/5+10 || n < 8000/5 {
		t.Errorf("%d retries for 8000 requests, want 1600 to 1610", n)
	}
}
