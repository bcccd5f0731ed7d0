package h1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// seeds are requests of every shape, good and bad.
var seeds = []string{
	"PUT / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n1\nx\n0\nSum: " + strings.Repeat("5", 5000) + "\n\n",
	"GET /a?b=c HTTP/1.1\nHost: items:80\nX-One: 1 \nEmpty:\n\n",
	"\nPOST / HTTP/1.1\nHost: a\nContent-Length: 5\n\nhelloGET / HTTP/1.1\nHost: a\n\n",
	"POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTrailer: sum\n\n5;a=b\nhello\nA \t;c\n0123456789\n0\nSum: 5\n\n",
	"GET / HTTP/1.0\n\n",
	"GET / HTTP/1.0\nConnection: keep-alive\n\nGET / HTTP/1.0\nHost: a\n\n",
	"GET http://b:81/x?y HTTP/1.1\nHost: a\n\nOPTIONS * HTTP/1.1\nHost: a\n\nOPTIONS http://b?q HTTP/1.1\nHost: [::1]:80\n\n",
	"GET /ws HTTP/1.1\nHost: a\nConnection: Upgrade, te, x\nX: 1\nUpgrade: websocket\nTE: trailers\n\nraw",
	"PUT / HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 2\n\nhi",
	"HEAD / HTTP/1.1\nHost: a\nConnection: close\n\n",
	"POST / HTTP/1.1\nHost: a\nContent-Length: 5\nTransfer-Encoding: chunked\n\n0\n\n",
	"POST / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked\n\n0\n\n",
	"GET / HTTP/1.1\nHost: a\n b: c\n\n",
}

// serveAll feeds the pieces to a server that answers every request, declining
// every upgrade.
func serveAll(t *testing.T, pieces ...[]byte) *asked {
	t.Helper()
	w, a := &wire{}, &asked{}
	a.c = NewServer(w, a, Limits{})
	n := 0
	for _, p := range pieces {
		n += len(p)
		a.c.Data(bytes.Clone(p))
	}
	a.c.EOF()
	if !w.reset && w.credited != n {
		t.Fatalf("credited %d bytes of %d", w.credited, n)
	}
	return a
}

func FuzzServer(f *testing.F) {
	for i, s := range seeds {
		f.Add([]byte(lines(s)), i*7)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		holdsNothing(t)
		a := serveAll(t, in)
		events := a.String()
		if len(in) > 0 {
			cut = (cut%len(in) + len(in)) % len(in)
			if got := serveAll(t, in[:cut], in[cut:]).String(); got != events {
				t.Fatalf("cut at %d: events\n%s\nwhole\n%s", cut, got, events)
			}
		}
		for i, r := range a.all {
			if a.done[i] {
				again(t, r, a.bodies[i])
			}
		}
		if len(a.all) > 0 && a.done[0] {
			agrees(t, in, a.all[0], a.bodies[0])
		}
	})
}

// again writes what our server read and reads it once more: it must be the
// same.
func again(t *testing.T, r *l7.Request, body string) {
	t.Helper()
	w := &wire{}
	c := NewClient(w, nil, Limits{})
	end := r.Length == 0
	if err := c.Request(r, end); err != nil {
		t.Fatalf("Request(%+v): %v", r, err)
	}
	if !end {
		c.Write([]byte(body))
		c.End(nil)
	}
	a := serveAll(t, w.out.Bytes())
	if len(a.all) != 1 || !a.done[0] {
		t.Fatalf("%+v was written as\n%q\nand read as\n%s", r, w.out.String(), a.String())
	}
	got := a.all[0]
	plain := func(f l7.Fields) l7.Fields {
		f = f.Clone().Del("content-length").Del("te")
		if cookies, ok := f.Joined("cookie"); ok {
			f = f.Set("cookie", strings.TrimSpace(cookies))
		}
		slices.SortStableFunc(f, func(a, b l7.Field) int { return strings.Compare(a.Name, b.Name) })
		return f
	}
	if got.Method != r.Method || got.Authority != r.Authority || got.Path != r.Path || got.Length != r.Length ||
		got.Upgrade != r.Upgrade || a.bodies[0] != body || got.Fields.Get("te") != r.Fields.Get("te") || !slices.Equal(plain(got.Fields), plain(r.Fields)) {
		t.Fatalf("read  %+v %q\nagain %+v %q", r, body, got, a.bodies[0])
	}
}

