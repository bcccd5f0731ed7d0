package h1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/l7"
)

const ok200 = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
const ok200close = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"

// A script is bytes in, and what must come of them however they are cut: the
// input ends with the client's EOF.
type script struct {
	name   string
	in     string
	events string
	out    string
	limits Limits
	setup  func(*asked)
}

func (s *script) run(t *testing.T) {
	t.Helper()
	holdsNothing(t)
	pieces(s.in, func(name string, feed func(flow.Receiver)) {
		w := &wire{}
		a := &asked{}
		a.c = NewServer(w, a, s.limits)
		if s.setup != nil {
			s.setup(a)
		}
		feed(a.c)
		a.c.EOF()
		if got := a.String(); got != s.events {
			t.Fatalf("%s: events\n%s\nwant\n%s", name, got, s.events)
		}
		if got := w.out.String(); got != s.out {
			t.Fatalf("%s: output\n%q\nwant\n%q", name, got, s.out)
		}
		if !w.reset && w.credited != len(s.in) {
			t.Fatalf("%s: credited %d bytes of %d", name, w.credited, len(s.in))
		}
		if !w.reset && !w.closed {
			t.Fatalf("%s: the stream is still open", name)
		}
	})
}

func TestServerScripts(t *testing.T) {
	for _, s := range []script{{
		name: "get",
		in:   lines("GET /a?b=c HTTP/1.1\nHost: items:80\nX-One: 1 \nX-TWO:\t2\nEmpty:\n\n"),
		events: `request GET items:80 /a?b=c length=0 end=true HTTP/1.1
  x-one: 1
  x-two: 2
  empty: 
closed well
`,
		out: ok200,
	}, {
		name: "nothing at all",
		in:   "", events: "closed well\n",
	}, {
		name: "cut within a head",
		in:   "GET / HTTP/1.1\r\nHo", events: "closed connection closed within a message\n",
	}, {
		name: "one empty line before the request line",
		in:   lines("\nGET / HTTP/1.1\nHost: a\n\n"), out: ok200,
		events: "request GET a / length=0 end=true HTTP/1.1\nclosed well\n",
	}, {
		name: "method in lower case is another method",
		in:   lines("get / HTTP/1.1\nHost: a\n\n"), out: ok200,
		events: "request get a / length=0 end=true HTTP/1.1\nclosed well\n",
	}, {
		name: "post with a length",
		in:   lines("POST / HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello"), out: ok200,
		events: `request POST a / length=5 end=false HTTP/1.1
  content-length: 5
content "hello"
end
closed well
`,
	}, {
		name: "length 0",
		in:   lines("POST / HTTP/1.1\nHost: a\nContent-Length: 0\n\n"), out: ok200,
		events: "request POST a / length=0 end=true HTTP/1.1\n  content-length: 0\nclosed well\n",
	}, {
		name: "chunks, extensions, trailers",
		in: lines("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: Chunked\n\n" +
			"5;name=value;q=\"x\"\nhello\n00A \t;late\n 0123456\n\n0\nSum: 7\ncontent-length: 9\nHost: b\n\n"),
		out: ok200,
		events: `request POST a / length=-1 end=false HTTP/1.1
content "hello 0123456\r\n"
end
  sum: 7
closed well
`,
	}, {
		name: "no chunks but the last",
		in:   lines("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n0\n\n"), out: ok200,
		events: "request POST a / length=-1 end=false HTTP/1.1\nend\nclosed well\n",
	}, {
		name: "three in a row",
		in: lines("GET /1 HTTP/1.1\nHost: a\n\nPOST /2 HTTP/1.1\nHost: a\nContent-Length: 3\n\nabc\nGET /3 HTTP/1.1\n" +
			"Host: a\nConnection: Close\n\nGET /4 HTTP/1.1\nHost: a\n\n"),
		out: ok200 + ok200 + ok200close,
		events: `request GET a /1 length=0 end=true HTTP/1.1
request POST a /2 length=3 end=false HTTP/1.1
  content-length: 3
content "abc"
end
request GET a /3 length=0 end=true HTTP/1.1
closed well
`,
	}, {
		name: "connection fields go no further",
		in: lines("GET / HTTP/1.1\nHost: a\nConnection: keep-alive, X-Hop,, te\nx-hop: 1\nKeep-Alive: timeout=5\n" +
			"Proxy-Connection: x\nTE: gzip;q=1, trailers;q=0.5\nUpgrade: h2c\nX-Stay: 1\nX-Hop: 2\nTE: trailers\n\n"),
		out: ok200,
		events: `request GET a / length=0 end=true HTTP/1.1
  te: trailers
  x-stay: 1
closed well
`,
	}, {
		name: "te without trailers",
		in:   lines("GET / HTTP/1.1\nHost: a\nTE: gzip\n\n"), out: ok200,
		events: "request GET a / length=0 end=true HTTP/1.1\nclosed well\n",
	}, {
		name: "HTTP/1.0 closes",
		in:   lines("GET / HTTP/1.0\n\n"), out: ok200close,
		events: "request GET  / length=0 end=true HTTP/1.0\nclosed well\n",
	}, {
		name: "HTTP/1.0 may stay",
		in:   lines("GET / HTTP/1.0\nHost: a\nConnection: keep-alive\n\nGET / HTTP/1.0\nHost: a\n\n"),
		out:  "HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok" + ok200close,
		events: "request GET a / length=0 end=true HTTP/1.0\n" +
			"request GET a / length=0 end=true HTTP/1.0\nclosed well\n",
	}, {
		name: "HTTP/1.0 is not sent chunks",
		in:   lines("GET / HTTP/1.0\nHost: a\nConnection: keep-alive\n\n"),
		out:  "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nsome",
		setup: func(a *asked) {
			a.answer = func(a *asked) {
				_ = a.c.Respond(&l7.Response{Status: 103}, false)
				_ = a.c.Respond(&l7.Response{Status: 200, Length: -1}, false)
				a.c.Write([]byte("some"))
				a.c.End(l7.Fields{{Name: "sum", Value: "1"}})
			}
		},
		events: "request GET a / length=0 end=true HTTP/1.0\nclosed well\n",
	}, {
		name: "absolute form",
		in:   lines("GET HTTP://b:81/x?y HTTP/1.1\nHost: a\n\n"), out: ok200,
		events: "request GET b:81 /x?y length=0 end=true HTTP/1.1\nclosed well\n",
	}, {
		name: "absolute form without a path",
		in: lines("GET https://b HTTP/1.1\nHost: a\n\nOPTIONS http://b HTTP/1.1\nHost: a\n\n" +
			"OPTIONS http://b?q HTTP/1.1\nHost: a\n\nGET http://[::1]:80 HTTP/1.1\nHost: a\n\n"),
		out: ok200 + ok200 + ok200 + ok200,
		events: `request GET b / length=0 end=true HTTP/1.1
request OPTIONS b * length=0 end=true HTTP/1.1
request OPTIONS b /?q length=0 end=true HTTP/1.1
request GET [::1]:80 / length=0 end=true HTTP/1.1
closed well
`,
	}, {
		name: "asterisk",
		in:   lines("OPTIONS * HTTP/1.1\nHost: a\n\n"), out: ok200,
		events: "request OPTIONS a * length=0 end=true HTTP/1.1\nclosed well\n",
	}, {
		name: "head has no content",
		in:   lines("HEAD / HTTP/1.1\nHost: a\n\nHEAD / HTTP/1.1\nHost: a\n\n"),
		out: "HTTP/1.1 200 OK\r\nx: 1\r\ncontent-length: 12\r\n\r\n" +
			"HTTP/1.1 200 OK\r\nx: 1\r\ncontent-length: 12\r\n\r\n",
		setup: func(a *asked) {
			a.answer = func(a *asked) {
				r := &l7.Response{Status: 200, Length: 12, Fields: l7.Fields{{Name: "content-length", Value: "12"}, {Name: "x", Value: "1"}}}
				if len(a.all) == 1 {
					_ = a.c.Respond(r, true)
					return
				}
				_ = a.c.Respond(r, false)
				a.c.Write([]byte("must not show"))
				a.c.End(nil)
			}
		},
		events: "request HEAD a / length=0 end=true HTTP/1.1\nrequest HEAD a / length=0 end=true HTTP/1.1\nclosed well\n",
	}, {
		name: "204 and 304 have no content",
		in:   lines("GET /1 HTTP/1.1\nHost: a\n\nGET /2 HTTP/1.1\nHost: a\n\n"),
		out:  "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
		setup: func(a *asked) {
			a.answer = func(a *asked) {
				r := &l7.Response{Status: 204, Length: -1, Fields: l7.Fields{{Name: "content-length", Value: "9"}}}
				if len(a.all) == 2 {
					r.Status = 304
				}
				_ = a.c.Respond(r, false)
				a.c.Write([]byte("must not show"))
				a.c.End(nil)
			}
		},
		events: "request GET a /1 length=0 end=true HTTP/1.1\nrequest GET a /2 length=0 end=true HTTP/1.1\nclosed well\n",
	}, {
		name: "chunks and trailers out",
		in:   lines("GET / HTTP/1.1\nHost: a\n\n"),
		out: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2001\r\n" +
			strings.Repeat("x", 8193) + "\r\n0\r\nsum: 3\r\n\r\n",
		setup: func(a *asked) {
			a.answer = func(a *asked) {
				_ = a.c.Respond(&l7.Response{Status: 200, Length: -1, Fields: l7.Fields{{Name: "te", Value: "x"}, {Name: "transfer-encoding", Value: "gzip"}}}, false)
				a.c.Write([]byte("abc"))
				a.c.Write(nil)
				a.c.Write([]byte(strings.Repeat("x", 8193)))
				a.c.End(l7.Fields{{Name: "sum", Value: "3"}, {Name: "content-length", Value: "3"}, {Name: "bad", Value: "a\r\nb: c"}})
			}
		},
		events: "request GET a / length=0 end=true HTTP/1.1\nclosed well\n",
	}, {
		name: "continue is asked for and given",
		in:   lines("POST / HTTP/1.1\nHost: a\nExpect: 100-Continue\nContent-Length: 2\n\nhi"),
		out:  "HTTP/1.1 100 Continue\r\n\r\n" + ok200,
		setup: func(a *asked) {
			a.head = func(a *asked) { _ = a.c.Respond(&l7.Response{Status: 100}, false) }
		},
		events: `request POST a / length=2 end=false HTTP/1.1
  expect: 100-Continue
  content-length: 2
content "hi"
end
closed well
`,
	}, {
		name: "continue is asked for and refused",
		in:   lines("POST / HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 2\n\nhi"),
		out:  "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
		setup: func(a *asked) {
			a.head = func(a *asked) { _ = a.c.Respond(&l7.Response{Status: 403}, true) }
		},
		events: `request POST a / length=2 end=false HTTP/1.1
  expect: 100-continue
  content-length: 2
closed well
`,
	}, {
		name: "answered before it was asked in full",
		in:   lines("POST / HTTP/1.1\nHost: a\nContent-Length: 5\n\nhelloGET /2 HTTP/1.1\nHost: a\n\n"),
		out:  "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n" + ok200,
		setup: func(a *asked) {
			a.head = func(a *asked) {
				if len(a.all) == 1 {
					_ = a.c.Respond(&l7.Response{Status: 403}, true)
				}
			}
		},
		events: `request POST a / length=5 end=false HTTP/1.1
  content-length: 5
request GET a /2 length=0 end=true HTTP/1.1
closed well
`,
	}, {
		name: "answered before too much",
		in:   lines("POST / HTTP/1.1\nHost: a\nContent-Length: 50\n\nhello"),
		out:  "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", limits: Limits{Drain: 49},
		setup: func(a *asked) {
			a.head = func(a *asked) { _ = a.c.Respond(&l7.Response{Status: 403}, true) }
		},
		events: "request POST a / length=50 end=false HTTP/1.1\n  content-length: 50\nclosed well\n",
	}, {
		name: "upgrade",
		in:   lines("GET /ws HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: k\n\n\x81\n\nframe"),
		out:  "HTTP/1.1 101 Switching Protocols\r\nx: 1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\x81\r\n\r\nframe",
		setup: func(a *asked) {
			a.up = true
			a.raw = func(p []byte) { a.c.Write(p) }
			a.answer = func(a *asked) {
				_ = a.c.Respond(&l7.Response{Status: 101, Upgrade: a.last.Upgrade, Fields: l7.Fields{{Name: "x", Value: "1"}}}, false)
			}
		},
		events: `request GET a /ws length=0 end=true HTTP/1.1
  sec-websocket-key: k
  upgrade to websocket
content "\x81\r\n\r\nframe"
end
closed well
`,
	}, {
		name: "upgrade declined",
		in:   lines("GET /ws HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: websocket\n\nGET /2 HTTP/1.1\nHost: a\n\n"),
		out:  ok200 + ok200,
		events: `request GET a /ws length=0 end=true HTTP/1.1
  upgrade to websocket
request GET a /2 length=0 end=true HTTP/1.1
closed well
`,
	}, {
		name: "upgrade with content is not one",
		in:   lines("POST / HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: websocket\nContent-Length: 1\n\nx"), out: ok200,
		events: "request POST a / length=1 end=false HTTP/1.1\n  content-length: 1\ncontent \"x\"\nend\nclosed well\n",
	}, {
		name: "cut within content",
		in:   lines("POST / HTTP/1.1\nHost: a\nContent-Length: 5\n\nhell"),
		events: `request POST a / length=5 end=false HTTP/1.1
  content-length: 5
content "hell"
reset connection closed within a message
closed connection closed within a message
`,
	}, {
		name: "fault within content, before a response",
		in:   lines("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n1\nxx0\n\n"),
		out:  "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
		events: `request POST a / length=-1 end=false HTTP/1.1
content "x"
reset chunk does not end where its size says
closed chunk does not end where its size says
`,
	}, {
		name: "fault within content, after one began",
		in:   lines("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n1\nxx0\n\n"),
		out:  "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
		setup: func(a *asked) {
			a.head = func(a *asked) { _ = a.c.Respond(&l7.Response{Status: 200, Length: -1}, false) }
		},
		events: `request POST a / length=-1 end=false HTTP/1.1
content "x"
reset chunk does not end where its size says
closed chunk does not end where its size says
`,
	}} {
		t.Run(s.name, s.run)
	}
}

