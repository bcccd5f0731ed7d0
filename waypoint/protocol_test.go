package waypoint_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/meshtest"
)

// eachNetwork runs a test on the network in memory and on the loopback
// interface, and so with both drivers.
func eachNetwork(t *testing.T, f func(t *testing.T, m *meshtest.Mesh)) {
	t.Run("memory", func(t *testing.T) { f(t, meshtest.New(t)) })
	t.Run("loopback", func(t *testing.T) { f(t, meshtest.With(t, meshtest.Options{Loopback: true})) })
}

// shop is a mesh in which web asks items through a waypoint, on a port of a
// protocol.
func shop(m *meshtest.Mesh, protocol string, h http.HandlerFunc) {
	m.Workload("web")
	m.Workload("items").Serve(h)
	m.Service("items", 80).Protocol(protocol).Waypoint()
}

func TestEveryProtocolOnEveryPort(t *testing.T) {
	for _, port := range []struct{ protocol, upstream1, upstream2 string }{
		{"", "HTTP/1.1", "HTTP/2.0"},
		{"http", "HTTP/1.1", "HTTP/1.1"},
		{"http2", "HTTP/2.0", "HTTP/2.0"},
		{"grpc", "HTTP/2.0", "HTTP/2.0"},
		{"tcp", "HTTP/1.1", "HTTP/2.0"},
	} {
		t.Run("port "+port.protocol, func(t *testing.T) {
			eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
				shop(m, port.protocol, meshtest.Echo)
				one, two := m.From("web"), m.FromHTTP2("web")
				for i := range 3 {
					path := "/n" + strconv.Itoa(i)
					one.Get("http://items" + path).Want(200).WantBody("GET " + path + " " + port.upstream1)
					two.Get("http://items" + path).Want(200).WantBody("GET " + path + " " + port.upstream2)
					one.Post("http://items"+path, "some content").Want(200).WantBody("some content")
					two.Post("http://items"+path, "some content").Want(200).WantBody("some content")
				}
			})
		})
	}
}

// TestContentArrivesWhole sends content of every awkward size both ways.
func TestContentArrivesWhole(t *testing.T) {
	sizes := []int{0, 1, 1023, 16 << 10, 64<<10 + 1, 256 << 10, 1<<20 + 17}
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		shop(m, "", func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Errorf("server: %v", err)
			}
			if r.URL.Query().Has("length") {
				w.Header().Set("content-length", strconv.Itoa(len(body)))
			}
			w.Header().Set("trailer", "x-sum")
			_, _ = w.Write(body)
			w.Header().Set("x-sum", fmt.Sprintf("%x", sha256.Sum256(body)))
		})
		for name, c := range map[string]*meshtest.Client{"HTTP/1.1": m.From("web"), "HTTP/2": m.FromHTTP2("web")} {
			for _, n := range sizes {
				for _, query := range []string{"", "?length"} {
					content := make([]byte, n)
					_, _ = rand.Read(content)
					resp, err := c.HTTP.Post("http://items/"+query, "application/octet-stream", bytes.NewReader(content))
					if err != nil {
						t.Fatalf("%s %d%s: %v", name, n, query, err)
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || !bytes.Equal(got, content) {
						t.Errorf("%s %d%s: got %d bytes and %v", name, n, query, len(got), err)
					}
					if sum := resp.Trailer.Get("x-sum"); query == "" && n > 0 && sum != fmt.Sprintf("%x", sha256.Sum256(content)) {
						t.Errorf("%s %d: trailer x-sum is %q", name, n, sum)
					}
				}
			}
		}
	})
}

func TestHeadAndEmptyResponses(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		shop(m, "http", func(w http.ResponseWriter, r *http.Request) {
			status, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
			w.Header().Set("x-status", r.URL.Path)
			if r.Method == "HEAD" {
				w.Header().Set("content-length", "1234")
			}
			w.WriteHeader(status)
		})
		for _, c := range []*meshtest.Client{m.From("web"), m.FromHTTP2("web")} {
			for _, status := range []int{200, 204, 304} {
				c.Do("GET", fmt.Sprint("http://items/", status), "").Want(status)
			}
			r := c.Do("HEAD", "http://items/200", "").Want(200)
			if got := r.Header.Get("content-length"); got != "1234" {
				t.Errorf("HEAD: content-length is %q, want 1234", got)
			}
			c.Get("http://items/200").Want(200) // the connection is still in order
		}
	})
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		m.Workload("items").Serve(meshtest.Echo)
		m.Service("items", 80).Waypoint()
		nc, err := m.Workload("web").Dial(context.Background(), "items:80")
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		var reqs strings.Builder
		for i := range 20 {
			fmt.Fprintf(&reqs, "POST /%d HTTP/1.1\r\nHost: items\r\nContent-Length: 3\r\n\r\nabc", i)
		}
		if _, err := io.WriteString(nc, reqs.String()); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(nc)
		for i := range 20 {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if want := fmt.Sprintf("POST /%d ", i); err != nil || !strings.HasPrefix(string(body), want) {
				t.Errorf("answer %d: got %q, %v; want it to begin with %q", i, body, err, want)
			}
		}
	})
}

