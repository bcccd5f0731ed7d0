package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/waystone-mesh/waystone/examples/bookinfo"
)

const bookinfoPort = bookinfo.Port

// TestWaypointBetweenForeignPeers runs the program with bookinfo's manifests and
// certificates in files. Nothing else in the test is ours: clients and the
// destination's node are Go's HTTP/2 over Go's TLS.
func TestWaypointBetweenForeignPeers(t *testing.T) {
	r := newRig(t, moreServices)
	r.app()
	n := r.node()
	sleep := r.client("/ns/default/sa/sleep")
	vip := netip.AddrPortFrom(r.vip, bookinfoPort).String()
	on := func(port uint16) string { return netip.AddrPortFrom(more, port).String() }

	t.Run("HTTP/1.1", func(t *testing.T) {
		for _, authority := range []string{vip, netip.AddrPortFrom(r.pod, bookinfoPort).String(), on(9084)} {
			opened := sleep.opened.Load()
			testHTTP(t, sleep.http(authority, http1), "HTTP/1.1", "HTTP/1.1")
			if got := sleep.opened.Load() - opened; got != 1 {
				t.Errorf("%s: got %d tunnels, want 1 kept alive", authority, got)
			}
		}
	})
	t.Run("HTTP/2", func(t *testing.T) {
		for authority, upstream := range map[string]string{
			vip:      "HTTP/1.1", // the port is declared to speak it
			on(9081): "HTTP/2.0",
			on(9084): "HTTP/2.0", // as the client does
		} {
			testHTTP(t, sleep.http(authority, http2only), "HTTP/2.0", upstream)
		}
	})
	t.Run("gRPC", func(t *testing.T) { testGRPC(t, sleep, on(9082)) })
	t.Run("WebSocket", func(t *testing.T) { testWebSocket(t, sleep, vip) })
	t.Run("TCP", func(t *testing.T) { testTCP(t, sleep, on(9083)) })
	t.Run("not served here", func(t *testing.T) {
		if _, err := sleep.tunnel(t.Context(), r.subst.Replace("127.96.0.11:9080")); err == nil || !strings.Contains(err.Error(), "404") {
			t.Errorf("CONNECT to details, which has no waypoint: got %v, want 404", err)
		}
	})
	t.Run("handshake", func(t *testing.T) { testHandshakes(t, r) })
	t.Run("policy", func(t *testing.T) { testPolicy(t, r, sleep, vip) })
	t.Run("own ports", func(t *testing.T) { testOwnPorts(t, r) })

	for port := uint16(bookinfoPort); port <= 9084; port++ {
		if a := netip.AddrPortFrom(r.pod, port).String(); n.tunnels(a) == 0 {
			t.Errorf("no tunnel to %s passed the destination's node", a)
		}
	}
	r.terminate()
	<-r.exited
	if r.err != nil {
		t.Errorf("after SIGTERM: got %v, want exit status 0", r.err)
	}
	log, err := os.ReadFile(r.access)
	if want := "rbac_access_denied_matched_policy[none]"; err != nil || !strings.Contains(string(log), want) {
		t.Errorf("access log: got %v, and nothing of %s in\n%s", err, want, log)
	}
}

// testHTTP makes requests of several framings over one connection of proto; the
// destination is to see upstream.
func testHTTP(t *testing.T, c *http.Client, proto, upstream string) {
	t.Helper()
	defer c.CloseIdleConnections()
	for range 3 {
		res, body := do(t, c, http.MethodGet, "/hello", nil)
		if res.StatusCode != 200 || body != "hello" || res.Proto != proto || res.Header.Get("x-proto") != upstream {
			t.Errorf("%s GET: got %s, %q, %s, the destination %s", proto, res.Status, body, res.Proto, res.Header.Get("x-proto"))
		}
	}
	want := strings.Repeat("0123456789", 100_000) // more than a window and a frame
	for name, content := range map[string]io.Reader{
		"content-length": strings.NewReader(want),
		"chunked":        io.MultiReader(strings.NewReader(want)), // of a length that nobody knows
	} {
		res, body := do(t, c, http.MethodPost, "/echo", content)
		if res.StatusCode != 200 || body != want || res.Trailer.Get("x-end") != "whole" {
			t.Errorf("POST, %s: got %s, %d bytes, trailers %v; want 200, %d bytes, x-end", name, res.Status, len(body), res.Trailer, len(want))
		}
	}
	if res, body := do(t, c, http.MethodHead, "/hello", nil); res.StatusCode != 200 || body != "" || res.ContentLength != 5 {
		t.Errorf("HEAD: got %s, %q, content-length %d", res.Status, body, res.ContentLength)
	}
}

