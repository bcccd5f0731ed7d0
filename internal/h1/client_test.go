package h1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/l7"
)

func get(path string) *l7.Request {
	return &l7.Request{Method: "GET", Scheme: "http", Authority: "a", Path: path}
}

// A clientScript is one request, the bytes that answer it, and what must come
// of them however they are cut.
type clientScript struct {
	name   string
	req    *l7.Request // nil is a GET
	open   bool        // the request is not complete
	in     string
	eof    bool
	events string
	reset  bool // the stream was reset
	reuse  bool // the connection can be used again
	limits Limits
}

func (s *clientScript) run(t *testing.T) {
	holdsNothing(t)
	pieces(s.in, func(name string, feed func(flow.Receiver)) {
		w, a := &wire{}, &answered{}
		c := NewClient(w, a, s.limits)
		a.c = c
		r := s.req
		if r == nil {
			r = get("/")
		}
		if err := c.Request(r, !s.open); err != nil {
			t.Fatal(err)
		}
		feed(c)
		want(t, name+": Reusable", c.Reusable(), s.reuse)
		if s.eof {
			c.EOF()
		}
		if got := a.String(); got != s.events {
			t.Fatalf("%s: events\n%s\nwant\n%s", name, got, s.events)
		}
		want(t, name+": reset", w.reset, s.reset)
		if !w.reset && w.credited != len(s.in) {
			t.Fatalf("%s: credited %d bytes of %d", name, w.credited, len(s.in))
		}
		c.Abort(nil)
	})
}