// agrees asks net/http for its reading of the first request in b, which we have
// accepted. It may refuse what we take, for reasons of its own, but what it
// takes must be the same.
func agrees(t *testing.T, b []byte, r *l7.Request, body string) {
	t.Helper()
	b = bytes.TrimPrefix(b, crlf)
	std, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		// It parses the target as a URL, and checks what Trailer announces.
		if strings.Contains(err.Error(), "parse \"") || strings.Contains(err.Error(), "railer") || strings.Contains(err.Error(), "invalid URI") {
			return
		}
		t.Fatalf("net/http: %v; we read %+v", err, r)
	}
	content, err := io.ReadAll(std.Body)
	if stricter(err, b) {
		return
	}
	if err != nil {
		t.Fatalf("net/http: content: %v; we read %+v %q", err, r, body)
	}
	chunked := slices.Equal(std.TransferEncoding, []string{"chunked"})
	target := std.RequestURI
	if strings.Contains(target, "://") {
		target = r.Path // checked below by its end
		if !strings.HasSuffix(std.RequestURI, strings.TrimPrefix(r.Path, "/")) && r.Path != "*" {
			t.Fatalf("target %q, net/http has %q", r.Path, std.RequestURI)
		}
	}
	if std.Method != r.Method || target != r.Path || std.Host != r.Authority || chunked != (r.Length < 0) ||
		!chunked && std.ContentLength != r.Length || string(content) != body {
		t.Fatalf("we read %+v %q\nnet/http %s %s %s length=%d chunked=%v %q", r, body,
			std.Method, std.Host, std.RequestURI, std.ContentLength, chunked, content)
	}
}

// stricter reports whether net/http refuses the content of b for a reason of its
// own: trailers of more than 4 KiB, or white space before a chunk's extension,
// which RFC 9112, section 7.1.1, says to put up with.
func stricter(err error, b []byte) bool {
	if err == nil {
		return false
	}
	return strings.Contains(err.Error(), "long trailer") || bytes.Contains(b, []byte(" ;")) || bytes.Contains(b, []byte("\t;"))
}

var responseSeeds = []string{
	"HTTP/1.1 200 OK\nContent-Length: 5\nServer: x\n\nhello",
	"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: sum\n\n2\nhe\n3;x\nllo\n0\nSum: 5\n\n",
	"HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\nLink: x\n\nHTTP/1.1 204 No Content\n\n",
	"HTTP/1.0 200 OK\n\nuntil close",
	"HTTP/1.1 304 Not Modified\nContent-Length: 5\nConnection: close\n\n",
	"HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: upgrade\n\nraw",
	"HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 5\n\nhello",
	"HTTP/1.1 200\nContent-Length: 0\n\nstray",
	"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2 ;x\nhe\n0\n\n",
	"HTTP/1.1 200 OK\nContent-Length: 5\n\n", // an answer to HEAD
	"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nhe\n0\nSum: " + strings.Repeat("5", 5000) + "\n\n",
}

func ask(t *testing.T, method string, eof bool, pieces ...[]byte) *answered {
	t.Helper()
	w, a := &wire{}, &answered{}
	a.c = NewClient(w, a, Limits{})
	r := &l7.Request{Method: method, Authority: "a", Path: "/"}
	if method == "GET" {
		r.Upgrade = "websocket"
	}
	if err := a.c.Request(r, true); err != nil {
		t.Fatal(err)
	}
	for _, p := range pieces {
		a.c.Data(bytes.Clone(p))
	}
	if eof {
		a.c.EOF()
	}
	return a
}

func FuzzClient(f *testing.F) {
	for i, s := range responseSeeds {
		f.Add([]byte(lines(s)), i*7, i%3 == 0, i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut int, head, eof bool) {
		holdsNothing(t)
		method := "GET"
		if head {
			method = "HEAD"
		}
		a := ask(t, method, eof, in)
		defer a.c.Abort(nil)
		events := a.String()
		if len(in) > 0 {
			cut = (cut%len(in) + len(in)) % len(in)
			b := ask(t, method, eof, in[:cut], in[cut:])
			defer b.c.Abort(nil)
			if got := b.String(); got != events {
				t.Fatalf("cut at %d: events\n%s\nwhole\n%s", cut, got, events)
			}
		}
		if !a.whole || a.failed || a.last.Status == 101 {
			return
		}
		relayed(t, a, method)
		std, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), &http.Request{Method: method})
		if err != nil {
			if strings.Contains(err.Error(), "railer") {
				return
			}
			t.Fatalf("net/http: %v; we read %+v", err, a.last)
		}
		if std.StatusCode < 200 {
			return // net/http gives informational responses to its caller
		}
		content, err := io.ReadAll(std.Body)
		if stricter(err, in) {
			return
		}
		if err != nil || std.StatusCode != a.last.Status || string(content) != a.body {
			t.Fatalf("we read %d %q\nnet/http %d %q %v", a.last.Status, a.body, std.StatusCode, content, err)
		}
	})
}

// relayed sends what our client read through our server: another client must
// read the same.
func relayed(t *testing.T, a *answered, method string) {
	t.Helper()
	w, h := &wire{}, &asked{answer: func(*asked) {}}
	h.c = NewServer(w, h, Limits{})
	h.c.Data([]byte(method + " / HTTP/1.1\r\nHost: a\r\n\r\n"))
	if err := h.c.Respond(a.last, false); err != nil {
		t.Fatalf("Respond(%+v): %v", a.last, err)
	}
	h.c.Write([]byte(a.body))
	h.c.End(a.trailer)
	b := ask(t, method, false, w.out.Bytes())
	defer b.c.Abort(nil)
	if !b.whole || b.failed || b.last.Status != a.last.Status || b.body != a.body {
		t.Fatalf("%+v %q was written as\n%q\nand read as\n%s", a.last, a.body, w.out.String(), b.String())
	}
}
