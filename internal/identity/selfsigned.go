package identity

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	leafTTL = 24 * time.Hour // as Istio's SECRET_TTL
	caTTL   = 10 * 365 * 24 * time.Hour
	skew    = time.Minute // how far another machine's clock may lag behind ours
)

// A SelfSigned source is a CA of its own: it issues a certificate to whoever
// asks for one. It is for demonstrations and tests; whoever can read its
// directory can be anyone.
type SelfSigned struct {
	// Immutable.
	name  string // as errors say it
	o     Options
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
	roots *x509bundle.Set

	mu    sync.Mutex
	certs map[ID]*tls.Certificate // guarded by mu
}

// openSelf opens the CA in dir, making it when there is none. Processes that
// start at once end up with the same CA, see create.
func openSelf(dir string, o Options) (*SelfSigned, error) {
	name := "identity: self:" + dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	path := filepath.Join(dir, "ca.pem")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = create(path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	ca, key, err := parseCA(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", name, path, err)
	}
	if now := time.Now(); now.After(ca.NotAfter) {
		return nil, fmt.Errorf("%s: %s expired on %s: delete it to have a new one made", name, path, ca.NotAfter.Format(time.DateOnly))
	}
	// For those who only verify: curl, another mesh, files: elsewhere.
	if err := publish(filepath.Join(dir, "root-cert.pem"), ca.Raw); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	set := x509bundle.NewSet()
	for _, td := range o.domains() {
		set.Add(x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(td), []*x509.Certificate{ca}))
	}
	return &SelfSigned{name: name, o: o, ca: ca, key: key, roots: set, certs: map[ID]*tls.Certificate{}}, nil
}

// Roots implements [Source]. The set never changes.
func (s *SelfSigned) Roots() *x509bundle.Set { return s.roots }

// Terms implements [Source].
func (s *SelfSigned) Terms() *Terms { return &s.o.Terms }

// Certificate implements [Source]. It issues one when the last is past half of
// its life; that takes a tenth of a millisecond, so nothing runs in between.
func (s *SelfSigned) Certificate(_ context.Context, id ID) (*tls.Certificate, error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.certs[id]; c != nil && now.Before(c.Leaf.NotBefore.Add(skew+leafTTL/2)) {
		return c, nil
	}
	c, err := s.issue(id, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %q: %w", s.name, id, err)
	}
	s.certs[id] = c
	return c, nil
}

func (s *SelfSigned) issue(id ID, now time.Time) (*tls.Certificate, error) {
	if !s.o.vouches(id.TrustDomain) {
		return nil, fmt.Errorf("trust domain %q is not %q", id.TrustDomain, s.o.TrustDomain)
	}
	if got, err := Parse(id.String()); err != nil || got != id {
		return nil, errors.New("not a SPIFFE ID of a service account")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial(),
		NotBefore:    now.Add(-skew),
		NotAfter:     now.Add(leafTTL),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{{Scheme: "spiffe", Host: id.TrustDomain, Path: "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount}},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, s.ca, key.Public(), s.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// create makes a CA and returns the content of path, which another process may
// have made meanwhile. The file is complete before it gets its name, and a link
// does not replace: so everyone reads the same one, whoever was first, and a
// process killed half-way leaves nothing that counts. A lock file would have to
// be broken after a crash.
func create(path string) ([]byte, error) {
	text, err := newCA()
	if err != nil {
		return nil, err
	}
	tmp, err := writeTemp(path, text, 0o600)
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp)
	if err := os.Link(tmp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}

// newCA returns a new CA: its key and its certificate as PEM.
func newCA() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Waystone self-signed CA"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(caTTL),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}) // a Buffer takes everything
	_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	return b.Bytes(), nil
}

func parseCA(text []byte) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, nil, errors.New("not the certificate and ECDSA key of a CA")
	}
	return pair.Leaf, key, nil
}

// publish writes a certificate to path, unless it is there already.
func publish(path string, der []byte) error {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	tmp, err := writeTemp(path, text, 0o644)
	if err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// writeTemp writes text to a new file beside path and returns its name.
func writeTemp(path string, text []byte, mode fs.FileMode) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] &= 0x7f           // positive (RFC 5280, section 4.1.2.2)
	return new(big.Int).SetBytes(b[:])
}
