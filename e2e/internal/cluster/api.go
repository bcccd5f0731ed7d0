//go:build linux

package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// client returns a client of the API server, as an administrator. kubectl takes a tenth of
// a second to start, which is too long where time is measured.
func (c *Cluster) client() (*http.Client, error) {
	pki := c.path("pki") + "/"
	certificate, err := tls.LoadX509KeyPair(pki+"admin.crt", pki+"admin.key")
	if err != nil {
		return nil, err
	}
	root, err := os.ReadFile(pki + "ca.crt")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	return &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: roots, MinVersion: tls.VersionTLS12}},
	}, nil
}

// Get reads what the API server has at a path.
func (c *Cluster) Get(ctx context.Context, path string, into any) error {
	return c.Do(ctx, http.MethodGet, path, "", "", into)
}

// Do makes one request to the API server, whose answer is an error if it is not a 2xx.
func (c *Cluster) Do(ctx context.Context, method, path, contentType, body string, into any) error {
	if c.api == nil {
		api, err := c.client()
		if err != nil {
			return err
		}
		c.api = api
	}
	req, err := http.NewRequestWithContext(ctx, method, server+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.api.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return decode(text, into)
}

// ready reports whether the API server has finished its start.
func (c *Cluster) ready(ctx context.Context) (bool, error) {
	err := c.Do(ctx, http.MethodGet, "/readyz", "", "", nil)
	return err == nil, err
}
