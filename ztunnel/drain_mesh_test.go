package ztunnel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/meshtest"
)

// closeBoth ends a connection to an application that echoes, in order.
func closeBoth(t testing.TB, nc net.Conn) {
	t.Helper()
	nc.(interface{ CloseWrite() error }).CloseWrite()
	if got, err := io.ReadAll(nc); len(got) != 0 || err != nil {
		t.Errorf("read %q, %v; want the end", got, err)
	}
	nc.Close()
}

// On either node, what is open ends in its time, and what does not is cut.
func TestDrain(t *testing.T) {
	for _, node := range []string{"node-a", "node-b"} {
		t.Run(node, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := meshtest.New(t)
				m.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: outside}\n")
				web, items, plain := m.Workload("web"), m.Workload("items"), m.Workload("outside/plain")
				serve(items, echo)
				serve(plain, echo)
				target := items.IP.String() + ":8080"
				ends, stays := dialFor(t, web, target), dialFor(t, web, target)
				outside := dialFor(t, web, plain.IP.String()+":8080")
				wantEcho(t, stays)

				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				start := time.Now()
				stopped := make(chan error)
				go func() { stopped <- m.StopZtunnel(ctx, node) }()
				synctest.Wait()
				if nc, err := web.Dial(t.Context(), target); err == nil {
					t.Error("a new connection is taken")
					nc.Close()
				}
				wantEcho(t, ends)
				wantEcho(t, outside)
				closeBoth(t, ends)
				closeBoth(t, outside)
				if err := <-stopped; !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want the deadline", err)
				}
				if took := time.Since(start); took < 10*time.Second || took > 11*time.Second {
					t.Errorf("took %v", took)
				}
				wantOver(t, stays)
				direction := map[string]string{"node-a": "outbound", "node-b": "inbound"}[node]
				m.WantLog("direction", direction, "level", "error", "error", "connection closed due to connection drain")
				drained := 0
				for _, l := range accessLines(m, "access") {
					if l["direction"] == direction && l["error"] != nil && l["error"] == "connection closed due to connection drain" {
						drained++
					}
				}
				if drained != 1 {
					t.Errorf("%d connections were cut, want 1", drained)
				}
			})
		})
	}
}

func dialFor(t testing.TB, w *meshtest.Workload, addr string) net.Conn {
	t.Helper()
	nc := dial(t, w, addr)
	_ = nc.SetDeadline(time.Time{})
	return nc
}

// Without anything that stays, a drain waits for what is open and no longer.
func TestDrainEndsWithTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meshtest.New(t)
		web, items := m.Workload("web"), m.Workload("items")
		serve(items, echo)
		nc := dialFor(t, web, items.IP.String()+":8080")
		start := time.Now()
		stopped := make(chan error)
		go func() { stopped <- m.StopZtunnel(t.Context(), "node-a") }()
		<-time.After(time.Hour)
		wantEcho(t, nc)
		closeBoth(t, nc)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > time.Hour+time.Second {
			t.Errorf("took %v", took)
		}
		m.WantMetric("workload_manager_proxies_stopped_total", 1)
		m.WantMetric("istio_tcp_connections_failed_total", 0)
	})
}

// A connection that is being made when the drain begins is made.
func TestDrainWaitsForConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := make(chan func())
		m := meshtest.With(t, meshtest.Options{Ztunnel: holding(held)})
		web, items := m.Workload("web"), m.Workload("items")
		serve(items, echo)
		result := make(chan error)
		go func() {
			nc, err := web.Dial(t.Context(), items.IP.String()+":8080")
			if err == nil {
				wantEcho(t, nc)
				nc.Close()
			}
			result <- err
		}()
		release := <-held
		stopped := make(chan error, 2)
		go func() { stopped <- m.StopZtunnel(t.Context(), "node-a") }()
		synctest.Wait()
		release()
		if err := errors.Join(<-result, <-stopped); err != nil {
			t.Error(err)
		}
	})
}

// Who does not say where to go does not hold a drain for long.
func TestSilentClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meshtest.New(t)
		web := m.Workload("web")
		raw := web.Raw(t.Context())
		synctest.Wait()
		start := time.Now()
		if err := m.StopZtunnel(t.Context(), "node-a"); err != nil {
			t.Error(err)
		}
		if got := fmt.Sprint(time.Since(start).Round(time.Second)); got != "10s" {
			t.Errorf("took %s", got)
		}
		if n, err := raw.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("read %d, %v", n, err)
		}
		raw.Close()
	})
}
