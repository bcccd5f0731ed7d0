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
	if l.has(first) {
		t.Error("there is no workload yet")
	}
	apply(config.Update{Value: pod("web-2", "web")})
	if !l.has(first) {
		t.Error("another pod of the same owner is there")
	}
	if l.has(pod("db-1", "db")) {
		t.Error("there is no such owner")
	}
	apply(config.Update{Key: mesh.Key{Kind: "Workload", Name: "web-2"}})
	if l.has(first) {
		t.Error("the last pod is gone")
	}
}

func telemetryOptions() telemetry.Options { return telemetry.Options{Program: telemetry.Waypoint} }
