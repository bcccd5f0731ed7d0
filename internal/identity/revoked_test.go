package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// intermediate returns a CA that ca has certified.
func (ca *testCA) intermediate(name string, usage x509.KeyUsage) *testCA {
	ca.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.tb.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: usage, BasicConstraintsValid: true, IsCA: true,
	}, ca.cert, key.Public(), ca.key)
	if err != nil {
		ca.tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		ca.tb.Fatal(err)
	}
	return &testCA{ca.tb, cert, key}
}

// newRoot returns a CA that may have others below it. All have one name.
func newRoot(tb testing.TB) *testCA {
	tb.Helper()
	ca := newTestCA(tb)
	t := *ca.cert
	t.MaxPathLen, t.MaxPathLenZero = -1, false
	der, err := x509.CreateCertificate(rand.Reader, &t, &t, ca.key.Public(), ca.key)
	if err != nil {
		tb.Fatal(err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	return ca
}

// above adds CAs to a chain.
func above(c *tls.Certificate, cas ...*testCA) *tls.Certificate {
	for _, ca := range cas {
		c.Certificate = append(c.Certificate, ca.cert.Raw)
	}
	return c
}

// list returns the DER of a list on which revoked are, which edit, if not nil, has
// changed before it was signed.
func (ca *testCA) list(edit func(*x509.RevocationList), revoked ...*x509.Certificate) []byte {
	ca.tb.Helper()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	if edit != nil {
		edit(l)
	}
	signer := *ca.cert
	signer.KeyUsage |= x509.KeyUsageCRLSign // crypto/x509 will not sign otherwise
	der, err := x509.CreateRevocationList(rand.Reader, l, &signer, ca.key)
	if err != nil {
		ca.tb.Fatal(err)
	}
	return der
}

func pemCRL(ders ...[]byte) []byte {
	var b bytes.Buffer
	for _, der := range ders {
		_ = pem.Encode(&b, &pem.Block{Type: "X509 CRL", Bytes: der})
	}
	return b.Bytes()
}

// revoking returns the lists of a file with that text.
func revoking(t *testing.T, text []byte) *Revocations {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca-crl.pem")
	put(t, path, text)
	r, err := openRevocations(path, 0, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestRevokedPeersAreRefused(t *testing.T) {
	const certOnly = x509.KeyUsageCertSign // as many a CA of Istio's has it
	root, other := newRoot(t), newRoot(t)
	middle := root.intermediate("middle", certOnly)
	namesake := root.intermediate("middle", certOnly)
	roots := root.roots("cluster.local")
	direct, below := root.leaf(web, nil), above(middle.leaf(web, nil), middle)
	for _, test := range []struct {
		name string
		peer *tls.Certificate
		text []byte
		want bool
	}{
		{"a leaf", direct, pemCRL(root.list(nil, direct.Leaf)), true},
		{"a leaf, in DER", direct, root.list(nil, direct.Leaf), true},
		{"a leaf, of several lists", direct, pemCRL(other.list(nil), root.list(nil), root.list(nil, below.Leaf, direct.Leaf)), true},
		{"a leaf of an intermediate that is not said to sign lists", below, pemCRL(middle.list(nil, below.Leaf)), true},
		{"an intermediate", below, pemCRL(root.list(nil, middle.cert)), true},
		{"by a list that is past its time", direct, pemCRL(root.list(func(l *x509.RevocationList) {
			l.ThisUpdate, l.NextUpdate = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}, direct.Leaf)), true},
		{"another leaf", direct, pemCRL(root.list(nil, below.Leaf)), false},
		{"nothing", direct, pemCRL(root.list(nil)), false},
		{"no list", direct, []byte("\n"), false},
		{"the same number of another issuer", direct, pemCRL(middle.list(nil, direct.Leaf)), false},
		{"by a list of that name and another key", direct, pemCRL(other.list(nil, direct.Leaf)), false},
		{"by another intermediate of that name", below, pemCRL(namesake.list(nil, below.Leaf)), false},
		{"the root itself", above(root.leaf(web, nil), root), pemCRL(root.list(nil, root.cert)), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := onTerms{fixed{root.leaf(items, nil), roots}, Terms{Revoked: revoking(t, test.text)}}
			peer := fixed{test.peer, roots}
			_, _, inbound := shake(ClientConfig(peer, web, items), ServerConfig(src, items))
			_, outbound, _ := shake(ClientConfig(src, items, web), ServerConfig(peer, web))
			for direction, err := range map[string]error{"inbound": inbound, "outbound": outbound} {
				revoked, ok := errors.AsType[*RevokedError](err)
				if ok != test.want || !ok && err != nil {
					t.Errorf("%s: %v, want revoked: %t", direction, err, test.want)
				}
				if ok && (revoked.Peer != web.String() || !strings.Contains(err.Error(), "is revoked")) {
					t.Errorf("%s: %v", direction, err)
				}
			}
		})
	}
}

func TestOpenConnectionsAreHeldAgainstNewLists(t *testing.T) {
	root, other := newRoot(t), newRoot(t)
	middle := root.intermediate("middle", x509.KeyUsageCertSign|x509.KeyUsageCRLSign)
	roots := root.roots("cluster.local")
	peer := fixed{above(middle.leaf(web, nil), middle), roots}
	state, cerr, serr := shake(ClientConfig(peer, web, items), ServerConfig(fixed{root.leaf(items, nil), roots}, items))
	if cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	check := func(text []byte) error {
		return CheckRevoked(onTerms{fixed{nil, roots}, Terms{Revoked: revoking(t, text)}}, &state)
	}
	if err := CheckRevoked(fixed{nil, roots}, &state); err != nil {
		t.Errorf("without lists: %v", err)
	}
	if err := check(pemCRL(root.list(nil), middle.list(nil))); err != nil {
		t.Errorf("on no list: %v", err)
	}
	var revoked *RevokedError
	if err := check(pemCRL(root.list(nil, middle.cert))); !errors.As(err, &revoked) || revoked.Serial.Cmp(middle.cert.SerialNumber) != 0 {
		t.Errorf("intermediate: %v", err)
	}
	var unproven *UnprovenError
	if err := check(pemCRL(other.list(nil, middle.cert))); !errors.As(err, &unproven) {
		t.Errorf("forged: %v", err)
	}
	if err := check(pemCRL(other.list(nil, middle.cert), root.list(nil, middle.cert))); !errors.As(err, &revoked) {
		t.Errorf("forged, and not: %v", err)
	}
}

func extension(oid asn1.ObjectIdentifier, critical bool, value any) func(*x509.RevocationList) {
	der, err := asn1.Marshal(value)
	if err != nil {
		panic(err)
	}
	return func(l *x509.RevocationList) {
		l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: oid, Critical: critical, Value: der})
	}
}

func TestListsThatMeanSomethingElseAreRefused(t *testing.T) {
	ca := newTestCA(t)
	leaf := ca.leaf(web, nil).Leaf
	type point struct {
		User     bool `asn1:"optional,tag:1"`
		Indirect bool `asn1:"optional,tag:4"`
	}
	good := pemCRL(ca.list(nil, leaf))
	for name, test := range map[string]struct {
		text []byte
		want string // "": taken
	}{
		"for users alone":  {ca.list(extension(oidDistributionPoint, true, point{User: true}), leaf), ""},
		"unknown":          {ca.list(extension(asn1.ObjectIdentifier{1, 2, 3}, false, 1), leaf), ""},
		"with text around": {append([]byte("# ours\n"), good...), ""},
		"delta":            {ca.list(extension(oidDelta, true, 1), leaf), "is a delta"},
		"indirect":         {ca.list(extension(oidDistributionPoint, true, point{Indirect: true}), leaf), "other issuers"},
		"critical":         {ca.list(extension(asn1.ObjectIdentifier{1, 2, 3}, true, 1), leaf), "1.2.3, which is not understood"},
		"critical entry": {ca.list(func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{{Id: oidCertificateIssuer, Critical: true, Value: []byte{0x30, 0}}}
		}, leaf), "2.5.29.29, which is not understood"},
		"no list":       {[]byte("nothing of the kind"), "malformed"},
		"a certificate": {append(bytes.Clone(good), rootPEM(ca)...), `block 2 is a "CERTIFICATE"`},
		"cut":           {append(bytes.Clone(good), good[:len(good)-30]...), "block 2 is cut"},
		"broken":        {append(bytes.Clone(good), pemCRL([]byte("x"))...), "block 2: x509"},
	} {
		lists, err := parseCRLs(test.text)
		switch {
		case test.want == "" && (err != nil || len(lists) != 1 || !lists[0].lists(leaf) || !lists[0].signedBy(ca.cert)):
			t.Errorf("%s: %v, %v", name, lists, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
	}
}

func TestRevocationsFollowTheirFile(t *testing.T) {
	ca := newTestCA(t)
	roots := ca.roots("cluster.local")
	leaf := ca.leaf(web, nil)
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf.Leaf}}
	path := filepath.Join(t.TempDir(), "crl", "ca-crl.pem")
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	var log logBuffer
	looks := make(chan struct{}, 1)
	r, err := followRevocations(path, slog.New(slog.NewTextHandler(&log, nil)), 5*time.Millisecond, func() {
		select {
		case looks <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	src := onTerms{fixed{nil, roots}, Terms{Revoked: r}}
	changes := make(chan error, 10)
	r.OnChange(func() { changes <- CheckRevoked(src, state) })
	says := func(part string) func() bool {
		return func() bool { return strings.Contains(log.String(), part) }
	}
	if err := CheckRevoked(src, state); err != nil || !says("there are no revocation lists yet")() {
		t.Errorf("without a file: %v, %s", err, log.String())
	}
	write := func(text []byte) { // as a volume swaps it, and not in pieces
		t.Helper()
		tmp := filepath.Join(t.TempDir(), "new")
		put(t, tmp, text)
		if err := os.Rename(tmp, path); err != nil {
			t.Fatal(err)
		}
	}
	write(pemCRL(ca.list(nil, leaf.Leaf)))
	if err := <-changes; err == nil {
		t.Error("a list that came did not count when it was told of")
	}
	write([]byte("garbage"))
	until(t, looks, "garbage is logged", says("stay in force"))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	until(t, looks, "that it is gone is logged", says("no such file"))
	if err := CheckRevoked(src, state); err == nil {
		t.Error("what was revoked is good once the file is gone")
	}
	write(pemCRL(ca.list(func(l *x509.RevocationList) {
		l.ThisUpdate, l.NextUpdate = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})))
	if err := <-changes; err != nil {
		t.Errorf("taken off the list: %v", err)
	}
	until(t, looks, "an old list is logged", says("is past its time"))
}

func TestOpenRefusesAFileOfNoLists(t *testing.T) {
	path := filepath.Join(t.TempDir(), "crl")
	put(t, path, []byte("garbage"))
	_, err := Open("self:"+t.TempDir(), Options{CRL: path})
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	put(t, path, make([]byte, maxCRL+1))
	if _, err := Open("self:"+t.TempDir(), Options{CRL: path}); err == nil || !strings.Contains(err.Error(), "is longer than") {
		t.Errorf("got %v", err)
	}
	put(t, path, nil)
	src := open(t, "self:"+t.TempDir(), Options{CRL: path})
	if src.Terms().Revoked == nil {
		t.Error("nothing is followed")
	}
	if _, err := Open("nothing:", Options{CRL: path}); err == nil {
		t.Error("opened") // and what followed the file has ended: the race detector and leak tests see to it
	}
}

func FuzzCRLs(f *testing.F) {
	ca := newTestCA(f)
	leaf := ca.leaf(web, nil).Leaf
	der := ca.list(nil, leaf)
	f.Add(der)
	f.Add(pemCRL(der, ca.list(nil)))
	f.Add(ca.list(extension(oidDistributionPoint, true, struct {
		Indirect bool `asn1:"optional,tag:4"`
	}{true}), leaf))
	f.Add([]byte("-----BEGIN X509 CRL-----\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) {
		lists, err := parseCRLs(text)
		if err != nil && lists != nil {
			t.Fatal("lists and an error")
		}
		by := map[string][]*crl{}
		for _, l := range lists {
			if l.list == nil || l.serials == nil {
				t.Fatal("a list of nothing")
			}
			by[l.issuer] = append(by[l.issuer], l)
		}
		// Nothing but what the CA has signed may count.
		var revoked *RevokedError
		if err := checkRevoked(by, []*x509.Certificate{leaf}, []*x509.Certificate{ca.cert}); errors.As(err, &revoked) {
			for _, l := range by[string(leaf.RawIssuer)] {
				if l.lists(leaf) && l.signedBy(ca.cert) {
					return
				}
			}
			t.Fatal(err)
		}
	})
}

// BenchmarkNotRevoked is what a handshake pays, and an open connection when the
// lists change: a chain of two, against 10,000 numbers of each issuer.
func BenchmarkNotRevoked(b *testing.B) {
	root := newRoot(b)
	middle := root.intermediate("middle", x509.KeyUsageCertSign)
	leaf := middle.leaf(web, nil).Leaf
	many := func(l *x509.RevocationList) {
		for range 10_000 {
			l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial(), RevocationTime: time.Now()})
		}
	}
	by := map[string][]*crl{}
	for _, ca := range []*testCA{root, middle} {
		l, err := parseCRL(ca.list(many))
		if err != nil {
			b.Fatal(err)
		}
		by[l.issuer] = append(by[l.issuer], l)
	}
	presented, roots := []*x509.Certificate{leaf, middle.cert}, []*x509.Certificate{root.cert}
	for b.Loop() {
		if err := checkRevoked(by, presented, roots); err != nil {
			b.Fatal(err)
		}
	}
}
