package xds

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/waystone-mesh/waystone/internal/istiod"
)

// selfSigned returns a certificate for a host name that is its own root.
func selfSigned(t *testing.T, host string) (cert tls.Certificate, root []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{host}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A token and roots that are replaced take effect with the next stream, a
// control plane restarted with another certificate among it.
func TestTokensAndRootsRotate(t *testing.T) {
	dir := t.TempDir()
	token, roots := filepath.Join(dir, "token"), filepath.Join(dir, "root-cert.pem")
	cert, root := selfSigned(t, "istiod.istio-system.svc")
	write(t, token, []byte("first\n"))
	write(t, roots, root)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	serve := func(ln net.Listener, cert tls.Certificate) *rig {
		r := &rig{T: t, plane: &controlPlane{streams: make(chan *opened, 10)}}
		r.stop = r.plane.serve(t, ln, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})))
		return r
	}
	r := serve(ln, cert)
	r.run(Options{Istiod: istiod.Options{
		Address: "istiod.istio-system.svc:15012", Token: token, Roots: roots, ClusterID: "c1",
		Dial: func(ctx context.Context, to string) (net.Conn, error) {
			if to != "istiod.istio-system.svc:15012" {
				t.Errorf("dialled %q", to)
			}
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
	}})
	s := r.plane.accept(t)
	bearer := func(want string) {
		t.Helper()
		if got := s.md.Get("authorization"); !slices.Equal(got, []string{"Bearer " + want}) {
			t.Errorf("authorization: got %q, want %q", got, want)
		}
	}
	bearer("first")
	s.subscribed()
	s.ack(AddressType, nil, workload(t, "a", "v1", "10.0.0.1"))
	s.ack(AuthorizationType, nil)
	write(t, token, []byte("second"))
	s.end <- nil
	s = r.plane.accept(t)
	bearer("second")

	r.stop()
	cert, root = selfSigned(t, "istiod.istio-system.svc")
	if ln, err = net.Listen("tcp", address); err != nil {
		t.Skipf("the port is another's now: %v", err)
	}
	plane := serve(ln, cert).plane
	write(t, roots, root)
	s = plane.accept(t)
	addresses, _ := s.subscribed()
	if addresses.InitialResourceVersions[uid("a")] != "v1" {
		t.Errorf("versions: %v", addresses.InitialResourceVersions)
	}
	r.want("a")
	for _, secret := range []string{"first", "second"} {
		if strings.Contains(r.log.String(), secret) {
			t.Errorf("a token shows: %s", r.log)
		}
	}
}
