package ztunnel_test

import (
	"sync"
	"testing"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/meshtest"
)

// Tunnels in great number leave nothing behind.
func TestManyTunnels(t *testing.T) {
	n := 10_000
	if testing.Short() || race {
		n = 1000
		t.Logf("%d tunnels rather than 10,000: -short, or the race detector, which takes ten times as long", n)
	}
	m := meshtest.New(t)
	web, items := m.Workload("web"), m.Workload("items")
	m.Service("items", 80)
	serve(items, echo)
	one := func() {
		nc := dial(t, web, "items:80")
		wantEcho(t, nc)
		closeBoth(t, nc)
	}
	ztunnels := []string{"node-a", "node-b"}
	quiet := func() {
		m.Until("nothing is open", func() bool {
			for _, node := range ztunnels {
				if conns, pools := m.Ztunnel(node).OpenForTest(); conns != 0 || pools.Tunnels != 0 || pools.Dials != 0 {
					return false
				}
			}
			return true
		})
	}
	// One after the other use one connection: what there is then is the start.
	one()
	one()
	quiet()
	_, pools := m.Ztunnel("node-a").OpenForTest()
	routines, buffers := m.Routines(), bufs.InUse()
	if pools.Conns != 1 || pools.Keys != 1 {
		t.Errorf("got %+v, want one connection", pools)
	}

	var all sync.WaitGroup
	const at = 50 // at a time: fewer than a connection takes
	for range at {
		all.Go(func() {
			for range n / at {
				one()
			}
		})
	}
	all.Wait()
	quiet()
	if _, got := m.Ztunnel("node-a").OpenForTest(); got != pools {
		t.Errorf("got %+v, want %+v", got, pools)
	}
	m.Until("the goroutines are those of the start", func() bool { return m.Routines() <= routines })
	m.Until("the buffers are those of the start", func() bool { return bufs.InUse() <= buffers })
	m.WantMetric(`istio_tcp_connections_closed_total{reporter="source",response_flags="-"}`, float64(n+2))
	m.WantMetric(`istio_tcp_connections_closed_total{reporter="destination",response_flags="-"}`, float64(n+2))
}
