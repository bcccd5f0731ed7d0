package meshtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A Client asks as a workload.
type Client struct {
	t    testing.TB
	w    *Workload
	HTTP *http.Client
}

// From returns a client that asks as a workload, over HTTP/1.1.
func (m *Mesh) From(name string) *Client { return m.client(name, false) }

// FromHTTP2 returns a client that asks as a workload, over HTTP/2 with prior
// knowledge.
func (m *Mesh) FromHTTP2(name string) *Client { return m.client(name, true) }

func (m *Mesh) client(name string, http2 bool) *Client {
	m.t.Helper()
	ns, name := split(name)
	w := m.workloads[ns+"/"+name]
	if w == nil {
		m.t.Fatalf("there is no workload %s/%s", ns, name)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	tr := &http.Transport{
		Protocols: protocols, DisableCompression: true, MaxIdleConnsPerHost: 100,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return w.Dial(ctx, addr) },
	}
	w.closers = append(w.closers, tr.CloseIdleConnections)
	return &Client{t: m.t, w: w, HTTP: &http.Client{Transport: tr, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Dial connects as the workload's application does: through its node tunnel,
// to a host and port by name or address.
func (w *Workload) Dial(ctx context.Context, addr string) (net.Conn, error) {
	nc, err := w.m.net.Dial(ctx, w.IP, netip.AddrPortFrom(w.IP, 15080))
	if err != nil {
		return nil, err
	}
	if err := socks(nc, addr); err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

// Raw connects to the port where the workload's node tunnel takes its
// connections, and says nothing.
func (w *Workload) Raw(ctx context.Context) net.Conn {
	w.m.t.Helper()
	nc, err := w.m.net.Dial(ctx, w.IP, netip.AddrPortFrom(w.IP, 15080))
	if err != nil {
		w.m.t.Fatal(err)
	}
	return nc
}

// socks asks for addr (RFC 1928).
func socks(nc net.Conn, addr string) error {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return err
	}
	req := append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(host))}, host...)
	req = append(req, byte(port>>8), byte(port))
	if _, err := nc.Write(req); err != nil {
		return err
	}
	var reply [12]byte
	if _, err := io.ReadFull(nc, reply[:]); err != nil {
		return err
	}
	if reply[3] != 0 {
		return fmt.Errorf("socks: reply %d", reply[3])
	}
	return nil
}

// A Reply is an answer.
type Reply struct {
	t      testing.TB
	what   string
	Status int
	Header http.Header
	Body   string
	Err    error
}

// Get asks for a URL.
func (c *Client) Get(url string) *Reply {
	c.t.Helper()
	return c.Do("GET", url, "")
}

// Post sends content.
func (c *Client) Post(url, content string) *Reply {
	c.t.Helper()
	return c.Do("POST", url, content)
}

// Do sends any request; header holds pairs of name and value.
func (c *Client) Do(method, url, content string, header ...string) *Reply {
	c.t.Helper()
	r := &Reply{t: c.t, what: c.w.Name + " " + method + " " + url}
	req, err := http.NewRequest(method, url, strings.NewReader(content))
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if strings.EqualFold(header[i], "host") {
			req.Host = header[i+1]
			continue
		}
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		r.Err = err
		return r
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	r.Status, r.Header, r.Body, r.Err = resp.StatusCode, resp.Header, string(body), err
	return r
}

// Want checks the status.
func (r *Reply) Want(status int) *Reply {
	r.t.Helper()
	if r.Err != nil || r.Status != status {
		r.t.Errorf("%s: got status %d, error %v, body %q; want %d", r.what, r.Status, r.Err, clip(r.Body), status)
	}
	return r
}

// WantBody checks that the content has a part.
func (r *Reply) WantBody(part string) *Reply {
	r.t.Helper()
	if !strings.Contains(r.Body, part) {
		r.t.Errorf("%s: got body %q, want %q in it", r.what, clip(r.Body), part)
	}
	return r
}

// WantError checks that there was no answer.
func (r *Reply) WantError() *Reply {
	r.t.Helper()
	if r.Err == nil {
		r.t.Errorf("%s: got status %d, want an error", r.what, r.Status)
	}
	return r
}

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

// Echo answers with what it was asked: method, path, protocol, the fields of the
// request, and its content.
func Echo(w http.ResponseWriter, r *http.Request) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s\nhost: %s\n", r.Method, r.URL, r.Proto, r.Host)
	_ = r.Header.Write(&b)
	b.WriteString("\n")
	_, err := io.Copy(&b, r.Body)
	if err != nil && !errors.Is(err, io.EOF) {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("x-served", "echo")
	_, _ = w.Write(b.Bytes())
}
