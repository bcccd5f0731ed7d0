//go:build linux

package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// An authority signs the certificates of Kubernetes' programs.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	dir         string
	serial      int64
}

// keys writes the keys, certificates and kubeconfigs of the cluster. Who has which
// name and group is Kubernetes' convention ("PKI certificates and requirements").
func (c *Cluster) keys() error {
	a, err := newAuthority(c.path("pki"))
	if err != nil {
		return err
	}
	if err := a.accounts(); err != nil {
		return err
	}
	issue := []struct{ file, name, group string }{
		{"kubelet-client", "kube-apiserver-kubelet-client", "system:masters"},
		{"admin", "admin", "system:masters"},
		{"controllers", "system:kube-controller-manager", ""},
		{"scheduler", "system:kube-scheduler", ""},
		{"proxy", "system:kube-proxy", "system:node-proxier"},
	}
	for _, i := range issue {
		if err := a.issue(i.file, i.name, i.group); err != nil {
			return err
		}
	}
	if err := a.issue("apiserver", "kube-apiserver", "", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1", control, apiVIP); err != nil {
		return err
	}
	for i, n := range Nodes {
		if err := a.issue(n, "system:node:"+n, "system:nodes", n, address(i)); err != nil {
			return err
		}
	}
	return nil
}

func newAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "cluster"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(1, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	a := &authority{key: key, dir: dir, serial: 1}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return a, a.write("ca", der, key)
}

// accounts writes the key that signs the tokens of service accounts.
func (a *authority) accounts() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := a.pem("accounts.pub", "PUBLIC KEY", public); err != nil {
		return err
	}
	return a.private("accounts.key", key)
}

// issue writes a certificate for serving and asking, and a kubeconfig with it.
func (a *authority) issue(file, name, group string, sans ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	a.serial++
	t := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    a.certificate.NotBefore,
		NotAfter:     a.certificate.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if group != "" {
		t.Subject.Organization = []string{group}
	}
	for _, san := range sans {
		if ip := net.ParseIP(san); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, san)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.certificate, key.Public(), a.key)
	if err != nil {
		return err
	}
	if err := a.write(file, der, key); err != nil {
		return err
	}
	return os.WriteFile(a.dir+"/"+file+".kubeconfig", fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: waystone, cluster: {server: "%s", certificate-authority: %[2]s/ca.crt}}]
users: [{name: %[3]s, user: {client-certificate: %[2]s/%[3]s.crt, client-key: %[2]s/%[3]s.key}}]
contexts: [{name: waystone, context: {cluster: waystone, user: %[3]s}}]
current-context: waystone
`, server, a.dir, file), 0o600)
}

func (a *authority) write(file string, certificate []byte, key *ecdsa.PrivateKey) error {
	if err := a.pem(file+".crt", "CERTIFICATE", certificate); err != nil {
		return err
	}
	return a.private(file+".key", key)
}

func (a *authority) private(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return a.pem(file, "EC PRIVATE KEY", der)
}

func (a *authority) pem(file, kind string, der []byte) error {
	return os.WriteFile(a.dir+"/"+file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
