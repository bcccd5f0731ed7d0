package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What a meter counts, in this order. System calls follow, if they are counted.
const (
	cpuTime    = iota // s, of every thread that there is or was
	userTime          // s, in ticks of 10 ms: good for the share of each
	kernelTime        // likewise
	waits             // times a thread went to sleep
	preempted         // times one had to make room
	faults            // pages that were not there
	counters
)

// A reading is what processes have used since they began.
type reading struct {
	at  time.Time
	n   []float64 // by the constants above
	rss float64   // anonymous memory that is resident, bytes: of the largest of them
}

// read reads it. CPU time is that of the processes' CPU clocks, which the
// scheduler keeps in nanoseconds; stat counts in ticks, a few of which are a per
// cent of a round, so that it says only how much of the time was the kernel's.
// (schedstat has nanoseconds too, but forgets threads that have ended.)
func read(pids []int, calls *tally) (reading, error) {
	r := reading{at: time.Now(), n: make([]float64, counters)}
	for _, pid := range pids {
		ns, err := processClock(pid)
		if err != nil {
			return r, fmt.Errorf("the CPU clock of process %d: %w", pid, err)
		}
		r.n[cpuTime] += ns.Seconds()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil {
			err = addStat(r.n, string(text))
		}
		if err != nil {
			return r, err
		}
		if text, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err != nil {
			return r, err
		}
		r.rss = max(r.rss, float64(field(string(text), "RssAnon:")<<10))
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil {
			return r, err
		}
		for _, path := range tasks {
			text, err := os.ReadFile(path)
			if err != nil {
				continue // the thread is gone
			}
			r.n[waits] += float64(field(string(text), "voluntary_ctxt_switches:"))
			r.n[preempted] += float64(field(string(text), "nonvoluntary_ctxt_switches:"))
		}
	}
	var err error
	r.n, err = calls.read(r.n)
	return r, err
}

// processClock is clock_getcpuclockid(3) and clock_gettime(2).
func processClock(pid int) (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|2), &t) // 2: what the scheduler counts
	return time.Duration(t.Nano()), err
}

// addStat adds what a line of /proc/pid/stat says of time and faults.
func addStat(n []float64, line string) error {
	// The second field is a name in brackets, which may have any in it.
	f := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	const first = 3 // what proc(5) numbers the first of f
	if len(f) <= 15-first {
		return fmt.Errorf("%q is not of the form of /proc/pid/stat", line)
	}
	number := func(i int) float64 {
		x, _ := strconv.ParseFloat(f[i-first], 64) // the kernel writes numbers
		return x
	}
	const tick = 100 // in a second, whatever the kernel's own are
	n[faults] += number(10) + number(12)
	n[userTime] += number(14) / tick
	n[kernelTime] += number(15) / tick
	return nil
}

// field returns the number after a name in /proc's form; 0 when it is not there.
func field(text, name string) int64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	return 0
}

// A meter reads all the time, so that what was used between any two moments can
// be told afterwards: only the generator knows when its measured part began.
type meter struct {
	pids  []int
	calls *tally // nil: not counted
	stop  chan struct{}
	done  sync.WaitGroup

	all []reading // once done
	err error
}

// metered is how often a meter reads: 30 times in a round of 1.5 s, a fifth of a
// millisecond each.
const metered = 50 * time.Millisecond

func startMeter(pids []int, calls *tally) *meter {
	m := &meter{pids: pids, calls: calls, stop: make(chan struct{})}
	m.done.Go(m.run)
	return m
}

func (m *meter) run() {
	tick := time.NewTicker(metered)
	defer tick.Stop()
	for m.read() {
		select {
		case <-m.stop:
			return
		case <-tick.C:
		}
	}
}

// read reads once, and reports whether it could.
func (m *meter) read() bool {
	r, err := read(m.pids, m.calls)
	if err != nil {
		m.err = err
		return false
	}
	m.all = append(m.all, r)
	return true
}

// end stops the meter, which has then read once more.
func (m *meter) end() error {
	close(m.stop)
	m.done.Wait()
	if m.err == nil {
		m.read()
	}
	return m.err
}

// between returns what was used between two moments.
func (m *meter) between(from, to time.Time) []float64 {
	a, b := m.at(from), m.at(to)
	for i := range b {
		b[i] -= a[i]
	}
	return b
}

// at returns what had been used at a moment: between two readings, in proportion.
func (m *meter) at(t time.Time) []float64 {
	i := sort.Search(len(m.all), func(i int) bool { return !m.all[i].at.Before(t) })
	last := len(m.all) - 1
	a, b := &m.all[max(i-1, 0)], &m.all[min(i, last)]
	share := 0.0
	if d := b.at.Sub(a.at); d > 0 {
		share = float64(t.Sub(a.at)) / float64(d)
	}
	n := make([]float64, len(a.n))
	for i := range n {
		n[i] = a.n[i] + share*(b.n[i]-a.n[i])
	}
	return n
}

// peak returns the most memory that was seen between two moments.
func (m *meter) peak(from, to time.Time) (most float64) {
	for _, r := range m.all {
		if !r.at.Before(from) && !r.at.After(to.Add(metered)) {
			most = max(most, r.rss)
		}
	}
	return most
}

// most is that between the first reading and the last.
func (m *meter) most() float64 { return m.peak(m.all[0].at, m.all[len(m.all)-1].at) }
