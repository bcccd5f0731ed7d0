package h1

import (
	"testing"

	"github.com/waystone-mesh/waystone/internal/l7"
)

const browser = "GET /productpage?u=normal HTTP/1.1\r\n" +
	"Host: productpage.default.svc.cluster.local:9080\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" +
	"Accept-Language: en-US,en;q=0.5\r\n" +
	"Accept-Encoding: gzip, deflate\r\n" +
	"Connection: keep-alive\r\n" +
	"Cookie: session=eyJ1c2VyIjoibm9ybWFsIn0.ZgF3xQ.5c0vXk1f8a2yF0m3n4o5p6q7r8s\r\n" +
	"X-Request-Id: 0f4b3a5e-7a0b-4c39-9d2e-1b1a7c9b9f10\r\n" +
	"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n" +
	"X-Forwarded-For: 10.244.1.1\r\n" +
	"\r\n"

const page = "HTTP/1.1 200 OK\r\n" +
	"Server: gunicorn\r\n" +
	"Date: Mon, 28 Aug 2023 10:39:33 GMT\r\n" +
	"Content-Type: text/html; charset=utf-8\r\n" +
	"Content-Length: 16\r\n" +
	"\r\n" +
	"0123456789abcdef"

// pipe is a stream whose far end is a codec's Data: what is written to it
// arrives when it is carried over, at the end of a batch.
type pipe struct{ b []byte }

func (p *pipe) Write(b []byte) int { p.b = append(p.b, b...); return 0 }
func (*pipe) CloseWrite()          {}
func (*pipe) Credit(int)           {}
func (*pipe) Reset(error)          {}
func (*pipe) Queued() int          { return 0 }

// echo answers every head at once.
type echo struct {
	c   *Server
	res l7.Response
}

func (e *echo) Request(*l7.Request, bool) { _ = e.c.Respond(&e.res, true) }
func (*echo) Content([]byte)              {}
func (*echo) End(l7.Fields)               {}
func (*echo) Sent(int)                    {}
func (*echo) EOF()                        {}
func (*echo) Reset(error)                 {}
func (*echo) Malformed(int, error)        { panic("malformed") }
func (*echo) Closed(error)                {}

// heads returns a function that reads one head and answers it, as a connection
// does that is kept alive.
func readHeads() func() {
	p := &pipe{b: make([]byte, 0, 4096)}
	e := &echo{res: l7.Response{Status: 200, Fields: l7.Fields{{Name: "server", Value: "istio-envoy"}, {Name: "x-envoy-upstream-service-time", Value: "1"}}}}
	e.c = NewServer(p, e, Limits{})
	buf := make([]byte, len(browser))
	return func() {
		copy(buf, browser)
		p.b = p.b[:0]
		e.c.Data(buf)
	}
}

// relay is one exchange through a proxy: a server's handler that is a client's
// handler too.
type relay struct {
	server *Server
	client *Client
}

func (x *relay) Request(r *l7.Request, end bool)   { _ = x.client.Request(r, end) }
func (x *relay) Response(r *l7.Response, end bool) { x.server.Hold(); _ = x.server.Respond(r, end) }

// relayUp and relayDown are its two halves.
type relayUp struct{ *relay }

func (x relayUp) Content(p []byte) { x.server.Write(p); x.client.Credit(len(p)) }
func (x relayUp) End(t l7.Fields)  { x.server.End(t) }
func (relayUp) Sent(int)           {}
func (relayUp) Reset(error)        {}
func (relayUp) Closed(error)       {}

type relayDown struct{ *relay }

func (x relayDown) Content(p []byte)   { x.client.Write(p); x.server.Credit(len(p)) }
func (x relayDown) End(t l7.Fields)    { x.client.End(t) }
func (relayDown) Sent(int)             {}
func (relayDown) EOF()                 {}
func (relayDown) Reset(error)          {}
func (relayDown) Malformed(int, error) { panic("malformed") }
func (relayDown) Closed(error)         {}

// exchanges returns a function that carries one GET and its answer through a
// server and a client.
func exchanges() (exchange func() (down, up *pipe)) {
	down, up := &pipe{b: make([]byte, 0, 4096)}, &pipe{b: make([]byte, 0, 4096)}
	x := &relay{}
	x.server, x.client = NewServer(down, relayDown{x}, Limits{}), NewClient(up, relayUp{x}, Limits{})
	req, res := make([]byte, len(browser)), make([]byte, len(page))
	return func() (*pipe, *pipe) {
		down.b, up.b = down.b[:0], up.b[:0]
		copy(req, browser)
		x.server.Data(req)
		copy(res, page)
		x.client.Data(res)
		return down, up
	}
}

func TestRelay(t *testing.T) {
	exchange := exchanges()
	for range 3 {
		down, up := exchange()
		want(t, "response", string(down.b), "HTTP/1.1 200 OK\r\nserver: gunicorn\r\ndate: Mon, 28 Aug 2023 10:39:33 GMT\r\n"+
			"content-type: text/html; charset=utf-8\r\ncontent-length: 16\r\n\r\n0123456789abcdef")
		if len(up.b) == 0 {
			t.Fatal("no request")
		}
	}
}

func TestAllocs(t *testing.T) {
	if poisoned {
		t.Skip("pools drop at random under -race")
	}
	read := readHeads()
	if n := testing.AllocsPerRun(1000, read); n != 0 {
		t.Errorf("a request head and its response allocate %v times, want 0", n)
	}
	exchange := exchanges()
	if n := testing.AllocsPerRun(1000, func() { exchange() }); n != 0 {
		t.Errorf("an exchange through server and client allocates %v times, want 0", n)
	}
}

// BenchmarkHead reads a browser's request head and writes a response head.
func BenchmarkHead(b *testing.B) {
	read := readHeads()
	b.SetBytes(int64(len(browser)))
	b.ReportAllocs()
	for b.Loop() {
		read()
	}
}

// BenchmarkGet carries a GET and its 16 bytes through Server and Client: four
// heads, no stream beneath.
func BenchmarkGet(b *testing.B) {
	exchange := exchanges()
	b.ReportAllocs()
	for b.Loop() {
		exchange()
	}
}

// BenchmarkChunks reads and writes 64 KiB in chunks of 4 KiB.
func BenchmarkChunks(b *testing.B) {
	p := &pipe{}
	x := &relay{}
	up := &pipe{}
	x.server, x.client = NewServer(p, relayDown{x}, Limits{}), NewClient(up, relayUp{x}, Limits{})
	var in []byte
	for range 16 {
		in = append(appendSize(in, 4096), make([]byte, 4096)...)
		in = append(in, crlf...)
	}
	head := []byte("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
	answer := []byte("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
	b.SetBytes(64 << 10)
	b.ReportAllocs()
	for b.Loop() {
		p.b, up.b = p.b[:0], up.b[:0]
		x.server.Data(head)
		x.server.Data(in)
		x.server.Data(lastChunk)
		x.client.Data(answer)
	}
}
