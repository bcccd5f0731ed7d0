//go:build netns && linux

package capture

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/netns"
)

var all = Options{DNS: true, IPv6: true}

func (w *world) apply(o Options) {
	w.t.Helper()
	w.must(Apply(w.pod, o))
}

func outbound(to netip.Addr, port uint16) string {
	return fmt.Sprintf("outbound to %v <nil>", netip.AddrPortFrom(to, port))
}

func TestEverythingIsCaptured(t *testing.T) {
	w := newWorld(t)
	w.app(w.pod, "[::]:8080")
	w.app(w.client, "[::]:80")
	w.app(w.client, "[::]:53")
	w.tunnel()
	w.apply(all)
	eachFamily(t, func(t *testing.T, fam string) {
		pod, client := podIP[fam], clientIP[fam]
		expect(t, "outbound", w.get(w.pod, client, 80), outbound(client, 80))
		expect(t, "the tunnel's own", w.ask(w.pod, netip.AddrPort{}, netip.AddrPortFrom(client, 80), tunnelSocket), fmt.Sprintf("app from %v", pod))
		expect(t, "inbound", w.get(w.client, pod, 8080), fmt.Sprintf("inbound, app from %v", client))
		expect(t, "inbound to our own port", w.get(w.client, pod, InboundPort), fmt.Sprintf("inbound to %v <nil>", netip.AddrPortFrom(pod, InboundPort)))
		expect(t, "HBONE", w.get(w.client, pod, HBONEPort), "HBONE")
		expect(t, "to itself", w.get(w.pod, pod, 8080), fmt.Sprintf("app from %v", pod))
		expect(t, "loopback", w.get(w.pod, loopback[fam], 8080), fmt.Sprintf("app from %v", loopback[fam]))
		expect(t, "DNS over UDP", w.query(w.pod, elsewhere[fam], 53), "DNS")
		expect(t, "DNS over TCP", w.get(w.pod, elsewhere[fam], 53), "DNS")
		expect(t, "the tunnel's own DNS", w.ask(w.pod, netip.AddrPort{}, netip.AddrPortFrom(client, 53), tunnelSocket), fmt.Sprintf("app from %v", pod))
	})
}

// TestOptions asks the same of every Options: what the pod gets at ports 80 and
// 81 of the client, and the client at 8080 and 8081 of the pod.
func TestOptions(t *testing.T) {
	w := newWorld(t)
	for _, p := range []string{"8080", "8081"} {
		w.app(w.pod, "[::]:"+p)
	}
	for _, p := range []string{"80", "81", "53"} {
		w.app(w.client, "[::]:"+p)
	}
	w.tunnel()
	ranges := map[string]netip.Prefix{"IPv4": netip.MustParsePrefix("10.202.0.0/23"), "IPv6": netip.MustParsePrefix("fd00:202::/35")}
	others := map[string]netip.Prefix{"IPv4": netip.MustParsePrefix("10.202.0.3/32"), "IPv6": netip.MustParsePrefix("fd00:202::3/128")}
	every := map[string]netip.Prefix{"IPv4": netip.MustParsePrefix("0.0.0.0/0"), "IPv6": netip.MustParsePrefix("::/0")}
	rows := []struct {
		name                     string
		options                  func(fam string, o *Options)
		out80, out81, in80, in81 bool // captured?
	}{
		{"none", func(string, *Options) {}, true, true, true, true},
		{"bypass inbound", func(_ string, o *Options) { o.InboundBypass = true }, true, true, false, false},
		{"exclude inbound port", func(_ string, o *Options) { o.ExcludeInboundPorts = []uint16{8080, 9} }, true, true, false, true},
		{"include inbound port", func(_ string, o *Options) { o.IncludeInboundPorts = []uint16{8080, 9} }, true, true, true, false},
		{"include no inbound port", func(_ string, o *Options) { o.IncludeInboundPorts = []uint16{} }, true, true, false, false},
		{"exclude and include inbound port", func(_ string, o *Options) {
			o.IncludeInboundPorts, o.ExcludeInboundPorts = []uint16{8080}, []uint16{8080}
		}, true, true, false, false},
		{"exclude outbound port", func(_ string, o *Options) { o.ExcludeOutboundPorts = []uint16{9, 81} }, true, false, true, true},
		{"exclude range", func(fam string, o *Options) { o.ExcludeOutboundCIDRs = []netip.Prefix{ranges[fam]} }, false, false, true, true},
		{"exclude another range", func(fam string, o *Options) { o.ExcludeOutboundCIDRs = []netip.Prefix{others[fam]} }, true, true, true, true},
		{"exclude every address", func(fam string, o *Options) { o.ExcludeOutboundCIDRs = []netip.Prefix{every[fam]} }, false, false, true, true},
		{"include range", func(fam string, o *Options) { o.IncludeOutboundCIDRs = []netip.Prefix{others[fam], ranges[fam]} }, true, true, true, true},
		{"include another range", func(fam string, o *Options) { o.IncludeOutboundCIDRs = []netip.Prefix{others[fam]} }, false, false, true, true},
		{"include no range", func(_ string, o *Options) { o.IncludeOutboundCIDRs = []netip.Prefix{} }, false, false, true, true},
		{"include no range but a port", func(_ string, o *Options) {
			o.IncludeOutboundCIDRs, o.IncludeOutboundPorts = []netip.Prefix{}, []uint16{81}
		}, false, true, true, true},
		{"exclude a range of an included port", func(fam string, o *Options) {
			o.ExcludeOutboundCIDRs, o.IncludeOutboundPorts = []netip.Prefix{ranges[fam]}, []uint16{81}
		}, false, false, true, true},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, fam string) {
				o := all
				r.options(fam, &o)
				if err := Apply(w.pod, o); err != nil {
					t.Fatal(err)
				}
				pod, client := podIP[fam], clientIP[fam]
				for port, captured := range map[uint16]bool{80: r.out80, 81: r.out81} {
					want := fmt.Sprintf("app from %v", pod)
					if captured {
						want = outbound(client, port)
					}
					expect(t, fmt.Sprint("outbound ", port), w.get(w.pod, client, port), want)
				}
				for port, captured := range map[uint16]bool{8080: r.in80, 8081: r.in81} {
					want := fmt.Sprintf("app from %v", client)
					if captured {
						want = "inbound, " + want
					}
					expect(t, fmt.Sprint("inbound ", port), w.get(w.client, pod, port), want)
				}
				expect(t, "DNS", w.query(w.pod, elsewhere[fam], 53), "DNS")
				expect(t, "HBONE", w.get(w.client, pod, HBONEPort), "HBONE")
			})
		})
	}
	t.Run("no DNS", func(t *testing.T) {
		w.apply(Options{IPv6: true})
		expect(t, "TCP port 53", w.get(w.pod, clientIP["IPv4"], 53), outbound(clientIP["IPv4"], 53))
		w.serveUDP(w.client, netip.AddrPortFrom(clientIP["IPv4"], 53), netns.SocketOptions{}, "another's DNS")
		expect(t, "UDP port 53", w.query(w.pod, clientIP["IPv4"], 53), "another's DNS")
	})
	t.Run("no IPv6", func(t *testing.T) {
		w.apply(Options{})
		expect(t, "outbound IPv4", w.get(w.pod, clientIP["IPv4"], 80), outbound(clientIP["IPv4"], 80))
		expect(t, "outbound IPv6", w.get(w.pod, clientIP["IPv6"], 80), fmt.Sprintf("app from %v", podIP["IPv6"]))
		expect(t, "inbound IPv4", w.get(w.client, podIP["IPv4"], 8080), fmt.Sprintf("inbound, app from %v", clientIP["IPv4"]))
		expect(t, "inbound IPv6", w.get(w.client, podIP["IPv6"], 8080), fmt.Sprintf("app from %v", clientIP["IPv6"]))
	})
	t.Run("reroute interfaces", func(t *testing.T) {
		o := all
		o.RerouteInterfaces = []string{"br9", "eth0"}
		w.apply(o)
		eachFamily(t, func(t *testing.T, fam string) {
			expect(t, "from behind eth0", w.get(w.client, podIP[fam], 8080), outbound(podIP[fam], 8080))
		})
	})
}