// do makes a request and reads all of the response.
func do(t *testing.T, c *http.Client, method, path string, content io.Reader) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://productpage:9080"+path, content)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: content: %v", method, path, err)
	}
	return res, string(body)
}

func dialGRPC(t *testing.T, c *client, authority string) grpc_testing.TestServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///more:9082", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.tunnel(ctx, authority) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // nothing is left to say
	return grpc_testing.NewTestServiceClient(conn)
}

func testGRPC(t *testing.T, c *client, authority string) {
	stub := dialGRPC(t, c, authority)
	payload := &grpc_testing.Payload{Body: bytes.Repeat([]byte("x"), 300<<10)}
	out, err := stub.UnaryCall(t.Context(), &grpc_testing.SimpleRequest{Payload: payload})
	if err != nil || !bytes.Equal(out.Payload.Body, payload.Body) {
		t.Errorf("unary: got %d bytes, %v", len(out.GetPayload().GetBody()), err)
	}
	_, err = stub.UnaryCall(t.Context(), &grpc_testing.SimpleRequest{
		ResponseStatus: &grpc_testing.EchoStatus{Code: int32(codes.DataLoss), Message: "lost"},
	})
	if s := status.Convert(err); s.Code() != codes.DataLoss || s.Message() != "lost" {
		t.Errorf("unary that fails: got %v, want DataLoss", err)
	}
	call, err := stub.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if err := pingPong(call, fmt.Sprint("message ", i)); err != nil {
			t.Fatalf("bidi, message %d: %v", i, err)
		}
	}
	if err := finish(call); err != nil {
		t.Errorf("bidi: the end: %v", err)
	}
}

// pingPong sends a message and expects it back before the next.
func pingPong(call grpc_testing.TestService_FullDuplexCallClient, text string) error {
	if err := call.Send(&grpc_testing.StreamingOutputCallRequest{Payload: &grpc_testing.Payload{Body: []byte(text)}}); err != nil {
		return err
	}
	in, err := call.Recv()
	if got := string(in.GetPayload().GetBody()); err == nil && got != text {
		return fmt.Errorf("got %q, want %q", got, text)
	}
	return err
}

// finish ends a call in order.
func finish(call grpc_testing.TestService_FullDuplexCallClient) error {
	if err := call.CloseSend(); err != nil {
		return err
	}
	if _, err := call.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("got %w, want EOF", err)
	}
	return nil
}

func testWebSocket(t *testing.T, c *client, authority string) {
	tun, err := c.tunnel(t.Context(), authority)
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	fmt.Fprintf(tun, "GET /ws HTTP/1.1\r\nHost: productpage:9080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", key)
	br := bufio.NewReader(tun)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := res.Header.Get("sec-websocket-accept"), acceptKey(key); res.StatusCode != 101 || got != want {
		t.Fatalf("got %s, accept %q, want 101, %q", res.Status, got, want)
	}
	frame := []byte("\x82\x7e\x01\x00" + strings.Repeat("w", 256))
	for range 3 {
		got := make([]byte, len(frame))
		if _, err := tun.Write(frame); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(br, got); err != nil || !bytes.Equal(got, frame) {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	if err := tun.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(br); err != nil || string(got) != "bye" {
		t.Errorf("after our end: got %q, %v, want bye", got, err)
	}
}

func testTCP(t *testing.T, c *client, authority string) {
	tun, err := c.tunnel(t.Context(), authority)
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	want := strings.Repeat("neither HTTP/1.1 nor HTTP/2\x00", 40_000)
	go func() {
		_, _ = io.WriteString(tun, want) // the reader below sees what is missing
		_ = tun.CloseWrite()
	}()
	if got, err := io.ReadAll(tun); err != nil || string(got) != want+"bye" {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want)+3)
	}
}

// testHandshakes has clients refused before they can say anything.
func testHandshakes(t *testing.T, r *rig) {
	for name, c := range map[string]*tls.Config{
		"no certificate":            r.clientTLS(),
		"a foreign trust domain":    r.clientTLS(r.ca.issue("elsewhere.example", "/ns/default/sa/sleep")),
		"no service account":        r.clientTLS(r.ca.issue(trustDomain, "/sleep")),
		"another CA":                r.clientTLS(newAuthority(t).issue(trustDomain, "/ns/default/sa/sleep")),
		"TLS 1.2":                   withVersion(r.clientTLS(r.ca.issue(trustDomain, "/ns/default/sa/sleep")), tls.VersionTLS12),
		"another protocol than h2 ": withALPN(r.clientTLS(r.ca.issue(trustDomain, "/ns/default/sa/sleep")), "http/1.1"),
	} {
		if err := converse(r.at(15008), c); err == nil {
			t.Errorf("%s: the waypoint talks", name)
		}
	}
	if err := converse(r.at(15008), r.clientTLS(r.ca.issue(trustDomain, "/ns/default/sa/sleep"))); err != nil {
		t.Errorf("a proper client: %v", err)
	}
}

