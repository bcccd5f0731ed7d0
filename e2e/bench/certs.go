package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// Who is who in the mesh. All are of namespace default.
const (
	clientAccount   = "client"   // the generator, and the pod that a node tunnel speaks for
	waypointAccount = "waypoint" // every waypoint, whoever made it
	serverAccount   = "server"   // the destination, and its pods
	otherAccount    = "other"    // somebody whom no policy lets pass
)

// Certificates are those of a run: one CA, and one key for each account, which all
// systems use. The directory reads as identity's files: source does.
type certificates struct {
	dir string
}

// newCertificates makes a CA and certificates in dir.
func newCertificates(dir string) (*certificates, error) {
	ca := dir + "-ca" // beside it: its files are no account's
	source, err := identity.Open("self:"+ca, identity.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = identity.Close(source) }() // it keeps nothing running
	c := &certificates{dir: dir}
	for _, account := range []string{clientAccount, waypointAccount, serverAccount, otherAccount} {
		id := identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: account}
		cert, err := source.Certificate(context.Background(), id)
		if err != nil {
			return nil, err
		}
		if err := c.write(account, cert); err != nil {
			return nil, err
		}
	}
	root, err := os.ReadFile(filepath.Join(ca, "root-cert.pem"))
	if err != nil {
		return nil, err
	}
	return c, os.WriteFile(c.Root(), root, 0o644)
}

func (c *certificates) write(account string, cert *tls.Certificate) error {
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return err
	}
	chain := new(bytes.Buffer)
	for _, der := range cert.Certificate {
		_ = pem.Encode(chain, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a Buffer takes everything
	}
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	if err := os.MkdirAll(filepath.Dir(c.Cert(account)), 0o755); err != nil {
		return err
	}
	for path, text := range map[string][]byte{
		c.Cert(account): chain.Bytes(),
		c.Key(account):  secret,
		c.Both(account): slices.Concat(chain.Bytes(), secret),
	} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// source is how our own programs are told of the certificates.
func (c *certificates) source() string { return "files:" + c.dir }

// Root is the file of the CA's certificate.
func (c *certificates) Root() string { return filepath.Join(c.dir, "root-cert.pem") }

// Cert is the file of an account's certificate.
func (c *certificates) Cert(account string) string { return c.path(account, "cert.pem") }

// Key is beside Cert.
func (c *certificates) Key(account string) string { return c.path(account, "key.pem") }

// Both is the certificate and the key in one file, as HAProxy wants them.
func (c *certificates) Both(account string) string { return c.path(account, "both.pem") }

func (c *certificates) path(account, file string) string {
	return filepath.Join(c.dir, "default", account, file)
}
