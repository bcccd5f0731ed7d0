package ztunnel

import (
	"fmt"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
)

// What peers say about themselves makes equal workloads equal, and never more than
// there is room for.
func TestDerivedWorkloads(t *testing.T) {
	d := derived{}
	id := identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
	const said = "k8s.cluster.name=west,k8s.namespace.name=other,k8s.deployment.name=web,service.name=web,service.version=v2,cloud.region=r,cloud.availability_zone=z"
	w := d.workload(hbone.ParseBaggage(said), id)
	if w != d.workload(hbone.ParseBaggage(strings.Clone(said)), id) {
		t.Error("the same is two workloads")
	}
	if w.Namespace != "shop" || w.OwnerName != "web" || w.ClusterID != "west" || w.CanonicalRevision != "v2" || w.Identity() != id || w.Locality.Zone != "z" {
		t.Errorf("got %+v", w)
	}
	if w = d.workload(hbone.ParseBaggage("service.name="+strings.Repeat("x", 254)), id); w.CanonicalName != "" {
		t.Errorf("a name of 254 bytes was taken")
	}
	for i := range 2 * maxDerived {
		d.workload(hbone.ParseBaggage(fmt.Sprintf("service.name=%d", i)), id)
	}
	if len(d) > maxDerived {
		t.Errorf("%d are kept, want at most %d", len(d), maxDerived)
	}
}
