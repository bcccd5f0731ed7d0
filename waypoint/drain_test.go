package waypoint_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/waystone-mesh/waystone/internal/meshtest"
)

// TestDrainUnderLoad stops one of two replicas while clients of both kinds keep
// asking: nobody loses a request. The other replica takes over.
func TestDrainUnderLoad(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		m.Workload("web")
		m.Workload("items").Serve(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-time.After(time.Millisecond) // so that there is always something in flight
			fmt.Fprint(w, "done")
		})
		pods := m.Waypoints("waypoint", "service", 2)
		m.Service("items", 80).Label("istio.io/use-waypoint: waypoint")
		under(t, someClients(m, 8), "http://items/", func(sent func(int64)) {
			sent(200)
			pods[0].Ready(false) // as Kubernetes says of a pod that is being stopped
			if err := m.StopWaypoint(t.Context(), "waypoint.0"); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			sent(200)
		})
		one, _ := m.Metric(`istio_requests_total{reporter="waypoint",response_code="200"}`)
		if all, known := m.Metric(`istio_requests_total{reporter="waypoint"}`); one != all {
			t.Errorf("%v of %v requests were answered with 200:\n%s", one, all, strings.Join(known, "\n"))
		}
	})
}

// TestDrainFinishesStreams lets gRPC streams that are open when the drain begins
// come to their end, and tells their clients to go elsewhere.
func TestDrainFinishesStreams(t *testing.T) {
	eachPort(t, func(t *testing.T, c *caller) {
		s := c.stream(t.Context(), "/t.S/Chat")
		_ = s.SendMsg(&words{"before"})
		want(t, s, "before!", codes.OK)
		done := make(chan error)
		go func() { done <- c.m.StopWaypoint(t.Context(), "waypoint") }()
		for i := range 50 {
			_ = s.SendMsg(&words{fmt.Sprint(i)})
			want(t, s, fmt.Sprint(i, "!"), codes.OK)
		}
		select {
		case err := <-done:
			t.Fatalf("shutdown ended with a stream open: %v", err)
		default:
		}
		_ = s.CloseSend()
		want(t, s, "", codes.OK)
		if err := <-done; err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
}

// TestDrainDeadline cuts off what has not ended in time, and logs it.
func TestDrainDeadline(t *testing.T) {
	eachPort(t, func(t *testing.T, c *caller) {
		s := c.stream(t.Context(), "/t.S/Wait")
		want(t, s, "waiting", codes.OK)
		<-c.begun
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := c.m.StopWaypoint(ctx, "waypoint"); err == nil {
			t.Errorf("shutdown: no error, though a stream was open")
		}
		<-c.gone
		want(t, s, "", codes.Unavailable)
		c.m.WaitMetric(`istio_requests_total{reporter="waypoint",response_flags="DC"}`, 1)
		c.m.WantLog("path", "/t.S/Wait", "response_flags", "DC")
	})
}

// TestDrainIdleConnections tells idle HTTP/1.1 clients nothing until they ask,
// and closes those that do not.
func TestDrainIdleConnections(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		shop(m, "http", meshtest.Echo)
		silent, asks := m.From("web"), m.From("web")
		silent.Get("http://items/").Want(200)
		asks.Get("http://items/").Want(200)
		done := make(chan error)
		go func() { done <- m.StopWaypoint(t.Context(), "waypoint") }()
		asks.Post("http://items/", "now").Want(200)
		if err := <-done; err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
}
