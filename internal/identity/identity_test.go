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
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	web   = ID{"cluster.local", "default", "web"}
	items = ID{"cluster.local", "default", "items"}
)

// A testCA issues whatever it is told to.
type testCA struct {
	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestCA(tb testing.TB) *testCA {
	tb.Helper()
	text, err := newCA()
	if err != nil {
		tb.Fatal(err)
	}
	cert, key, err := parseCA(text)
	if err != nil {
		tb.Fatal(err)
	}
	return &testCA{tb, cert, key}
}

// leaf returns a certificate that edit, if not nil, has changed before it was
// signed.
func (ca *testCA) leaf(id ID, edit func(*x509.Certificate)) *tls.Certificate {
	ca.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.tb.Fatal(err)
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "leaf"},
		NotBefore:    now.Add(-time.Minute),
		NotAfter:     now.Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{uri(id.String())},
	}
	if edit != nil {
		edit(t)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, key.Public(), ca.key)
	if err != nil {
		ca.tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		ca.tb.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (ca *testCA) roots(domains ...string) *x509bundle.Set {
	set := x509bundle.NewSet()
	for _, td := range domains {
		set.Add(x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(td), []*x509.Certificate{ca.cert}))
	}
	return set
}

func uri(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// pemOf returns a certificate and its key as PEM.
func pemOf(tb testing.TB, c *tls.Certificate) (cert, key []byte) {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// A fixed source has one certificate.
type fixed struct {
	cert  *tls.Certificate
	roots *x509bundle.Set
}

func (f fixed) Certificate(context.Context, ID) (*tls.Certificate, error) { return f.cert, nil }
func (f fixed) Roots() *x509bundle.Set                                    { return f.roots }
func (f fixed) Terms() *Terms                                             { return new(Terms) }

// On terms it shakes hands otherwise.
type onTerms struct {
	fixed
	terms Terms
}

func (o onTerms) Terms() *Terms { return &o.terms }

// shake runs a handshake in memory and returns what either side says. The
// server's answer to the client's certificate comes after the client is done
// (TLS 1.3), so the client reads a byte.
func shake(client, server *tls.Config) (state tls.ConnectionState, clientErr, serverErr error) {
	a, b := net.Pipe()
	done := make(chan error)
	go func() {
		s := tls.Server(b, server)
		err := s.Handshake()
		if err == nil {
			state = s.ConnectionState()
			_, err = s.Write([]byte{1})
		}
		b.Close()
		done <- err
	}()
	c := tls.Client(a, client)
	clientErr = c.Handshake()
	if clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1))
	}
	a.Close()
	return state, clientErr, <-done
}

func TestHandshakeTellsWhoTheClientIs(t *testing.T) {
	ca := newTestCA(t)
	state, cerr, serr := shake(
		ClientConfig(fixed{ca.leaf(web, nil), ca.roots("cluster.local")}, web, items),
		ServerConfig(fixed{ca.leaf(items, nil), ca.roots("cluster.local")}, items))
	if cerr != nil || serr != nil {
		t.Fatalf("client: %v, server: %v", cerr, serr)
	}
	if got, err := PeerID(state); err != nil || got != web {
		t.Errorf("PeerID = %v, %v, want %v", got, err, web)
	}
	if state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != "h2" || state.DidResume || state.ServerName != "" {
		t.Errorf("negotiated %x %q, resumed %v, name %q", state.Version, state.NegotiatedProtocol, state.DidResume, state.ServerName)
	}
}

