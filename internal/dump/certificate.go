package dump

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// A Certificate is one that we present, or why there is none.
type Certificate struct {
	Identity  string `json:"identity"`
	State     string `json:"state"` // Available; Initializing: it has been asked for; or Unavailable: and why
	CertChain []Cert `json:"certChain"`
	RootCerts []Cert `json:"rootCerts"` // what peers of its trust domain must chain to
}

// A Cert is one certificate of a chain.
type Cert struct {
	PEM            string    `json:"pem"` // in base64 once more, as ztunnel has it
	SerialNumber   string    `json:"serialNumber"`
	ValidFrom      time.Time `json:"validFrom"`
	ExpirationTime time.Time `json:"expirationTime"`
}

// certificateTimeout is how long a dump waits for a certificate that is not
// there: 100 ms. Whoever asks wants to know that it is missing.
const certificateTimeout = 100 * time.Millisecond

// certificates tells each of ids once.
func certificates(src identity.Source, ids []identity.ID) []Certificate {
	ctx, cancel := context.WithTimeout(context.Background(), certificateTimeout)
	defer cancel()
	out := make([]Certificate, 0, len(ids))
	seen := make(map[identity.ID]bool, len(ids))
	for _, id := range ids {
		if !seen[id] {
			seen[id] = true
			out = append(out, certificate(ctx, src, id))
		}
	}
	return out
}

func certificate(ctx context.Context, src identity.Source, id identity.ID) Certificate {
	c := Certificate{Identity: id.String(), State: "Available", CertChain: []Cert{}, RootCerts: []Cert{}}
	pair, err := src.Certificate(ctx, id)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		c.State = "Initializing"
	case err != nil:
		c.State = "Unavailable: " + err.Error()
	default:
		for _, der := range pair.Certificate {
			c.CertChain = append(c.CertChain, cert(der))
		}
		for _, root := range identity.Authorities(src, id.TrustDomain) {
			c.RootCerts = append(c.RootCerts, cert(root.Raw))
		}
	}
	return c
}

func cert(der []byte) Cert {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	out := Cert{PEM: base64.StdEncoding.EncodeToString(text), SerialNumber: "0"}
	if c, err := x509.ParseCertificate(der); err == nil {
		out.SerialNumber = c.SerialNumber.String()
		out.ValidFrom, out.ExpirationTime = c.NotBefore, c.NotAfter
	}
	return out
}
