package loop

import (
	"sync/atomic"
	"time"
)

// Stats is what a loop has done since it started. Reads and Writes are calls,
// of which a batch should need few.
type Stats struct {
	Sockets int    // now
	Batches uint64 // times the loop woke or went round
	Events  uint64 // sockets found ready
	Posted  uint64 // functions run for Do
	Reads   uint64
	Writes  uint64
	Busy    time.Duration // time not spent waiting
	Load    float64       // the share of the last second or so that was busy, up to 1
	Longest time.Duration // the longest batch
	Slow    uint64        // batches longer than Options.Slow: a handler held the loop
	Hangs   uint64        // those longer than Options.Hang
	Running time.Duration // for how long the present batch has been running; 0 when idle
}

// window is over how long the load is taken.
const window = 500 * time.Millisecond

// A meter counts for its loop. What others read is atomic and stored once per
// batch.
type meter struct {
	// Owned by the loop.
	reads, writes, posted uint64
	start                 time.Duration // of the window
	spent                 time.Duration // busy in the window

	sockets                        atomic.Int64
	batches, events, slow, hangs   atomic.Uint64
	doneReads, doneWrites, donePut atomic.Uint64
	busy, longest                  atomic.Int64
	hung                           atomic.Int64 // how long the last one took that counts in hangs
	began                          atomic.Int64 // of the present batch, since the epoch; 0 when idle
	permille                       atomic.Int64
	measured                       atomic.Int64 // when permille was, since the epoch
}

// batch counts a batch that is over.
func (m *meter) batch(l *Loop, events int) {
	end := time.Since(l.epoch)
	took := end - l.at
	m.batches.Add(1)
	m.events.Add(uint64(events))
	m.doneReads.Store(m.reads)
	m.doneWrites.Store(m.writes)
	m.donePut.Store(m.posted)
	m.busy.Add(int64(took))
	if int64(took) > m.longest.Load() {
		m.longest.Store(int64(took))
	}
	if took >= l.slow {
		m.slow.Add(1)
	}
	if took >= l.hang {
		m.hung.Store(int64(took))
		m.hangs.Add(1)
	}
	m.spent += took
	if w := end - m.start; w >= window {
		m.permille.Store(int64(m.spent * 1000 / w))
		m.measured.Store(int64(end))
		m.start, m.spent = end, 0
	}
}

// idle says that the loop is about to wait.
func (m *meter) idle() { m.began.Store(0) }

// load returns the busy share of the last window per mille: 0 when that is long
// ago, because the loop has been waiting since, 1000 when one batch has been
// running for longer than that.
func (m *meter) load(l *Loop) int64 {
	now := time.Since(l.epoch)
	if now-time.Duration(m.measured.Load()) < 2*window {
		return m.permille.Load()
	}
	if began := m.began.Load(); began != 0 && now-time.Duration(began) > window {
		return 1000
	}
	return 0
}

// Stats may be called from anywhere.
func (l *Loop) Stats() Stats {
	m := &l.meter
	s := Stats{
		Sockets: int(m.sockets.Load()),
		Batches: m.batches.Load(),
		Events:  m.events.Load(),
		Posted:  m.donePut.Load(),
		Reads:   m.doneReads.Load(),
		Writes:  m.doneWrites.Load(),
		Busy:    time.Duration(m.busy.Load()),
		Load:    float64(m.load(l)) / 1000,
		Longest: time.Duration(m.longest.Load()),
		Slow:    m.slow.Load(),
		Hangs:   m.hangs.Load(),
	}
	if began := m.began.Load(); began != 0 {
		s.Running = max(time.Since(l.epoch)-time.Duration(began), 1)
	}
	return s
}
