package telemetry

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// accessCases are exchanges and tunnels of every shape that the log tells apart.
func accessCases() []any {
	plain := exchange()
	plain.UpstreamTunnelled = false
	plain.UpstreamLocal = netip.MustParseAddrPort("10.244.2.7:51000")
	plain.Cluster = Cluster{Kind: Outbound, Port: 80, Subset: "v2", Host: "api.example.com"}
	plain.Protocol, plain.ForwardedFor = "HTTP/2", "192.0.2.1"

	direct := exchange()
	direct.Cluster = Cluster{Kind: Encap}
	direct.LocalAddr = netip.MustParseAddrPort("[2001:db8::1]:9080")

	denied := exchange()
	denied.Status, denied.Details = 403, "rbac_access_denied_matched_policy[ns[default]-policy[deny post]-rule[0]]"
	denied.Dest, denied.Upstream, denied.ServiceTime, denied.Cluster = nil, netip.AddrPort{}, 0, Cluster{Kind: InboundVIP, Port: 9080, Subset: "v1", Host: "reviews.bookinfo.svc.cluster.local"}

	failed := exchange()
	failed.Status, failed.Flag, failed.ServiceTime = 503, UF|URX, 0
	failed.Details = "upstream_reset_before_response_started{connection timeout}"
	failed.TransportFailure = "TLS_error: certificate is for another"

	hostile := exchange()
	hostile.Path = "/\"\n\x00\x7f\t\\<>&\u2028é\xff"
	hostile.UserAgent = "evil\" 200 -"
	hostile.Authority, hostile.RequestID = "", ""

	byName := exchange()
	byName.LocalAddr, byName.SourceAddr = netip.AddrPort{}, netip.AddrPort{}
	byName.Target = mesh.Authority{Host: "reviews.bookinfo.svc.cluster.local", Port: 9080}

	tunnel := connection(ByWaypoint)
	tunnel.Upstream, tunnel.UpstreamTunnelled = netip.MustParseAddrPort("10.244.1.22:3306"), true
	tunnel.Cluster = Cluster{Kind: InboundVIP, Port: 3306, Host: "db.bookinfo.svc.cluster.local"}
	tunnel.Received, tunnel.Sent, tunnel.Duration, tunnel.SNI = 5, 6, 7*time.Second, "db.example.com"

	cut := connection(ByWaypoint)
	cut.Termination, cut.Flag = "rbac_access_denied_matched_policy[none]", 0
	cut.Upstream = netip.AddrPort{}

	return []any{exchange(), plain, direct, denied, failed, hostile, byName, &HTTP{}, tunnel, cut}
}

func (r *rig) report(rec any) {
	switch rec := rec.(type) {
	case *HTTP:
		r.HTTP(rec)
	case *TCP:
		r.Open(rec)
		r.Close(rec)
	}
}

func TestAccessLogLines(t *testing.T) {
	for _, text := range []bool{false, true} {
		r := newRig(t, Options{Text: text})
		for _, rec := range accessCases() {
			r.report(rec)
		}
		goldenLog(t, "access", !text, r.lines(t))
	}
}

func TestJSONLineHasEveryKeyInOrder(t *testing.T) {
	r := newRig(t, Options{})
	for _, rec := range accessCases() {
		r.report(rec)
		line := r.lines(t)
		if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "}\n") {
			t.Errorf("not one line: %q", line)
		}
		dec := json.NewDecoder(strings.NewReader(line))
		if _, err := dec.Token(); err != nil {
			t.Fatal(err)
		}
		var keys []string
		for dec.More() {
			k, err := dec.Token()
			if err != nil {
				t.Fatalf("%v in %s", err, line)
			}
			keys = append(keys, k.(string))
			var v any
			if err := dec.Decode(&v); err != nil {
				t.Fatalf("%v in %s", err, line)
			}
			if s, ok := v.(string); ok && s == "" {
				t.Errorf("%s is empty, want null", k)
			}
		}
		if got, want := strings.Join(keys, " "), strings.Join(accessKeys[:], " "); got != want {
			t.Errorf("keys\n%s, want\n%s", got, want)
		}
	}
}