func TestClientScripts(t *testing.T) {
	head := &l7.Request{Method: "HEAD", Authority: "a", Path: "/"}
	post := &l7.Request{Method: "POST", Authority: "a", Path: "/", Length: 5}
	ws := &l7.Request{Method: "GET", Authority: "a", Path: "/", Upgrade: "websocket"}
	for _, s := range []clientScript{{
		name: "length", reuse: true,
		in:     lines("HTTP/1.1 200 OK\nContent-Length: 5\nServer: x\nKeep-Alive: timeout=5\n\nhello"),
		events: "response 200 length=5 end=false\n  content-length: 5\n  server: x\ncontent \"hello\"\nend\n",
	}, {
		name: "no content", reuse: true,
		in:     lines("HTTP/1.1 404 Not Found\nContent-Length: 0\n\n"),
		events: "response 404 length=0 end=true\n  content-length: 0\n",
	}, {
		name: "no reason, no space", reuse: true,
		in:     lines("HTTP/1.1 200\nContent-Length: 0\n\n"),
		events: "response 200 length=0 end=true\n  content-length: 0\n",
	}, {
		name: "chunks and trailers", reuse: true,
		in:     lines("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: sum\n\n2\nhe\n3;x\nllo\n0\nSum: 5\nTransfer-Encoding: x\n\n"),
		events: "response 200 length=-1 end=false\n  trailer: sum\ncontent \"hello\"\nend\n  sum: 5\n",
	}, {
		name: "until close", eof: true,
		in:     lines("HTTP/1.1 200 OK\n\nhello"),
		events: "response 200 length=-1 end=false\ncontent \"hello\"\nend\nclosed well\n",
	}, {
		name: "until close, nothing", eof: true,
		in:     lines("HTTP/1.0 200 OK\n\n"),
		events: "response 200 length=-1 end=false\nend\nclosed well\n",
	}, {
		name: "HTTP/1.0 does not stay", eof: true,
		in:     lines("HTTP/1.0 200 OK\nContent-Length: 1\n\nx"),
		events: "response 200 length=1 end=false\n  content-length: 1\ncontent \"x\"\nend\nclosed well\n",
	}, {
		name: "HTTP/1.0 may stay", reuse: true,
		in:     lines("HTTP/1.0 200 OK\nContent-Length: 1\nConnection: Keep-Alive\n\nx"),
		events: "response 200 length=1 end=false\n  content-length: 1\ncontent \"x\"\nend\n",
	}, {
		name: "connection close", eof: true,
		in:     lines("HTTP/1.1 200 OK\nContent-Length: 1\nConnection: close\n\nx"),
		events: "response 200 length=1 end=false\n  content-length: 1\ncontent \"x\"\nend\nclosed well\n",
	}, {
		name: "idle connection ends", eof: true, reuse: true,
		in:     lines("HTTP/1.1 204 No Content\nContent-Length: 3\n\n"),
		events: "response 204 length=0 end=true\nclosed well\n",
	}, {
		name: "head", reuse: true, req: head,
		in:     lines("HTTP/1.1 200 OK\nContent-Length: 5\n\n"),
		events: "response 200 length=0 end=true\n  content-length: 5\n",
	}, {
		name: "head with chunks", reuse: true, req: head,
		in:     lines("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n"),
		events: "response 200 length=0 end=true\n",
	}, {
		name: "not modified", reuse: true,
		in:     lines("HTTP/1.1 304 Not Modified\nContent-Length: 5\n\n"),
		events: "response 304 length=0 end=true\n  content-length: 5\n",
	}, {
		name: "informational", reuse: true,
		in: lines("HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\nLink: x\nContent-Length: 3\n\nHTTP/1.1 200 OK\nContent-Length: 0\n\n"),
		events: "response 100 length=0 end=false\nresponse 103 length=0 end=false\n  link: x\n" +
			"response 200 length=0 end=true\n  content-length: 0\n",
	}, {
		name: "upgrade", req: ws, eof: true,
		in: lines("HTTP/1.1 101 Switching Protocols\nConnection: upgrade\nUpgrade: websocket\nX: 1\n\nraw\nbytes"),
		events: "response 101 length=0 end=false\n  x: 1\n  upgrade to websocket\n" +
			"content \"raw\\r\\nbytes\"\nend\n",
	}, {
		name: "upgrade declined", req: ws, reuse: true,
		in:     lines("HTTP/1.1 403 Forbidden\nContent-Length: 2\n\nno"),
		events: "response 403 length=2 end=false\n  content-length: 2\ncontent \"no\"\nend\n",
	}, {
		name: "answered before it was asked in full", req: post, open: true, reset: true,
		in:     lines("HTTP/1.1 413 Too Large\nContent-Length: 0\n\n"),
		events: "response 413 length=0 end=true\n  content-length: 0\nclosed well\n",
	}, {
		name: "more than the response", reset: true,
		in: lines("HTTP/1.1 200 OK\nContent-Length: 1\n\nxy"),
		events: "response 200 length=1 end=false\n  content-length: 1\ncontent \"x\"\nend\n" +
			"closed bytes that belong to no response\n",
	}, {
		name: "content where there is none", req: head, reset: true,
		in: lines("HTTP/1.1 200 OK\nContent-Length: 1\n\nx"),
		events: "response 200 length=0 end=true\n  content-length: 1\n" +
			"closed bytes that belong to no response\n",
	}, {
		name: "more than the last response", eof: true,
		in:     lines("HTTP/1.1 200 OK\nContent-Length: 1\nConnection: close\n\nxy"),
		events: "response 200 length=1 end=false\n  content-length: 1\ncontent \"x\"\nend\nclosed well\n",
	}, {
		name: "no response", eof: true, reset: true,
		in:     "",
		events: "reset connection closed before a response\nclosed connection closed before a response\n",
	}, {
		name: "cut in a head", eof: true, reset: true,
		in:     "HTTP/1.1 200",
		events: "reset connection closed within a message\nclosed connection closed within a message\n",
	}, {
		name: "cut in content", eof: true, reset: true,
		in: lines("HTTP/1.1 200 OK\nContent-Length: 5\n\nhell"),
		events: "response 200 length=5 end=false\n  content-length: 5\ncontent \"hell\"\n" +
			"reset connection closed within a message\nclosed connection closed within a message\n",
	}, {
		name: "cut in chunks", eof: true, reset: true,
		in: lines("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1\nx\n0\n"),
		events: "response 200 length=-1 end=false\ncontent \"x\"\n" +
			"reset connection closed within a message\nclosed connection closed within a message\n",
	}} {
		t.Run(s.name, s.run)
	}
}

