package bench

import (
	"bufio"
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

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// TestOthersHTTP has net/http ask, in both its versions.
func TestOthersHTTP(t *testing.T) {
	at := serveBench(t, Destination{Transport: overTCP})
	for _, version := range []int{1, 2} {
		var conn net.Conn
		transport := &http.Transport{Protocols: new(http.Protocols), ExpectContinueTimeout: time.Minute, DialContext: func(ctx context.Context, network, addr string) (_ net.Conn, err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, addr)
			return conn, err
		}}
		transport.Protocols.SetHTTP1(version == 1)
		transport.Protocols.SetUnencryptedHTTP2(version == 2)
		client := &http.Client{Transport: transport}
		for _, c := range []struct {
			method, size string
			send         io.Reader
			fields       [2]string
			status       int
			length       int64
			crc          string
		}{
			{"GET", "", nil, [2]string{}, 200, 0, ""},
			{"GET", "1000000", nil, [2]string{}, 200, 1_000_000, ""},
			{"HEAD", "1000", nil, [2]string{}, 200, 0, ""},
			{"GET", "many", nil, [2]string{}, 400, 0, ""},
			{"GET", "-1", nil, [2]string{}, 400, 0, ""},
			{"POST", "7", bytes.NewReader(content(100_000)), [2]string{}, 200, 7, crcText(contentCRC(100_000))},
			{"PUT", "", io.MultiReader(bytes.NewReader(content(3000))), [2]string{}, 200, 0, crcText(contentCRC(3000))}, // in chunks
			{"POST", "", bytes.NewReader(content(5)), [2]string{"Expect", "100-continue"}, 200, 0, crcText(contentCRC(5))},
		} {
			req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+at.Connect+"/any", c.send)
			if err != nil {
				t.Fatal(err)
			}
			if c.size != "" {
				req.Header.Set(sizeField, c.size)
			}
			if c.fields[0] != "" {
				req.Header.Set(c.fields[0], c.fields[1])
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatalf("HTTP/%d %+v: %v", version, c, err)
			}
			b, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.ProtoMajor != version || res.StatusCode != c.status || !bytes.Equal(b, content(c.length)) || res.Header.Get(crcField) != c.crc {
				t.Errorf("HTTP/%d %+v: got %s, %d bytes, %v, %v", version, c, res.Status, len(b), res.Header, err)
			}
		}
		conn.Close()
	}
	if s := at.stop(); s.Requests != 16 || s.Connections != 2 || s.Open != 0 || len(s.Errors) != 0 || s.BytesReceived != 2*103_005 || s.BytesSent != 2*1_000_007 {
		t.Errorf("served %+v", s)
	}
}