func TestProbes(t *testing.T) {
	w := newWorld(t)
	w.app(w.pod, "[::]:8080")
	w.tunnel()
	w.apply(all)
	before := state(t, w.node)
	eachFamily(t, func(t *testing.T, fam string) {
		expect(t, "probe without rules of the node", w.get(w.node, podIP[fam], 8080), fmt.Sprintf("inbound, app from %v", podGate[fam]))
	})
	h, err := OpenHost(w.node)
	w.must(err)
	eachFamily(t, func(t *testing.T, fam string) {
		expect(t, "probe of a pod not captured", w.get(w.node, podIP[fam], 8080), fmt.Sprintf("inbound, app from %v", podGate[fam]))
	})
	for range 2 { // twice is no error
		w.must(h.Add(podIP["IPv4"], podIP["IPv6"]))
	}
	probed := func(t *testing.T, fam string) {
		expect(t, "probe", w.get(w.node, podIP[fam], 8080), fmt.Sprintf("app from %v", probeIP[fam]))
		expect(t, "what the node forwards", w.get(w.client, podIP[fam], 8080), fmt.Sprintf("inbound, app from %v", clientIP[fam]))
	}
	eachFamily(t, probed)
	w.must(h.Verify())

	// A successor finds the pods there, and goes on.
	h, err = OpenHost(w.node)
	w.must(err)
	eachFamily(t, probed)
	w.must(h.Set([]netip.Addr{podIP["IPv6"]}))
	probed(t, "IPv6")
	expect(t, "probe", w.get(w.node, podIP["IPv4"], 8080), fmt.Sprintf("inbound, app from %v", podGate["IPv4"]))
	w.must(h.Remove(podIP["IPv6"], podIP["IPv4"]))
	expect(t, "probe", w.get(w.node, podIP["IPv6"], 8080), fmt.Sprintf("inbound, app from %v", podGate["IPv6"]))

	// Somebody removes the table: the next pod puts it back, for all.
	w.must(h.Add(podIP["IPv4"]))
	nft(t, w, "node", "delete table inet "+HostTable)
	if err := h.Verify(); err == nil || !strings.Contains(err.Error(), "table inet waystone-probes: missing") {
		t.Errorf("Verify of a table that is gone: %v", err)
	}
	w.must(h.Add(podIP["IPv6"]))
	eachFamily(t, probed)
	w.must(h.Verify())
	for range 2 {
		w.must(RemoveHost(w.node))
	}
	sameState(t, "node after removal", state(t, w.node), before)
}

func nft(t *testing.T, w *world, where string, command string) {
	t.Helper()
	ns := w.pod
	if where == "node" {
		ns = w.node
	}
	w.must(ns.Do(func() error {
		if b, err := exec.Command("nft", command).CombinedOutput(); err != nil {
			return fmt.Errorf("nft %s: %w: %s", command, err, b)
		}
		return nil
	}))
}
