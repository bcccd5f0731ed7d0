package ztunnelcmd

import (
	"cmp"
	"context"
	"crypto/fips140"
	"fmt"
	"time"

	"github.com/waystone-mesh/waystone/internal/dump"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/program"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// openTimeout is how long a dump waits for the loops to tell what is open: 2 s,
// after which it says what is missing.
const openTimeout = 2 * time.Second

// dumped returns what /config_dump shows of a node tunnel.
func (o *options) dumped(p *program.Process, z *ztunnel.Ztunnel) any {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.Context()), openTimeout) // it may be draining
	defer cancel()
	t := dump.Tunnel{Pods: map[string]dump.Pod{}, Settings: o.settings(len(p.Loops.Loops()))}
	pods, err := z.Open(ctx)
	if err != nil {
		t.Problems = append(t.Problems, fmt.Sprintf("workloadState: %v", err))
	}
	for uid, pod := range pods {
		w := pod.Workload
		t.Pods[uid] = dump.Pod{
			State: pod.State.String(), Reason: pod.Reason, Identity: w.Identity(), InMesh: w.Tunnel == mesh.HBONE,
			Info:        dump.PodInfo{Name: w.Name, Namespace: w.Namespace},
			Connections: dump.Connections{Inbound: connectionsOf(pod.Inbound), Outbound: connectionsOf(pod.Outbound)},
		}
	}
	return dump.Ztunnel(p.Subject(), t)
}

func connectionsOf(list []ztunnel.Connection) (out []dump.Connection) {
	for i := range list {
		c := &list[i]
		d := dump.Connection{
			Src: c.Source.String(), ActualDst: c.Actual.String(), Protocol: "TCP",
			Peer: c.Peer.String(), Service: c.Service, Since: c.Since, Received: c.Received, Sent: c.Sent,
		}
		if c.HBONE {
			d.Protocol = "HBONE"
		}
		original := c.Service
		if c.Original.IsValid() {
			original = c.Original.String()
		}
		if original != "" {
			d.OriginalDst = &original
		}
		out = append(out, d)
	}
	return out
}

// settings returns how the program was started.
func (o *options) settings(loops int) dump.Settings {
	s := dump.Settings{
		Proxy: true, ProxyMode: "Shared", IPv6: o.dns.ipv6,
		LocalNode: o.Node, Network: o.Network, ClusterID: o.ClusterID, ClusterDomain: o.ClusterDomain,
		AdminAddr:     dump.ListenOn(cmp.Or(o.Admin, "127.0.0.1:15000")),
		StatsAddr:     dump.ListenOn(cmp.Or(o.Metrics, ":15020")),
		ReadinessAddr: dump.ListenOn(cmp.Or(o.Readiness, ":15021")),
		InboundAddr:   dump.AnyOf(15008, o.dns.ipv6), IllegalPorts: ztunnel.IllegalPorts(),
		ConfigSource: o.Config, SecretTTL: dump.SpanOf(o.Istiod.TTL),
		WindowSize: o.StreamWindow, ConnectionWindowSize: o.ConnWindow, FrameSize: o.MaxFrame,
		PoolMaxStreams: o.PoolStreams, PoolUnusedRelease: dump.SpanOf(o.PoolIdle),
		TerminationDeadline: dump.SpanOf(o.Drain()), WorkerThreads: loops,
		CRLPath: o.Security.CRL, PostQuantum: o.Security.PostQuantum, TLS12: o.Security.TLS12, FIPS140: fips140.Enabled(),
	}
	o.capture.tell(&s, o)
	if i := &o.xds; i.address != "" {
		s.XDSOnDemand = i.onDemand
		s.XDSAddress, s.XDSRoot, s.XDSHostname = dump.Address(i.address), dump.RootAt(i.roots), i.name
	}
	s.Identify(o.Identity, dump.RootAt(o.Istiod.Roots), o.Istiod.Name)
	return s
}

// tell adds how traffic comes to us, and where questions in DNS are answered.
func (o *modeOptions) tell(s *dump.Settings, all *options) {
	d := &all.dns
	if d.prefer != "" {
		s.PreferredNamespace = &d.prefer
	}
	if !o.inside() {
		s.SOCKS5Addr = dump.AnyOf(15080, d.ipv6)
		if s.DNSProxy = d.capture && len(d.addrs) > 0; s.DNSProxy {
			s.DNSProxyAddr = dump.ListenOn(d.addrs[0].String())
		}
		return
	}
	s.PlaintextAddr, s.OutboundAddr = dump.AnyOf(15006, d.ipv6), dump.AnyOf(15001, d.ipv6)
	s.PacketMark, s.PortReuse = o.mark, o.portReuse
	if s.DNSProxy = d.inPods(all); s.DNSProxy {
		s.DNSProxyAddr = dump.LoopbackOf(15053, d.ipv6)
	}
	switch {
	case o.mode == dedicated:
		s.ProxyMode = "Dedicated"
	default:
		s.InPodSocket = o.socket
	}
}
