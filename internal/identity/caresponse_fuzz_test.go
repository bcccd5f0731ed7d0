package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/internal/identity/caapi"
)

// Whatever the CA answers, what is taken of it is a certificate of the identity and
// the key that were asked for, which chains to the roots that came with it.
func FuzzCertificateResponse(f *testing.F) {
	// The same in each process that fuzzes: seeds are certificates of it.
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{1}, 32))
	if err != nil {
		f.Fatal(err)
	}
	ca := newTestCA(f)
	leaf := func(id ID) string {
		now := time.Now()
		c := &x509.Certificate{SerialNumber: serial(), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
		c.URIs = append(c.URIs, uri(id.String()))
		der, err := x509.CreateCertificate(rand.Reader, c, ca.cert, key.Public(), ca.key)
		if err != nil {
			f.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	root := string(rootPEM(ca))
	for i, chain := range [][]string{{leaf(web), root}, {leaf(web) + root, root + root}, {leaf(items), root}, {root, root}, {leaf(web), "", root}, {root}, {"-----BEGIN X-----\n-----END X-----\n", root}, nil} {
		wire, err := proto.Marshal(&caapi.CertificateResponse{CertChain: chain})
		if err != nil {
			f.Fatal(err)
		}
		if _, err := readChain(chain, web, key, time.Now()); (err == nil) != (i < 2) {
			f.Fatalf("seed %d: %v", i, err)
		}
		f.Add(wire)
		f.Add(wire[:len(wire)/2])
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var answer caapi.CertificateResponse
		if proto.Unmarshal(wire, &answer) != nil {
			return
		}
		now := time.Now()
		got, err := readChain(answer.CertChain, web, key, now)
		if err != nil {
			return
		}
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		for _, c := range got.roots {
			roots.AddCert(c)
		}
		for _, der := range got.cert.Certificate[1:] {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			between.AddCert(c)
		}
		leaf := got.cert.Leaf
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != web.String() || !key.PublicKey.Equal(leaf.PublicKey) || !now.Before(leaf.NotAfter) {
			t.Fatalf("took a certificate of %v", leaf.URIs)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: later(now, leaf.NotBefore), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Fatal(err)
		}
	})
}
