package identity

import (
	"crypto/tls"
	"fmt"
)

// Terms are what a handshake takes beyond certificates that chain to the roots.
// The zero Terms are TLS 1.3 with whatever key exchange both ends know, and no
// certificate that is revoked.
type Terms struct {
	// PostQuantum takes X25519MLKEM768 for the key exchange and nothing else, as
	// Istio's COMPLIANCE_POLICY "pqc". TLS 1.2 has no such thing: it goes before
	// TLS12.
	PostQuantum bool

	// TLS12 also takes TLS 1.2, with ECDHE and AES-GCM, as Istio's TLS12_ENABLED.
	TLS12 bool

	// Revoked are the revocation lists that peers' chains are held against. Nil:
	// none.
	Revoked *Revocations
}

// suites12 are those of Istio's node tunnel. Those of TLS 1.3 crypto/tls does not
// let anybody choose.
var suites12 = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
}

// ParseCompliance reads Istio's COMPLIANCE_POLICY of node tunnels: "", or "pqc".
func ParseCompliance(s string) (postQuantum bool, err error) {
	switch s {
	case "":
		return false, nil
	case "pqc":
		return true, nil
	}
	return false, fmt.Errorf("is neither empty nor pqc")
}

// apply has cfg, which is of TLS 1.3, follow t.
func (t *Terms) apply(cfg *tls.Config) {
	switch {
	case t.PostQuantum:
		cfg.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768}
	case t.TLS12:
		cfg.MinVersion = tls.VersionTLS12
		cfg.CipherSuites = suites12
	}
}
