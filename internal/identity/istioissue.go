package identity

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/waystone-mesh/waystone/internal/identity/caapi"
	"github.com/waystone-mesh/waystone/internal/istiod"
)

const (
	createCertificate = "/istio.v1.auth.IstioCertificateService/CreateCertificate"

	// impersonated names whom the certificate is for, when that is not the caller:
	// a node tunnel asks for the pods of its node.
	impersonated = "ImpersonatedIdentity"
)

// An istioCA is a client of istiod's CA.
type istioCA struct {
	// Immutable.
	o           istiod.Options
	impersonate bool
	ttl         time.Duration // 0 is leafTTL

	mu    sync.Mutex
	conn  *grpc.ClientConn // guarded by mu; nil: none yet
	roots []byte           // that the connection was made by; guarded by mu
}

// issue makes a key and asks for a certificate of it.
func (c *istioCA) issue(ctx context.Context, id ID) (*issued, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		URIs: []*url.URL{{Scheme: "spiffe", Host: id.TrustDomain, Path: "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount}},
	}, key)
	if err != nil {
		return nil, err
	}
	req := &caapi.CertificateRequest{
		Csr:              string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		ValidityDuration: int64(cmp.Or(c.ttl, leafTTL) / time.Second),
	}
	if c.impersonate {
		req.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{impersonated: structpb.NewStringValue(id.String())}}
	}
	conn, err := c.connection()
	if err != nil {
		return nil, err
	}
	var answer caapi.CertificateResponse
	if err := conn.Invoke(ctx, createCertificate, req, &answer); err != nil {
		return nil, c.explain(err)
	}
	return readChain(answer.CertChain, id, key, time.Now())
}

// connection returns the connection to the CA: another one, if the roots are
// others than it was made by.
func (c *istioCA) connection() (*grpc.ClientConn, error) {
	roots, err := c.o.RootsText()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && bytes.Equal(roots, c.roots) {
		return c.conn, nil
	}
	conn, err := c.o.Connect()
	if err != nil {
		return nil, err
	}
	if c.conn != nil {
		_ = c.conn.Close() // what is under way on it fails, and is asked again
	}
	c.conn, c.roots = conn, roots
	return conn, nil
}

func (c *istioCA) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// explain says what the CA said, and what may be behind it.
func (c *istioCA) explain(err error) error {
	st := status.Convert(err)
	hint := ""
	switch st.Code() {
	case codes.Unauthenticated, codes.PermissionDenied:
		hint = ": is the token of audience istio-ca?"
		if c.impersonate {
			hint = ": is the token of a pod of CA_TRUSTED_NODE_ACCOUNTS, and does a pod of this node have the service account?"
		}
	case codes.Unavailable:
		hint = ": is istiod up?"
	}
	return fmt.Errorf("%s: %s%s", st.Code(), st.Message(), hint)
}

// readChain reads the CA's answer to a request for id and key: the leaf first,
// the roots last, what leads from one to the other between.
func readChain(chain []string, id ID, key *ecdsa.PrivateKey, now time.Time) (*issued, error) {
	if len(chain) < 2 {
		return nil, fmt.Errorf("the CA sent a chain of %d: want the certificate first and the roots last", len(chain))
	}
	var certs []*x509.Certificate // but for the roots
	for _, text := range chain[:len(chain)-1] {
		list, err := readCerts(text)
		if err != nil {
			return nil, err
		}
		certs = append(certs, list...)
	}
	roots, err := readCerts(chain[len(chain)-1])
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	leaf := certs[0]
	switch public, ok := leaf.PublicKey.(*ecdsa.PublicKey); {
	case !ok || !public.Equal(key.Public()):
		return nil, errors.New("the CA sent a certificate of another key")
	case !now.Before(leaf.NotAfter):
		return nil, fmt.Errorf("the CA sent a certificate that expired at %s: are the clocks right?", leaf.NotAfter.Format(time.RFC3339))
	}
	spiffe, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return nil, fmt.Errorf("the CA sent a certificate of no identity: %w", err)
	}
	if got, err := FromSPIFFE(spiffe); err != nil || got != id {
		return nil, fmt.Errorf("the CA sent a certificate of %q", spiffe)
	}
	// That peers will believe it: they have the same roots.
	bundle := x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(id.TrustDomain), roots)
	if _, _, err := x509svid.Verify(certs, bundle, x509svid.WithTime(later(now, leaf.NotBefore))); err != nil {
		return nil, fmt.Errorf("the CA sent a certificate that does not chain to its roots: %w", err)
	}
	out := &tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, c := range certs {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return &issued{out, roots}, nil
}

// later returns the later of two times: a CA whose clock is ahead of ours is not
// wrong.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// readCerts reads certificates in PEM. Anything else that is in it is an error.
func readCerts(text string) (out []*x509.Certificate, err error) {
	rest := []byte(text)
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("the CA sent a %q among the certificates", b.Type)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("the CA sent a certificate that cannot be read: %w", err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("the CA sent text that holds no certificate")
	}
	return out, nil
}
