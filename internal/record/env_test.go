package record

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"
)

var suites = []struct {
	name string
	id   uint16
}{
	{"AES-128", tls.TLS_AES_128_GCM_SHA256}, {"AES-256", tls.TLS_AES_256_GCM_SHA384}, {"ChaCha20", tls.TLS_CHACHA20_POLY1305_SHA256},
}

// pair returns the Conns of the two ends of a connection that has shaken hands,
// without the handshake.
func pair(t testing.TB, id uint16) (client, server *Conn) {
	t.Helper()
	su, ok := suiteOf(id)
	if !ok {
		t.Fatal("no such suite")
	}
	s := &Secrets{}
	for _, x := range []*secret{&s.client, &s.server} {
		x.n = su.secretSize
		_, _ = rand.Read(x.b[:x.n])
	}
	state := &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true, CipherSuite: id}
	client, server = New(state, s, false), New(state, s, true)
	if client == nil || server == nil {
		t.Fatal("New declines")
	}
	return client, server
}

// aes returns a pair under the suite that is used most.
func aesPair(t testing.TB) (client, server *Conn) { return pair(t, tls.TLS_AES_128_GCM_SHA256) }

// forge seals an inner plaintext as it is: content, type, padding.
func (c *Conn) forge(dst, inner []byte) []byte {
	at, n := len(dst), len(inner)+tagSize
	dst = append(dst, typeContent, 3, 3, byte(n>>8), byte(n))
	return c.out.aead.Seal(dst, c.out.next(), inner, dst[at:at+headerSize])
}

func inner(typ byte, content []byte, padding int) []byte {
	return append(append(content[:len(content):len(content)], typ), make([]byte, padding)...)
}

// openAll opens the records of src and returns their contents.
func openAll(c *Conn, src []byte) (got []byte, err error) {
	dst := make([]byte, Room)
	for len(src) > 0 {
		n, used, err := c.Open(dst, src)
		if err != nil {
			return got, err
		}
		if used == 0 {
			return got, io.ErrUnexpectedEOF
		}
		got = append(got, dst[:n]...)
		src = src[used:]
	}
	return got, nil
}

