package ztunnel

import "github.com/waystone-mesh/waystone/internal/hbone"

// OpenForTest returns what is open: connections of pods and for them, and the
// pools' connections and tunnels.
func (z *Ztunnel) OpenForTest() (conns int, pools hbone.Stats) {
	for l, w := range z.workers {
		done := make(chan struct{})
		l.Do(func() {
			conns += len(w.greeters) + len(w.inbound) + len(w.outbound)
			for _, pool := range w.pools {
				s := pool.Stats()
				pools.Conns += s.Conns
				pools.Dials += s.Dials
				pools.Tunnels += s.Tunnels
				pools.Keys += s.Keys
			}
			close(done)
		})
		<-done
	}
	return conns, pools
}

// HangForTest has every loop stand still until what it returns is called.
func (z *Ztunnel) HangForTest() (release func()) {
	over := make(chan struct{})
	for l := range z.workers {
		hangs := make(chan struct{})
		l.Do(func() { close(hangs); <-over })
		<-hangs
	}
	return func() { close(over) }
}

// FillAskingForTest has as many connections of pods wait for the control plane as
// there may be, until what it returns is called.
func (z *Ztunnel) FillAskingForTest() (release func()) {
	z.askingFrom.n.Add(maxAsking)
	return func() { z.askingFrom.n.Add(-maxAsking) }
}