func TestUpgrade(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		shop(m, "http", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("upgrade") != "websocket" {
				http.Error(w, "no upgrade", http.StatusBadRequest)
				return
			}
			nc, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Errorf("hijack: %v", err)
				return
			}
			defer nc.Close()
			_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi ")
			rw.Flush()
			_, _ = io.Copy(nc, rw)
		})
		nc, err := m.Workload("browser").Dial(context.Background(), "items:80")
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		_, _ = io.WriteString(nc, "GET /chat HTTP/1.1\r\nHost: items\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		r := bufio.NewReader(nc)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 101 || resp.Header.Get("upgrade") != "websocket" {
			t.Fatalf("got %v, %v; want 101", resp, err)
		}
		big := strings.Repeat("there and back again ", 20000)
		go func() {
			_, _ = io.WriteString(nc, big)
			_ = nc.(interface{ CloseWrite() error }).CloseWrite()
		}()
		got, err := io.ReadAll(r)
		if err != nil || string(got) != "hi "+big {
			t.Errorf("got %d bytes and %v, want %d", len(got), err, 3+len(big))
		}
	})
}

// TestContinue asks before it sends.
func TestContinue(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		shop(m, "http", meshtest.Echo)
		m.From("web").Do("POST", "http://items/", "is that so", "expect", "100-continue").Want(200).WantBody("is that so")
	})
}

func TestOpaqueTCP(t *testing.T) {
	for _, protocol := range []string{"tcp", ""} {
		t.Run("port "+protocol, func(t *testing.T) {
			eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
				web := m.Workload("web")
				ln := m.Workload("items").Listen(meshtest.AppPort)
				go func() {
					for {
						nc, err := ln.Accept()
						if err != nil {
							return
						}
						go func() {
							_, _ = io.Copy(nc, nc)
							nc.Close()
						}()
					}
				}()
				m.Service("items", 80).Protocol(protocol).Waypoint()
				nc, err := web.Dial(context.Background(), "items:80")
				if err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				content := append([]byte{0, 1, 2, 3}, bytes.Repeat([]byte("not HTTP at all\n"), 30000)...)
				go func() {
					_, _ = nc.Write(content)
					_ = nc.(interface{ CloseWrite() error }).CloseWrite()
				}()
				got, err := io.ReadAll(nc)
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("got %d bytes and %v, want %d", len(got), err, len(content))
				}
				m.Delete("Service/default/items") // and so it is over, and counted
				m.WantMetric(`istio_tcp_connections_opened_total{reporter="waypoint"}`, 1)
			})
		})
	}
}

// TestAmbiguousFramingIsRefused sends what could be read in two ways.
func TestAmbiguousFramingIsRefused(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		shop(m, "http", meshtest.Echo)
		web := m.Workload("sly")
		for _, c := range []struct{ what, head string }{
			{"CL and TE", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
			{"two CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"},
			{"folded", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n"},
			{"space before colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n"},
			{"NUL", "GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n"},
			{"bare LF", "GET / HTTP/1.1\nHost: a\n\n"},
			{"fragment", "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n"},
			{"escaped NUL", "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n"},
		} {
			nc, err := web.Dial(context.Background(), "items:80")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(nc, c.head)
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil || resp.StatusCode != 400 {
				t.Errorf("%s: got %v, %v; want 400", c.what, resp, err)
			}
			nc.Close()
		}
	})
}

// TestUpstreamResetReachesTheClient cuts a response in the middle: the client must
// see that it is not whole.
func TestUpstreamResetReachesTheClient(t *testing.T) {
	eachNetwork(t, func(t *testing.T, m *meshtest.Mesh) {
		shop(m, "", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("content-length", "100000")
			_, _ = w.Write(make([]byte, 5000))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		for _, c := range []*meshtest.Client{m.From("web"), m.FromHTTP2("web")} {
			c.Get("http://items/").WantError()
		}
		m.WantMetric(`istio_requests_total{reporter="waypoint",response_code="200"}`, 2)
		m.WantMetric(`istio_requests_total{reporter="waypoint",response_flags="-"}`, 0)
	})
}
