package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// binaries is where make build leaves our programs.
const binaries = "../../bin"

func testEnv(t *testing.T) *env {
	t.Helper()
	bin, err := filepath.Abs(binaries)
	if err != nil {
		t.Fatal(err)
	}
	if dir := os.Getenv("WAYSTONE_BIN"); dir != "" {
		bin = dir
	}
	e, err := newEnv(filepath.Join(t.TempDir(), "run"), bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// live skips a test that starts systems when only what is quick is wanted: they
// are those that were built last.
func live(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts programs: make test-peers")
	}
}

// upFor starts a system, or skips the test when it cannot run here.
func upFor(t *testing.T, e *env, s system) *running {
	t.Helper()
	if s.name == envoyWaypoint().name {
		if _, err := envoyHere(); err != nil {
			t.Skip(err, ": a test installs nothing, make bench-peers does")
		}
	}
	if why := s.missing(); why != "" {
		t.Skip(why)
	}
	r, err := s.start(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.pids) > 0 && s.version() == "" {
		t.Error("no version")
	}
	return r
}

// accessKeys are those of Istio's JSON access log.
var accessKeys = []string{
	"authority", "bytes_received", "bytes_sent", "connection_termination_details", "downstream_local_address",
	"downstream_remote_address", "duration", "method", "path", "protocol", "request_id", "requested_server_name",
	"response_code", "response_code_details", "response_flags", "route_name", "start_time", "upstream_cluster",
	"upstream_host", "upstream_local_address", "upstream_service_time", "upstream_transport_failure_reason",
	"user_agent", "x_forwarded_for",
}

// TestWaypointsAreTheSame holds ours and Envoy to the same decisions, the same
// route, the same log and mTLS on both sides: otherwise there is nothing to compare.
func TestWaypointsAreTheSame(t *testing.T) {
	live(t)
	for _, which := range []int{0, 1} {
		e := testEnv(t)
		s := waypoints(e)[which]
		t.Run(s.name, func(t *testing.T) { testWaypoint(t, e, s) })
	}
}

func testWaypoint(t *testing.T, e *env, s system) {
	dest := serve(t, e)
	r := upFor(t, e, s)

	client, err := open(t, e, r, clientAccount, r.to("http1"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "spiffe://cluster.local/ns/" + strings.Replace(r.peer, "/", "/sa/", 1); client.peer != want {
		t.Errorf("the waypoint is %s, want %s", client.peer, want)
	}
	for _, row := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/", 200},
		{"POST", "/items/1", 200},
		{"GET", "/grpc.testing.BenchmarkService/UnaryCall", 200},
		{"DELETE", "/", 403},
		{"GET", "/secret", 403},
		{"GET", "/metrics", 403}, // somebody else may
	} {
		got, err := client.ask(row.method, row.path)
		if err != nil || got != row.want {
			t.Errorf("%s %s: got %d, %v, want %d", row.method, row.path, got, err, row.want)
		}
	}
	if n := dest.count(); n != 3 {
		t.Errorf("%d requests got through, want 3", n)
	}

	if _, err := client.ask("GET", "/items?q=1"); err != nil {
		t.Fatal(err)
	}
	got := dest.last(t)
	if want := "spiffe://cluster.local/ns/default/sa/" + waypointAccount; got.peer != want {
		t.Errorf("the destination was reached by %q, want %s", got.peer, want)
	}
	if want := e.destination.HBONE.Addr().String() + ":8080"; got.authority != want {
		t.Errorf("the CONNECT to the destination was for %s, want %s", got.authority, want)
	}
	if route := got.fields.Get("x-route"); route != "items" {
		t.Errorf("the route's field is %q, want items", route)
	}
	if id := got.fields.Get("x-request-id"); id == "" {
		t.Error("no x-request-id")
	}

	other, err := open(t, e, r, otherAccount, r.to("http1"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := other.ask("GET", "/"); err != nil || got != 403 {
		t.Errorf("somebody else: got %d, %v, want 403", got, err)
	}
	if _, err := open(t, e, &running{connect: r.connect}, "", r.to("http1")); err == nil {
		t.Error("a client without a certificate was let in")
	}
	counted, err := r.counters()
	if err != nil || len(counted) == 0 {
		t.Errorf("counters: got %v, %v", counted, err)
	}
	client.close()
	other.close()
	if err := r.stop(); err != nil { // and the log is whole
		t.Fatal(err)
	}
	checkAccessLog(t, r.access)
}

func checkAccessLog(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var statuses []float64
	for line := range bytes.Lines(text) {
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if fields["method"] == nil {
			continue // the end of a tunnel
		}
		var keys []string
		for k := range fields {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		if !slices.Equal(keys, accessKeys) {
			t.Errorf("keys: got %q", keys)
		}
		status, _ := fields["response_code"].(float64)
		statuses = append(statuses, status)
		details := fields["response_code_details"]
		if status == 403 && details != "rbac_access_denied_matched_policy[none]" {
			t.Errorf("a denied request has details %v", details)
		}
		if status == 200 && (details != "via_upstream" || fields["upstream_host"] == nil || fields["request_id"] == nil) {
			t.Errorf("got %s", line)
		}
	}
	if want := []float64{200, 200, 200, 403, 403, 403, 200, 403}; !slices.Equal(statuses, want) {
		t.Errorf("logged: got %v, want %v", statuses, want)
	}
}

func TestPumpCarriesHBONE(t *testing.T) {
	live(t)
	e := testEnv(t)
	dest := serve(t, e)
	r := upFor(t, e, haproxyPump())
	c, err := open(t, e, r, clientAccount, r.to("http1"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.ask("DELETE", "/"); err != nil || got != 200 {
		t.Errorf("got %d, %v, want 200", got, err)
	}
	if got := dest.last(t); got.peer != "spiffe://cluster.local/ns/default/sa/"+waypointAccount || got.authority != httpAuthority {
		t.Errorf("got %+v: not by mTLS, or not the client's bytes", got)
	}
	if _, err := open(t, e, &running{connect: r.connect}, "", httpAuthority); err == nil {
		t.Error("a client without a certificate was let in")
	}
	c.close()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

func TestTunnelsCarryTCP(t *testing.T) {
	live(t)
	for which := range tunnels(testEnv(t)) {
		e := testEnv(t)
		s := tunnels(e)[which]
		t.Run(s.name, func(t *testing.T) {
			serve(t, e)
			r := upFor(t, e, s)
			c, err := net.Dial("tcp", r.connect)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			in := bufio.NewReader(c)
			if r.transport == "socks5" {
				socks(t, c, in, r.authority)
			}
			if _, err := io.WriteString(c, "hello\n"); err != nil {
				t.Fatal(err)
			}
			if line, err := in.ReadString('\n'); err != nil || line != "hello\n" {
				t.Errorf("got %q, %v", line, err)
			}
			c.Close()
			if err := r.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// socks asks a SOCKS5 proxy for a connection (RFC 1928).
func socks(t *testing.T, c net.Conn, in io.Reader, authority string) {
	t.Helper()
	to, err := net.ResolveTCPAddr("tcp", authority)
	if err != nil {
		t.Fatal(err)
	}
	ask := append([]byte{5, 1, 0, 5, 1, 0, 1}, to.IP.To4()...)
	if _, err := c.Write(append(ask, byte(to.Port>>8), byte(to.Port))); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 12)
	if _, err := io.ReadFull(in, answer); err != nil || answer[0] != 5 || answer[3] != 0 {
		t.Fatalf("got %v, %v", answer, err)
	}
}
