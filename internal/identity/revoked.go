package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// A RevokedError says that a certificate of the peer's chain is on the
// revocation list of who issued it.
type RevokedError struct {
	Peer   string // its SPIFFE ID, as far as it has one
	Serial *big.Int
	Issuer string // of the certificate that is revoked: the peer's own, or one above it
}

func (e *RevokedError) Error() string {
	return fmt.Sprintf("identity: certificate%s: the one with serial number %X of %q is revoked", of(e.Peer), e.Serial, e.Issuer)
}

// An UnprovenError says that a certificate is on a list that claims to be its
// issuer's and that nobody we know of that name has signed. The list counts for
// nothing then: anybody could have written it.
type UnprovenError struct {
	Serial *big.Int
	Issuer string
}

func (e *UnprovenError) Error() string {
	return fmt.Sprintf("identity: the certificate with serial number %X is on a revocation list of %q that none of its keys has signed", e.Serial, e.Issuer)
}

// A crl is one certificate revocation list (RFC 5280, section 5).
type crl struct {
	// Immutable.
	issuer  string // RawIssuer, a distinguished name in DER, byte for byte
	name    string // the same, to be read
	serials map[string]struct{}
	next    time.Time // when there is to be another; zero: it does not say
	list    *x509.RevocationList

	mu     sync.Mutex
	proven map[[sha256.Size]byte]bool // by issuer's public key: whether that has signed it; guarded by mu
}

// maxProven bounds how many keys a list remembers to have been held against: a
// peer must not fill memory with intermediates of its own.
const maxProven = 64

// What is critical in a list and changes what its entries mean (RFC 5280,
// sections 5.2.4, 5.2.5 and 5.3.3).
var (
	oidDelta             = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidCertificateIssuer = asn1.ObjectIdentifier{2, 5, 29, 29}
)

// parseCRLs reads a file of revocation lists: PEM, any number of them, or one in
// DER. An empty file holds none.
func parseCRLs(text []byte) ([]*crl, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	if !bytes.Contains(text, []byte("-----BEGIN")) {
		l, err := parseCRL(text)
		if err != nil {
			return nil, err
		}
		return []*crl{l}, nil
	}
	var lists []*crl
	for n := 1; ; n++ {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			break
		}
		if b.Type != "X509 CRL" {
			return nil, fmt.Errorf("block %d is a %q: want X509 CRL", n, b.Type)
		}
		l, err := parseCRL(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", n, err)
		}
		lists = append(lists, l)
	}
	switch {
	case bytes.Contains(text, []byte("-----BEGIN")): // half a list is worse than none: it looks whole
		return nil, fmt.Errorf("block %d is cut or damaged", len(lists)+1)
	case len(lists) == 0:
		return nil, errors.New("there is no list in it")
	}
	return lists, nil
}

// parseCRL reads one list. One whose entries would mean something else than that
// the issuer has revoked them is refused; one that covers only some of the
// issuer's certificates is taken for those.
func parseCRL(der []byte) (*crl, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	l := &crl{
		issuer: string(list.RawIssuer), name: list.Issuer.String(), next: list.NextUpdate,
		serials: make(map[string]struct{}, len(list.RevokedCertificateEntries)),
		proven:  map[[sha256.Size]byte]bool{},
	}
	for _, x := range list.Extensions {
		switch {
		case x.Id.Equal(oidDelta):
			return nil, fmt.Errorf("the list of %q is a delta: want complete ones", l.name)
		case x.Id.Equal(oidDistributionPoint):
			if indirect, err := isIndirect(x.Value); err != nil || indirect {
				return nil, fmt.Errorf("the list of %q speaks for other issuers, or in a way that cannot be read", l.name)
			}
		case x.Critical:
			return nil, fmt.Errorf("the list of %q has the critical extension %v, which is not understood", l.name, x.Id)
		}
	}
	for i := range list.RevokedCertificateEntries {
		e := &list.RevokedCertificateEntries[i]
		for _, x := range e.Extensions {
			if x.Id.Equal(oidCertificateIssuer) || x.Critical {
				return nil, fmt.Errorf("the list of %q: entry %X has the extension %v, which is not understood", l.name, e.SerialNumber, x.Id)
			}
		}
		l.serials[string(e.SerialNumber.Bytes())] = struct{}{}
	}
	list.RevokedCertificateEntries = nil // ten times what serials takes
	l.list = list
	return l, nil
}

