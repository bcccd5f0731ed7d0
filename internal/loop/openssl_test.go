package loop

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The suites of TLS 1.3, of which crypto/tls offers no choice.
var opensslSuites = []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}

// OpenSSL as the client: it talks, updates the keys and has us update ours, talks
// again and closes.
func TestOpenSSLClient(t *testing.T) {
	for _, suite := range opensslSuites {
		t.Run(suite, func(t *testing.T) {
			newEnv(t, Options{}, nil, func(e *env) {
				ln := listen(e)
				defer ln.Close()
				o := e.openssl("s_client", "-connect", ln.Addr().String(), "-servername", "peer", "-ciphersuites", suite)
				nc, err := ln.Accept()
				if err != nil {
					e.Fatal(err)
				}
				_, server := certs()
				server = server.Clone()
				server.ClientAuth = tls.RequireAnyClientCert
				s, err := Handshake(e.Context(), nc, server, ServerSide)
				if err != nil {
					e.Fatal(err)
				}
				o.converse(e, s, suite)
			})
		})
	}
}

// OpenSSL as the server, which sends tickets besides.
func TestOpenSSLServer(t *testing.T) {
	for _, suite := range opensslSuites {
		t.Run(suite, func(t *testing.T) {
			newEnv(t, Options{}, nil, func(e *env) {
				o := e.openssl("s_server", "-accept", "127.0.0.1:0", "-Verify", "1", "-ciphersuites", suite)
				line := o.until(e, "ACCEPT 127.0.0.1:")
				_, port, _ := strings.Cut(line, "ACCEPT 127.0.0.1:")
				nc, err := net.Dial("tcp", "127.0.0.1:"+strings.TrimSpace(port))
				if err != nil {
					e.Fatal(err)
				}
				client, _ := certs()
				s, err := Handshake(e.Context(), nc, client, ClientSide)
				if err != nil {
					e.Fatal(err)
				}
				o.converse(e, s, suite)
			})
		})
	}
}

// converse goes through what can be said, and through KeyUpdates.
func (o *openssl) converse(e *env, s *Socket, suite string) {
	e.Helper()
	if got := tls.CipherSuiteName(s.TLS().CipherSuite); got != suite {
		e.Fatalf("the suite is %s", got)
	}
	d := &driver{}
	e.adoptConn(s, d)
	long := strings.Repeat("0123456789", 3000) // more than a record, in lines of less than OpenSSL's buffer
	for i, word := range []string{"first", "K", "second", "K", "k", "third"} {
		if len(word) == 1 { // a command: KeyUpdate, which for K asks for ours
			before := e.l.Stats().Reads
			o.say(e, word)
			e.until("the KeyUpdate", func() bool { return e.l.Stats().Reads > before }) // it takes one command at a time
			continue
		}
		var want int
		e.on(func() { want = len(d.in) + len(word) + 1 })
		o.say(e, word)
		e.until(word, func() bool { return len(d.in) == want })
		if !bytes.HasSuffix(d.in, []byte(word+"\n")) {
			e.Fatalf("%d: received %q", i, d.in)
		}
		e.send(d, []byte(long+word+" heard\n"))
		o.until(e, "9"+word+" heard")
	}
	o.say(e, "Q")
	<-d.eof
	e.on(s.Close)
	e.wantClosed(d, nil)
}

// An openssl is a running openssl, which takes lines and prints them.
type openssl struct {
	in  io.Writer
	out *bufio.Reader
}

func (e *env) openssl(role string, args ...string) *openssl {
	e.Helper()
	exe, err := exec.LookPath("openssl")
	if err != nil {
		e.Skip("there is no openssl")
	}
	client, _ := certs()
	key, err := x509.MarshalPKCS8PrivateKey(client.Certificates[0].PrivateKey)
	if err != nil {
		e.Fatal(err)
	}
	file := filepath.Join(e.TempDir(), "peer.pem")
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: client.Certificates[0].Certificate[0]})
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		e.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(e.Context(), time.Minute)
	cmd := exec.CommandContext(ctx, exe, append([]string{role, "-tls1_3", "-alpn", "h2", "-cert", file, "-key", file}, args...)...)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	return &openssl{in, bufio.NewReader(out)}
}

func (o *openssl) say(e *env, line string) {
	e.Helper()
	if _, err := io.WriteString(o.in, line+"\n"); err != nil {
		e.Fatal(err)
	}
}

// until reads lines until one contains what, and returns that.
func (o *openssl) until(e *env, what string) string {
	e.Helper()
	var all strings.Builder
	for {
		line, err := o.out.ReadString('\n')
		if strings.Contains(line, what) {
			return line
		}
		if all.WriteString(line); err != nil {
			e.Fatalf("no %q in\n%.2000s\n%v", what, all.String(), err)
		}
	}
}

func listen(e *env) net.Listener {
	e.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		e.Fatal(err)
	}
	return ln
}
