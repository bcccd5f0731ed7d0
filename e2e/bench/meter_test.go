package main

import (
	"io"
	"os"
	"slices"
	"testing"
	"time"
)

func TestStat(t *testing.T) {
	const line = "42 (a) S (b c) R 1 2 3 4 -1 4194304 1000 77 5 88 250 50 1 1 20 0 9 0 420302 3133440 354\n"
	n := make([]float64, counters)
	for range 2 { // it adds
		if err := addStat(n, line); err != nil {
			t.Fatal(err)
		}
	}
	if want := []float64{0, 5, 1, 0, 0, 2010}; !slices.Equal(n, want) {
		t.Errorf("got %v, want %v", n, want)
	}
	if err := addStat(n, "42 (a) S 1 2 3"); err == nil {
		t.Error("half a line was taken")
	}
}

func TestField(t *testing.T) {
	const text = "Name:\tRssAnon: 5\nRssAnon:\t    1234 kB\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t9\n"
	for name, want := range map[string]int64{"RssAnon:": 1234, "voluntary_ctxt_switches:": 7, "nonvoluntary_ctxt_switches:": 9, "VmHWM:": 0} {
		if got := field(text, name); got != want {
			t.Errorf("%s got %d, want %d", name, got, want)
		}
	}
}

// TestReadReadsUs checks what can be known about a process that runs: this one.
func TestReadReadsUs(t *testing.T) {
	a, err := read([]int{os.Getpid()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	kept := make([]byte, size)
	for i := 0; i < size; i += 4096 {
		kept[i] = 1 // so that it is resident
	}
	b, err := read([]int{os.Getpid()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b.n[cpuTime] <= a.n[cpuTime] || b.n[faults] <= a.n[faults] {
		t.Errorf("after some work %v, before it %v", b.n, a.n)
	}
	if b.rss < size {
		t.Errorf("%v bytes of memory with %d kept", b.rss, len(kept))
	}
	if _, err := read([]int{1 << 30}, nil); err == nil {
		t.Error("a process that there is not was read")
	}
}

func TestMeterPeak(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	m := &meter{all: []reading{{at(0), nil, 9}, {at(100), nil, 3}, {at(200), nil, 4}, {at(240), nil, 5}, {at(300), nil, 8}}}
	if got := m.peak(at(100), at(200)); got != 5 {
		t.Errorf("got %v, want 5: the reading after the end is of what was before", got)
	}
	if got := m.most(); got != 9 {
		t.Errorf("in all: got %v, want 9", got)
	}
}

// TestTally counts system calls of this process, where the kernel lets us.
func TestTally(t *testing.T) {
	calls, err := newTally([]int{os.Getpid()})
	if err != nil {
		t.Skip(err)
	}
	defer calls.close()
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	before, err := calls.read(nil)
	if err != nil {
		t.Fatal(err)
	}
	const n = 1000
	go func() { // perhaps on a thread that there was not when counting began
		for range n {
			_, _ = out.Write([]byte("x"))
		}
		out.Close()
	}()
	if _, err := io.Copy(io.Discard, in); err != nil {
		t.Fatal(err)
	}
	after, err := calls.read(nil)
	if err != nil {
		t.Fatal(err)
	}
	of := func(name string) float64 {
		i := slices.Index(calls.names, name)
		return after[i] - before[i]
	}
	if w, all := of("write"), of(every); w < n || w > 2*n || all < w+of("read") {
		t.Errorf("%v writes of %d, %v calls in all", w, n, all)
	}
}

func TestMoves(t *testing.T) {
	c := callsOf{every: 10, "read": 1, "recvfrom": 2, "write": 0.5, "sendmsg": 0.25, "futex": 3, "close": 0.001}
	if reads, writes := c.moves(); reads != 3 || writes != 0.75 {
		t.Errorf("got %v reads, %v writes", reads, writes)
	}
	if got, want := c.text(), "futex 3, recvfrom 2, read 1, write 0.5, sendmsg 0.25, others 3.25"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