func TestClientRefuses(t *testing.T) {
	for _, c := range []struct {
		name, in string // a line end is \n
		err      *Error
	}{
		{"length and chunks", "HTTP/1.1 200 OK\nContent-Length: 5\nTransfer-Encoding: chunked\n\n", errBoth},
		{"two lengths", "HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 5\n\n", errLengths},
		{"bad length", "HTTP/1.1 200 OK\nContent-Length: 5,5\n\n", errLengthValue},
		{"other coding", "HTTP/1.1 200 OK\nTransfer-Encoding: gzip\n\n", errCoding},
		{"chunks in 1.0", "HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n", errCoding10},
		{"folded", "HTTP/1.1 200 OK\nA: b\n c\n\n", errFold},
		{"space before the colon", "HTTP/1.1 200 OK\nA : b\n\n", errSpace},
		{"bare CR", "HTTP/1.1 200 OK\nA: b\rc\n\n", errValue},
		{"empty line first", "\nHTTP/1.1 200 OK\n\n", errStatusLine},
		{"not HTTP", "SSH-2.0-OpenSSH_9.9\n\n", errStatusLine},
		{"HTTP/2", "HTTP/2.0 200 OK\n\n", errVersion},
		{"status of two digits", "HTTP/1.1 20 OK!\n\n", errStatusLine},
		{"status of four digits", "HTTP/1.1 2000 OK\n\n", errStatusLine},
		{"status 099", "HTTP/1.1 099 OK\n\n", errStatusLine},
		{"NUL in the reason", "HTTP/1.1 200 O\x00K\n\n", errStatusLine},
		{"switch unasked", "HTTP/1.1 101 Switching Protocols\nUpgrade: x\nConnection: upgrade\n\n", errSwitch},
		{"head too large", "HTTP/1.1 200 OK\nA: " + strings.Repeat("b", 300) + "\n\n", errHead},
		{"line too long", "HTTP/1.1 200 " + strings.Repeat("b", 300), errHead},
		{"too many fields", "HTTP/1.1 200 OK\n" + strings.Repeat("A: b\n", 11) + "\n", errFields},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := clientScript{in: lines(c.in), reset: true, limits: Limits{Head: 256, Fields: 10}}
			s.events = fmt.Sprintf("reset %s\nclosed %s\n", c.err.Reason, c.err.Reason)
			s.run(t)
		})
	}
	s := clientScript{in: "HTTP/1.1 200 OK\n\n", reset: true, events: "reset line ends without CR\nclosed line ends without CR\n"}
	s.run(t)
	s = clientScript{
		in: lines("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nz\n"), reset: true,
		events: "response 200 length=-1 end=false\nreset " + errChunkSize.Reason + "\nclosed " + errChunkSize.Reason + "\n",
	}
	s.run(t)
}

func TestClientWritesRequests(t *testing.T) {
	for _, c := range []struct {
		name string
		req  l7.Request
		send func(*Client) // nil when there is no content
		want string
	}{
		{"get", l7.Request{Method: "GET", Authority: "a:80", Path: "/x?y"}, nil, "GET /x?y HTTP/1.1\nhost: a:80\n\n"},
		{"fields of the connection stay here",
			l7.Request{Method: "GET", Authority: "a", Path: "/", Fields: l7.Fields{
				{Name: "connection", Value: "x"}, {Name: "a", Value: "b"}, {Name: "keep-alive", Value: "x"}, {Name: "host", Value: "evil"},
				{Name: "transfer-encoding", Value: "chunked"}, {Name: "content-length", Value: "77"}, {Name: "upgrade", Value: "h2c"},
				{Name: "proxy-connection", Value: "x"}, {Name: "te", Value: "trailers"}}}, nil,
			"GET / HTTP/1.1\nhost: a\na: b\nconnection: te\nte: trailers\ncontent-length: 0\n\n"},
		{"cookies in pieces",
			l7.Request{Method: "GET", Authority: "a", Path: "/", Fields: l7.Fields{
				{Name: "cookie", Value: "a=1"}, {Name: "b", Value: "2"}, {Name: "cookie", Value: "c=3"}, {Name: "cookie", Value: "d=4"}}}, nil,
			"GET / HTTP/1.1\nhost: a\ncookie: a=1; c=3; d=4\nb: 2\n\n"},
		{"post without content", l7.Request{Method: "POST", Authority: "a", Path: "/"}, nil, "POST / HTTP/1.1\nhost: a\ncontent-length: 0\n\n"},
		{"options", l7.Request{Method: "OPTIONS", Path: "*"}, nil, "OPTIONS * HTTP/1.1\nhost: \n\n"},
		{"upgrade", l7.Request{Method: "GET", Authority: "a", Path: "/", Upgrade: "websocket"}, nil,
			"GET / HTTP/1.1\nhost: a\nconnection: upgrade\nupgrade: websocket\n\n"},
		{"upgrade and te", l7.Request{Method: "GET", Authority: "a", Path: "/", Upgrade: "x", Fields: l7.Fields{{Name: "te", Value: "trailers"}}}, nil,
			"GET / HTTP/1.1\nhost: a\nconnection: te, upgrade\nte: trailers\nupgrade: x\n\n"},
		{"length", l7.Request{Method: "PUT", Authority: "a", Path: "/", Length: 3}, func(c *Client) { c.Write([]byte("abc")); c.End(nil) },
			"PUT / HTTP/1.1\nhost: a\ncontent-length: 3\n\nabc"},
		{"chunks", l7.Request{Method: "PUT", Authority: "a", Path: "/", Length: -1, Protocol: l7.HTTP2},
			func(c *Client) {
				c.Hold()
				c.Write([]byte("abc"))
				c.Flush()
				c.Write([]byte("0123456789"))
				c.End(l7.Fields{{Name: "a", Value: "b"}})
			},
			"PUT / HTTP/1.1\nhost: a\ntransfer-encoding: chunked\n\n3\nabc\na\n0123456789\n0\na: b\n\n"},
	} {
		w := &wire{}
		cl := NewClient(w, nil, Limits{})
		if err := cl.Request(&c.req, c.send == nil); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if c.send != nil {
			c.send(cl)
		}
		if got, want := w.out.String(), lines(c.want); got != want {
			t.Errorf("%s: got\n%q\nwant\n%q", c.name, got, want)
		}
	}
}