// isIndirect reads an IssuingDistributionPoint (RFC 5280, section 5.2.5).
func isIndirect(der []byte) (bool, error) {
	var point struct {
		Point      asn1.RawValue  `asn1:"optional,tag:0"`
		User       bool           `asn1:"optional,tag:1"`
		CA         bool           `asn1:"optional,tag:2"`
		Reasons    asn1.BitString `asn1:"optional,tag:3"`
		Indirect   bool           `asn1:"optional,tag:4"`
		Attributes bool           `asn1:"optional,tag:5"`
	}
	rest, err := asn1.Unmarshal(der, &point)
	if err == nil && len(rest) > 0 {
		err = errors.New("trailing bytes")
	}
	return point.Indirect, err
}

// lists reports whether c is on l, if it is by l's issuer.
func (l *crl) lists(c *x509.Certificate) bool {
	_, ok := l.serials[string(c.SerialNumber.Bytes())]
	return ok
}

// signedBy reports whether l is issuer's. An issuer that is not said to sign
// lists, as many a CA of Istio's is not, is believed: what it has revoked it does
// not want to be trusted.
func (l *crl) signedBy(issuer *x509.Certificate) bool {
	key := sha256.Sum256(issuer.RawSubjectPublicKeyInfo)
	l.mu.Lock()
	defer l.mu.Unlock()
	ok, known := l.proven[key]
	if !known {
		ok = issuer.CheckSignature(l.list.SignatureAlgorithm, l.list.RawTBSRevocationList, l.list.Signature) == nil
		if ok || len(l.proven) < maxProven {
			l.proven[key] = ok
		}
	}
	return ok
}

// checkRevoked holds the certificates that a peer has presented against lists, by
// issuer. It returns a [*RevokedError] if any is revoked. What is on no list is
// not. Roots are not asked about: nobody is above them.
//
// Only when a serial number is found is a signature looked at, so that what is not
// revoked costs a look-up.
func checkRevoked(lists map[string][]*crl, presented, roots []*x509.Certificate) error {
	var unproven error
	for _, c := range presented {
		if slices.ContainsFunc(roots, c.Equal) {
			continue
		}
		for _, l := range lists[string(c.RawIssuer)] {
			if !l.lists(c) {
				continue
			}
			if issuedBy(l, c, presented) || issuedBy(l, c, roots) {
				return &RevokedError{Peer: spiffeOf(presented[0]), Serial: c.SerialNumber, Issuer: l.name}
			}
			unproven = &UnprovenError{c.SerialNumber, l.name}
		}
	}
	return unproven
}

// issuedBy reports whether one of issuers has issued c and signed l.
func issuedBy(l *crl, c *x509.Certificate, issuers []*x509.Certificate) bool {
	for _, issuer := range issuers {
		if issuer != c && bytes.Equal(issuer.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(issuer) == nil && l.signedBy(issuer) {
			return true
		}
	}
	return false
}

func spiffeOf(c *x509.Certificate) string {
	id, err := x509svid.IDFromCert(c)
	if err != nil {
		return ""
	}
	return id.String()
}

// CheckRevoked holds the peer of a connection against the revocation lists of src
// as they are now: a handshake has done so with those of its time. The error is a
// [*RevokedError]; or a [*UnprovenError], which is no reason to end anything.
func CheckRevoked(src Source, state *tls.ConnectionState) error {
	r, presented := src.Terms().Revoked, state.PeerCertificates
	if r == nil || len(presented) == 0 {
		return nil
	}
	lists := *r.now.Load()
	if len(lists) == 0 {
		return nil
	}
	var roots []*x509.Certificate
	if id, err := x509svid.IDFromCert(presented[0]); err == nil {
		roots = Authorities(src, id.TrustDomain().Name())
	}
	return checkRevoked(lists, presented, roots)
}
