package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"

	"golang.org/x/net/http2"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// TestANetHTTPClient has a client that is not ours open tunnels: x/net's
// Transport over mTLS.
func TestANetHTTPClient(t *testing.T) {
	overTCP(t, rigOptions{server: ServerOptions{NotConnect: 404}}, func(r *rig) {
		tr := &http2.Transport{DialTLSContext: func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
			d := tls.Dialer{Config: identity.ClientConfig(r.ids, web, items)}
			return d.DialContext(ctx, "tcp", r.addr.String())
		}}
		defer tr.CloseIdleConnections()
		connect := func(method, authority, path string) (*http.Response, *io.PipeWriter) {
			body, w := io.Pipe()
			res, err := tr.RoundTrip(&http.Request{
				Method: method, Host: authority, Body: body, Header: http.Header{"Baggage": {"service.name=web"}},
				URL: &url.URL{Scheme: "https", Host: r.addr.String(), Path: path}, ContentLength: -1,
			})
			if err != nil {
				t.Fatal(err)
			}
			return res, w
		}
		res, w := connect("CONNECT", "echo:80", "")
		if res.StatusCode != 200 || ParseBaggage(res.Header.Get("baggage")).Service != "items" {
			t.Errorf("got %d, %v", res.StatusCode, res.Header)
		}
		want := make([]byte, 1<<20)
		go func() {
			_, _ = w.Write(want)
			w.Close()
		}()
		if got, err := io.ReadAll(res.Body); err != nil || len(got) != len(want) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		for _, tt := range []struct {
			method, authority, path string
			want                    int
		}{
			{"CONNECT", "status-503:80", "", 503},
			{"CONNECT", "echo", "", 400},
			{"GET", "echo:80", "/", 404},
			{"POST", "echo:80", "/x", 404},
		} {
			res, w := connect(tt.method, tt.authority, tt.path)
			if res.StatusCode != tt.want {
				t.Errorf("%s %s: got %d, want %d", tt.method, tt.authority, res.StatusCode, tt.want)
			}
			res.Body.Close()
			w.Close()
		}
	})
}

// TestANetHTTPServer has the pool open tunnels at a server that is not ours.
func TestANetHTTPServer(t *testing.T) {
	overTCP(t, rigOptions{}, func(r *rig) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{TLSConfig: identity.ServerConfig(r.ids, items), Handler: http.HandlerFunc(echoHTTP)}
		if err := http2.ConfigureServer(srv, nil); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- srv.ServeTLS(ln, "", "") }()
		k := r.key()
		k.Addr = addrPort(ln.Addr())
		o := r.begin(k, connectTo("echo"))
		if err := <-o.err; err != nil {
			t.Fatal(err)
		}
		if got := o.e.roundTrip("hello"); got != "hello" {
			t.Errorf("got %q", got)
		}
		o.e.closeWrite()
		o.e.untilEOF()
		if s, ok := errors.AsType[*StatusError](r.openErr(k, "teapot")); !ok || s.Status != 418 {
			t.Errorf("got %v", s)
		}
		srv.Close()
		<-done
	})
}

func echoHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != "CONNECT" || req.Host != "echo:80" {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	w.WriteHeader(200)
	_ = http.NewResponseController(w).Flush()
	buf := make([]byte, 4<<10)
	for {
		n, err := req.Body.Read(buf)
		if n > 0 {
			_, _ = w.Write(buf[:n])
			_ = http.NewResponseController(w).Flush()
		}
		if err != nil {
			return
		}
	}
}
