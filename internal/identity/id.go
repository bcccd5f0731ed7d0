package identity

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// An ID is a workload's identity: the SPIFFE ID
// spiffe://TrustDomain/ns/Namespace/sa/ServiceAccount. It is comparable; the
// zero ID is a peer without a certificate.
type ID struct{ TrustDomain, Namespace, ServiceAccount string }

// Parse reads a SPIFFE ID of exactly the form that Istio issues,
// spiffe://td/ns/namespace/sa/account.
func Parse(uri string) (ID, error) {
	id, err := spiffeid.FromString(uri)
	if err != nil {
		return ID{}, fmt.Errorf("identity: %q: %w", uri, err)
	}
	return FromSPIFFE(id)
}

// FromSPIFFE is Parse for an ID that go-spiffe has already read.
func FromSPIFFE(id spiffeid.ID) (ID, error) {
	seg := strings.Split(id.Path(), "/") // "", "ns", namespace, "sa", account
	if len(seg) != 5 || seg[1] != "ns" || seg[3] != "sa" {
		return ID{}, fmt.Errorf("identity: %q is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>", id)
	}
	return ID{id.TrustDomain().Name(), seg[2], seg[4]}, nil
}

// IsZero reports whether id is that of a peer without a certificate.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the SPIFFE ID, or "" for the zero ID.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	return "spiffe://" + id.Principal()
}

// Principal returns the ID as AuthorizationPolicy spells it: without the
// scheme. It is "" for the zero ID.
func (id ID) Principal() string {
	if id.IsZero() {
		return ""
	}
	return id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount
}
