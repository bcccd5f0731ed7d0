package waypoint_test

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/waypoint"
)

// TestWorkloadTraffic dials pods by address, through waypoints for workloads and
// for everything, and past those for services only.
func TestWorkloadTraffic(t *testing.T) {
	for _, c := range []struct {
		traffic string
		through bool
	}{{"workload", true}, {"all", true}, {"service", false}} {
		t.Run(c.traffic, func(t *testing.T) {
			eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
				m.Workload("web")
				items := m.Workload("items").Serve(meshtest.Echo)
				m.Service("items", 80)
				m.Waypoint("waypoint", c.traffic)
				m.Apply(`
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}
`)
				want := 0.0
				if c.through {
					want = 2
				}
				url := fmt.Sprintf("http://%s:%d/", items.IP, meshtest.AppPort)
				m.From("web").Get(url).Want(200)
				m.FromHTTP2("web").Get(url).Want(200)
				m.WaitMetric(`istio_requests_total{reporter="waypoint"}`, want)
			})
		})
	}
}

// TestOptedOut labels a Service out of its namespace's waypoint.
func TestOptedOut(t *testing.T) {
	m := meshtest.New(t)
	m.Workload("web")
	m.Workload("items").Serve(meshtest.Echo)
	m.Waypoint("waypoint", "service")
	m.Apply(`
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}
`)
	s := m.Service("items", 80)
	m.From("web").Get("http://items/").Want(200)
	m.WaitMetric(`istio_requests_total{reporter="waypoint"}`, 1)
	s.Label("istio.io/use-waypoint: none")
	m.From("web").Get("http://items/").Want(200)
	m.WaitMetric(`istio_requests_total{reporter="waypoint"}`, 1)
}

const accountGateway = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: waypoint
  namespace: default
  labels: {istio.io/waypoint-for: all}
  annotations: {istio.io/for-service-account: items}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
status:
  addresses: [{type: IPAddress, value: %s}]
`

// TestServiceAccountWaypoint serves the workloads of an account and the services
// that select them, and nobody else.
func TestServiceAccountWaypoint(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		m.Workload("web")
		items := m.Workload("items").Serve(meshtest.Echo)
		m.Workload("other").Serve(meshtest.Echo)
		m.Service("items", 80)
		m.Service("other", 80)
		w := m.Waypoint("waypoint", "all")
		m.Apply(fmt.Sprintf(accountGateway, w.IP))
		for range 2 {
			m.From("web").Get("http://items/").Want(200)
			m.From("web").Get("http://other/").Want(200)
			m.From("web").Get(fmt.Sprintf("http://%s:%d/", items.IP, meshtest.AppPort)).Want(200)
		}
		m.WaitMetric(`istio_requests_total{reporter="waypoint"}`, 4)
		m.WaitMetric(`istio_requests_total{reporter="waypoint",destination_workload="items"}`, 4)
	})
}

// under runs requests all the while that f changes things, and checks that none
// was lost.
func under(t *testing.T, clients []*meshtest.Client, url string, f func(sent func(n int64))) {
	t.Helper()
	var stop atomic.Bool
	var count atomic.Int64
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				method, body := "GET", ""
				if i%3 == 0 {
					method, body = "POST", "content"
				}
				c.Do(method, url, body).Want(200)
				count.Add(1)
			}
		})
	}
	f(func(n int64) {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for until := count.Load() + n; count.Load() < until && !t.Failed(); {
			<-tick.C
		}
	})
	stop.Store(true)
	wg.Wait()
}

func someClients(m *meshtest.Mesh, n int) (clients []*meshtest.Client) {
	for range n {
		clients = append(clients, m.From("web"), m.FromHTTP2("web"))
	}
	return clients
}

// TestAttachAndDetachUnderLoad puts a waypoint in front of a service and takes it
// away again while requests flow.
func TestAttachAndDetachUnderLoad(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		m.Workload("web")
		m.Workload("items").Serve(meshtest.Echo)
		m.Waypoint("waypoint", "service")
		s := m.Service("items", 80)
		under(t, someClients(m, 4), "http://items/", func(sent func(int64)) {
			for range 5 {
				sent(50)
				s.Label("istio.io/use-waypoint: waypoint")
				sent(50)
				s.Label("")
			}
		})
	})
}

// TestToldLate tells the node tunnels of a waypoint before it knows itself: it
// has patience.
func TestToldLate(t *testing.T) {
	m := meshtest.With(t, meshtest.Options{Waypoint: func(o *waypoint.Options) { o.Patience = 10 * time.Second }})
	m.Workload("web")
	m.Workload("items").Serve(meshtest.Echo)
	m.Waypoint("waypoint", "service")
	s := m.Service("items", 80)
	release := m.Hold("waypoint waypoint")
	s.Label("istio.io/use-waypoint: waypoint")
	client := m.From("web")
	result := make(chan error)
	go func() {
		resp, err := client.HTTP.Get("http://items/")
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 {
				err = fmt.Errorf("status %d", resp.StatusCode)
			}
		}
		result <- err
	}()
	select {
	case err := <-result:
		t.Fatalf("answered before the waypoint knew of it: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	if err := <-result; err != nil {
		t.Error(err)
	}
	m.WaitMetric(`istio_requests_total{reporter="waypoint",response_code="200"}`, 1)
}
