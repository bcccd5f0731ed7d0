package waypoint_test

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/waystone-mesh/waystone/internal/meshtest"
)

// replicas adds pods of the service items, the first of which serves with first.
func replicas(m *meshtest.Mesh, n int, first, others http.HandlerFunc) {
	for i := range n {
		w := m.Workload(fmt.Sprintf("items.%d", i))
		if i == 0 && first != nil {
			w.Serve(first)
		} else if i > 0 {
			w.Serve(others)
		}
	}
}

// TestConnectFailureGoesElsewhere has one endpoint of three listen to nobody: its
// share of the requests goes to the others.
func TestConnectFailureGoesElsewhere(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		m.Workload("web")
		replicas(m, 3, nil, meshtest.Echo)
		m.Service("items", 80).Waypoint()
		one, two := m.From("web"), m.FromHTTP2("web")
		for range 30 {
			one.Post("http://items/", "content").Want(200).WantBody("content")
			two.Post("http://items/", "content").Want(200).WantBody("content")
		}
		m.WaitMetric(`istio_requests_total{reporter="waypoint",response_flags="-"}`, 60)
	})
}

// TestNothingIsSentTwice has an endpoint take a request and hang up: it may have
// acted upon it, so the client is told.
func TestNothingIsSentTwice(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		m.Workload("web")
		var asked atomic.Int64
		hangUp := func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			_, _ = io.ReadAll(r.Body)
			panic(http.ErrAbortHandler)
		}
		replicas(m, 2, hangUp, hangUp)
		m.Service("items", 80).Waypoint()
		m.From("web").Post("http://items/", "once").Want(503)
		m.FromHTTP2("web").Post("http://items/", "once").Want(503)
		if got := asked.Load(); got != 2 {
			t.Errorf("the endpoints were asked %d times, want once for each request", got)
		}
		m.WaitMetric(`istio_requests_total{reporter="waypoint",response_code="503"}`, 2)
		m.WantLog("response_flags", "UC", "response_code_details", "upstream_reset_before_response_started{connection_termination}")
	})
}

// TestNobodyListens runs out of attempts.
func TestNobodyListens(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		m.Workload("web")
		replicas(m, 1, nil, nil)
		m.Service("items", 80).Waypoint()
		m.From("web").Get("http://items/").Want(503)
		m.WantLog("response_flags", "UF,URX", "response_code_details", "upstream_reset_before_response_started{connection_failure}")
		m.Workload("items.0").Ready(false)
		m.From("web").Get("http://items/").Want(503)
		m.WantLog("response_flags", "UH", "response_code_details", "no_healthy_upstream")
	})
}

// TestSlowEndpointGetsLess has one endpoint of two hold on to what it is asked
// until the others are done: the load that this makes sends the rest elsewhere.
func TestSlowEndpointGetsLess(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		m.Workload("web")
		release := make(chan struct{})
		var slow, fast atomic.Int64
		replicas(m, 2, func(w http.ResponseWriter, r *http.Request) {
			slow.Add(1)
			<-release
		}, func(w http.ResponseWriter, r *http.Request) { fast.Add(1) })
		m.Service("items", 80).Waypoint()
		c := m.FromHTTP2("web")
		var wg sync.WaitGroup
		var asked atomic.Int64
		for range 8 {
			wg.Go(func() {
				for asked.Add(1) <= 200 {
					c.Get("http://items/").Want(200)
				}
			})
		}
		m.Until("most is served while the slow one holds on", func() bool { return fast.Load() >= 150 })
		close(release)
		wg.Wait()
		if s, f := slow.Load(), fast.Load(); s*4 > f {
			t.Errorf("the slow endpoint got %d requests, the other %d", s, f)
		}
	})
}