func TestServerRefuses(t *testing.T) {
	post := "POST / HTTP/1.1\nHost: a\n"
	for _, c := range []struct {
		name   string
		in     string // of which a line end is \n
		status int
		err    *Error
	}{
		{"length and chunks", post + "Content-Length: 5\nTransfer-Encoding: chunked\n\n0\n\n", 400, errBoth},
		{"chunks and length", post + "Transfer-Encoding: chunked\nContent-Length: 5\n\n0\n\n", 400, errBoth},
		{"two lengths", post + "Content-Length: 5\nContent-Length: 6\n\nhello", 400, errLengths},
		{"two equal lengths", post + "Content-Length: 5\nContent-Length: 5\n\nhello", 400, errLengths},
		{"list of lengths", post + "Content-Length: 5, 5\n\nhello", 400, errLengthValue},
		{"empty length", post + "Content-Length:\n\nhello", 400, errLengthValue},
		{"length with sign", post + "Content-Length: +5\n\nhello", 400, errLengthValue},
		{"negative length", post + "Content-Length: -5\n\nhello", 400, errLengthValue},
		{"hexadecimal length", post + "Content-Length: 0x5\n\nhello", 400, errLengthValue},
		{"length overflows", post + "Content-Length: 9223372036854775808\n\nhello", 400, errLengthValue},
		{"coding gzip", post + "Transfer-Encoding: gzip\n\n", 400, errCoding},
		{"coding gzip, chunked", post + "Transfer-Encoding: gzip, chunked\n\n0\n\n", 501, errCodingUnknown},
		{"coding chunked, gzip", post + "Transfer-Encoding: chunked, gzip\n\n0\n\n", 400, errCoding},
		{"coding xchunked", post + "Transfer-Encoding: xchunked\n\n0\n\n", 400, errCoding},
		{"coding with a vertical tab", post + "Transfer-Encoding: \vchunked\n\n0\n\n", 400, errValue},
		{"empty coding", post + "Transfer-Encoding:\n\n", 400, errCoding},
		{"coding twice", post + "Transfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n0\n\n", 400, errCodings},
		{"coding in 1.0", "POST / HTTP/1.0\nHost: a\nTransfer-Encoding: chunked\n\n0\n\n", 400, errCoding10},
		{"space before the colon of a coding", post + "Transfer-Encoding : chunked\n\n0\n\n", 400, errSpace},
		{"folded field", post + "A: b\n c\n\n", 400, errFold},
		{"folded first field", "GET / HTTP/1.1\n Host: a\n\n", 400, errFold},
		{"field folded by a tab", post + "A: b\n\tc\n\n", 400, errFold},
		{"bare CR in a value", post + "A: b\rc\n\n", 400, errValue},
		{"NUL in a value", post + "A: b\x00c\n\n", 400, errValue},
		{"control in a value", post + "A: 0123456789\x01\n\n", 400, errValue},
		{"DEL in a value", post + "Aa: 01234567\x7f89\n\n", 400, errValue},
		{"space before the colon", post + "A : b\n\n", 400, errSpace},
		{"tab before the colon", post + "A\t: b\n\n", 400, errSpace},
		{"no name", post + ": b\n\n", 400, errName},
		{"no colon", post + "Abc\n\n", 400, errName},
		{"name is no token", post + "A(b): c\n\n", 400, errName},
		{"name has a high byte", post + "A\xe9: c\n\n", 400, errName},
		{"Connection is no list of tokens", post + "Connection: a b\n\n", 400, errOption},
		{"no Host", "GET / HTTP/1.1\nA: b\n\n", 400, errNoHost},
		{"no fields", "GET / HTTP/1.1\n\n", 400, errNoHost},
		{"no Host but an absolute target", "GET http://a/ HTTP/1.1\n\n", 400, errNoHost},
		{"two Hosts", "GET / HTTP/1.1\nHost: a\nHost: a\n\n", 400, errHosts},
		{"Host with a path", "GET / HTTP/1.1\nHost: a/b\n\n", 400, errHost},
		{"Host with a user", "GET / HTTP/1.1\nHost: u@a\n\n", 400, errHost},
		{"Host with a space", "GET / HTTP/1.1\nHost: a b\n\n", 400, errHost},
		{"Host with a bad port", "GET / HTTP/1.1\nHost: a:8x\n\n", 400, errHost},
		{"Host with two ports", "GET / HTTP/1.1\nHost: a:8:9\n\n", 400, errHost},
		{"Host with an open bracket", "GET / HTTP/1.1\nHost: [::1\n\n", 400, errHost},
		{"space in the target", "GET /a b HTTP/1.1\nHost: a\n\n", 400, errRequestLine},
		{"two spaces", "GET  / HTTP/1.1\nHost: a\n\n", 400, errRequestLine},
		{"space after the version", "GET / HTTP/1.1 \nHost: a\n\n", 400, errRequestLine},
		{"tab in the target", "GET /a\tb HTTP/1.1\nHost: a\n\n", 400, errTargetByte},
		{"fragment", "GET /a#b HTTP/1.1\nHost: a\n\n", 400, errTargetByte},
		{"high byte in the target", "GET /\xc3\xa9 HTTP/1.1\nHost: a\n\n", 400, errTargetByte},
		{"NUL in the target", "GET /\x00 HTTP/1.1\nHost: a\n\n", 400, errTargetByte},
		{"no version", "GET /\nHost: a\n\n", 400, errRequestLine},
		{"no target", "GET HTTP/1.1\nHost: a\n\n", 400, errRequestLine},
		{"no method", " / HTTP/1.1\nHost: a\n\n", 400, errRequestLine},
		{"method is no token", "G(T / HTTP/1.1\nHost: a\n\n", 400, errMethod},
		{"version in lower case", "GET / http/1.1\nHost: a\n\n", 400, errRequestLine},
		{"version 1.2", "GET / HTTP/1.2\nHost: a\n\n", 505, errVersion},
		{"version 2.0", "PRI * HTTP/2.0\n\nSM\n\n", 505, errVersion},
		{"version 0.9", "GET / HTTP/0.9\nHost: a\n\n", 505, errVersion},
		{"connect", "CONNECT a:80 HTTP/1.1\nHost: a\n\n", 501, errConnect},
		{"authority form", "GET a:80 HTTP/1.1\nHost: a\n\n", 400, errTargetForm},
		{"other scheme", "GET ftp://a/ HTTP/1.1\nHost: a\n\n", 400, errTargetForm},
		{"absolute form without a host", "GET http:///x HTTP/1.1\nHost: a\n\n", 400, errTargetForm},
		{"absolute form with a user", "GET http://u@a/ HTTP/1.1\nHost: a\n\n", 400, errTargetForm},
		{"relative target", "GET a/b HTTP/1.1\nHost: a\n\n", 400, errTargetForm},
		{"asterisk without OPTIONS", "GET * HTTP/1.1\nHost: a\n\n", 400, errAsterisk},
		{"two empty lines first", "\n\nGET / HTTP/1.1\nHost: a\n\n", 400, errBlank},
		{"target too long", "GET /" + strings.Repeat("a", 64) + " HTTP/1.1\nHost: a\n\n", 414, errTarget},
		{"request line too long", "GET /" + strings.Repeat("a", 300) + " HTTP/1.1\nHost: a\n\n", 414, errTarget},
		{"request line without end", "GET /" + strings.Repeat("a", 300), 414, errTarget},
		{"head too large", "GET / HTTP/1.1\nHost: a\nA: " + strings.Repeat("a", 300) + "\n\n", 431, errHead},
		{"head without end", "GET / HTTP/1.1\nHost: a\n" + strings.Repeat("Abcdefghijklmnopqrstuvwxyz: b\n", 8) + strings.Repeat("A", 80), 431, errHead},
		{"too many fields", "GET / HTTP/1.1\nHost: a\n" + strings.Repeat("A: b\n", 10) + "\n", 431, errFields},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := script{in: lines(c.in), limits: Limits{Head: 256, Target: 64, Fields: 10}}
			s.events = fmt.Sprintf("malformed %d %s\nclosed %s\n", c.status, c.err.Reason, c.err.Reason)
			s.out = refusal(c.status)
			if c.err.Status != c.status {
				t.Errorf("err.Status = %d, want %d", c.err.Status, c.status)
			}
			s.run(t)
		})
	}
}

