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
)

// A usage is what processes have used since they began.
type usage struct {
	At       time.Time
	CPU      time.Duration // user and system, of every thread
	Switches int64         // times a thread went to sleep
	RSS      int64         // anonymous memory that is resident, bytes: of the largest of them
}

// use reads what processes have used. CPU time is from schedstat, in
// nanoseconds: that of stat is counted in ticks of 10 ms, which are a few per
// cent of a round.
func use(pids []int) (usage, error) {
	u := usage{At: time.Now()}
	for _, pid := range pids {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil {
			return u, err
		}
		for _, task := range tasks {
			text, err := os.ReadFile(task + "/schedstat")
			if err != nil {
				continue // the thread is gone
			}
			ns, _, _ := strings.Cut(string(text), " ")
			n, err := strconv.ParseInt(ns, 10, 64)
			if err != nil {
				return u, fmt.Errorf("%s/schedstat: %w", task, err)
			}
			u.CPU += time.Duration(n)
			status, err := os.ReadFile(task + "/status")
			if err == nil {
				u.Switches += field(string(status), "voluntary_ctxt_switches:")
			}
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return u, err
		}
		u.RSS = max(u.RSS, field(string(status), "RssAnon:")<<10)
	}
	return u, nil
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

// A meter reads usage all the time, so that what was used between any two
// moments can be told afterwards: only the generator knows when its measured
// part began.
type meter struct {
	pids []int
	stop chan struct{}
	done sync.WaitGroup

	all []usage // once done
	err error
}

// metered is how often a meter reads: 40 times in a round of 2 s, at a tenth of a
// millisecond each.
const metered = 50 * time.Millisecond

func startMeter(pids []int) *meter {
	m := &meter{pids: pids, stop: make(chan struct{})}
	m.done.Go(m.run)
	return m
}

func (m *meter) run() {
	tick := time.NewTicker(metered)
	defer tick.Stop()
	for {
		u, err := use(m.pids)
		if err != nil {
			m.err = err
			return
		}
		m.all = append(m.all, u)
		select {
		case <-m.stop:
			return
		case <-tick.C:
		}
	}
}

// end stops the meter, which has then read once more.
func (m *meter) end() error {
	close(m.stop)
	m.done.Wait()
	if m.err == nil {
		var u usage
		if u, m.err = use(m.pids); m.err == nil {
			m.all = append(m.all, u)
		}
	}
	return m.err
}

// at returns what had been used at a moment: between two readings, in proportion.
func (m *meter) at(t time.Time) usage {
	i := sort.Search(len(m.all), func(i int) bool { return !m.all[i].At.Before(t) })
	switch {
	case i == len(m.all):
		return m.all[i-1]
	case i == 0:
		return m.all[0]
	}
	a, b := m.all[i-1], m.all[i]
	share := float64(t.Sub(a.At)) / float64(b.At.Sub(a.At))
	return usage{
		At:       t,
		CPU:      a.CPU + time.Duration(share*float64(b.CPU-a.CPU)),
		Switches: a.Switches + int64(share*float64(b.Switches-a.Switches)),
		RSS:      b.RSS,
	}
}

// peak returns the most memory that was seen between two moments.
func (m *meter) peak(from, to time.Time) (most int64) {
	for _, u := range m.all {
		if !u.At.Before(from) && !u.At.After(to.Add(metered)) {
			most = max(most, u.RSS)
		}
	}
	return most
}
