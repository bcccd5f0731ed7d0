package ztunnel_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// An authority is a CA whose revocation lists the tests write.
type authority struct {
	t    *testing.T
	dir  string
	list string // the file
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t, t.TempDir(), filepath.Join(t.TempDir(), "ca-crl.pem")}
	a.write(nil)
	return a
}

// open returns a source of the CA's certificates, which follows the lists if it is
// to.
func (a *authority) open(lists bool) identity.Source {
	a.t.Helper()
	o := identity.Options{TrustDomain: meshtest.TrustDomain, CRLSettle: time.Millisecond}
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
func (a *authority) write(text []byte) {
	a.t.Helper()
	if err := os.WriteFile(a.list+".new", text, 0o600); err != nil {
		a.t.Fatal(err)
	}
	if err := os.Rename(a.list+".new", a.list); err != nil {
		a.t.Fatal(err)
	}
}

// revoke puts the certificate that src has for an account on the list.
func (a *authority) revoke(src identity.Source, account string) {
	a.t.Helper()
	cert, err := src.Certificate(a.t.Context(), identity.ID{TrustDomain: meshtest.TrustDomain, Namespace: "default", ServiceAccount: account})
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

// TestRevokedCertificatesEndConnections has a certificate revoked under open
// connections, of which the one side or the other follows the lists.
func TestRevokedCertificatesEndConnections(t *testing.T) {
	for _, by := range []string{"destination", "source"} {
		for name, o := range map[string]meshtest.Options{"memory": {}, "loopback": {Loopback: true, Loops: 2}} {
			t.Run(by+"/"+name, func(t *testing.T) { revokeUnderway(t, by, o) })
		}
	}
}

func revokeUnderway(t *testing.T, by string, o meshtest.Options) {
	a := newAuthority(t)
	follows, other := a.open(true), a.open(false)
	node, account, cut := "node-b", "web", 1.0
	if by == "source" {
		node, account, cut = "node-a", "items", 2 // to whom two connections are
	}
	o.Ztunnel = func(o *ztunnel.Options) {
		o.Identity = other
		if o.Node == node {
			o.Identity = follows
		}
	}
	m := meshtest.With(t, o)
	web, items, more := m.WorkloadOn("node-a", "web"), m.WorkloadOn("node-b", "items"), m.WorkloadOn("node-a", "more")
	serve(items, echo)
	addr := items.IP.String() + fmt.Sprintf(":%d", meshtest.AppPort)
	first, second := dial(t, web, addr), dial(t, more, addr)
	wantEcho(t, first)
	wantEcho(t, second)

	a.revoke(other, account)
	wantOver(t, first)
	if by == "source" {
		wantOver(t, second)
	} else {
		wantEcho(t, second)
		second.Close()
	}
	rejected := `istio_crl_policy_rejections_total{reporter="` + by + `"}`
	m.WaitMetric(rejected, cut)
	m.WaitMetric(`istio_tcp_connections_closed_total{reporter="`+by+`",response_flags="CERT_REVOKED"}`, cut)

	if nc, err := web.Dial(t.Context(), addr); err == nil {
		nc.Close()
		t.Error("a connection was opened with a revoked certificate")
	}
	m.WaitMetric(rejected, cut+1)
}
