// Package capture redirects a pod's traffic to the node tunnel.
//
// A pod is captured by rules inside its own network namespace: what it sends
// goes to OutboundPort, what reaches it in plain text to InboundPort, what it
// asks of DNS to DNSPort; HBONEPort needs no rule. The ports, marks, addresses
// and the meaning of every rule are those of Istio's CNI agent, so that either
// may program what the other's node tunnel serves. The rules live in one
// nftables table of our own, beside one policy routing rule and one route, and
// are replaced whole, in one transaction: there is no moment without them.
//
// Redirection in tables of family inet needs Linux 5.2. Everything else is as old
// as nftables.
//
// Package capture neither finds namespaces nor decides which pods to capture.
// See package enroll.
package capture

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Marks of Istio's CNI agent. Only the bits of MarkMask are ours.
const (
	Mark     = 0x539 // SO_MARK of the node tunnel's own sockets: they are not redirected
	ConnMark = 0x111 // of connections that the tunnel makes to the pod: answers come back to it
	MarkMask = 0xfff
)

// Ports in the pod's namespace.
const (
	OutboundPort = 15001
	InboundPort  = 15006 // plain text
	HBONEPort    = 15008 // never redirected
	DNSPort      = 15053 // UDP and TCP, on the loopback addresses
)

// Policy routing of ConnMark, as Istio's: packets that bear it are delivered
// locally, whatever their address.
const (
	RouteTable   = 100
	RulePriority = 32764
)

// Table is the name of the nftables table, of family inet, in a pod.
const Table = "waystone-ambient"

// ProbeIPv4 and ProbeIPv6 are what the kubelet's probes come from, after the
// node has translated their source (see Host). They are not redirected.
var (
	ProbeIPv4 = netip.MustParseAddr("169.254.7.127")
	ProbeIPv6 = netip.MustParseAddr("fd16:9254:7127:1337:ffff:ffff:ffff:ffff")
)

// MaxEntries bounds each list of Options. Every entry is a rule that a new
// connection may have to pass.
const MaxEntries = 256

// Options say what of a pod's traffic is redirected. The zero value redirects
// all IPv4 TCP and no DNS.
type Options struct {
	InboundBypass bool // leaves plain text that reaches the pod alone
	DNS           bool // redirects UDP and TCP port 53 to DNSPort; the lists below do not concern it
	IPv6          bool // captures IPv6 as well, if the namespace has any

	// Destination ports of connections to the pod. Nil Include is every port,
	// an empty one none; Exclude wins. Neither concerns HBONEPort.
	IncludeInboundPorts []uint16
	ExcludeInboundPorts []uint16

	// Destinations of the pod's connections. Nil IncludeOutboundCIDRs is every
	// address, an empty one none. IncludeOutboundPorts are redirected wherever
	// they lead. Exclude wins over both.
	IncludeOutboundPorts []uint16
	ExcludeOutboundPorts []uint16
	IncludeOutboundCIDRs []netip.Prefix
	ExcludeOutboundCIDRs []netip.Prefix

	// RerouteInterfaces name interfaces of the pod behind which others live
	// (virtual machines, containers): TCP that arrives there is the pod's own,
	// and goes to OutboundPort.
	RerouteInterfaces []string
}

// Check returns an error that joins one for every field that cannot be
// programmed.
func (o Options) Check() error {
	var errs []error
	for _, l := range []struct {
		name string
		len  int
	}{
		{"IncludeInboundPorts", len(o.IncludeInboundPorts)}, {"ExcludeInboundPorts", len(o.ExcludeInboundPorts)},
		{"IncludeOutboundPorts", len(o.IncludeOutboundPorts)}, {"ExcludeOutboundPorts", len(o.ExcludeOutboundPorts)},
		{"IncludeOutboundCIDRs", len(o.IncludeOutboundCIDRs)}, {"ExcludeOutboundCIDRs", len(o.ExcludeOutboundCIDRs)},
		{"RerouteInterfaces", len(o.RerouteInterfaces)},
	} {
		if l.len > MaxEntries {
			errs = append(errs, fmt.Errorf("capture: %s has %d entries, more than %d", l.name, l.len, MaxEntries))
		}
	}
	for _, p := range slices.Concat(o.IncludeOutboundCIDRs, o.ExcludeOutboundCIDRs) {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			errs = append(errs, fmt.Errorf("capture: %v is no range of addresses", p))
		}
	}
	for _, name := range o.RerouteInterfaces {
		if err := checkInterface(name); err != nil {
			errs = append(errs, fmt.Errorf("capture: RerouteInterfaces: %w", err))
		}
	}
	return errors.Join(errs...)
}

// checkInterface follows the kernel's dev_valid_name.
func checkInterface(name string) error {
	switch {
	case name == "" || name == "." || name == "..", strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == ':' || r <= ' ' }):
		return fmt.Errorf("%q is no interface name", name)
	case len(name) > 15:
		return fmt.Errorf("%q is longer than an interface name may be, 15 bytes", name)
	case name == "lo":
		return errors.New(`"lo" cannot be rerouted: the tunnel's own connections pass there`)
	}
	return nil
}
