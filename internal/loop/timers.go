package loop

import "time"

// A Timer calls F on its loop. The zero Timer with F set is ready for
// [Loop.After]; it is part of what it serves, so that arming it allocates
// nothing. It must not be copied once armed.
type Timer struct {
	F func()

	timers *timers
	when   time.Duration // since the loop's epoch
	index  int           // in the heap, plus one; 0 is not armed
}

// After has t fire once, d after the beginning of this batch. A Timer that is
// armed is armed anew. A Timer that re-arms itself with nothing fires again
// in a later batch.
func (l *Loop) After(t *Timer, d time.Duration) {
	t.timers = &l.timers
	l.timers.arm(t, l.at+max(d, 1))
}

// Stop disarms t and reports whether it was armed.
func (t *Timer) Stop() bool {
	if t.index == 0 {
		return false
	}
	t.timers.remove(t.index - 1)
	return true
}

// Armed reports whether t is going to fire.
func (t *Timer) Armed() bool { return t.index != 0 }

// timers is a heap of armed timers. A timer that is put off, as every keepalive
// is by every byte that arrives, keeps its place: its entry is moved only when
// it comes to the top. A timing wheel would re-arm as cheaply, but fires late
// by its step and in no order.
type timers struct {
	heap []entry
	seq  uint64
}

type entry struct {
	when time.Duration // at most t.when
	seq  uint64        // equal times fire in the order of arming
	t    *Timer
}

func (e *entry) less(f *entry) bool {
	return e.when < f.when || e.when == f.when && e.seq < f.seq
}

// next returns when to look again, or -1 when no timer is armed.
func (h *timers) next() time.Duration {
	if len(h.heap) == 0 {
		return -1
	}
	return h.heap[0].when
}

// fire calls the timers that are due.
func (h *timers) fire(now time.Duration) {
	for len(h.heap) > 0 && h.heap[0].when <= now {
		top := &h.heap[0]
		if t := top.t; t.when > now {
			top.when = t.when
			h.down(0)
		} else if t.when > top.when {
			top.when = t.when // due, but after others that are
			h.down(0)
		} else {
			h.remove(0)
			t.F()
		}
	}
}

func (h *timers) arm(t *Timer, when time.Duration) {
	h.seq++
	t.when = when
	if t.index == 0 {
		h.heap = append(h.heap, entry{when, h.seq, t})
		t.index = len(h.heap)
		h.up(len(h.heap) - 1)
		return
	}
	i := t.index - 1
	if e := &h.heap[i]; when < e.when {
		e.when, e.seq = when, h.seq
		h.up(i)
	} else {
		e.seq = h.seq
		h.down(i)
	}
}

func (h *timers) remove(i int) {
	last := len(h.heap) - 1
	h.heap[i].t.index = 0
	if i != last {
		h.heap[i] = h.heap[last]
		h.heap[i].t.index = i + 1
	}
	h.heap[last] = entry{}
	h.heap = h.heap[:last]
	if i != last {
		h.up(i)
		h.down(i)
	}
}

func (h *timers) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.heap[i].less(&h.heap[parent]) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h *timers) down(i int) {
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h.heap); c++ {
			if h.heap[c].less(&h.heap[least]) {
				least = c
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}

func (h *timers) swap(i, j int) {
	h.heap[i], h.heap[j] = h.heap[j], h.heap[i]
	h.heap[i].t.index, h.heap[j].t.index = i+1, j+1
}