func refusal(status int) string {
	return fmt.Sprintf("HTTP/1.1 %d %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", status, reason(status))
}

// A bare LF cannot be written with the lines of the tables.
func TestServerRefusesBareLF(t *testing.T) {
	for _, in := range []string{
		"GET / HTTP/1.1\nHost: a\n\n",
		"GET / HTTP/1.1\r\nHost: a\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\n\n",
		"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nA: b\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		s := script{in: in, events: "malformed 400 line ends without CR\nclosed line ends without CR\n", out: refusal(400)}
		s.run(t)
	}
}

func TestServerRefusesChunks(t *testing.T) {
	head := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, c := range []struct {
		name, in string
		err      *Error
	}{
		{"no digit", "\r\n", errChunkSize},
		{"no hexadecimal digit", "g\r\n", errChunkSize},
		{"0x", "0x5\r\nhello\r\n", errChunkSize},
		{"sign", "-1\r\n", errChunkSize},
		{"white space first", " 5\r\nhello\r\n", errChunkSize},
		{"white space after", "5 \r\nhello\r\n", errChunkSize},
		{"white space within", "5 5\r\nhello\r\n", errChunkSize},
		{"extension only", ";a\r\n", errChunkSize},
		{"underscore", "1_0\r\n", errChunkSize},
		{"too large", "1000000000000000\r\n", errChunkHuge},
		{"much too large", strings.Repeat("f", 40) + "\r\n", errChunkHuge},
		{"bare LF after the size", "5\nhello\r\n", errChunkSize},
		{"bare CR after the size", "5\rhello\r\n", errChunkByte},
		{"bare LF in an extension", "5;a\nhello\r\n", errChunkByte},
		{"NUL in an extension", "5;a\x00\r\nhello\r\n", errChunkByte},
		{"extension too long", "5;" + strings.Repeat("a", 100) + "\r\nhello\r\n", errChunkLine},
		{"too many zeros", strings.Repeat("0", 100) + "5\r\nhello\r\n", errChunkLine},
		{"too much white space", "5" + strings.Repeat(" ", 100) + ";\r\nhello\r\n", errChunkLine},
		{"trailers folded", "0\r\nA: b\r\n c\r\n\r\n", errFold},
		{"trailers with bare LF", "0\r\nA: b\n\r\n", errBareLF},
		{"trailer without colon", "0\r\nAb\r\n\r\n", errName},
		{"too many trailers", "0\r\n" + strings.Repeat("A: b\r\n", 11) + "\r\n", errFields},
		{"trailers too large", "0\r\nA: " + strings.Repeat("a", 300) + "\r\n\r\n", errHead},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := script{in: head + c.in, limits: Limits{Head: 256, Fields: 10, ChunkLine: 64}}
			s.events = "request POST a / length=-1 end=false HTTP/1.1\n" +
				fmt.Sprintf("reset %s\nclosed %s\n", c.err.Reason, c.err.Reason)
			s.out = refusal(c.err.Status)
			s.run(t)
		})
	}
	t.Run("data without CRLF", func(t *testing.T) {
		for _, tail := range []string{"hellox\r\n", "hello\n", "hello\rx"} {
			s := script{in: head + "5\r\n" + tail, out: refusal(400)}
			s.events = "request POST a / length=-1 end=false HTTP/1.1\ncontent \"hello\"\n" +
				fmt.Sprintf("reset %s\nclosed %s\n", errChunkEnd.Reason, errChunkEnd.Reason)
			s.run(t)
		}
	})
	t.Run("extensions without end", func(t *testing.T) {
		s := script{in: head + strings.Repeat("1;0123456789\r\nx\r\n", 30), limits: Limits{Head: 256}, out: refusal(400)}
		s.events = "request POST a / length=-1 end=false HTTP/1.1\n" +
			fmt.Sprintf("content %q\nreset %s\nclosed %s\n", strings.Repeat("x", 23), errChunkLine.Reason, errChunkLine.Reason)
		s.run(t)
	})
}