func TestServerRefuses(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	roots := ca.roots("cluster.local", "old.local", "foreign.local")
	server := ServerConfig(fixed{ca.leaf(items, nil), roots}, items, "old.local")
	leaf := func(edit func(*x509.Certificate)) *tls.Config {
		return ClientConfig(fixed{ca.leaf(web, edit), roots}, web, items)
	}
	with := func(edit func(*tls.Config)) *tls.Config {
		c := leaf(nil)
		edit(c)
		return c
	}
	san := func(uris ...string) *tls.Config {
		return leaf(func(c *x509.Certificate) {
			c.URIs = nil
			for _, s := range uris {
				c.URIs = append(c.URIs, uri(s))
			}
		})
	}
	for _, tt := range []struct {
		name   string
		client *tls.Config
		want   string // in the server's error; "" accepts
	}{
		{"nothing wrong", leaf(nil), ""},
		{"alias of the trust domain", san("spiffe://old.local/ns/a/sa/b"), ""},
		{"no extended key usage at all", leaf(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), ""},
		{"foreign trust domain", san("spiffe://foreign.local/ns/a/sa/b"), `trust domain "foreign.local" is neither ours, "cluster.local", nor an alias`},
		{"unknown trust domain", san("spiffe://elsewhere/ns/a/sa/b"), `no X.509 bundle for trust domain "elsewhere"`},
		{"another path", san("spiffe://cluster.local/workload/web"), "is not of the form spiffe://"},
		{"no account", san("spiffe://cluster.local/ns/default"), "is not of the form spiffe://"},
		{"not SPIFFE", san("https://cluster.local/ns/default/sa/web"), "scheme"},
		{"no URI", san(), "no URI SAN"},
		{"two URIs", san(web.String(), items.String()), "more than one URI SAN"},
		{"another CA", ClientConfig(fixed{other.leaf(web, nil), roots}, web, items), "unknown authority"},
		{"expired", leaf(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), "expired"},
		{"not yet valid", leaf(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), "not yet valid"},
		{"server's key usage", leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "extended key usage does not include clientAuth"},
		{"a CA's certificate", leaf(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), "CA flag"},
		{"no certificate", with(func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil }
		}), "didn't provide a certificate"},
		{"TLS 1.2", with(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }), "unsupported versions"},
		{"another ALPN", with(func(c *tls.Config) { c.NextProtos = []string{"h3"} }), "unsupported application protocols"},
		{"HTTP/1.1", with(func(c *tls.Config) { // which crypto/tls takes for no ALPN
			c.NextProtos, c.VerifyConnection = []string{"http/1.1"}, nil
		}), `negotiated ALPN "", want "h2"`},
		{"no ALPN", with(func(c *tls.Config) {
			c.NextProtos, c.VerifyConnection = nil, nil
		}), `negotiated ALPN "", want "h2"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, cerr, serr := shake(tt.client, server)
			if tt.want == "" {
				if cerr != nil || serr != nil {
					t.Fatalf("client: %v, server: %v", cerr, serr)
				}
				return
			}
			if cerr == nil {
				t.Error("the client was not told")
			}
			if serr == nil || !strings.Contains(serr.Error(), tt.want) {
				t.Errorf("server: %v, want %q in it", serr, tt.want)
			}
		})
	}
}

func TestClientRefuses(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	roots := ca.roots("cluster.local")
	client := ClientConfig(fixed{ca.leaf(web, nil), roots}, web, items, ID{"cluster.local", "default", "more"})
	server := func(id ID, edit func(*x509.Certificate)) *tls.Config {
		return ServerConfig(fixed{ca.leaf(id, edit), roots}, items)
	}
	plain := server(items, nil)
	plain.NextProtos = nil
	old := server(items, nil)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for _, tt := range []struct {
		name   string
		server *tls.Config
		want   string
	}{
		{"another workload", server(ID{"cluster.local", "default", "evil"}, nil),
			"certificate is for spiffe://cluster.local/ns/default/sa/evil, want spiffe://cluster.local/ns/default/sa/items or spiffe://cluster.local/ns/default/sa/more"},
		{"another CA", ServerConfig(fixed{other.leaf(items, nil), roots}, items), "unknown authority"},
		{"expired", server(items, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), "expired"},
		{"client's key usage", server(items, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), "does not include serverAuth"},
		{"no ALPN", plain, `negotiated ALPN ""`},
		{"TLS 1.2", old, "protocol version"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, cerr, _ := shake(client, tt.server); cerr == nil || !strings.Contains(cerr.Error(), tt.want) {
				t.Errorf("client: %v, want %q in it", cerr, tt.want)
			}
		})
	}
	t.Run("with nobody accepted", func(t *testing.T) {
		_, cerr, _ := shake(ClientConfig(fixed{ca.leaf(web, nil), roots}, web), server(items, nil))
		if cerr == nil || !strings.Contains(cerr.Error(), "want nobody") {
			t.Errorf("client: %v", cerr)
		}
	})
}

func TestIDs(t *testing.T) {
	list := JoinIDs(web, items, web)
	if want := items.String() + "," + web.String(); list != want {
		t.Errorf("JoinIDs = %q, want %q", list, want)
	}
	if got, err := ParseIDs(list); err != nil || len(got) != 2 || got[0] != items || got[1] != web {
		t.Errorf("ParseIDs = %v, %v", got, err)
	}
	if got, err := ParseIDs(JoinIDs()); err != nil || len(got) != 0 {
		t.Errorf("ParseIDs of nothing = %v, %v", got, err)
	}
	if _, err := ParseIDs(list + ","); err == nil {
		t.Error("ParseIDs accepts an empty member")
	}
	for _, s := range []string{"", "web", "spiffe://td", "spiffe://td/ns/a/sa/", "spiffe://td/ns/a/sa/b/c", "spiffe://td/sa/a/ns/b", "spiffe://TD/ns/a/sa/b"} {
		if id, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %v", s, id)
		}
	}
	if _, err := PeerID(tls.ConnectionState{}); err == nil {
		t.Error("PeerID of a connection without a certificate")
	}
}

func TestOpenRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, spec := range []string{"", "self:", "files:", "istio:", "istio:istiod.istio-system:15012", "istio:http://istiod:15010", "vault:x", "spiffe:http://x", "files:" + t.TempDir() + "/none"} {
		src, err := Open(spec, Options{})
		if err == nil {
			t.Errorf("Open(%q) = %T", spec, src)
			continue
		}
		if src != nil {
			t.Errorf("Open(%q) = %T with an error", spec, src)
		}
		if spec == "istio:" && !strings.Contains(err.Error(), Forms) {
			t.Errorf("Open(%q): %v: the forms are not listed", spec, err)
		}
	}
	if _, err := Open("self:"+t.TempDir(), Options{TrustDomain: "Not One"}); err == nil {
		t.Error("Open accepts a malformed trust domain")
	}
}

// noSecret fails if text has any part of a private key in it.
func noSecret(t *testing.T, text string, c *tls.Certificate) {
	t.Helper()
	_, key := pemOf(t, c)
	for line := range bytes.Lines(key) {
		if line := strings.TrimSpace(string(line)); strings.Contains(text, line) {
			t.Errorf("a key shows: %s", text)
		}
	}
}
