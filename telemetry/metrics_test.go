package telemetry

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/script"
)

// gather returns every sample of a scrape that is ours, as
// "name{label="value",…} value", without Go's and the process' own.
func gather(tb testing.TB, t *Telemetry) []string {
	tb.Helper()
	families, err := t.Metrics().Gather()
	if err != nil {
		tb.Fatal(err)
	}
	var out []string
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "go_") || strings.HasPrefix(f.GetName(), "process_") {
			continue
		}
		for _, m := range f.GetMetric() {
			out = append(out, f.GetName()+labelsOf(m)+" "+valueOf(m))
		}
	}
	return out
}

func labelsOf(m *dto.Metric) string {
	var pairs []string
	for _, l := range m.GetLabel() {
		pairs = append(pairs, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
	}
	return "{" + strings.Join(pairs, ",") + "}"
}

func valueOf(m *dto.Metric) string {
	switch {
	case m.Counter != nil:
		return fmt.Sprint(m.GetCounter().GetValue())
	case m.Gauge != nil:
		return fmt.Sprint(m.GetGauge().GetValue())
	}
	h := m.GetHistogram()
	var in []string
	for _, b := range h.GetBucket() {
		in = append(in, fmt.Sprintf("%g:%d", b.GetUpperBound(), b.GetCumulativeCount()))
	}
	return fmt.Sprintf("count=%d sum=%g %s", h.GetSampleCount(), h.GetSampleSum(), strings.Join(in, " "))
}

// value returns the value of the one sample that has name and every part.
func value(tb testing.TB, t *Telemetry, name string, parts ...string) string {
	tb.Helper()
	var found []string
	for _, s := range gather(tb, t) {
		if strings.HasPrefix(s, name+"{") && !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(s, p) }) {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		tb.Fatalf("%s %q: %d samples, want 1: %q", name, parts, len(found), found)
	}
	return found[0][strings.LastIndex(found[0], "} ")+2:]
}

// everything reports one of each thing that a program can.
func everything(r *rig, reporters ...Reporter) {
	if slices.Contains(reporters, ByWaypoint) {
		r.HTTP(exchange())
		call := exchange()
		call.GRPC, call.GRPCStatus, call.HasGRPCStatus = true, 14, true
		call.Requests.Count, call.Responses.Count = 3, 1
		r.HTTP(call)
		denied := exchange()
		denied.Dest, denied.Status, denied.Flag, denied.Details = nil, 403, 0, "rbac_access_denied_matched_policy[none]"
		denied.Decision = Decision{
			Denied: true, Reason: ByNoAllowRule,
			DryAllow: Rehearsal{Result: "denied"},
			DryDeny:  Rehearsal{"denied", "ns[bookinfo]-policy[no-put]-rule[0]", "bookinfo/no-put"},
			Trials:   []Trial{{"bookinfo/readers-2", "bookinfo/readers", true}},
		}
		r.HTTP(denied)
	}
	for _, by := range reporters {
		rec := connection(by)
		r.Open(rec)
		rec.Received, rec.Sent = 100, 2000
		r.Close(rec)
		rec = connection(by)
		r.Open(rec)
		rec.Flag, rec.Err = ConnectFailure, errors.New("connection refused")
		r.Close(rec)
	}
	r.Watch(Readings{
		RejectedResources: func() int { return 1 },
		Publishes:         func() uint64 { return 2 },
		BufferBytes:       func() int64 { return 3 },
		Sockets:           func() int { return 4 },
		LoopStalls:        func() uint64 { return 6 },
		LoopHangs:         func() uint64 { return 7 },
		LoopBusy:          func() time.Duration { return 8500 * time.Millisecond },
		LoopLag:           func() time.Duration { return 90 * time.Millisecond },
	})
}

func TestEveryMetricHasItsName(t *testing.T) {
	r := newRig(t, Options{Version: "1.30.0"})
	everything(r, ByWaypoint)
	script.Golden(t, "testdata/metrics_waypoint.golden", strings.Join(gather(t, r.Telemetry), "\n")+"\n")

	r = newRig(t, Options{Program: Ztunnel, Version: "1.30.0"})
	everything(r, BySource, ByDestination)
	r.ProxyPending()
	r.ProxyPending()
	r.ProxyStarted()
	r.HandshakeFailed()
	r.Watch(Readings{XDS: func() XDS {
		return XDS{
			Connected: true,
			Endings:   []XDSEnding{{"ConnectionError", 1}, {"Error", 2}, {"Reconnect", 3}, {"Complete", 4}},
			Types: []XDSType{
				{URL: "type.googleapis.com/istio.workload.Address", Messages: 5, Bytes: 600, Rejected: 1, Resources: 40},
				{URL: "type.googleapis.com/istio.security.Authorization", Messages: 2, Bytes: 70},
			},
		}
	}})
	script.Golden(t, "testdata/metrics_ztunnel.golden", strings.Join(gather(t, r.Telemetry), "\n")+"\n")
}