func withVersion(c *tls.Config, v uint16) *tls.Config {
	c.MaxVersion = v
	return c
}

func withALPN(c *tls.Config, name string) *tls.Config {
	c.NextProtos = []string{name}
	return c
}

// converse returns nil if the server speaks HTTP/2 to a client. In TLS 1.3 a
// client hears that it was refused only after its own part of the handshake.
func converse(address string, c *tls.Config) error {
	conn, err := tls.Dial("tcp", address, c)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// testPolicy adds the walk-through's L7 policy to the directory of a running
// waypoint.
func testPolicy(t *testing.T, r *rig, sleep *client, authority string) {
	c := sleep.http(authority, http1)
	defer c.CloseIdleConnections()
	if res, _ := do(t, c, http.MethodDelete, "/hello", nil); res.StatusCode != 200 {
		t.Errorf("DELETE before the policy: got %s", res.Status)
	}
	r.apply("l7-policy.yaml")
	r.until("enforcing the policy", func() bool {
		res, body := do(t, c, http.MethodDelete, "/hello", nil)
		return res.StatusCode == http.StatusForbidden && body == "RBAC: access denied"
	})
	if res, _ := do(t, c, http.MethodGet, "/hello", nil); res.StatusCode != 200 {
		t.Errorf("GET by sleep: got %s", res.Status)
	}
	other := r.client("/ns/default/sa/notsleep").http(authority, http2only)
	if res, _ := do(t, other, http.MethodGet, "/hello", nil); res.StatusCode != http.StatusForbidden {
		t.Errorf("GET by notsleep: got %s", res.Status)
	}
}

func testOwnPorts(t *testing.T, r *rig) {
	for _, tt := range []struct {
		port       uint16
		path, want string
	}{
		{15021, "/healthz/ready", ""},
		{15020, "/stats/prometheus", "istio_requests_total{"},
		{15020, "/stats/prometheus", `response_code="403"`},
		{15020, "/metrics", "istio_tcp_sent_bytes_total{"},
		{15000, "/config_dump", "productpage-viewer"},
	} {
		if status, body := r.get("http://" + r.at(tt.port) + tt.path); status != 200 || !strings.Contains(body, tt.want) {
			t.Errorf("%s: got %d, without %q: %.2000s", tt.path, status, tt.want, body)
		}
	}
}

// TestWaypointDrains sends SIGTERM with a request and a gRPC stream under way, and
// idle connections beside them.
func TestWaypointDrains(t *testing.T) {
	r := newRig(t, moreServices)
	a := r.app()
	r.node()
	sleep := r.client("/ns/default/sa/sleep")
	vip := netip.AddrPortFrom(r.vip, bookinfoPort).String()
	do(t, sleep.http(vip, http1), http.MethodGet, "/hello", nil)
	do(t, r.client("/ns/default/sa/notsleep").http(vip, http2only), http.MethodGet, "/hello", nil)

	call, err := dialGRPC(t, sleep, netip.AddrPortFrom(more, 9082).String()).FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := pingPong(call, "before"); err != nil {
		t.Fatal(err)
	}
	answer := make(chan string, 2)
	for _, protocol := range []func(*http.Protocols){http1, http2only} {
		c := sleep.http(vip, protocol)
		go func() {
			res, err := c.Get("http://productpage:9080/hold")
			if err != nil {
				answer <- err.Error()
				return
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			answer <- fmt.Sprint(res.StatusCode, " ", string(body), " ", err)
		}()
		<-a.held
	}

	r.terminate()
	r.until("unready", func() bool {
		status, _ := r.get("http://" + r.at(15021) + "/healthz/ready")
		return status >= 500
	})
	r.until("closed to new clients", func() bool {
		return converse(r.at(15008), r.clientTLS(r.ca.issue(trustDomain, "/ns/default/sa/sleep"))) != nil
	})
	if err := pingPong(call, "after"); err != nil {
		t.Errorf("the stream, after SIGTERM: %v", err)
	}
	close(a.release)
	for range 2 {
		if got, want := <-answer, "200 hello <nil>"; got != want {
			t.Errorf("the request in flight: got %q, want %q", got, want)
		}
	}
	if err := finish(call); err != nil {
		t.Errorf("the stream's end: %v", err)
	}
	<-r.exited
	if r.err != nil {
		t.Errorf("got %v, want exit status 0", r.err)
	}
	if log := r.log.String(); strings.Contains(log, "cut off") {
		t.Error("the drain took the whole deadline")
	}
}
