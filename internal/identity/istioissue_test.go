package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/waystone-mesh/waystone/internal/identity/caapi"
	"github.com/waystone-mesh/waystone/internal/istiod"
)

// A caServer is an IstioCertificateService. It signs what it is asked to, unless
// answer says otherwise.
type caServer struct {
	ca     *testCA
	answer func(md metadata.MD, req *caapi.CertificateRequest, chain []string) ([]string, error)

	mu  sync.Mutex
	md  []metadata.MD
	got []*caapi.CertificateRequest
}

// create is the method: it has no generated code, for it is the only one.
func (s *caServer) create(ctx context.Context, dec func(any) error) (any, error) {
	req := new(caapi.CertificateRequest)
	if err := dec(req); err != nil {
		return nil, err
	}
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	s.md, s.got = append(s.md, md), append(s.got, req)
	s.mu.Unlock()
	b, _ := pem.Decode([]byte(req.Csr))
	csr, err := x509.ParseCertificateRequest(b.Bytes)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Duration(req.ValidityDuration) * time.Second),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, URIs: csr.URIs,
	}, s.ca.cert, csr.PublicKey, s.ca.key)
	if err != nil {
		return nil, err
	}
	chain := []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(rootPEM(s.ca))}
	if s.answer != nil {
		if chain, err = s.answer(md, req, chain); err != nil {
			return nil, err
		}
	}
	return &caapi.CertificateResponse{CertChain: chain}, nil
}

// serve serves s over TLS, with a certificate of tlsCA for host, and returns where.
func (s *caServer) serve(t *testing.T, tlsCA *testCA, host string) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert := tlsCA.leaf(items, func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{host} })
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{*cert}})))
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: "istio.v1.auth.IstioCertificateService",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "CreateCertificate", Handler: func(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			return srv.(*caServer).create(ctx, dec)
		}}},
	}, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(ln) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return "https://" + ln.Addr().String()
}

func (s *caServer) last() (metadata.MD, *caapi.CertificateRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.md[len(s.md)-1], s.got[len(s.got)-1]
}

// istioFiles returns options with files for the token and the roots.
func istioFiles(t *testing.T, tlsCA *testCA) (o Options, token, roots string) {
	t.Helper()
	dir := t.TempDir()
	token, roots = filepath.Join(dir, "token"), filepath.Join(dir, "root-cert.pem")
	put(t, token, []byte("first\n"))
	put(t, roots, rootPEM(tlsCA))
	return Options{Istiod: istiod.Options{Roots: roots, Token: token, ClusterID: "c1", ServerName: "istiod.test"}, Impersonate: true, TTL: time.Hour}, token, roots
}

func TestIstioRequest(t *testing.T) {
	ca, tlsCA := newTestCA(t), newTestCA(t)
	server := &caServer{ca: ca}
	o, token, roots := istioFiles(t, tlsCA)
	var log logBuffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	src := open(t, "istio:"+server.serve(t, tlsCA, "istiod.test"), o).(*Istio)
	cert, err := src.Certificate(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	md, req := server.last()
	if got := md.Get("authorization"); !slices.Equal(got, []string{"Bearer first"}) {
		t.Errorf("authorization: %q", got)
	}
	if got := md.Get("clusterid"); !slices.Equal(got, []string{"c1"}) {
		t.Errorf("clusterid: %q", got)
	}
	if got := req.Metadata.AsMap()["ImpersonatedIdentity"]; got != web.String() {
		t.Errorf("for whom: %v", got)
	}
	b, _ := pem.Decode([]byte(req.Csr))
	csr, err := x509.ParseCertificateRequest(b.Bytes)
	if err != nil || len(csr.URIs) != 1 || csr.URIs[0].String() != web.String() || csr.Subject.String() != "" || csr.PublicKeyAlgorithm != x509.ECDSA {
		t.Errorf("request: %+v, %v", csr, err)
	}
	if req.ValidityDuration != 3600 || !src.Roots().Has(spiffeid.RequireTrustDomainFromString("cluster.local")) || len(cert.Certificate) != 1 {
		t.Errorf("validity %d, roots %v, chain of %d", req.ValidityDuration, src.Roots(), len(cert.Certificate))
	}

	// The token is read for every request.
	put(t, token, []byte("second"))
	if _, err := src.Certificate(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	if md, _ := server.last(); !slices.Equal(md.Get("authorization"), []string{"Bearer second"}) {
		t.Errorf("authorization: %q", md.Get("authorization"))
	}
	// Other roots take effect on the connection that is open.
	put(t, roots, rootPEM(newTestCA(t)))
	if _, err := src.Certificate(t.Context(), ID{"cluster.local", "a", "b"}); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("with other roots: %v", err)
	}
	put(t, roots, rootPEM(tlsCA))
	put(t, token, nil)
	if _, err := src.Certificate(t.Context(), ID{"cluster.local", "c", "d"}); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("with an empty token: %v", err)
	}
	noSecret(t, log.String(), cert)
	for _, secret := range []string{"first", "second"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("a token shows: %s", log.String())
		}
	}
}