func TestClientRequestErrors(t *testing.T) {
	ok := func() *l7.Request { return get("/") }
	for name, f := range map[string]func(r *l7.Request){
		"space in the path":      func(r *l7.Request) { r.Path = "/a b" },
		"line end in the path":   func(r *l7.Request) { r.Path = "/a\r\nb: c" },
		"fragment":               func(r *l7.Request) { r.Path = "/#a" },
		"empty path":             func(r *l7.Request) { r.Path = "" },
		"absolute path":          func(r *l7.Request) { r.Path = "http://a/" },
		"asterisk":               func(r *l7.Request) { r.Path = "*" },
		"method":                 func(r *l7.Request) { r.Method = "GET /" },
		"empty method":           func(r *l7.Request) { r.Method = "" },
		"connect":                func(r *l7.Request) { r.Method = "CONNECT" },
		"line end in the host":   func(r *l7.Request) { r.Authority = "a\r\nb: c" },
		"user in the host":       func(r *l7.Request) { r.Authority = "u@a" },
		"value":                  func(r *l7.Request) { r.Fields = l7.Fields{{Name: "a", Value: "b\nc"}} },
		"second cookie":          func(r *l7.Request) { r.Fields = l7.Fields{{Name: "cookie", Value: "a"}, {Name: "cookie", Value: "\n"}} },
		"name":                   func(r *l7.Request) { r.Fields = l7.Fields{{Name: "a\r\nb", Value: "c"}} },
		"name in upper case":     func(r *l7.Request) { r.Fields = l7.Fields{{Name: "Transfer-Encoding", Value: "chunked"}} },
		"pseudo-field":           func(r *l7.Request) { r.Fields = l7.Fields{{Name: ":path", Value: "/"}} },
		"length without content": func(r *l7.Request) { r.Length = 5 },
		"upgrade":                func(r *l7.Request) { r.Upgrade = "a\r\nb" },
	} {
		w := &wire{}
		c := NewClient(w, nil, Limits{})
		r := ok()
		f(r)
		want(t, name, c.Request(r, true), ErrInvalid)
		want(t, name+": output", w.out.String(), "")
		want(t, name+": Reusable", c.Reusable(), true)
	}
	c := NewClient(&wire{}, nil, Limits{})
	r := ok()
	r.Upgrade = "websocket"
	want(t, "upgrade with content", c.Request(r, false), ErrInvalid)
	want(t, "Request", c.Request(ok(), true), nil)
	want(t, "Request again", c.Request(ok(), true), ErrState)
}