// requestLabels are those of istio_requests_total, as the real Kiali read them.
const requestLabels = `reporter source_workload source_canonical_service source_canonical_revision
	source_workload_namespace source_principal source_app source_version source_cluster
	destination_workload destination_workload_namespace destination_principal destination_app
	destination_version destination_service destination_canonical_service
	destination_canonical_revision destination_service_name destination_service_namespace
	destination_cluster request_protocol response_code grpc_response_status response_flags
	connection_security_policy`

func TestLabelsAreThoseKialiReads(t *testing.T) {
	outcome := []string{"response_code", "grpc_response_status"}
	want := strings.Fields(requestLabels)
	slices.Sort(want)
	r := newRig(t, Options{})
	everything(r, ByWaypoint, BySource, ByDestination)
	families, err := r.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		var expected []string
		switch name := f.GetName(); {
		case strings.Contains(name, "_messages_"):
			expected = slices.DeleteFunc(slices.Clone(want), func(l string) bool {
				return l == "request_protocol" || l == "response_flags" || l == "connection_security_policy" || slices.Contains(outcome, l)
			})
		case strings.HasPrefix(name, "istio_tcp_") && name != "istio_tcp_sockets_open":
			expected = slices.DeleteFunc(slices.Clone(want), func(l string) bool { return slices.Contains(outcome, l) })
		case strings.HasPrefix(name, "istio_request") || strings.HasPrefix(name, "istio_response"):
			expected = want
		default:
			continue
		}
		for _, m := range f.GetMetric() {
			var got []string
			for _, l := range m.GetLabel() {
				got = append(got, l.GetName())
				if l.GetValue() == "" && l.GetName() != "grpc_response_status" {
					t.Errorf("%s: label %s is empty", f.GetName(), l.GetName())
				}
			}
			if !slices.Equal(got, expected) {
				t.Errorf("%s: labels %v, want %v", f.GetName(), got, expected)
			}
		}
	}
}

// Kiali counts a connection twice whose two reports differ in more than the
// reporter.
func TestBothTunnelsTellTheSame(t *testing.T) {
	r := newRig(t, Options{Program: Ztunnel})
	everything(r, BySource, ByDestination)
	seen := map[string]int{}
	for _, s := range gather(t, r.Telemetry) {
		if strings.HasPrefix(s, "istio_tcp_") && !strings.HasPrefix(s, "istio_tcp_sockets") {
			s = strings.Replace(s, `reporter="source"`, `reporter="x"`, 1)
			seen[strings.Replace(s, `reporter="destination"`, `reporter="x"`, 1)]++
		}
	}
	for s, n := range seen {
		if n != 2 {
			t.Errorf("reported by %d tunnels, want 2: %s", n, s)
		}
	}
	if len(seen) != 6 { // closed twice, with its flag and without
		t.Errorf("%d samples, want 6", len(seen))
	}
}