func TestIstioWaypointAsksForItself(t *testing.T) {
	ca := newTestCA(t)
	server := &caServer{ca: ca}
	o, _, _ := istioFiles(t, ca)
	o.Impersonate = false
	src := open(t, "istio:"+server.serve(t, ca, "istiod.test"), o)
	if _, err := src.Certificate(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	if _, req := server.last(); req.Metadata != nil {
		t.Errorf("metadata: %v", req.Metadata)
	}
}

func TestIstioRefusesWhatIsNotRight(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	pemOfLeaf := func(c *tls.Certificate) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
	}
	for want, answer := range map[string]func(metadata.MD, *caapi.CertificateRequest, []string) ([]string, error){
		"a chain of 0": func(metadata.MD, *caapi.CertificateRequest, []string) ([]string, error) { return nil, nil },
		"a chain of 1": func(_ metadata.MD, _ *caapi.CertificateRequest, c []string) ([]string, error) { return c[:1], nil },
		"of another key": func(_ metadata.MD, _ *caapi.CertificateRequest, c []string) ([]string, error) {
			return []string{pemOfLeaf(ca.leaf(web, nil)), c[1]}, nil
		},
		"does not chain to its roots": func(_ metadata.MD, _ *caapi.CertificateRequest, c []string) ([]string, error) {
			return []string{c[0], string(rootPEM(other))}, nil
		},
		"holds no certificate": func(_ metadata.MD, _ *caapi.CertificateRequest, c []string) ([]string, error) {
			return []string{"-", c[1]}, nil
		},
		`roots: the CA sent a "PRIVATE KEY" among the certificates`: func(_ metadata.MD, _ *caapi.CertificateRequest, c []string) ([]string, error) {
			return []string{c[0], c[1] + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))}, nil
		},
		"cannot be read": func(_ metadata.MD, _ *caapi.CertificateRequest, c []string) ([]string, error) {
			return []string{c[0], string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))}, nil
		},
		"Unauthenticated: no such pod: is the token of a pod of CA_TRUSTED_NODE_ACCOUNTS": func(metadata.MD, *caapi.CertificateRequest, []string) ([]string, error) {
			return nil, status.Error(codes.Unauthenticated, "no such pod")
		},
	} {
		server := &caServer{ca: ca, answer: answer}
		o, _, _ := istioFiles(t, ca)
		src := open(t, "istio:"+server.serve(t, ca, "istiod.test"), o)
		if _, err := src.Certificate(t.Context(), web); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), web.String()) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}

