package loop

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
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/memnet"
)

// An env is a loop and a way to connect to it.
type env struct {
	*testing.T
	g    *Group
	l    *Loop
	mem  *memnet.Net // nil with real sockets
	pair func(t testing.TB) (ours, peers net.Conn)
}

// each runs f on every kind of wire: on real sockets, on connections in memory
// inside a bubble with a clock of its own, and on connections in memory on a loop
// that also waits on epoll.
func each(t *testing.T, f func(e *env)) {
	t.Run("tcp", func(t *testing.T) { newEnv(t, Options{}, nil, f) })
	t.Run("bubble", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { newEnv(t, Options{Portable: true}, memnet.New(), f) })
	})
	t.Run("mixed", func(t *testing.T) { newEnv(t, Options{}, memnet.New(), f) })
}

// bubble runs f in memory only, where five seconds are nothing.
func bubble(t *testing.T, f func(e *env)) {
	synctest.Test(t, func(t *testing.T) { newEnv(t, Options{Portable: true}, memnet.New(), f) })
}

func newEnv(t *testing.T, o Options, mem *memnet.Net, f func(*env)) {
	before := bufs.InUse()
	o.CryptoTLS = o.CryptoTLS || *cryptoTLS
	g, err := NewGroup(1, o)
	if err != nil {
		t.Fatal(err)
	}
	e := &env{T: t, g: g, l: g.Loops()[0], mem: mem, pair: tcpPair}
	if mem != nil {
		e.pair = func(testing.TB) (net.Conn, net.Conn) {
			return mem.Pipe(netip.MustParseAddrPort("10.0.0.1:15008"), netip.MustParseAddrPort("10.0.0.2:40000"))
		}
	}
	defer func() {
		g.Close()
		if n := bufs.InUse() - before; n != 0 {
			t.Errorf("%d bytes of buffers were not freed", n)
		}
	}()
	f(e)
}

// tcpPair returns the two ends of a connection over the loopback interface.
func tcpPair(t testing.TB) (ours, peers net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peers, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if ours, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peers.Close() })
	return ours, peers
}

// on runs f on the loop and waits for it.
func (e *env) on(f func()) {
	done := make(chan struct{})
	e.l.Do(func() { defer close(done); f() })
	<-done
}

// adopt puts one end of a new connection on the loop under d and returns the
// other.
func (e *env) adopt(d *driver) net.Conn {
	e.Helper()
	ours, peers := e.pair(e)
	e.adoptConn(Plain(ours), d)
	return peers
}

func (e *env) adoptConn(s *Socket, d *driver) {
	d.s = s
	d.eof, d.closed = make(chan struct{}), make(chan error, 1)
	e.on(func() { e.l.Adopt(s, d) })
}

// A driver is a Driver made of what a test needs.
type driver struct {
	s       *Socket
	receive func(p []byte) error
	onEOF   func() error

	// Owned by the loop.
	in      []byte // what was received, unless receive is set
	out     []byte
	output  func() []byte // in place of out
	pulled  int           // how much Output has given
	calls   int           // of Receive
	nesting int

	eof    chan struct{}
	closed chan error
}

func (d *driver) enter() func() {
	if d.nesting++; d.nesting > 1 {
		panic("a driver is called from within a call")
	}
	return func() { d.nesting-- }
}

func (d *driver) Receive(p []byte) error {
	defer d.enter()()
	d.calls++
	if d.receive != nil {
		return d.receive(p)
	}
	d.in = append(d.in, p...)
	return nil
}

func (d *driver) EOF() error {
	defer d.enter()()
	close(d.eof)
	if d.onEOF != nil {
		return d.onEOF()
	}
	return nil
}

func (d *driver) Output() []byte {
	defer d.enter()()
	p := d.out
	d.out = nil
	if d.output != nil {
		p = d.output()
	}
	d.pulled += len(p)
	return p
}

