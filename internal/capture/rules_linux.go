package capture

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A chain is a base chain of the table and the rules in it.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    []rule
}

// A rule has a comment, by which nft and our errors call it.
type rule struct {
	comment string
	exprs   []expr.Any
}

func (c *chain) add(comment string, parts ...[]expr.Any) {
	r := rule{comment: comment}
	for _, p := range parts {
		r.exprs = append(r.exprs, p...)
	}
	c.rules = append(c.rules, r)
}

// chains are the table's content for o. Each base chain of type nat sees the
// first packet of a connection only, so that long lists cost nothing later.
func (o Options) chains() []chain {
	cs := []chain{
		{name: "mangle-prerouting", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityMangle},
		{name: "mangle-output", kind: nftables.ChainTypeRoute, hook: nftables.ChainHookOutput, priority: nftables.ChainPriorityMangle},
		{name: "nat-prerouting", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityNATDest},
		{name: "nat-output", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookOutput, priority: nftables.ChainPriorityNATDest},
	}
	cs[0].add("connections of the tunnel to the pod", markIs(Mark), setConnMark())
	cs[1].add("answers to them", connMarkIs(ConnMark), restoreMark())
	o.prerouting(&cs[2])
	o.output(&cs[3])
	if o.DNS {
		cs = append(cs, o.zones()...)
	}
	return cs
}

// prerouting is what reaches the pod.
func (o Options) prerouting(c *chain) {
	for _, name := range o.RerouteInterfaces {
		c.add("from behind "+name, o.family(), interfaceIs(expr.MetaKeyIIFNAME, name), protoIs(unix.IPPROTO_TCP), redirect(OutboundPort))
	}
	c.add("the tunnel's own", markIs(Mark), accept())
	if o.InboundBypass {
		return
	}
	for _, a := range o.addrs(ProbeIPv4, ProbeIPv6) {
		c.add("probes of the kubelet", addrIs(source, a), protoIs(unix.IPPROTO_TCP), accept())
	}
	for _, a := range o.addrs(loopback4, loopback6) {
		c.add("loopback", addrIs(destination, a), accept())
	}
	c.add("HBONE", protoIs(unix.IPPROTO_TCP), portIs(destination, HBONEPort), accept())
	for _, p := range o.ExcludeInboundPorts {
		c.add("excluded port", protoIs(unix.IPPROTO_TCP), portIs(destination, p), accept())
	}
	for _, p := range o.IncludeInboundPorts {
		c.add("inbound port", o.family(), protoIs(unix.IPPROTO_TCP), portIs(destination, p), redirect(InboundPort))
	}
	if o.IncludeInboundPorts == nil {
		c.add("inbound", o.family(), protoIs(unix.IPPROTO_TCP), redirect(InboundPort))
	}
}

// output is what the pod sends.
func (o Options) output(c *chain) {
	c.add("the tunnel's own", markIs(Mark), accept())
	c.add("answers to the tunnel", protoIs(unix.IPPROTO_TCP), markIs(ConnMark), accept())
	// To itself, by whichever of its addresses, the pod speaks directly.
	c.add("loopback", interfaceIs(expr.MetaKeyOIFNAME, "lo"), accept())
	for _, a := range o.addrs(ProbeIPv4, ProbeIPv6) {
		c.add("probes of the kubelet", addrIs(destination, a), protoIs(unix.IPPROTO_TCP), accept())
	}
	if o.DNS {
		c.add("DNS over UDP", o.family(), protoIs(unix.IPPROTO_UDP), portIs(destination, 53), redirect(DNSPort))
		c.add("DNS over TCP", o.family(), protoIs(unix.IPPROTO_TCP), portIs(destination, 53), redirect(DNSPort))
	}
	for _, p := range o.ExcludeOutboundPorts {
		c.add("excluded port", protoIs(unix.IPPROTO_TCP), portIs(destination, p), accept())
	}
	for _, p := range o.ExcludeOutboundCIDRs {
		c.add("excluded range", prefixIs(p), protoIs(unix.IPPROTO_TCP), accept())
	}
	for _, p := range o.IncludeOutboundPorts {
		c.add("outbound port", o.family(), protoIs(unix.IPPROTO_TCP), portIs(destination, p), redirect(OutboundPort))
	}
	for _, p := range o.IncludeOutboundCIDRs {
		if p.Addr().Is4() || o.IPv6 {
			c.add("outbound range", prefixIs(p), protoIs(unix.IPPROTO_TCP), redirect(OutboundPort))
		}
	}
	if o.IncludeOutboundCIDRs == nil {
		c.add("outbound", o.family(), protoIs(unix.IPPROTO_TCP), redirect(OutboundPort))
	}
}

// zones keep apart what the pod asks and what the DNS proxy asks for it: both
// may use one source port (istio#33469).
func (o Options) zones() []chain {
	pre := chain{name: "raw-prerouting", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityRaw}
	out := chain{name: "raw-output", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookOutput, priority: nftables.ChainPriorityRaw}
	pre.add("answers to the DNS proxy", protoIs(unix.IPPROTO_UDP), portIs(source, 53), markIsNot(Mark), setZone(1))
	out.add("questions of the DNS proxy", protoIs(unix.IPPROTO_UDP), portIs(destination, 53), markIs(Mark), setZone(1))
	return []chain{pre, out}
}

// family confines a rule that names no address.
func (o Options) family() []expr.Any {
	if o.IPv6 {
		return nil
	}
	return familyIs(unix.NFPROTO_IPV4)
}

func (o Options) addrs(v4, v6 netip.Addr) []netip.Addr {
	if o.IPv6 {
		return []netip.Addr{v4, v6}
	}
	return []netip.Addr{v4}
}

var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.IPv6Loopback()
)

func (r rule) String() string { return fmt.Sprintf("%q", r.comment) }
