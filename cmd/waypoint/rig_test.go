package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/examples/bookinfo"
)

// asProgram is the environment variable that makes the test binary the program.
const asProgram = "WAYPOINT_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main() // exits
	}
	os.Exit(m.Run())
}

const (
	trustDomain     = "cluster.local"
	waypointAccount = "/ns/default/sa/bookinfo-productpage-istio-waypoint"
	podAccount      = "/ns/default/sa/bookinfo-productpage"
)

// A rig is a waypoint, as a process, with the bookinfo manifests; and what we
// play: its clients, and the pod productpage-v1.
type rig struct {
	t        *testing.T
	ca       *authority
	config   string // the directory of manifests
	access   string // the access log
	subst    *strings.Replacer
	waypoint netip.Addr
	pod      netip.Addr
	vip      netip.Addr // of the service productpage
	cmd      *exec.Cmd
	log      syncBuffer
	exited   chan struct{} // closed when err is set
	err      error
}

// newRig starts a waypoint and waits until it is ready. extra is a manifest beside
// bookinfo's, flags are further ones.
func newRig(t *testing.T, extra string, flags ...string) *rig {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs all of 127/8 on the loopback interface, which Linux has")
	}
	dir := t.TempDir()
	r := &rig{t: t, config: filepath.Join(dir, "config"), access: filepath.Join(dir, "access.log"), exited: make(chan struct{})}
	// Addresses of our own: a demo may be running, or another of these.
	x, y := 100+mrand.N(90), mrand.N(250)
	r.subst = strings.NewReplacer("127.244.1.", fmt.Sprintf("127.%d.%d.", x, y), "127.244.2.", fmt.Sprintf("127.%d.%d.", x, y+1), "127.96.", "127.97.")
	address := func(s string) netip.Addr { return netip.MustParseAddr(r.subst.Replace(s)) }
	r.waypoint = address(bookinfo.IPs["bookinfo-productpage-istio-waypoint"])
	r.pod, r.vip = address(bookinfo.IPs["productpage-v1"]), address("127.96.0.10")

	r.ca = newAuthority(t)
	ids := filepath.Join(dir, "identity")
	put(t, filepath.Join(ids, "root-cert.pem"), encode("CERTIFICATE", r.ca.cert.Raw))
	r.ca.write(filepath.Join(ids, "default", filepath.Base(waypointAccount)), waypointAccount)
	for _, name := range []string{"00-mesh.yaml", "01-bookinfo.yaml", "ambient-namespace.yaml", "waypoint.yaml"} {
		r.apply(name)
	}
	put(t, filepath.Join(r.config, "extra.yaml"), []byte(extra))
	r.start(append(flags, "--identity", "files:"+ids)...)
	return r
}

// apply adds one of bookinfo's manifests.
func (r *rig) apply(name string) {
	r.t.Helper()
	text, err := bookinfo.Manifests.ReadFile(name)
	if err != nil {
		r.t.Fatal(err)
	}
	put(r.t, filepath.Join(r.config, name), []byte(r.subst.Replace(string(text))))
}

func (r *rig) at(port uint16) string { return netip.AddrPortFrom(r.waypoint, port).String() }

func (r *rig) start(flags ...string) {
	r.t.Helper()
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	r.cmd = exec.Command(self, append(flags, "--gateway", "default/bookinfo-productpage",
		"--config", r.config, "--access-log", r.access,
		"--hbone-address", r.at(15008), "--admin", r.at(15000), "--metrics", r.at(15020), "--readiness", r.at(15021))...)
	r.cmd.Env = append(os.Environ(), asProgram+"=1")
	r.cmd.Stdout, r.cmd.Stderr = &r.log, &r.log
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() {
		r.err = r.cmd.Wait()
		close(r.exited)
	}()
	r.t.Cleanup(func() {
		_ = r.cmd.Process.Kill() // it may have ended
		<-r.exited
		if r.t.Failed() {
			r.t.Logf("the waypoint's log:\n%s", r.log.String())
		}
	})
	r.until("ready", func() bool {
		status, _ := r.get("http://" + r.at(15021) + "/healthz/ready")
		return status == http.StatusOK
	})
}

// until looks every 10 ms until ok.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	tick, deadline := time.NewTicker(10*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-r.exited:
			r.t.Fatalf("the waypoint ended before it was %s: %v", what, r.err)
		case <-deadline:
			r.t.Fatalf("not %s in 20 s", what)
		}
	}
}

// get asks one of the waypoint's own ports. A status of 0 is no answer.
func (r *rig) get(url string) (status int, body string) {
	res, err := (&http.Client{Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(b)
}

func (r *rig) terminate() {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
}

// An authority is a CA, with keys as Istio's agents make them.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	self := &x509.Certificate{
		URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert = a.sign(self, self, &a.key.PublicKey)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(c, parent *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
	a.t.Helper()
	c.SerialNumber = new(big.Int).SetUint64(mrand.Uint64())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err = x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// issue returns a certificate for an account ("/ns/x/sa/y") of a trust domain.
func (a *authority) issue(domain, account string) tls.Certificate {
	a.t.Helper()
	key := newKey(a.t)
	leaf := a.sign(&x509.Certificate{
		URIs: []*url.URL{{Scheme: "spiffe", Host: domain, Path: account}}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// write issues a certificate into a directory.
func (a *authority) write(dir, account string) {
	a.t.Helper()
	c := a.issue(trustDomain, account)
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		a.t.Fatal(err)
	}
	put(a.t, filepath.Join(dir, "key.pem"), encode("PRIVATE KEY", der))
	put(a.t, filepath.Join(dir, "cert.pem"), encode("CERTIFICATE", c.Leaf.Raw))
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func put(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, text, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// A syncBuffer is what a process wrote.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// listen returns a listener that is closed with the test.
func (r *rig) listen(a netip.Addr, port uint16) net.Listener {
	r.t.Helper()
	ln, err := net.Listen("tcp", netip.AddrPortFrom(a, port).String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = ln.Close() }) // what serves it may have closed it
	return ln
}