func TestIstioChainIsRead(t *testing.T) {
	ca := newTestCA(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	sign := func(edit func(*x509.Certificate), parent *x509.Certificate, pub any, by any) (*x509.Certificate, string) {
		c := &x509.Certificate{SerialNumber: serial(), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour)}
		edit(c)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, by)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return out, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	// A CA of our own whose roots may have another below them.
	root, rootText := sign(func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		c.Subject.CommonName = "root"
	}, &x509.Certificate{SerialNumber: serial(), IsCA: true, BasicConstraintsValid: true}, ca.key.Public(), ca.key)
	middleKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	middle, middleText := sign(func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		c.Subject.CommonName = "middle"
	}, root, middleKey.Public(), ca.key)
	leaf := func(id ID, edit func(*x509.Certificate)) string {
		_, text := sign(func(c *x509.Certificate) {
			c.URIs, c.KeyUsage = append(c.URIs, uri(id.String())), x509.KeyUsageDigitalSignature
			if edit != nil {
				edit(c)
			}
		}, middle, key.Public(), middleKey)
		return text
	}
	roots := rootText + string(rootPEM(ca))
	got, err := readChain([]string{leaf(web, nil), middleText, roots}, web, key, now)
	if err != nil || len(got.cert.Certificate) != 2 || len(got.roots) != 2 || got.cert.Leaf.URIs[0].String() != web.String() {
		t.Fatalf("got %+v, %v", got, err)
	}
	for want, text := range map[string]string{
		`a certificate of "spiffe://cluster.local/ns/default/sa/items"`: leaf(items, nil),
		"a certificate that expired at":                                 leaf(web, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }),
		"a certificate of no identity":                                  leaf(web, func(c *x509.Certificate) { c.URIs = nil }),
	} {
		if _, err := readChain([]string{text, middleText, roots}, web, key, now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	if _, err := readChain([]string{leaf(web, nil), roots}, web, key, now); err == nil {
		t.Error("the certificate between is missing")
	}
	// The CA's clock may be ahead of ours.
	if _, err := readChain([]string{leaf(web, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }), middleText, roots}, web, key, now); err != nil {
		t.Error(err)
	}
}

func TestIstioRootsMustVouchForTheCA(t *testing.T) {
	ca := newTestCA(t)
	server := &caServer{ca: ca}
	url := server.serve(t, ca, "istiod.test")
	for want, edit := range map[string]func(*Options){
		"":                       func(*Options) {},
		"not istiod.other":       func(o *Options) { o.Istiod.ServerName = "istiod.other" },
		"doesn't contain any IP": func(o *Options) { o.Istiod.ServerName = "" },
		"no such file":           func(o *Options) { o.Istiod.Roots = "/nowhere/root-cert.pem" },
		"token: open /nowhere":   func(o *Options) { o.Istiod.Token = "/nowhere/token" },
	} {
		o, _, _ := istioFiles(t, ca)
		edit(&o)
		src := open(t, "istio:"+url, o)
		_, err := src.Certificate(t.Context(), web)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	o, _, _ := istioFiles(t, ca)
	o.Istiod.Roots = string(rootPEM(ca)) // as PEM
	if _, err := open(t, "istio:"+url, o).Certificate(t.Context(), web); err != nil {
		t.Error(err)
	}
	o.Istiod.Token = "eyJhbGciOi"
	if _, err := Open("istio:"+url, o); err == nil || strings.Contains(err.Error(), "eyJ") || !strings.Contains(err.Error(), "the token itself was given") {
		t.Errorf("got %v", err)
	}
}

// TestIstioAsksAgainWhenTheRootsHaveChanged has the roots that vouch for the CA come
// late, and then become others: the CA has moved.
func TestIstioAsksAgainWhenTheRootsHaveChanged(t *testing.T) {
	ca, before := newTestCA(t), newTestCA(t)
	server := &caServer{ca: ca}
	url := server.serve(t, ca, "istiod.test")
	o, _, roots := istioFiles(t, before)
	o.rootsSettleForTest = time.Millisecond
	src := open(t, "istio:"+url, o).(*Istio)
	if _, err := src.Certificate(t.Context(), web); err == nil {
		t.Fatal("roots of another CA vouched for it")
	}
	src.mu.Lock()
	src.keeping[web].due = time.Now().Add(lastRetry) // as after many attempts
	src.mu.Unlock()
	put(t, roots+".new", rootPEM(ca))
	if err := os.Rename(roots+".new", roots); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		_, err := src.Certificate(ctx, web)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("still: %v", err)
		}
		src.mu.Lock()
		settled := src.keeping[web].settled
		src.mu.Unlock()
		select {
		case <-settled:
		case <-ctx.Done():
		}
	}
}