func TestLabels(t *testing.T) {
	const name = "istio_requests_total"
	unknownDest := []string{
		`destination_workload="unknown"`, `destination_workload_namespace="unknown"`, `destination_cluster="unknown"`,
		`destination_principal="unknown"`, `destination_canonical_service="unknown"`, `destination_canonical_revision="unknown"`,
		`destination_app="unknown"`, `destination_version="unknown"`,
		`destination_service="reviews.bookinfo.svc.cluster.local"`, `destination_service_name="reviews"`,
		`destination_service_namespace="bookinfo"`,
	}
	for _, row := range []struct {
		name string
		edit func(*HTTP)
		want []string
	}{
		{"the destination's principal is its workload's", func(*HTTP) {},
			[]string{`destination_principal="spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews"`, `connection_security_policy="mutual_tls"`}},
		{"refused before an endpoint was chosen", func(r *HTTP) { r.Dest, r.Status = nil, 403 },
			append(unknownDest, `response_code="403"`, `response_flags="-"`)},
		{"a client we know nothing of", func(r *HTTP) { r.Source, r.SourceID = nil, account("", ""); r.SourceID.TrustDomain = "" },
			[]string{`source_workload="unknown"`, `source_workload_namespace="unknown"`, `source_principal="unknown"`,
				`source_canonical_revision="latest"`, `source_cluster="unknown"`, `connection_security_policy="none"`}},
		{"a client known by its certificate alone", func(r *HTTP) { r.Source = nil },
			[]string{`source_workload="unknown"`, `source_workload_namespace="bookinfo"`, `source_cluster="Kubernetes"`}},
		{"the certificate's namespace wins", func(r *HTTP) { r.SourceID.Namespace = "other" },
			[]string{`source_workload_namespace="other"`}},
		{"we have no certificate", func(r *HTTP) { r.LocalID = account("", ""); r.LocalID.TrustDomain = "" },
			[]string{`connection_security_policy="none"`}},
		{"no service but a name", func(r *HTTP) { r.Service, r.ServiceHost = nil, mesh.Hostname{Namespace: "n", Host: "api.example.com"} },
			[]string{`destination_service="api.example.com"`, `destination_service_name="api"`, `destination_service_namespace="n"`}},
		{"no service at all", func(r *HTTP) { r.Service = nil },
			[]string{`destination_service="unknown"`, `destination_service_name="unknown"`, `destination_service_namespace="unknown"`}},
		{"nobody answered", func(r *HTTP) { r.Status, r.Flag = 0, DC },
			[]string{`response_code="0"`, `response_flags="DC"`}},
		{"several flags", func(r *HTTP) { r.Status, r.Flag = 503, UF|URX },
			[]string{`response_flags="UF,URX"`}},
		{"gRPC without a status", func(r *HTTP) { r.GRPC = true },
			[]string{`request_protocol="grpc"`, `grpc_response_status=""`}},
		{"gRPC that went well", func(r *HTTP) { r.GRPC, r.HasGRPCStatus = true, true },
			[]string{`request_protocol="grpc"`, `grpc_response_status="0"`}},
		{"a bare pod", func(r *HTTP) { r.Dest = &mesh.Workload{Name: "pod", Namespace: "n"} },
			[]string{`destination_workload="pod"`, `destination_app="pod"`, `destination_version="latest"`,
				`destination_cluster="Kubernetes"`, `destination_principal="unknown"`}},
		{"a name that is not UTF-8", func(r *HTTP) { r.Dest = &mesh.Workload{Name: "p\xffd", Namespace: "n"} },
			[]string{"destination_workload=\"p\ufffdd\""}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, Options{})
			rec := exchange()
			row.edit(rec)
			r.HTTP(rec)
			value(t, r.Telemetry, name, row.want...)
		})
	}
}

func TestTunnelLabels(t *testing.T) {
	const opened = "istio_tcp_connections_opened_total"
	r := newRig(t, Options{Program: Ztunnel})
	plain := connection(BySource)
	plain.SourceID, plain.DestID, plain.Dest, plain.Service, plain.HBONE = account("", ""), account("", ""), nil, nil, false
	plain.SourceID.TrustDomain, plain.DestID.TrustDomain = "", ""
	r.Open(plain)
	value(t, r.Telemetry, opened, `connection_security_policy="unknown"`, `source_principal="unknown"`,
		`source_workload="productpage-v1"`, `destination_workload="unknown"`)

	r = newRig(t, Options{Program: Ztunnel})
	far := *reviews
	far.Locality = mesh.Locality{Region: "eu", Zone: "eu-1"}
	rec := connection(BySource)
	rec.Dest = &far
	r.Open(rec)
	value(t, r.Telemetry, opened, `destination_region="eu"`, `destination_zone="eu-1"`, `source_region="unknown"`, `source_zone="unknown"`)
}

func TestHistogramBuckets(t *testing.T) {
	r := newRig(t, Options{})
	for _, d := range []time.Duration{0, 500 * time.Microsecond, 501 * time.Microsecond, time.Hour, 2 * time.Hour} {
		rec := exchange()
		rec.Duration = d
		r.HTTP(rec)
	}
	got := value(t, r.Telemetry, "istio_request_duration_milliseconds")
	want := "count=5 sum=1.0800001001e+07 0.5:2 1:3 5:3 10:3 25:3 50:3 100:3 250:3 500:3 1000:3 2500:3 5000:3 " +
		"10000:3 30000:3 60000:3 300000:3 600000:3 1.8e+06:3 3.6e+06:4"
	want = strings.Replace(want, "1.0800001001e+07", fmt.Sprintf("%g", 10800001.001), 1)
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := value(t, r.Telemetry, "istio_requests_total"); got != "5" {
		t.Errorf("istio_requests_total = %s, want 5", got)
	}
}

