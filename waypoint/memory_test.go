package waypoint

import (
	"runtime"
	"testing"
)

// TestIdleTunnelMemory weighs what the waypoint keeps for a client that has asked
// over HTTP/1.1 and lies idle, and for the connection that its request went by.
// The tunnels are the test's: what they weigh, [hbone.Tunnel]'s test says.
func TestIdleTunnelMemory(t *testing.T) {
	const (
		n    = 2000
		most = 760 // bytes
	)
	r := newRig(t, silent)
	clients, legs := make([]quiet, n), make([]quiet, n)
	from := rigClient(r.loop)
	ask := func(clients, legs []quiet) {
		next := 0
		r.do(func() {
			r.k.dial = func(_ *origin, ready dialed) func() {
				leg := &legs[next]
				next++
				r.loop.Do(func() { ready(leg, leg.SetReceiver, nil) })
				return func() {}
			}
			for i := range clients {
				r.openFrom(from, &clients[i])
				clients[i].r.Data([]byte(browser))
			}
		})
		r.do(func() {
			for i := range legs {
				legs[i].r.Data(page(0))
			}
		})
		for i := range clients {
			if clients[i].written == 0 {
				t.Fatalf("client %d has no answer", i)
			}
		}
	}
	rest := func() { // as after a while: the burst is over
		r.do(func() {
			for len(r.k.free) > 0 {
				r.k.trim()
			}
		})
	}
	hangUp := func(clients, legs []quiet) {
		r.do(func() {
			for i := range clients {
				clients[i].r.Reset(nil)
				legs[i].r.Reset(nil)
			}
		})
	}
	warm, leg := make([]quiet, 1), make([]quiet, 1)
	ask(warm, leg)
	hangUp(warm, leg)
	rest()
	before := live()
	ask(clients, legs)
	rest()
	got := (live() - before) / n
	t.Logf("%d bytes", got)
	if got > most && !raceOn {
		t.Errorf("an idle client takes %d bytes, want at most %d", got, most)
	}
	hangUp(clients, legs)
}

// live returns how many bytes of heap are in use, by others than pools.
func live() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
