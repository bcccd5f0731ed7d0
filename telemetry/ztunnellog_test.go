package telemetry

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

func tunnelCases() []*TCP {
	outbound := connection(BySource)
	outbound.Received, outbound.Sent, outbound.Duration = 84, 358, 42174750*time.Nanosecond

	waypoint := connection(BySource)
	waypoint.Dest, waypoint.DestID, waypoint.Hop = gateway, account("bookinfo", "waypoint"), ToWaypoint
	waypoint.Target = mesh.Authority{IP: netip.MustParseAddr("10.96.12.4"), Port: 9080}
	waypoint.Upstream, waypoint.Duration = netip.MustParseAddrPort("10.244.2.9:15008"), 75*time.Second

	passthrough := connection(BySource)
	passthrough.HBONE, passthrough.Hop = false, Passthrough
	passthrough.SourceID, passthrough.DestID = identity.ID{}, identity.ID{}
	passthrough.Dest, passthrough.Service, passthrough.Target = nil, nil, mesh.Authority{}
	passthrough.LocalAddr = netip.MustParseAddrPort("192.0.2.1:443")
	passthrough.Upstream = passthrough.LocalAddr

	inbound := connection(ByDestination)
	inbound.Received, inbound.Sent, inbound.Duration = 84, 358, 15*time.Millisecond

	denied := connection(ByDestination)
	denied.Flag, denied.Err = Deny, errors.New("connection closed due to policy \"x\"\nchange")

	plain := connection(ByDestination)
	plain.HBONE, plain.SourceID, plain.DestID, plain.Source = false, identity.ID{}, identity.ID{}, nil
	plain.Service, plain.ServiceHost = nil, mesh.Hostname{Host: "reviews.bookinfo.svc.cluster.local"}
	return []*TCP{outbound, waypoint, passthrough, inbound, denied, plain}
}

func TestTunnelLines(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		var out sink
		r := newRig(t, Options{Program: Ztunnel, Steps: true, Log: newLog(t, LogOptions{Output: &out, JSON: asJSON, Level: "debug"})})
		for _, rec := range tunnelCases() {
			r.Open(rec)
			r.Close(rec)
		}
		early := &TCP{}
		early.Reporter, early.SourceAddr, early.LocalAddr = ByDestination, netip.MustParseAddrPort("10.0.0.9:4000"), netip.MustParseAddrPort("10.0.0.1:15008")
		early.Err = errors.New("tls: no certificate")
		r.Failed(early)
		goldenLog(t, "tunnel", asJSON, out.take())
	}
}

func TestStepsAreAtDebugUnlessAskedFor(t *testing.T) {
	for _, row := range []struct {
		level string
		steps bool
		want  string // in the output
	}{
		{"info", false, ""},
		{"debug", false, "2023-08-28T10:39:33.716634Z DEBUG outbound{id=86e9aa3b1c2d4e5f60718293a4b5c6d7}: ztunnel::proxy::outbound: proxy to 10.244.1.22:9080 using HBONE via 10.244.1.22:15008 type Direct\n"},
		{"info", true, "2023-08-28T10:39:33.716634Z  INFO outbound{id=86e9aa3b1c2d4e5f60718293a4b5c6d7}: ztunnel::proxy::outbound: proxy to 10.244.1.22:9080 using HBONE via 10.244.1.22:15008 type Direct\n"},
		{"info,ztunnel::proxy:warn", true, ""},
	} {
		var out sink
		r := newRig(t, Options{Program: Ztunnel, Steps: row.steps, Log: newLog(t, LogOptions{Output: &out, Level: row.level})})
		rec := connection(BySource)
		r.Open(rec)
		got := out.take()
		if row.want == "" && got != "" || !strings.Contains(got, row.want) {
			t.Errorf("level %s, steps %v: got %q, want %q", row.level, row.steps, got, row.want)
		}
		r.Close(rec)
		if !strings.Contains(out.take(), "connection complete") {
			t.Errorf("level %s: no line at the end", row.level)
		}
	}
}

func TestRustDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		42174750: "42.17475ms", 734500: "734.5µs", 1500 * time.Millisecond: "1.5s", 75 * time.Second: "75s", 0: "0s",
	} {
		if got := string(appendRustDuration(nil, d)); got != want {
			t.Errorf("%d: got %s, want %s", d, got, want)
		}
	}
}

// What is known of the network comes after ztunnel's own keys, which stay as they
// are.
func TestLinkIsAfterTheKeysOfZtunnel(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		var out sink
		r := newRig(t, Options{Program: Ztunnel, Log: newLog(t, LogOptions{Output: &out, JSON: asJSON})})
		line := func(l *Link) string {
			rec := connection(BySource)
			r.Open(rec)
			rec.Duration, rec.Link = 90*time.Second, l
			r.Close(rec)
			return strings.TrimRight(out.take(), "}\n")
		}
		without := line(nil)
		for want, l := range map[[2]string]*Link{
			{` tcp.rtt="1.250ms" tcp.min_rtt="0.040ms" tcp.retransmits=3 tcp.lost=1`, `,"tcp.rtt":"1.250ms","tcp.min_rtt":"0.040ms","tcp.retransmits":3,"tcp.lost":1`}: {
				RTT: 1250 * time.Microsecond, MinRTT: 40 * time.Microsecond, Retransmits: 3, Lost: 1},
			{` tcp.rtt="1.250ms" tcp.retransmits=0 tcp.lost=0`, `,"tcp.rtt":"1.250ms","tcp.retransmits":0,"tcp.lost":0`}: {RTT: 1250 * time.Microsecond},
		} {
			if asJSON {
				want[0] = want[1]
			}
			if got := line(l); got != without+want[0] {
				t.Errorf("got  %s\nwant %s", got, without+want[0])
			}
		}
	}
}
