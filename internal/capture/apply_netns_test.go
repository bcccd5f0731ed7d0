//go:build netns && linux

package capture

import (
	"fmt"
	"net/netip"
	"testing"
)

var all = Options{DNS: true, IPv6: true}

func (w *world) apply(o Options) {
	w.t.Helper()
	w.must(Apply(w.pod, o))
}

func TestEverythingIsCaptured(t *testing.T) {
	w := newWorld(t)
	w.app(w.pod, "[::]:8080")
	w.app(w.client, "[::]:80")
	w.app(w.client, "[::]:53")
	w.tunnel()
	w.apply(all)
	eachFamily(t, func(t *testing.T, fam string) {
		expect(t, "outbound", w.get(w.pod, clientIP[fam], 80), fmt.Sprintf("outbound to %v <nil>", netip.AddrPortFrom(clientIP[fam], 80)))
		expect(t, "the tunnel's own", w.ask(w.pod, netip.AddrPort{}, netip.AddrPortFrom(clientIP[fam], 80), tunnelSocket), fmt.Sprintf("app from %v", podIP[fam]))
		expect(t, "inbound", w.get(w.client, podIP[fam], 8080), fmt.Sprintf("inbound, app from %v", clientIP[fam]))
		expect(t, "inbound to our own port", w.get(w.client, podIP[fam], InboundPort), fmt.Sprintf("inbound to %v <nil>", netip.AddrPortFrom(podIP[fam], InboundPort)))
		expect(t, "HBONE", w.get(w.client, podIP[fam], HBONEPort), "HBONE")
		expect(t, "to itself", w.get(w.pod, podIP[fam], 8080), fmt.Sprintf("app from %v", podIP[fam]))
		expect(t, "loopback", w.get(w.pod, loopback[fam], 8080), fmt.Sprintf("app from %v", loopback[fam]))
		expect(t, "DNS over UDP", w.query(w.pod, elsewhere[fam], 53), "DNS")
		expect(t, "DNS over TCP", w.get(w.pod, elsewhere[fam], 53), "DNS")
		expect(t, "the tunnel's own DNS", w.ask(w.pod, netip.AddrPort{}, netip.AddrPortFrom(clientIP[fam], 53), tunnelSocket), fmt.Sprintf("app from %v", podIP[fam]))
	})
	if t.Failed() {
		t.Log(state(t, w.pod))
	}
}
