package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// The two ends of HBONE as net/http has them, which shares nothing with what is
// tested.

// tlsConfig is that of an account, or of somebody without a certificate.
func tlsConfig(t *testing.T, c *certificates, account string) *tls.Config {
	t.Helper()
	var own []tls.Certificate
	if account != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert(account), c.Key(account))
		if err != nil {
			t.Fatal(err)
		}
		own = []tls.Certificate{pair}
	}
	text, err := os.ReadFile(c.Root())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return &tls.Config{
		Certificates: own, RootCAs: roots, ClientCAs: roots, MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"},
		InsecureSkipVerify: true, // there are no names in the certificates
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			return err
		},
	}
}

// A tunnel is a CONNECT stream of a connection of its own.
type tunnel struct {
	io.Writer
	reader *bufio.Reader
	peer   string // the URI in the certificate at the other end
	close  func()
}

// patience is how long a tunnel may take to do what it is for: 30 s, for a machine
// that is busy with something else.
const patience = 30 * time.Second

// open opens a tunnel through a system, as an account.
func open(t *testing.T, e *env, r *running, account, authority string) (*tunnel, error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: tlsConfig(t, e.certs, account), ForceAttemptHTTP2: true}
	body, in := io.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodConnect, "https://"+r.connect, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = authority
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	end := sync.OnceFunc(func() {
		in.Close()
		resp.Body.Close()
		transport.CloseIdleConnections()
	})
	t.Cleanup(end)
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New("CONNECT: " + resp.Status)
	}
	return &tunnel{in, bufio.NewReader(resp.Body), uri(resp.TLS), end}, nil
}

func uri(s *tls.ConnectionState) string {
	if s == nil || len(s.PeerCertificates) == 0 || len(s.PeerCertificates[0].URIs) == 0 {
		return ""
	}
	return s.PeerCertificates[0].URIs[0].String()
}

// ask makes one HTTP/1.1 request in a tunnel and returns the status of the answer.
func (c *tunnel) ask(method, path string, fields ...string) (int, error) {
	text := method + " " + path + " HTTP/1.1\r\nhost: items\r\nuser-agent: test\r\n" + strings.Join(fields, "")
	if _, err := io.WriteString(c, text+"\r\n"); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(c.reader, &http.Request{Method: method})
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

// A server is the destination: HBONE and HTTP/1.1 inside, and plain TCP beside,
// which sends back what it reads.
type server struct {
	mu    sync.Mutex
	seen  []arrival // guarded by mu
	plain net.Listener
	hbone *http.Server
}

// An arrival is one request that got through.
type arrival struct {
	peer, authority string // of the tunnel
	path            string
	fields          http.Header
}

// serve starts a destination where e has it.
func serve(t *testing.T, e *env) *server {
	t.Helper()
	s := &server{}
	s.hbone = &http.Server{
		Addr: e.destination.HBONE.String(), TLSConfig: tlsConfig(t, e.certs, serverAccount), Handler: http.HandlerFunc(s.connect),
		ReadHeaderTimeout: time.Minute,
	}
	inner, err := net.Listen("tcp", s.hbone.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if s.plain, err = net.Listen("tcp", e.destination.Plain.String()); err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	both.Go(func() { _ = s.hbone.ServeTLS(inner, "", "") })
	both.Go(s.echo)
	t.Cleanup(func() {
		s.hbone.Close()
		s.plain.Close()
		both.Wait()
	})
	return s
}

func (s *server) connect(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	flush := http.NewResponseController(w).Flush
	_ = flush() // the 200
	in := bufio.NewReader(r.Body)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return // the end of the tunnel
		}
		s.mu.Lock()
		s.seen = append(s.seen, arrival{uri(r.TLS), r.Host, req.URL.Path, req.Header})
		s.mu.Unlock()
		_, _ = io.Copy(io.Discard, req.Body)
		_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
		_ = flush()
	}
}

func (s *server) echo() {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := s.plain.Accept()
		if err != nil {
			return
		}
		all.Go(func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		})
	}
}

// last returns the last request that got through.
func (s *server) last(t *testing.T) arrival {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) == 0 {
		t.Fatal("nothing has arrived")
	}
	return s.seen[len(s.seen)-1]
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}
