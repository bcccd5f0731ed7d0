package istiod

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
)

const (
	pemBegin = "-----BEGIN"

	// systemRoots names the roots of the operating system.
	systemRoots = "SYSTEM"
)

// RootsFile returns the file that the roots are in, if they are in one.
func (o *Options) RootsFile() (path string, ok bool) {
	return o.Roots, o.Roots != "" && o.Roots != systemRoots && !strings.Contains(o.Roots, pemBegin)
}

// RootsText returns what the roots are now, to tell whether they are others than
// before: the text of the file, if it is one.
func (o *Options) RootsText() ([]byte, error) {
	path, ok := o.RootsFile()
	if !ok {
		return []byte(o.Roots), nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("istiod: roots: %w", err)
	}
	return b, nil
}

// roots reads the roots.
func (o *Options) roots() (*x509.CertPool, error) {
	if o.Roots == systemRoots {
		return x509.SystemCertPool()
	}
	text, err := o.RootsText()
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		name := o.Roots
		if bytes.Equal(text, []byte(name)) {
			name = "what was given"
		}
		return nil, fmt.Errorf("istiod: roots: there is no certificate in %s", name)
	}
	return pool, nil
}

// tls returns the configuration of a connection to host.
func (o *Options) tls(host string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, // what gateways in front of istiod may have
		ServerName: host,
		// VerifyConnection does all of it: the roots and the second name are not
		// for crypto/tls to know.
		InsecureSkipVerify: true,
		VerifyConnection:   func(state tls.ConnectionState) error { return o.verify(&state, host) },
	}
}

// verify checks that the peer is istiod: its chain, and that it has one of the
// names.
func (o *Options) verify(state *tls.ConnectionState, host string) error {
	roots, err := o.roots()
	if err != nil {
		return err
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), DNSName: host}
	for _, c := range state.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err = state.PeerCertificates[0].Verify(opts)
	var other x509.HostnameError
	if errors.As(err, &other) && o.ServerName != "" {
		opts.DNSName = o.ServerName
		_, err = state.PeerCertificates[0].Verify(opts)
	}
	if err != nil {
		return fmt.Errorf("istiod: its certificate: %w", err)
	}
	return nil
}
