// Package kube asks the Kubernetes API what a node tunnel must know to capture
// pods by itself: the pods of its node, and namespaces. It lists, watches and
// patches metadata, and no more.
//
// It is made of net/http and encoding/json, and not of client-go, because the
// memory of a node tunnel counts: client-go's typed client costs 1.5 MB before
// it has said a word, its informers keep whole objects, and of a Pod we read a
// dozen fields.
package kube

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Options say where the API server is. Server is required.
type Options struct {
	Server string // such as https://10.96.0.1:443

	// CAFile holds the certificates that the server's must come from, in PEM;
	// TokenFile, our bearer token. Both are read anew before they are used, as
	// both are replaced now and then. "" is the system's, and none.
	CAFile, TokenFile string

	Transport http.RoundTripper // instead of one of our own, with CAFile; nil: none

	Log *slog.Logger // nil: silent

	// MinBackoff is how long after a first failure to ask again, MaxBackoff how
	// long at most, doubling in between; 0: 200 ms and 30 s.
	MinBackoff, MaxBackoff time.Duration
}

// InCluster returns the Options of a process in a pod: the variables and files
// that the kubelet gives to every container.
func InCluster() (Options, error) {
	return inCluster(os.Getenv, "/var/run/secrets/kubernetes.io/serviceaccount")
}

func inCluster(env func(string) string, dir string) (Options, error) {
	host, port := env("KUBERNETES_SERVICE_HOST"), env("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return Options{}, errors.New("kube: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: not in a pod of a cluster")
	}
	o := Options{Server: "https://" + net.JoinHostPort(host, port), CAFile: filepath.Join(dir, "ca.crt"), TokenFile: filepath.Join(dir, "token")}
	for _, f := range []string{o.CAFile, o.TokenFile} {
		if _, err := os.Stat(f); err != nil {
			return Options{}, fmt.Errorf("kube: service account: %w", err)
		}
	}
	return o, nil
}

// A Client asks an API server. It is safe for concurrent use.
type Client struct {
	o    Options
	base *url.URL

	mu     sync.Mutex
	roots  []byte       // Guarded by mu: what CAFile held when client was made.
	client *http.Client // Guarded by mu.
}

// New returns a Client, which has asked nothing yet.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.Server)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("kube: server %q is no URL such as https://10.96.0.1:443", o.Server)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.MinBackoff = cmp.Or(o.MinBackoff, 200*time.Millisecond)
	o.MaxBackoff = cmp.Or(o.MaxBackoff, 30*time.Second)
	c := &Client{o: o, base: u}
	if _, err := c.http(); err != nil {
		return nil, err
	}
	return c, nil
}

// http returns a client that trusts what CAFile holds now.
func (c *Client) http() (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.o.Transport != nil {
		return &http.Client{Transport: c.o.Transport}, nil
	}
	var roots []byte
	if c.o.CAFile != "" {
		var err error
		if roots, err = os.ReadFile(c.o.CAFile); err != nil {
			return nil, fmt.Errorf("kube: certificates of the API server: %w", err)
		}
	}
	if c.client != nil && bytes.Equal(roots, c.roots) {
		return c.client, nil
	}
	t, err := transport(roots)
	if err != nil {
		return nil, fmt.Errorf("kube: %s: %w", c.o.CAFile, err)
	}
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	c.roots, c.client = roots, &http.Client{Transport: t}
	return c.client, nil
}

// transport notices within 45 s that a connection is dead: a watch may have
// nothing to say for minutes.
func transport(roots []byte) (*http.Transport, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if roots != nil {
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(roots) {
			return nil, errors.New("no certificate in it")
		}
	}
	return &http.Transport{
		TLSClientConfig:        t,
		TLSHandshakeTimeout:    10 * time.Second,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		ResponseHeaderTimeout:  30 * time.Second,
		IdleConnTimeout:        2 * time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}, nil
}

// A StatusError is a refusal of the API server.
type StatusError struct {
	Code    int    // of HTTP
	Message string // the server's own words, if it has any
}

func (e *StatusError) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("%d %s: %s", e.Code, http.StatusText(e.Code), e.Message), ": ")
}

// Is reports whether err is a refusal with this code.
func Is(err error, code int) bool {
	var s *StatusError
	return errors.As(err, &s) && s.Code == code
}

// IsGone reports whether err says that there is no such object, or that another
// has its name: to a patch of that one's UID the server says that it cannot be
// changed.
func IsGone(err error) bool {
	return Is(err, http.StatusNotFound) || Is(err, http.StatusConflict) ||
		Is(err, http.StatusUnprocessableEntity) && strings.Contains(err.Error(), "metadata.uid")
}

// Annotate sets annotations of a pod, and removes those whose value is nil. A
// pod of that name that has another uid is left alone: it is another pod. The
// error is a *StatusError if the server refused, see IsGone.
func (c *Client) Annotate(ctx context.Context, namespace, name, uid string, annotations map[string]*string) error {
	type metadata struct {
		UID         string             `json:"uid"`
		Annotations map[string]*string `json:"annotations"`
	}
	body, err := json.Marshal(struct {
		Metadata metadata `json:"metadata"`
	}{metadata{uid, annotations}})
	if err != nil {
		return err
	}
	// Of the status, because a right to that is less than one to the pod.
	path := "/api/v1/namespaces/" + url.PathEscape(namespace) + "/pods/" + url.PathEscape(name) + "/status"
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	res, err := c.do(ctx, http.MethodPatch, path, nil, body)
	if err != nil {
		return fmt.Errorf("kube: patching pod %s/%s: %w", namespace, name, err)
	}
	return res.Body.Close()
}

// do returns a successful response, whose body is the caller's to close.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body []byte) (*http.Response, error) {
	client, err := c.http()
	if err != nil {
		return nil, err
	}
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "waystone-ztunnel")
	if body != nil {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	if c.o.TokenFile != "" {
		token, err := os.ReadFile(c.o.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	refusal := &StatusError{Code: res.StatusCode}
	if b, err := io.ReadAll(io.LimitReader(res.Body, 64<<10)); err == nil {
		var s status
		if json.Unmarshal(b, &s) == nil {
			refusal.Message = s.Message
		}
	}
	return nil, refusal
}

// A status is Kubernetes' metav1.Status.
type status struct {
	Message string
	Code    int
}
