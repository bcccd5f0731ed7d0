package meshtest

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"

	"golang.org/x/net/http2"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// A Tunnel is what came of a request to an HBONE port: when Status is 200, a
// connection. Write and Read are its ends; closing Write ends its direction.
type Tunnel struct {
	Status int
	Header http.Header
	Write  io.WriteCloser
	Read   io.ReadCloser
}

// Connect sends a request to the HBONE port of a workload, as a proxy of w's
// that is not ours: x/net's HTTP/2 client over mTLS, on a connection of its own.
// header holds pairs of name and value.
func (w *Workload) Connect(to *Workload, method, authority string, header ...string) *Tunnel {
	w.m.t.Helper()
	tr := &http2.Transport{DialTLSContext: func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
		nc, err := w.m.net.Dial(ctx, w.IP, netip.AddrPortFrom(to.IP, 15008))
		if err != nil {
			return nil, err
		}
		secure := tls.Client(nc, identity.ClientConfig(w.m.ca, w.ID(), to.ID()))
		if err := secure.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, err
		}
		return secure, nil
	}}
	body, write := io.Pipe()
	req := &http.Request{
		Method: method, Host: authority, Body: body, Header: http.Header{}, ContentLength: -1,
		URL: &url.URL{Scheme: "https", Host: to.IP.String() + ":15008"},
	}
	if method != http.MethodConnect {
		req.URL.Path = "/"
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		w.m.t.Fatalf("%s as %s: %s %s: %v", to.Name, w.Name, method, authority, err)
	}
	t := &Tunnel{Status: res.StatusCode, Header: res.Header, Write: write, Read: res.Body}
	w.closers = append(w.closers, func() { t.Close(); tr.CloseIdleConnections() })
	if t.Status != http.StatusOK {
		t.Close()
	}
	return t
}

// Close gives the tunnel up.
func (t *Tunnel) Close() {
	t.Write.Close()
	t.Read.Close()
}
