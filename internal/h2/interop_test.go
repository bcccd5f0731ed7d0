package h2

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// goClient returns Go's client, connected to a server of ours.
func goClient(t *testing.T, o Options, h Handler) *http2.Transport {
	t.Helper()
	ours, theirs := net.Pipe()
	r := run(Server, o, h, ours)
	tr := &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(context.Context, string, string, *tls.Config) (net.Conn, error) {
			return theirs, nil
		},
	}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		r.close()
	})
	return tr
}

func TestServerServesGoClient(t *testing.T) {
	tr := goClient(t, Options{}, echo{})
	for range 3 {
		req, _ := http.NewRequest("GET", "http://a/path?q", nil)
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if got, want := string(body), "hello /path?q"; got != want || err != nil {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
		if got := res.Trailer.Get("X-Trailer"); got != "bye" {
			t.Errorf("got trailer %q", got)
		}
	}
	// More than every window, so that each is refilled a few times.
	content := bytes.Repeat([]byte("0123456789abcdef"), 300_000)
	req, _ := http.NewRequest("POST", "http://a/", bytes.NewReader(content))
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(res.Body); !bytes.Equal(got, content) || err != nil {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(content))
	}
}

func TestServerTunnelsForGoClient(t *testing.T) {
	tr := goClient(t, Options{}, echo{})
	body, in := io.Pipe()
	req := &http.Request{Method: "CONNECT", URL: &url.URL{Scheme: "http", Host: "10.0.0.1:80"}, Host: "10.0.0.1:80", Body: body, Header: http.Header{}}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	for _, word := range []string{"ping", "pong"} {
		if _, err := in.Write([]byte(word)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(res.Body, b); string(b) != word || err != nil {
			t.Fatalf("got %q, %v, want %q", b, err, word)
		}
	}
	in.Close()
	if n, err := res.Body.Read(b); n != 0 || err != io.EOF {
		t.Errorf("after our end: got %d bytes, %v, want EOF", n, err)
	}
}

// resetting is a server that gives every stream up.
type resetting struct {
	ignore
	err error
}

func (h resetting) Headers(s *Stream, f l7.Fields, end bool) { s.Reset(h.err) }

func TestGoClientSeesResetCode(t *testing.T) {
	tr := goClient(t, Options{}, resetting{err: &StreamError{Code: CodeConnect}})
	req, _ := http.NewRequest("GET", "http://a/", nil)
	_, err := tr.RoundTrip(req)
	var e http2.StreamError
	if !errors.As(err, &e) || e.Code != http2.ErrCodeConnect {
		t.Errorf("got %v, want CONNECT_ERROR", err)
	}
}

// A call is a client's Handler for one exchange at a time; it keeps everything.
type call struct {
	ignore
	head, trailers l7.Fields
	body           []byte
	done           chan error
}

func (h *call) Headers(s *Stream, f l7.Fields, end bool) {
	if h.head == nil {
		h.head = f.Clone()
	} else {
		h.trailers = f.Clone()
	}
	h.finish(end, nil)
}

func (h *call) Data(s *Stream, p []byte, end bool) {
	h.body = append(h.body, p...)
	s.Credit(len(p))
	h.finish(end, nil)
}

func (h *call) Reset(s *Stream, err error) { h.finish(true, err) }

func (h *call) finish(end bool, err error) {
	if end {
		h.done <- err
	}
}

// ourClient returns a client of ours, connected to Go's server.
func ourClient(t *testing.T, h Handler, serve http.HandlerFunc) *runner {
	t.Helper()
	ours, theirs := net.Pipe()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		new(http2.Server).ServeConn(theirs, &http2.ServeConnOpts{Handler: serve})
	}()
	r := run(Client, Options{}, h, ours)
	t.Cleanup(func() {
		r.close()
		<-stopped
	})
	return r
}

func TestClientCallsGoServer(t *testing.T) {
	content := strings.Repeat("0123456789abcdef", 300_000)
	h := &call{done: make(chan error, 1)}
	r := ourClient(t, h, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(201)
		n, _ := io.Copy(w, req.Body)
		if n == int64(len(content)) {
			w.Header().Set("X-Sum", "right")
		}
	})
	r.do(func(c *Conn) {
		s, err := c.Open(l7.Fields{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: "/"}}, false)
		if err != nil {
			t.Error(err)
			return
		}
		s.Write([]byte(content))
		s.CloseWrite()
	})
	if err := <-h.done; err != nil {
		t.Fatal(err)
	}
	if got := h.head.Get(":status"); got != "201" {
		t.Errorf("got status %s", got)
	}
	if string(h.body) != content {
		t.Errorf("got %d bytes, want %d", len(h.body), len(content))
	}
	if got := h.trailers.Get("x-sum"); got != "right" {
		t.Errorf("got trailers %v", h.trailers)
	}
}

func TestClientTunnelsThroughGoServer(t *testing.T) {
	h := &call{done: make(chan error, 1)}
	r := ourClient(t, h, func(w http.ResponseWriter, req *http.Request) {
		if req.Method != "CONNECT" || req.Host != "10.0.0.1:80" {
			t.Errorf("got %s %s", req.Method, req.Host)
		}
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		_, _ = io.Copy(w, req.Body)
	})
	r.do(func(c *Conn) {
		s, err := c.Open(l7.Fields{{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: "10.0.0.1:80"}}, false)
		if err != nil {
			t.Error(err)
			return
		}
		s.Write([]byte("ping"))
		s.CloseWrite()
	})
	if err := <-h.done; err != nil {
		t.Fatal(err)
	}
	if string(h.body) != "ping" {
		t.Errorf("got %q, want ping", h.body)
	}
}
