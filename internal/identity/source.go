// Package identity answers two questions: who am I, and who is calling.
//
// A caller is known only by the SPIFFE ID in its certificate. Nothing it says
// about itself in a header is ever used as an identity.
package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A Source gives out the certificates we present and the roots we trust. It is
// safe for concurrent use. The sources are [SelfSigned], [Files], [SPIFFE] and
// [Istio]; [Open] opens one.
type Source interface {
	// Certificate returns the current certificate of id, whose key we hold. It
	// may block until the first one is there; a renewal never blocks it.
	Certificate(ctx context.Context, id ID) (*tls.Certificate, error)

	// Roots returns the current bundles, by trust domain. The set may be
	// replaced at any time; callers ask for every handshake.
	Roots() *x509bundle.Set

	// Terms returns what handshakes take beside. They never change, and go with
	// the source so that nobody who shakes hands can forget them.
	Terms() *Terms
}

// Authorities returns the roots that peers of a trust domain must chain to. There
// are none of a trust domain that is not trusted, or not yet.
func Authorities(src Source, trustDomain string) []*x509.Certificate {
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return nil
	}
	bundle, ok := src.Roots().Get(td)
	if !ok {
		return nil
	}
	return bundle.X509Authorities()
}