// TestOthersGRPC has grpc-go ask.
func TestOthersGRPC(t *testing.T) {
	at := serveBench(t, Destination{Transport: overTCP})
	conn, err := grpc.NewClient(at.Connect, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	client := grpc_testing.NewBenchmarkServiceClient(conn)
	request := func(size int32, send int64) *grpc_testing.SimpleRequest {
		return &grpc_testing.SimpleRequest{ResponseSize: size, Payload: &grpc_testing.Payload{Body: content(send)}}
	}
	for _, n := range []int64{0, 1, 100_000, 1_000_000} {
		res, err := client.UnaryCall(t.Context(), request(int32(n), n))
		if err != nil || !bytes.Equal(res.GetPayload().GetBody(), content(n)) {
			t.Errorf("%d bytes: got %d, %v", n, len(res.GetPayload().GetBody()), err)
		}
	}
	stream, err := client.StreamingCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for n := range int64(50) { // all are sent before any is read
		if err := stream.Send(request(int32(n), n*n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for n := range int64(50) {
		if res, err := stream.Recv(); err != nil || !bytes.Equal(res.GetPayload().GetBody(), content(n)) {
			t.Fatalf("message %d has %d bytes: %v", n, len(res.GetPayload().GetBody()), err)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ends with %v", err)
	}

	_, err = grpc_testing.NewTestServiceClient(conn).EmptyCall(t.Context(), new(grpc_testing.Empty))
	if got := status.Code(err); got != codes.Unimplemented {
		t.Errorf("an unknown method: %v", err)
	}
	_, err = client.UnaryCall(t.Context(), request(-1, 0))
	if got := status.Code(err); got != codes.InvalidArgument {
		t.Errorf("a size below zero: %v", err)
	}
	conn.Close()
	if s := at.stop(); s.Requests != 54 || s.Open != 0 || s.Errors[kindMalformed] != 1 || s.Errors[kindGRPCMethod] != 1 || len(s.Errors) != 2 {
		t.Errorf("served %+v", s)
	}
}

// ask writes text on a connection of its own, half-closes it, and returns what
// comes back.
func ask(t *testing.T, l Load, text string) string {
	t.Helper()
	nc, err := net.Dial("tcp", l.Connect)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := io.WriteString(nc, text); err != nil {
		t.Fatal(err)
	}
	_ = nc.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(nc)
	if err != nil {
		t.Errorf("%q: %v", text, err)
	}
	return string(b)
}

// TestTextIsAnswered is what people type into nc.
func TestTextIsAnswered(t *testing.T) {
	at := serveBench(t, Destination{Transport: overTCP})
	const type_ = "content-type: application/octet-stream\r\n"
	for text, want := range map[string]string{
		"GET / HTTP/1.0\r\nx-bench-size: 3\r\n\r\n":            "HTTP/1.1 200 OK\r\n" + type_ + "connection: close\r\ncontent-length: 3\r\n\r\n" + string(content(3)),
		strings.Repeat("GET / HTTP/1.1\r\nhost: a\r\n\r\n", 3): strings.Repeat("HTTP/1.1 200 OK\r\n"+type_+"content-length: 0\r\n\r\n", 3),
		"G / HTTP/9\r\n\r\n":                                   "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
		"P":                                                    "",
		"":                                                     "",
		string(appendRawHead(nil, 0, 5)):                       string(content(5)),
		string(appendRawHead(nil, 9, 5)):                       "", // without its content
		"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n": "HTTP/1.1 400 Bad Request\r\n" + type_ + "content-length: 0\r\n\r\n",
	} {
		if got := ask(t, at.Load, text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if s := at.stop(); s.Open != 0 || s.Errors[kindMalformed] != 1 || s.Errors[kindClosed] != 1 || len(s.Errors) != 2 {
		t.Errorf("served %+v", s)
	}
}

// A socket is a WebSocket of a client's, a frame at a time.
type socket struct {
	t  *testing.T
	nc net.Conn
	in *bufio.Reader
}

func dialSocket(t *testing.T, l Load, size int64) *socket {
	t.Helper()
	nc, err := net.Dial("tcp", l.Connect)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	fmt.Fprintf(nc, "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nx-bench-size: %d\r\n\r\n", size)
	in := bufio.NewReader(nc)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("got %+v, %v", res, err)
	}
	return &socket{t, nc, in}
}

// send writes frames, each a first byte and its content.
func (s *socket) send(frames ...string) {
	s.t.Helper()
	var b []byte
	for _, f := range frames {
		mask := [4]byte{1, 2, 3, 4}
		masked := []byte(f[1:])
		applyMask(masked, mask, 0)
		at := len(b)
		b = append(appendFrameHead(b, 0, int64(len(masked)), &mask), masked...)
		b[at] = f[0]
	}
	if _, err := s.nc.Write(b); err != nil {
		s.t.Fatal(err)
	}
}

// want reads frames of the same form.
func (s *socket) want(frames ...string) {
	s.t.Helper()
	for i, f := range frames {
		head := make([]byte, len(appendFrameHead(nil, 0, int64(len(f)-1), nil)))
		_, err := io.ReadFull(s.in, head)
		if want := appendFrameHead(nil, f[0]&0xf, int64(len(f)-1), nil); err != nil || !bytes.Equal(head, want) {
			s.t.Fatalf("frame %d: got %x, want %x: %v", i, head, want, err)
		}
		b := make([]byte, len(f)-1)
		if _, err := io.ReadFull(s.in, b); err != nil || string(b) != f[1:] {
			s.t.Fatalf("frame %d: got %d bytes that differ, %v", i, len(b), err)
		}
	}
}

func TestWebSocketFrames(t *testing.T) {
	at := serveBench(t, Destination{Transport: overTCP})

	// Controls between the frames of a message, and Close with its reason.
	s := dialSocket(t, at.Load, 300)
	part := string(content(200))
	s.send("\x02"+part[:50], "\x89one", "\x00"+part[50:60], "\x8a", "\x80"+part[60:])
	s.want("\x8aone", "\x82"+string(content(300)))
	s.send("\x81", "\x88\x03\xe9bye")
	s.want("\x82"+string(content(300)), "\x88\x03\xe9")
	if _, err := s.in.ReadByte(); err != io.EOF {
		t.Errorf("after the Close: %v", err)
	}
	s.nc.Close()

	// A ping while an answer is being written waits for its end.
	s = dialSocket(t, at.Load, 20<<20)
	s.send("\x82")
	if _, err := s.in.Peek(1); err != nil {
		t.Fatal(err)
	}
	s.send("\x89x", "\x89y", "\x88")
	s.want("\x82"+string(content(20<<20)), "\x8ay", "\x88\x03\xe8")
	s.nc.Close()

	// A frame that breaks the rules, and one that is cut off.
	s = dialSocket(t, at.Load, 1)
	s.send("\x80")
	s.want("\x88\x03\xea")
	s.nc.Close()
	s = dialSocket(t, at.Load, 1)
	s.send("\x02")
	_ = s.nc.(*net.TCPConn).CloseWrite()
	if _, err := s.in.ReadByte(); err != io.EOF {
		t.Errorf("after the EOF: %v", err)
	}
	s.nc.Close()

	// A connection that is reset between messages.
	s = dialSocket(t, at.Load, 1)
	_ = s.nc.(*net.TCPConn).SetLinger(0)
	s.nc.Close()

	got := at.stop()
	if got.Requests != 3 || got.Open != 0 || got.Errors[kindMalformed] != 1 || got.Errors[kindClosed] != 1 || len(got.Errors) != 2 {
		t.Errorf("served %+v", got)
	}
}

// TestDelay holds every answer back.
func TestDelay(t *testing.T) {
	const delay = 20 * time.Millisecond
	for _, protocol := range protocols {
		at := serveBench(t, Destination{Delay: delay})
		l := at.Load
		l.Protocol, l.Size, l.Send, l.Tunnels, l.Requests = protocol, 1000, 1000, 2, 6
		r := mustRun(t, l)
		wantErrors(t, r, map[string]int64{})
		if r.Requests != 6 || r.Latency.Min < float64(delay.Microseconds())-1 {
			t.Errorf("%s: %+v", protocol, r.Latency)
		}
	}
}

// TestStatus has every protocol that has a status refused with it.
func TestStatus(t *testing.T) {
	for _, code := range []int{404, 503} {
		at := serveBench(t, Destination{Status: code})
		l := at.Load
		l.Protocol, l.Tunnels, l.Requests, l.Size = speakHTTP1, 2, 6, 1000
		wantErrors(t, mustRun(t, l), map[string]int64{"status " + strconv.Itoa(code): 6})
		l.Protocol = speakGRPC
		wantErrors(t, mustRun(t, l), map[string]int64{"status " + strconv.Itoa(code): 6})
		l.Protocol = speakWebSocket
		if _, err := Run(t.Context(), l, nil); err == nil || !strings.Contains(err.Error(), strconv.Itoa(code)) {
			t.Errorf("WebSocket: %v", err)
		}
	}
}

// TestWhatIsLeftOpenIsCounted before the end of the destination cuts it off.
func TestWhatIsLeftOpenIsCounted(t *testing.T) {
	loops, err := loop.NewGroup(1, loop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer loops.Close()
	l := loops.Loops()[0]
	for _, transport := range []string{overTCP, overHBONE} {
		at := serveBench(t, Destination{Transport: transport})
		lk := link(&plain{run: &run{load: at.Load, ctx: t.Context(), addr: netip.MustParseAddrPort(at.Connect)}, loop: l})
		if transport == overHBONE {
			with := at.withDefaults()
			r := &run{load: with, source: at.source, addr: netip.MustParseAddrPort(at.Connect)}
			r.self, _ = with.id(with.As)
			peer, _ := with.id(with.Peers[0])
			r.peers = []identity.ID{peer}
			r.authority, _ = mesh.ParseAuthority(with.Authority)
			lk = (&engine{run: r, loop: l}).newConnection(1)
		}
		answered := make(chan error, 1)
		l.Do(func() {
			lk.open(func(s flow.Stream, attach func(flow.Receiver), err error) {
				if err != nil {
					answered <- err
					return
				}
				attach(told{answered})
				s.Write(appendRawHead(nil, 0, 1))
			})
		})
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
		if s := at.stop(); s.Open != 1 || s.Accepted != 1 || s.Connections != 1 || len(s.Errors) != 0 {
			t.Errorf("%s: served %+v", transport, s)
		}
	}
}

// told tells of what is received first.
type told struct{ answered chan error }

func (r told) Data([]byte) {
	select {
	case r.answered <- nil:
	default:
	}
}

func (told) EOF()        {}
func (told) Sent(int)    {}
func (told) Reset(error) {}

// TestStrangersAreNotServed, nor is that hidden.
func TestStrangersAreNotServed(t *testing.T) {
	at := serveBench(t, Destination{})
	l := at.Load
	src, err := identity.Open("self:"+t.TempDir(), identity.Options{TrustDomain: "elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	l.source, l.TrustDomain = src, "elsewhere"
	if _, err := Run(t.Context(), l, nil); err == nil {
		t.Error("a client of another trust domain is served")
	}
	if s := at.stop(); s.Errors[kindHandshake] == 0 || s.Accepted != 0 || s.Connections != 0 {
		t.Errorf("served %+v", s)
	}
}

func TestDestinationSaysWhatIsWrongWithIt(t *testing.T) {
	d := Destination{Listen: "here", Transport: "udp", Status: 99, Delay: -1, Loops: -1}
	err := d.Check()
	for _, want := range []string{
		`flag --listen: "here" is not an IP address and a port`, `flag --transport: "udp" is none of hbone, tcp`,
		"flag --status: 99 is not 200 to 599", "flag --delay: -1ns is negative", "flag --loops: -1 is not 1 to 64",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	err = Destination{As: "items"}.Check()
	for _, want := range []string{"flag --identity: is required", `flag --as: "items": is not of the form`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	at := serveBench(t, Destination{Transport: overTCP})
	if _, err := (Destination{Transport: overTCP, Listen: at.Connect}).Serve(t.Context(), nil); err == nil || !strings.HasPrefix(err.Error(), "flag --listen: ") || errors.Unwrap(err) == nil {
		t.Errorf("got %v", err)
	}
}