func mustSeal(t testing.TB, c *Conn, p []byte) []byte {
	t.Helper()
	b, err := c.Seal(nil, p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// alertOf returns the alert in err, and whether the peer sent it.
func alertOf(err error) (a tls.AlertError, remote bool) {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || !errors.As(err, &a) {
		return 255, false
	}
	return a, op.Op == "remote error"
}

// wantRefused checks that err is a, and that the other end is told so, once.
func wantRefused(t testing.TB, c, peer *Conn, err error, a tls.AlertError) {
	t.Helper()
	if got, remote := alertOf(err); got != a || remote {
		t.Fatalf("refused with %v, want %v", err, a)
	}
	if !c.Owes() {
		t.Fatal("the peer is not told")
	}
	said, serr := c.Seal(nil, []byte("never to be seen"))
	if !errors.Is(serr, err) {
		t.Errorf("Seal: %v", serr)
	}
	if more, _ := c.Seal(nil, []byte("neither")); len(more) > 0 || len(c.Close(nil)) > 0 || c.Owes() {
		t.Error("something is said after the alert")
	}
	if _, _, again := c.Open(make([]byte, Room), mustSeal(t, peer, []byte("more"))); !errors.Is(again, err) {
		t.Errorf("then Open: %v", again)
	}
	got, perr := openAll(peer, said)
	if b, remote := alertOf(perr); len(got) > 0 || b != a || !remote {
		t.Errorf("the peer gets %q, %v", got, perr)
	}
}

// An end is one end of a connection whose handshake was crypto/tls's, and which
// is now a Conn, or still crypto/tls. What it writes gathers in out until
// somebody moves it.
type end struct {
	own   *Conn // nil: crypto/tls
	tls   *tls.Conn
	state tls.ConnectionState

	nc      net.Conn // during the handshake
	in, out []byte
	pending []byte // the rest of the record that crypto/tls is reading
	got     []byte
	err     error // what ended it
}

// ends shakes hands and hands over to Conns where own is set.
func ends(t testing.TB, clientOwn, serverOwn bool) (client, server *end) {
	t.Helper()
	cc, sc := net.Pipe()
	client, server = &end{nc: cc}, &end{nc: sc}
	var cs, ss Secrets
	ccfg, scfg := configs()
	client.tls, server.tls = tls.Client(client, cs.Tap(ccfg, false)), tls.Server(server, ss.Tap(scfg, true))
	done := make(chan error, 1)
	go func() { done <- client.tls.Handshake() }()
	if err := errors.Join(server.tls.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	client.handOver(t, &cs, clientOwn, false)
	server.handOver(t, &ss, serverOwn, true)
	return client, server
}

func (e *end) handOver(t testing.TB, s *Secrets, own, server bool) {
	t.Helper()
	e.nc, e.state = nil, e.tls.ConnectionState()
	if len(e.pending) > 0 {
		t.Fatal("crypto/tls has not read a record to its end")
	}
	if own {
		if e.own = New(&e.state, s, server); e.own == nil {
			t.Fatal("New declines")
		}
	}
}

func (e *end) write(p []byte) {
	if e.own == nil {
		_, _ = e.tls.Write(p)
		return
	}
	e.out, _ = e.own.Seal(e.out, p)
}

func (e *end) close() {
	if e.own == nil {
		_ = e.tls.CloseWrite()
		return
	}
	e.out = e.own.Close(e.out)
}

// receive takes p from the other end and opens what is whole.
func (e *end) receive(p []byte) {
	e.in = append(e.in, p...)
	buf := make([]byte, Room)
	for e.err == nil {
		n, used, err := 0, 0, error(nil)
		if e.own == nil {
			before := len(e.in)
			if n, err = e.tls.Read(buf); errors.Is(err, errNone) {
				err = nil
			}
			used = before - len(e.in)
		} else {
			n, used, err = e.own.Open(buf, e.in)
			e.in = e.in[used:]
			if e.own.Owes() {
				e.out, _ = e.own.Seal(e.out, nil)
			}
		}
		e.got, e.err = append(e.got, buf[:n]...), err
		if used == 0 {
			return
		}
	}
}

// move takes n bytes of what e has written to the other end.
func (e *end) move(to *end, n int) {
	p := e.out[:min(n, len(e.out))]
	e.out = e.out[len(p):]
	to.receive(p)
}

// Read gives crypto/tls one record at a time.
func (e *end) Read(p []byte) (int, error) {
	if len(e.pending) == 0 && e.nc != nil {
		head := make([]byte, headerSize)
		if _, err := io.ReadFull(e.nc, head); err != nil {
			return 0, err
		}
		e.pending = append(head, make([]byte, int(head[3])<<8|int(head[4]))...)
		if _, err := io.ReadFull(e.nc, e.pending[headerSize:]); err != nil {
			return 0, err
		}
	}
	if len(e.pending) == 0 {
		n := headerSize
		if len(e.in) >= headerSize && len(e.in) < n+int(e.in[3])<<8+int(e.in[4]) && int(e.in[3])<<8+int(e.in[4]) <= maxCiphertext || len(e.in) < n {
			return 0, errNone
		}
		n = min(len(e.in), n+int(e.in[3])<<8+int(e.in[4]))
		e.pending, e.in = e.in[:n], e.in[n:]
	}
	n := copy(p, e.pending)
	e.pending = e.pending[n:]
	return n, nil
}

func (e *end) Write(p []byte) (int, error) {
	if e.nc != nil {
		return e.nc.Write(p)
	}
	e.out = append(e.out, p...)
	return len(p), nil
}

func (e *end) Close() error                     { return nil }
func (e *end) LocalAddr() net.Addr              { return nil }
func (e *end) RemoteAddr() net.Addr             { return nil }
func (e *end) SetDeadline(time.Time) error      { return nil }
func (e *end) SetReadDeadline(time.Time) error  { return nil }
func (e *end) SetWriteDeadline(time.Time) error { return nil }

// errNone is temporary, which crypto/tls forgets.
var errNone net.Error = noneError{}

type noneError struct{}

func (noneError) Error() string   { return "nothing to read" }
func (noneError) Timeout() bool   { return true }
func (noneError) Temporary() bool { return true }

// configs are of two ends that trust each other, made once.
var configs = sync.OnceValues(func() (client, server *tls.Config) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "peer"}, DNSNames: []string{"peer"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	cert, _ = x509.ParseCertificate(der)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	cfg := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      roots, ClientCAs: roots, ServerName: "peer",
		ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
	}
	return cfg, cfg
})
