package ztunnel

import (
	"testing"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// Who is let through where a waypoint is required.
func TestThroughWaypoint(t *testing.T) {
	gateway := func(name string) *mesh.GatewayAddress {
		return &mesh.GatewayAddress{Hostname: host("default", name), Port: 15008}
	}
	w := newWorld(t)
	w.pod("web", "10.0.0.1", nil)
	w.pod("free", "10.0.0.2", nil, "free")
	w.pod("items", "10.0.0.10", nil, "items", "free")
	w.pod("behind", "10.0.0.11", func(p *mesh.Workload) { p.Waypoint = at("10.0.0.20") })
	w.pod("lost", "10.0.0.12", func(p *mesh.Workload) { p.Waypoint = at("10.0.0.99") })
	w.pod("both", "10.0.0.13", nil, "both")
	w.pod("resting", "10.0.0.14", nil, "resting")
	w.pod("waypoint", "10.0.0.20", nil, "waypoint")
	w.pod("canary", "10.0.0.21", nil, "canary")
	w.pod("ending", "10.0.0.22", func(p *mesh.Workload) { p.Unhealthy = true }, "down")
	port := func(p *mesh.Service) { p.Ports = []mesh.Port{{Service: 15008, Target: 15008}} }
	for i, name := range []string{"waypoint", "canary", "down"} {
		w.service(name, "10.9.1."+string(rune('1'+i)), port)
	}
	w.service("free", "10.9.0.1", func(s *mesh.Service) { s.Ports[0].Target = 9090 })
	w.service("items", "10.9.0.2", func(s *mesh.Service) { s.Waypoint = gateway("waypoint") })
	w.service("both", "10.9.0.3", func(s *mesh.Service) {
		s.Waypoint = gateway("waypoint")
		s.Canary = []mesh.WeightedWaypoint{{Waypoint: *gateway("waypoint"), Weight: 9}, {Waypoint: *gateway("canary"), Weight: 1}}
	})
	w.service("resting", "10.9.0.4", func(s *mesh.Service) { s.Waypoint = gateway("down") })
	snap := w.decider().snap
	for _, row := range []struct {
		what, pod string
		port      uint16
		client    string
		want      bool
	}{
		{"no waypoint", "free", 9090, "web", true},
		{"a service's waypoint", "items", 8080, "waypoint", true},
		{"past a service's waypoint", "items", 8080, "web", false},
		{"through another waypoint", "items", 8080, "canary", false},
		{"a port of another service of the pod's", "items", 9090, "web", true},
		{"a pod's waypoint", "behind", 9090, "waypoint", true},
		{"past a pod's waypoint", "behind", 9090, "web", false},
		{"one of two waypoints", "both", 8080, "waypoint", true},
		{"the other of two waypoints", "both", 8080, "canary", true},
		{"past two waypoints", "both", 8080, "web", false},
		{"a waypoint that is not there", "lost", 8080, "web", false},
		{"a waypoint that is not ready", "resting", 8080, "web", false},
		{"the waypoint that is not ready itself: it finishes what it has", "resting", 8080, "ending", true},
	} {
		client := w.workloads[row.client]
		if got := throughWaypoint(snap, w.workloads[row.pod], row.port, client.Identity(), client); got != row.want {
			t.Errorf("%s: got %t", row.what, got)
		}
	}
	// It is the certificate that counts, not who is at the address.
	if throughWaypoint(snap, w.workloads["resting"], 8080, w.workloads["web"].Identity(), w.workloads["ending"]) {
		t.Error("let through by the address alone")
	}
}
