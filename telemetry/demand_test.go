package telemetry

import (
	"fmt"
	"testing"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// TestLookupsAreCounted: pods of a deployment count as one, each name apart.
func TestLookupsAreCounted(t *testing.T) {
	r := newRig(t, Options{Program: Ztunnel, MaxSeries: 30}) // three of them
	another := *productpage
	another.Name, another.UID = "productpage-v1-x2", "another"
	r.OnDemandDNS(productpage, "db.example.com")
	r.OnDemandDNS(&another, "db.example.com")
	r.OnDemandDNS(&mesh.Workload{Name: "bare", TrustDomain: "td"}, "mq.example.com")
	const name = "istio_on_demand_dns_total"
	if got := value(t, r.Telemetry, name, `source_workload="productpage-v1"`, `source_canonical_service="productpage"`, `source_canonical_revision="v1"`,
		`source_workload_namespace="bookinfo"`, `source_principal="spiffe://cluster.local/ns/bookinfo/sa/bookinfo-productpage"`,
		`source_app="productpage"`, `source_version="v1"`, `source_cluster="Kubernetes"`, `hostname="db.example.com"`); got != "2" {
		t.Errorf("counted %s, want 2", got)
	}
	if got := value(t, r.Telemetry, name, `source_workload="bare"`, `source_workload_namespace="unknown"`, `source_cluster="unknown"`); got != "1" {
		t.Errorf("of a workload that says little: %s, want 1", got)
	}
	for i := range 10 {
		r.OnDemandDNS(productpage, fmt.Sprint("host-", i))
	}
	if got := value(t, r.Telemetry, name, `hostname="overflow"`); got != "9" {
		t.Errorf("overflow: %s, want 9", got)
	}
}