// The line of Istio's own documentation, as it was in 1.18.
func TestJSONLineParsesBack(t *testing.T) {
	r := newRig(t, Options{LegacyAddresses: true})
	r.HTTP(exchange())
	var got map[string]any
	if err := json.Unmarshal([]byte(r.lines(t)), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"start_time": "2023-08-28T10:39:33.716Z", "method": "GET", "path": "/reviews/0?x=1", "protocol": "HTTP/1.1",
		"authority": "reviews:9080", "user_agent": "curl/8.2.1", "x_forwarded_for": nil,
		"request_id":    "9a1f7a5e-6e5f-4b7c-9c1f-51ad0a0f5d4b",
		"response_code": 200.0, "response_code_details": "via_upstream", "connection_termination_details": nil,
		"response_flags": "-", "bytes_received": 12.0, "bytes_sent": 4183.0, "duration": 42.0,
		"upstream_service_time":  "41",
		"upstream_host":          "envoy://connect_originate/10.244.1.22:9080",
		"upstream_cluster":       "inbound-vip|9080|http|reviews.bookinfo.svc.cluster.local",
		"upstream_local_address": "envoy://internal_client_address/", "downstream_local_address": "10.96.12.4:9080",
		"downstream_remote_address": "envoy://internal_client_address/", "requested_server_name": nil,
		"route_name": "default", "upstream_transport_failure_reason": nil,
	}
	if len(got) != len(want) {
		t.Errorf("%d keys, want %d", len(got), len(want))
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s = %v, want %v", k, got[k], v)
		}
	}
}

func TestRefusedConnectIsLoggedAndNotCounted(t *testing.T) {
	r := newRig(t, Options{})
	rec := exchange()
	rec.Method, rec.Path, rec.Status = "CONNECT", "", 404
	r.ConnectRefused(rec)
	if line := r.lines(t); !strings.Contains(line, `"method":"CONNECT","path":null`) {
		t.Errorf("line: %s", line)
	}
	if got := samples(t, r.Telemetry, "istio_requests_total", ""); got != 0 {
		t.Errorf("%d series, want 0", got)
	}
}

func TestNothingIsLoggedWithoutALog(t *testing.T) {
	tel, err := New(Options{Program: Ztunnel, sweep: never})
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range accessCases() {
		(&rig{Telemetry: tel}).report(rec)
	}
	tunnel := connection(BySource)
	tel.Open(tunnel)
	tel.Close(tunnel)
	tel.Failed(tunnel)
	tel.ConnectRefused(exchange())
	tel.Propagate(exchange(), nil)
	if err := tel.Reopen(t.Context()); err != nil {
		t.Error(err)
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// decoded returns what encoding/json reads from a JSON string.
func decoded(tb testing.TB, b []byte) string {
	tb.Helper()
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		tb.Fatalf("%v: %q", err, b)
	}
	return s
}

func FuzzJSONString(f *testing.F) {
	for _, s := range []string{"", "plain", "\"\\/\b\f\n\r\t", "\x00\x1f\x7f\x80\xff", "é漢🙂", "\u2028\u2029", "\xed\xa0\x80", "a\xc3", "<>&"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b := appendJSONString([]byte("x"), s)[1:]
		if !json.Valid(b) {
			t.Fatalf("%q: not valid JSON: %q", s, b)
		}
		reference, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := decoded(t, b), decoded(t, reference); got != want {
			t.Errorf("%q decodes as %q, want %q", s, got, want)
		}
		if i := bytes.IndexFunc(b, func(r rune) bool { return r < 0x20 }); i >= 0 {
			t.Errorf("%q: control character at %d of %q", s, i, b)
		}
		if i := bytes.IndexFunc(appendOrDash(nil, s), func(r rune) bool { return r < 0x20 || r == 0x7f || r == '"' }); i >= 0 {
			t.Errorf("%q: forges text at %d", s, i)
		}
	})
}

func TestJSONStringFindsEveryByteAtEveryOffset(t *testing.T) {
	for c := range 256 {
		for at := range 20 {
			s := strings.Repeat("a", at) + string([]byte{byte(c)}) + strings.Repeat("b", 19-at)
			reference, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := decoded(t, appendJSONString(nil, s)), decoded(t, reference); got != want {
				t.Errorf("%q decodes as %q, want %q", s, got, want)
			}
		}
	}
}

func TestAppendTime(t *testing.T) {
	zone := time.FixedZone("east", 5*3600)
	for _, when := range []time.Time{noon, time.Date(1999, 12, 31, 23, 59, 59, 999999999, zone), time.Date(2024, 2, 29, 0, 0, 0, 1000, time.UTC)} {
		if got, want := string(appendTime(nil, when, 3)), when.UTC().Format("2006-01-02T15:04:05.000Z"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, want := string(appendTime(nil, when, 6)), when.UTC().Format("2006-01-02T15:04:05.000000Z"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
