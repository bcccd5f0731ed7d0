package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// A client is a node tunnel that is not ours: Go's HTTP/2 client.
type client struct {
	r         *rig
	transport *http.Transport
	opened    atomic.Int64 // tunnels
}

// clientTLS presents certs, and takes nobody but the waypoint for the waypoint.
func (r *rig) clientTLS(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{
		Certificates: certs, NextProtos: []string{"h2"},
		InsecureSkipVerify: true, // a SPIFFE ID is no host name: VerifyConnection
		VerifyConnection: func(s tls.ConnectionState) error {
			if got, want := s.PeerCertificates[0].URIs[0].String(), "spiffe://"+trustDomain+waypointAccount; got != want {
				return fmt.Errorf("the waypoint is %s, want %s", got, want)
			}
			return s.PeerCertificates[0].CheckSignatureFrom(r.ca.cert)
		},
	}
}

func (r *rig) client(account string) *client {
	c := &client{r: r, transport: &http.Transport{
		Protocols: new(http.Protocols), TLSClientConfig: r.clientTLS(r.ca.issue(trustDomain, account)),
	}}
	c.transport.Protocols.SetHTTP2(true)
	r.t.Cleanup(c.transport.CloseIdleConnections)
	return c
}

// tunnel opens a tunnel to a service or a pod.
func (c *client) tunnel(ctx context.Context, authority string) (*tunnel, error) {
	body, w := io.Pipe()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // an HTTP client's ends with its dialling
	res, err := c.transport.RoundTrip((&http.Request{
		Method: http.MethodConnect, Host: authority, Body: body,
		URL: &url.URL{Scheme: "https", Host: c.r.at(15008)}, Header: http.Header{},
	}).WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		cancel()
		return nil, fmt.Errorf("CONNECT %s: %s", authority, res.Status)
	}
	c.opened.Add(1)
	return &tunnel{ReadCloser: res.Body, w: w, cancel: cancel}, nil
}

// A tunnel is a net.Conn without deadlines.
type tunnel struct {
	io.ReadCloser
	w      *io.PipeWriter
	cancel context.CancelFunc
}

func (t *tunnel) Write(p []byte) (int, error) { return t.w.Write(p) }
func (t *tunnel) CloseWrite() error           { return t.w.Close() }

func (t *tunnel) Close() error {
	err := errors.Join(t.w.Close(), t.ReadCloser.Close())
	t.cancel()
	return err
}

func (t *tunnel) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (t *tunnel) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (t *tunnel) SetDeadline(time.Time) error      { return nil }
func (t *tunnel) SetReadDeadline(time.Time) error  { return nil }
func (t *tunnel) SetWriteDeadline(time.Time) error { return nil }

// http returns an HTTP client whose connections are tunnels to the authority.
func (c *client) http(authority string, protocols func(*http.Protocols)) *http.Client {
	tr := &http.Transport{
		Protocols: new(http.Protocols),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.tunnel(ctx, authority)
		},
	}
	protocols(tr.Protocols)
	c.r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func http1(p *http.Protocols)     { p.SetHTTP1(true) }
func http2only(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }

// A node is the node tunnel at the destination: Go's HTTP/2 server, which takes
// CONNECT to the pod's ports and pipes to them.
type node struct {
	r   *rig
	srv *http.Server

	mu   sync.Mutex
	seen map[string]int // authorities
}

func (r *rig) node() *node {
	r.t.Helper()
	n := &node{r: r, seen: map[string]int{}}
	n.srv = &http.Server{
		Handler: n,
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{r.ca.issue(trustDomain, podAccount)},
			ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: r.ca.pool(), MinVersion: tls.VersionTLS13,
		},
	}
	ln := r.listen(r.pod, 15008)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.srv.ServeTLS(ln, "", "") // until closed
	}()
	r.t.Cleanup(func() {
		_ = n.srv.Close()
		<-done
	})
	return n
}

func (n *node) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	to, err := netip.ParseAddrPort(req.Host)
	peer := req.TLS.PeerCertificates[0].URIs[0].String()
	switch {
	case req.Method != http.MethodConnect || err != nil || to.Addr() != n.r.pod:
		n.r.t.Errorf("the node was asked to %s %q, want CONNECT %s:PORT", req.Method, req.Host, n.r.pod)
	case peer != "spiffe://"+trustDomain+waypointAccount:
		n.r.t.Errorf("the node was asked by %s", peer)
	default:
		n.mu.Lock()
		n.seen[req.Host]++
		n.mu.Unlock()
		n.pipe(w, req, to)
		return
	}
	w.WriteHeader(http.StatusBadRequest)
}

func (n *node) pipe(w http.ResponseWriter, req *http.Request, to netip.AddrPort) {
	app, err := net.Dial("tcp", to.String())
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer app.Close()
	flush := http.NewResponseController(w).Flush
	w.WriteHeader(http.StatusOK)
	_ = flush() // like all errors here: a tunnel that is gone has told both ends
	go func() {
		_, err := io.Copy(app, req.Body)
		if err == nil {
			_ = app.(*net.TCPConn).CloseWrite()
		} else {
			_ = app.Close()
		}
	}()
	buf := make([]byte, 32<<10)
	for {
		k, err := app.Read(buf)
		if _, werr := w.Write(buf[:k]); err != nil || werr != nil {
			return
		}
		_ = flush()
	}
}

func (n *node) tunnels(authority string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen[authority]
}
