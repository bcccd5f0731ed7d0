package meshtest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// An Authority is a CA whose revocation lists the tests write.
type Authority struct {
	t    *testing.T
	dir  string
	list string // the file
}

// NewAuthority returns one that has revoked nothing.
func NewAuthority(t *testing.T) *Authority {
	t.Helper()
	a := &Authority{t, t.TempDir(), filepath.Join(t.TempDir(), "ca-crl.pem")}
	a.write(nil)
	return a
}

// Open returns a source of the CA's certificates, which follows the lists if it is
// to.
func (a *Authority) Open(lists bool) identity.Source {
	a.t.Helper()
	o := identity.Options{TrustDomain: TrustDomain, CRLSettle: time.Millisecond}
	if lists {
		o.CRL = a.list
	}
	src, err := identity.Open("self:"+a.dir, o)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = identity.Close(src) })
	return src
}

// write replaces the file of lists.
func (a *Authority) write(text []byte) {
	a.t.Helper()
	if err := os.WriteFile(a.list+".new", text, 0o600); err != nil {
		a.t.Fatal(err)
	}
	if err := os.Rename(a.list+".new", a.list); err != nil {
		a.t.Fatal(err)
	}
}

// Revoke puts the certificate that src has for an account on the list.
func (a *Authority) Revoke(src identity.Source, account string) {
	a.t.Helper()
	cert, err := src.Certificate(a.t.Context(), identity.ID{TrustDomain: TrustDomain, Namespace: "default", ServiceAccount: account})
	if err != nil {
		a.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(a.dir, "ca.pem"))
	if err != nil {
		a.t.Fatal(err)
	}
	ca, err := tls.X509KeyPair(text, text)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: cert.Leaf.SerialNumber, RevocationTime: time.Now()}},
	}, ca.Leaf, ca.PrivateKey.(crypto.Signer))
	if err != nil {
		a.t.Fatal(err)
	}
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: "X509 CRL", Bytes: der}); err != nil {
		a.t.Fatal(err)
	}
	a.write(b.Bytes())
}
