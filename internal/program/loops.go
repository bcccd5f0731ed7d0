package program

import (
	"time"

	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/telemetry"
)

// A loopStats is a loop as /loops shows it: what [loop.Stats] says, times in
// seconds.
type loopStats struct {
	Loop    int     `json:"loop"`
	Sockets int     `json:"sockets"`
	Load    float64 `json:"load"`
	Busy    float64 `json:"busySeconds"`
	Running float64 `json:"runningSeconds"`
	Longest float64 `json:"longestSeconds"`
	Slow    uint64  `json:"slow"`
	Hangs   uint64  `json:"hangs"`
	Batches uint64  `json:"batches"`
	Events  uint64  `json:"events"`
	Posted  uint64  `json:"posted"`
	Reads   uint64  `json:"reads"`
	Writes  uint64  `json:"writes"`
}

// showLoops returns what /loops shows.
func (p *Process) showLoops() any {
	out := []loopStats{}
	for i, s := range p.Loops.Stats() {
		out = append(out, loopStats{
			Loop: i, Sockets: s.Sockets, Load: s.Load,
			Busy: s.Busy.Seconds(), Running: s.Running.Seconds(), Longest: s.Longest.Seconds(),
			Slow: s.Slow, Hangs: s.Hangs, Batches: s.Batches, Events: s.Events, Posted: s.Posted, Reads: s.Reads, Writes: s.Writes,
		})
	}
	return out
}

// readings adds what the loops say about themselves.
func (p *Process) readings(r *telemetry.Readings) {
	r.Sockets = func() int { return total(p, func(s *loop.Stats) int { return s.Sockets }) }
	r.LoopStalls = func() uint64 { return total(p, func(s *loop.Stats) uint64 { return s.Slow }) }
	r.LoopHangs = func() uint64 { return total(p, func(s *loop.Stats) uint64 { return s.Hangs }) }
	r.LoopBusy = func() time.Duration { return total(p, func(s *loop.Stats) time.Duration { return s.Busy }) }
	r.LoopLag = func() (longest time.Duration) {
		for _, s := range p.Loops.Stats() {
			longest = max(longest, s.Running)
		}
		return longest
	}
}

// total adds up what of returns for each loop.
func total[T int | uint64 | time.Duration](p *Process, of func(*loop.Stats) T) (sum T) {
	for _, s := range p.Loops.Stats() {
		sum += of(&s)
	}
	return sum
}

// watchLoops logs the loops that hang.
func (p *Process) watchLoops() error {
	log := p.Log.Scope("loop")
	p.Loops.Watch(p.ctx, func(h loop.Hang) {
		if h.Over {
			log.Warn("a loop goes on", "loop", h.Loop, "after", h.Took.String())
			return
		}
		log.Error("a loop hangs: nothing moves on its connections", "loop", h.Loop, "for", h.Took.String(), "stack", h.Stack)
	})
	return nil
}
