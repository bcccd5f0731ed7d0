package program

import (
	"testing"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

func TestSeriesLiveAsLongAsAnyWorkloadOfTheirLabels(t *testing.T) {
	store := config.NewStore(config.Options{})
	l := &living{snapshot: store.Snapshot}
	pod := func(name, owner string) *mesh.Workload {
		return &mesh.Workload{UID: name, Name: name, Namespace: "default", OwnerName: owner, TrustDomain: "td"}
	}
	first := pod("web-1", "web")
	apply := func(u config.Update) {
		if err := store.Apply([]config.Update{u}); err != nil {
			t.Fatal(err)
		}
	}
	if l.workload(first) {
		t.Error("there is no workload yet")
	}
	apply(config.Update{Value: pod("web-2", "web")})
	if !l.workload(first) {
		t.Error("another pod of the same owner is there")
	}
	if l.workload(pod("db-1", "db")) {
		t.Error("there is no such owner")
	}
	apply(config.Update{Key: mesh.Key{Kind: "Workload", Name: "web-2"}})
	if l.workload(first) {
		t.Error("the last pod is gone")
	}
}

func TestSeriesLiveAsLongAsTheirService(t *testing.T) {
	store := config.NewStore(config.Options{})
	l := &living{snapshot: store.Snapshot}
	apply := func(u config.Update) {
		if err := store.Apply([]config.Update{u}); err != nil {
			t.Fatal(err)
		}
	}
	s := mesh.Service{Name: "web", Namespace: "default", Hostname: "web.default.svc.cluster.local"}
	first := s
	if l.service(&first) {
		t.Error("there is no service yet")
	}
	apply(config.Update{Value: &s})
	if !l.service(&first) {
		t.Error("another version of it is there")
	}
	apply(config.Update{Key: s.Key()})
	if l.service(&first) {
		t.Error("it is gone")
	}
}

func telemetryOptions() telemetry.Options { return telemetry.Options{Program: telemetry.Waypoint} }