func TestConnectionsCountAsTheyGo(t *testing.T) {
	r := newRig(t, Options{Program: Ztunnel})
	rec := connection(ByDestination)
	check := func(when string, want map[string]string) {
		t.Helper()
		for name, v := range want {
			if got := value(t, r.Telemetry, name, `reporter="destination"`); got != v {
				t.Errorf("%s: %s = %s, want %s", when, name, got, v)
			}
		}
	}
	r.Open(rec)
	check("opened", map[string]string{
		"istio_tcp_connections_opened_total": "1", "istio_tcp_connections_closed_total": "0",
		"istio_tcp_received_bytes_total": "0", "istio_tcp_sent_bytes_total": "0", "istio_tcp_sockets_open": "1",
	})
	rec.Received, rec.Sent = 10, 300
	r.Flush(rec)
	r.Flush(rec)
	rec.Received = 15
	check("flushed", map[string]string{"istio_tcp_received_bytes_total": "10", "istio_tcp_sent_bytes_total": "300"})
	r.Close(rec)
	r.Close(rec)
	r.Flush(rec)
	check("closed", map[string]string{
		"istio_tcp_connections_opened_total": "1", "istio_tcp_connections_closed_total": "1",
		"istio_tcp_received_bytes_total": "15", "istio_tcp_sent_bytes_total": "300", "istio_tcp_sockets_open": "0",
	})
}

func TestFailedConnectionsShowTheirFlagAtTheEndOnly(t *testing.T) {
	r := newRig(t, Options{Program: Ztunnel})
	rec := connection(BySource)
	r.Open(rec)
	rec.Sent, rec.Flag = 7, NetworkPolicy
	r.Close(rec)
	for _, want := range []struct{ name, flag, value string }{
		{"istio_tcp_connections_opened_total", "-", "1"},
		{"istio_tcp_sent_bytes_total", "-", "7"},
		{"istio_tcp_connections_closed_total", "-", "0"},
		{"istio_tcp_connections_closed_total", "NETWORK_POLICY", "1"},
		{"istio_tcp_connections_failed_total", "NETWORK_POLICY", "1"},
	} {
		if got := value(t, r.Telemetry, want.name, `response_flags="`+want.flag+`"`); got != want.value {
			t.Errorf("%s %s = %s, want %s", want.name, want.flag, got, want.value)
		}
	}
}

func TestMessagesAreCountedWhileACallLasts(t *testing.T) {
	r := newRig(t, Options{})
	rec := exchange()
	rec.GRPC = true
	r.FlushHTTP(rec) // nothing yet: no series
	content := []byte("\x00\x00\x00\x00\x03abc\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02")
	for i := range content {
		rec.Requests.Read(content[i : i+1])
	}
	rec.Responses.Read(content)
	r.FlushHTTP(rec)
	if got := value(t, r.Telemetry, "istio_request_messages_total"); got != "3" {
		t.Errorf("byte by byte: %s messages, want 3", got)
	}
	if got := value(t, r.Telemetry, "istio_response_messages_total"); got != "3" {
		t.Errorf("in one piece: %s messages, want 3", got)
	}
	rec.Requests.Read([]byte("xy\x00\x00\x00\x00\x00"))
	r.HTTP(rec)
	if got := value(t, r.Telemetry, "istio_request_messages_total"); got != "4" {
		t.Errorf("at the end: %s messages, want 4", got)
	}
}

func TestFlagNames(t *testing.T) {
	for f := Flag(1); f < lastFlag; f <<= 1 {
		if got, want := f.String(), string(f.appendTo(nil)); got != want || got == "" || got == "-" {
			t.Errorf("flag %#x is %q, appended %q", uint64(f), got, want)
		}
	}
	for f, want := range map[Flag]string{0: "-", UF: "UF", UF | URX: "UF,URX", CertRevoked: "CERT_REVOKED", DR: "DR", lastFlag: "-"} {
		if got := f.String(); got != want {
			t.Errorf("%#x: got %q, want %q", uint64(f), got, want)
		}
	}
}
