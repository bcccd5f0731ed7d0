package h1

import (
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
