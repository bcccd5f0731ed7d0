package dump

import (
	"testing"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// Pods share accounts: a certificate is told once, where it comes first.
func TestCertificatesAreToldOnce(t *testing.T) {
	src, err := identity.Open("self:"+t.TempDir(), identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a := identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "a"}
	b := identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "b"}
	got := certificates(src, []identity.ID{b, a, b, a})
	if len(got) != 2 || got[0].Identity != b.String() || got[1].Identity != a.String() {
		t.Fatalf("got %+v, want one of b and one of a", got)
	}
	for _, c := range got {
		if c.State != "Available" || len(c.CertChain) == 0 {
			t.Errorf("got %+v, want it available", c)
		}
	}
}