func (d *driver) Closed(err error) {
	defer d.enter()()
	d.closed <- err
}

// echo returns a driver which sends back what it receives.
func echo() *driver {
	d := &driver{}
	d.receive = func(p []byte) error {
		d.out = append(d.out, p...)
		d.s.Wake()
		return nil
	}
	d.onEOF = func() error {
		d.s.CloseWrite()
		return nil
	}
	return d
}

// send has the driver write p.
func (e *env) send(d *driver, p []byte) {
	e.on(func() {
		d.out = append(d.out, p...)
		d.s.Wake()
	})
}

// until runs the loop until f is true.
func (e *env) until(what string, f func() bool) {
	e.Helper()
	for start := time.Now(); ; {
		ok := false
		e.on(func() { ok = f() })
		if ok {
			return
		}
		e.wait(100 * time.Microsecond)
		if time.Since(start) > 10*time.Second {
			e.Fatalf("waited for: %s", what)
		}
	}
}

// wait lets d pass on the loop.
func (e *env) wait(d time.Duration) {
	done := make(chan struct{})
	t := &Timer{F: func() { close(done) }}
	e.l.Do(func() { e.l.After(t, d) })
	<-done
}

// wantQuiet checks that a loop with nothing to do does nothing.
func (e *env) wantQuiet() {
	e.Helper()
	before := e.l.Stats().Batches
	e.wait(20 * time.Millisecond)
	if n := e.l.Stats().Batches - before; n > 10 {
		e.Errorf("%d batches while nothing happened", n)
	}
}

func (e *env) wantClosed(d *driver, want error) {
	e.Helper()
	if got := <-d.closed; !errors.Is(got, want) {
		e.Errorf("Closed(%v), want %v", got, want)
	}
}

func (e *env) write(c net.Conn, p []byte) {
	e.Helper()
	if _, err := c.Write(p); err != nil {
		e.Errorf("peer: %v", err)
	}
}

func (e *env) read(c net.Conn, n int) []byte {
	e.Helper()
	p := make([]byte, n)
	if _, err := io.ReadFull(c, p); err != nil {
		e.Fatalf("peer: %v", err)
	}
	return p
}

func closeWrite(c net.Conn) { _ = c.(interface{ CloseWrite() error }).CloseWrite() }

func resetConn(c net.Conn) {
	_ = c.(interface{ SetLinger(int) error }).SetLinger(0)
	_ = c.Close()
}

// pattern returns n bytes in which no two places look alike.
func pattern(n int) []byte {
	p := make([]byte, n)
	x := uint32(1)
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
	}
	return p
}

// certs are the configs of two ends that trust each other, made once.
var certs = sync.OnceValues(func() (client, server *tls.Config) {
	caKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		panic(err)
	}
	ca, _ = x509.ParseCertificate(der)
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	config := func(serial int64) *tls.Config {
		key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(serial), DNSNames: []string{"peer"},
			NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
		if err != nil {
			panic(err)
		}
		return &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
			RootCAs:      roots, ClientCAs: roots, ServerName: "peer",
			ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
			SessionTicketsDisabled: true, NextProtos: []string{"h2"},
		}
	}
	return config(2), config(3)
})

// secure shakes hands on both ends of a new connection.
func (e *env) secure() (*Socket, *tls.Conn) {
	e.Helper()
	ours, peers := e.pair(e)
	return e.secureConns(ours, peers)
}

func (e *env) secureConns(ours, peers net.Conn) (*Socket, *tls.Conn) {
	e.Helper()
	client, server := certs()
	peer := tls.Client(peers, client)
	failed := make(chan error, 1)
	go func() { failed <- peer.Handshake() }()
	s, err := Handshake(e.Context(), ours, server, ServerSide)
	if err != nil {
		e.Fatal(err)
	}
	if err := <-failed; err != nil {
		e.Fatal(err)
	}
	return s, peer
}
