package ztunnel_test

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/ztunnel"
)

func TestPodIsRemoved(t *testing.T) {
	onBoth(t, meshtest.Options{}, func(t *testing.T, m *meshtest.Mesh) {
		web, items, other := m.Workload("web"), m.Workload("items"), m.Workload("other")
		serve(items, echo)
		target := items.IP.String() + ":8080"
		one, two := dial(t, web, target), dial(t, other, target)
		wantEcho(t, one)
		wantEcho(t, two)
		web.Remove()
		wantOver(t, one)
		m.WantLog("direction", "outbound", "error", "the pod went away")
		wantEcho(t, two)
		items.Remove()
		wantOver(t, two)
		// Either node tunnel may be the first to cut it.
		m.Until("a line that says why", func() bool {
			return slices.ContainsFunc(accessLines(m, "access"), func(l map[string]any) bool {
				return l["direction"] == "inbound" && l["error"] == "the pod went away" || l["error"] == "the destination went away"
			})
		})
		m.Until("nothing is open", func() bool { n, _ := m.Metric("istio_tcp_sockets_open"); return n == 0 })
		m.WantMetric("workload_manager_active_proxy_count", 1)
		m.WantMetric("workload_manager_proxies_stopped_total", 2)
	})
}

// Whoever has an address now is who is reached there, as himself.
func TestAddressIsUsedAgain(t *testing.T) {
	onBoth(t, meshtest.Options{}, func(t *testing.T, m *meshtest.Mesh) {
		web, items, third, next := m.Workload("web"), m.Workload("items"), m.Workload("third"), m.Workload("next")
		serve(items, echo)
		target := items.IP.String() + ":8080"
		before, also := dial(t, web, target), dial(t, third, target)
		wantEcho(t, before)
		wantEcho(t, also)
		items.Remove()
		wantOver(t, before)
		next.IP = items.IP
		next.Ready(true)
		now := dial(t, web, target)
		wantEcho(t, now)
		now.Close()
		m.WantMetric(`istio_tcp_connections_opened_total{reporter="source",destination_principal="spiffe://cluster.local/ns/default/sa/next"}`, 1)
		m.WantMetric(`istio_tcp_connections_opened_total{reporter="destination",destination_workload="next"}`, 1)
		wantOver(t, also)

		next.Account("somebody") // with the same address, and connections pooled
		again := dial(t, web, target)
		wantEcho(t, again)
		again.Close()
		m.WantMetric(`istio_tcp_connections_opened_total{reporter="destination",destination_principal="spiffe://cluster.local/ns/default/sa/somebody"}`, 1)
	})
}

// A pod whose ports cannot be opened is pending, and is tried again.
func TestPodIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy atomic.Bool
		m := meshtest.With(t, meshtest.Options{Ztunnel: func(o *ztunnel.Options) {
			listen := o.Listen
			o.Listen = func(a netip.AddrPort) (net.Listener, error) {
				if busy.Load() && a.Port() == 15080 {
					return nil, errors.New("the address is in use")
				}
				return listen(a)
			}
		}})
		counts := func(active, pending, started, stopped float64) {
			t.Helper()
			m.WantMetric("workload_manager_active_proxy_count", active)
			m.WantMetric("workload_manager_pending_proxy_count", pending)
			m.WantMetric("workload_manager_proxies_started_total", started)
			m.WantMetric("workload_manager_proxies_stopped_total", stopped)
		}
		busy.Store(true)
		web, items := m.Workload("web"), m.Workload("items")
		serve(items, echo)
		counts(0, 2, 0, 0)
		m.Workload("third").Remove()
		counts(0, 2, 0, 0)
		busy.Store(false)
		<-time.After(1500 * time.Millisecond)
		synctest.Wait()
		counts(2, 0, 2, 0)
		nc := dial(t, web, items.IP.String()+":8080")
		wantEcho(t, nc)
		nc.Close()
		items.Remove()
		counts(1, 0, 2, 1)
	})
}

// The namespace joins the mesh and leaves it while requests flow, each on a
// connection of its own: none is lost.
func TestNamespaceIsLabelledLive(t *testing.T) {
	onBoth(t, meshtest.Options{}, func(t *testing.T, m *meshtest.Mesh) {
		m.Workload("web")
		items := m.Workload("items")
		m.Service("items", 80)
		items.Serve(meshtest.Echo)
		client := m.From("web").HTTP
		client.Transport.(*http.Transport).DisableKeepAlives = true
		stop := make(chan struct{})
		var asked atomic.Int64
		var asking sync.WaitGroup
		for range 4 {
			asking.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					res, err := client.Get("http://items/")
					if err != nil {
						t.Error(err)
						return
					}
					if res.StatusCode != 200 {
						t.Errorf("got %d", res.StatusCode)
					}
					res.Body.Close()
					asked.Add(1)
				}
			})
		}
		for i := range 20 {
			label := "{}"
			if i%2 == 1 {
				label = "{istio.io/dataplane-mode: ambient}"
			}
			m.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: " + label + "}\n")
			n := asked.Load()
			m.Until("requests go on", func() bool { return asked.Load() > n+8 || t.Failed() })
		}
		close(stop)
		asking.Wait()
		for _, policy := range []string{"mutual_tls", "unknown"} {
			if n, _ := m.Metric(`istio_tcp_connections_opened_total{reporter="source",connection_security_policy="` + policy + `"}`); n == 0 {
				t.Errorf("no connection with %s", policy)
			}
		}
		m.WantMetric("istio_tcp_connections_failed_total", 0)
	})
}

// With MeshOnly a pod is served while it is in the mesh.
func TestPodsOutsideTheMeshAreLeftAlone(t *testing.T) {
	m := meshtest.With(t, meshtest.Options{Ztunnel: func(o *ztunnel.Options) { o.MeshOnly = true }})
	m.Workload("items")
	m.WantMetric("workload_manager_active_proxy_count", 1)
	namespace := func(labels string) {
		m.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: " + labels + "}\n")
	}
	namespace("{}")
	m.WaitMetric("workload_manager_active_proxy_count", 0)
	namespace("{istio.io/dataplane-mode: ambient}")
	m.WaitMetric("workload_manager_active_proxy_count", 1)
}
