package ztunnelcmd

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/dns"
	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/program"
)

// resolvConf names the servers that the node tunnel itself asks.
const resolvConf = "/etc/resolv.conf"

// istiosPreferred is the variable as Istio spells it.
const istiosPreferred = "PREFERED_SERVICE_NAMESPACE" //nolint:misspell // it is Istio's

// dnsOptions are the flags of a node tunnel that answers its pods' questions in
// DNS.
type dnsOptions struct {
	addrs    []netip.AddrPort // none: it does not
	capture  bool
	upstream []netip.AddrPort // none: those of resolvConf
	prefer   string
	ipv6     bool
}

func (o *dnsOptions) define(set *pflag.FlagSet) {
	flags.Define(set, &o.addrs, "dns", "ADDRESS", "off", parseDNS, "where questions of the node's pods in DNS are answered, by UDP and TCP, such as 10.0.0.1:15053 or localhost:15053; or off", "ISTIO_META_DNS_PROXY_ADDR")
	flags.Define(set, &o.capture, "dns-capture", "bool", "true", flags.Bool, "false is --dns off", "ISTIO_META_DNS_CAPTURE")
	flags.Define(set, &o.upstream, "dns-upstream", "ADDRESSES", "", parseServers, "the servers to ask what the mesh does not know, separated by commas; without it, the one that the pod asked, or, where that is not known or with --outbound-policy REGISTRY_ONLY, those of "+resolvConf)
	flags.Define(set, &o.prefer, "dns-preferred-namespace", "NAME", "", flags.Text, "of services of one name in several namespaces, whose is taken by who is in none of them and where none is Kubernetes' own", istiosPreferred)
	flags.Define(set, &o.ipv6, "dns-ipv6", "bool", "true", flags.Bool, "false leaves IPv6 addresses of the mesh out", "IPV6_ENABLED")
}

// parseDNS reads a single address to listen on, and localhost, which is both of
// its addresses. An answer has to come from where the question went, which a
// socket that listens on all addresses cannot see to.
func parseDNS(s string) ([]netip.AddrPort, error) {
	if s == "off" {
		return nil, nil
	}
	if port, ok := strings.CutPrefix(s, "localhost:"); ok {
		four, err := parseDNS("127.0.0.1:" + port)
		if err != nil {
			return nil, err
		}
		return append(four, netip.AddrPortFrom(netip.IPv6Loopback(), four[0].Port())), nil
	}
	addr, err := netip.ParseAddrPort(s)
	if err != nil || addr.Addr().IsUnspecified() {
		return nil, errors.New(`is not a single address to listen on: write "10.0.0.1:15053" or "localhost:15053"`)
	}
	return []netip.AddrPort{addr}, nil
}

// parseServers reads the addresses of DNS servers, whose port is 53 where they
// have none.
func parseServers(s string) (out []netip.AddrPort, err error) {
	list, _ := flags.List(s)
	for _, text := range list {
		if ip, err := netip.ParseAddr(text); err == nil {
			out = append(out, netip.AddrPortFrom(ip, 53))
			continue
		}
		addr, err := netip.ParseAddrPort(text)
		if err != nil || addr.Port() == 0 {
			return nil, fmt.Errorf(`%q is not the address of a server: write "10.96.0.10" or "10.96.0.10:53"`, text)
		}
		out = append(out, addr)
	}
	return out, nil
}

// inPods reports whether each pod's questions are answered in its network
// namespace: unless that is turned off. Where is not for us to say, but for the
// rules there.
func (o *dnsOptions) inPods(all *options) bool {
	return o.capture && (len(o.addrs) > 0 || !all.Given("dns"))
}

// answers reports whether questions are answered anywhere.
func (o *options) answers() bool {
	if o.capture.inside() {
		return o.dns.inPods(o)
	}
	return o.dns.capture && len(o.dns.addrs) > 0
}

// resolver returns how questions are answered.
func (o *options) resolver(p *program.Process) (dns.ServerOptions, error) {
	d := &o.dns
	upstream := d.upstream
	if len(upstream) == 0 {
		var err error
		if upstream, err = dns.Upstream(resolvConf); err != nil {
			return dns.ServerOptions{}, fmt.Errorf("flag --dns-upstream: is not given: %w", err)
		}
	}
	return dns.ServerOptions{
		Resolver: dns.NewResolver(dns.ResolverOptions{
			Domain: o.ClusterDomain, Network: o.Network, Node: o.Node, Prefer: d.prefer, NoIPv6: !d.ipv6,
		}),
		Snapshot: p.Snapshot, Upstream: upstream,
		Report: p.Telemetry.DNS, Log: p.Log.Scope("dns"),
	}, nil
}

// resolve answers the pods' questions outside of their network namespaces, if it
// is to, until the program ends.
func (o *options) resolve(p *program.Process) error {
	d := &o.dns
	if o.capture.inside() || !o.answers() {
		return nil
	}
	how, err := o.resolver(p)
	if err != nil {
		return err
	}
	s, err := dns.Listen(how, d.addrs...)
	if err != nil {
		return fmt.Errorf("flag --dns: %w", err)
	}
	p.Log.Scope("dns").Info("questions of pods are answered", "address", fmt.Sprint(s.Addrs()), "upstream", fmt.Sprint(how.Upstream))
	p.Go(func() error { return s.Serve(p.Context()) })
	return nil
}
