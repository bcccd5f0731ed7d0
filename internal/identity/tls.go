package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// ALPN is the one application protocol that HBONE connections speak.
const ALPN = "h2"

// A MismatchError says that the peer proved to be somebody else than whom we
// dialled.
type MismatchError struct {
	Got  ID
	Want []ID
}

func (e *MismatchError) Error() string {
	want := join(e.Want, " or ")
	if want == "" {
		want = "nobody: no identity is accepted there"
	}
	return "identity: certificate is for " + e.Got.String() + ", want " + want
}

// ServerConfig returns the TLS configuration of an HBONE listener that is self.
// The certificate and the roots are asked of src in every handshake, so a
// rotation takes effect with the next one and touches no open connection.
//
// The client must present a certificate that chains to src's roots, is on no
// revocation list of src's, may be used by a client, and has one URI SAN, which reads spiffe://td/ns/x/sa/y with td
// self's trust domain or one of aliases.
func ServerConfig(src Source, self ID, aliases ...string) *tls.Config {
	cfg := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ALPN},
		ClientAuth:             tls.RequireAnyClientCert, // verified below, once
		SessionTicketsDisabled: true,                     // a resumed session would outlive a rotation
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return src.Certificate(hello.Context(), self)
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			peer, err := verify(&state, src, x509.ExtKeyUsageClientAuth)
			if err != nil {
				return err
			}
			if peer.TrustDomain != self.TrustDomain && !slices.Contains(aliases, peer.TrustDomain) {
				return fmt.Errorf("identity: %v: trust domain %q is neither ours, %q, nor an alias of it",
					peer, peer.TrustDomain, self.TrustDomain)
			}
			return nil
		},
	}
	src.Terms().apply(cfg)
	return cfg
}

// ClientConfig returns the TLS configuration with which self dials a peer that
// must be one of wants. With no wants every peer is refused: there is no way to
// ask for just anyone. A wrong peer is a [*MismatchError].
func ClientConfig(src Source, self ID, wants ...ID) *tls.Config {
	cfg := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ALPN},
		SessionTicketsDisabled: true,
		// No server name is sent and none is verified: the peer is known by its
		// SPIFFE ID, which VerifyConnection checks.
		InsecureSkipVerify: true,
		GetClientCertificate: func(req *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return src.Certificate(req.Context(), self)
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			if err := awaitRoots(src, self); err != nil {
				return err
			}
			peer, err := verify(&state, src, x509.ExtKeyUsageServerAuth)
			if err != nil {
				return err
			}
			if !slices.Contains(wants, peer) {
				return &MismatchError{Got: peer, Want: wants}
			}
			return nil
		},
	}
	src.Terms().apply(cfg)
	return cfg
}

// rootsTimeout is how long the first roots are waited for: as long as dialling
// may take.
const rootsTimeout = 10 * time.Second

// awaitRoots waits for the roots of our trust domain where there are none yet:
// those of Istio's CA come with the first certificate, and a client is shown the
// server's before it is asked for its own.
func awaitRoots(src Source, self ID) error {
	td, err := spiffeid.TrustDomainFromString(self.TrustDomain)
	if err != nil || src.Roots().Has(td) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), rootsTimeout)
	defer cancel()
	_, err = src.Certificate(ctx, self)
	return err
}

// PeerID returns who is at the other end of a connection that [ServerConfig] or
// [ClientConfig] has verified. It does not verify again.
func PeerID(state tls.ConnectionState) (ID, error) {
	if len(state.PeerCertificates) == 0 {
		return ID{}, errors.New("identity: the peer presented no certificate")
	}
	id, err := x509svid.IDFromCert(state.PeerCertificates[0])
	if err != nil {
		return ID{}, fmt.Errorf("identity: %w", err)
	}
	return FromSPIFFE(id)
}

// verify does everything that both sides check, and returns the peer.
func verify(state *tls.ConnectionState, src Source, usage x509.ExtKeyUsage) (ID, error) {
	// crypto/tls refuses a peer that offers other protocols, but not one that
	// offers none.
	if state.NegotiatedProtocol != ALPN {
		return ID{}, fmt.Errorf("identity: the peer negotiated ALPN %q, want %q", state.NegotiatedProtocol, ALPN)
	}
	spiffe, chains, err := x509svid.Verify(state.PeerCertificates, src.Roots())
	if err != nil {
		return ID{}, fmt.Errorf("identity: peer certificate%s: %w", of(spiffe.String()), err)
	}
	peer, err := FromSPIFFE(spiffe)
	if err != nil {
		return ID{}, err
	}
	if !slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool { return permits(chain, usage) }) {
		return ID{}, fmt.Errorf("identity: certificate of %v: its extended key usage does not include %s", peer, usageName(usage))
	}
	// A list that nobody has signed says nothing about anybody.
	if revoked, ok := errors.AsType[*RevokedError](CheckRevoked(src, state)); ok {
		return ID{}, revoked
	}
	return peer, nil
}

// permits reports whether every certificate of chain below the root may be used
// for usage: x509svid.Verify itself asks for no particular one. A certificate
// without the extension is not restricted (RFC 5280, section 4.2.1.12).
func permits(chain []*x509.Certificate, usage x509.ExtKeyUsage) bool {
	for i, c := range chain {
		root := i > 0 && i == len(chain)-1
		if root || len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 {
			continue
		}
		if !slices.Contains(c.ExtKeyUsage, usage) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
			return false
		}
	}
	return true
}

func usageName(u x509.ExtKeyUsage) string {
	if u == x509.ExtKeyUsageClientAuth {
		return "clientAuth"
	}
	return "serverAuth"
}

func of(name string) string {
	if name == "" {
		return ""
	}
	return " of " + name
}

// JoinIDs returns the canonical list of ids: sorted, without repetition, joined
// by commas, which a SPIFFE ID cannot contain. Two lists that accept the same
// identities are the same string.
func JoinIDs(ids ...ID) string {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, func(a, b ID) int { return strings.Compare(a.String(), b.String()) })
	return join(slices.Compact(ids), ",")
}

// ParseIDs reads a list that [JoinIDs] has written. The empty list is no IDs.
func ParseIDs(list string) ([]ID, error) {
	if list == "" {
		return nil, nil
	}
	var ids []ID
	for uri := range strings.SplitSeq(list, ",") {
		id, err := Parse(uri)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func join(ids []ID, sep string) string {
	var b strings.Builder
	for i, id := range ids {
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(id.String())
	}
	return b.String()
}
