package program

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/waystone-mesh/waystone/internal/dump"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// openTimeout is how long a dump waits for the loops to tell what is open: 2 s,
// after which it says what is missing.
const openTimeout = 2 * time.Second

// dumped returns what /config_dump shows of a node tunnel.
func (o *ztunnelOptions) dumped(p *process, z *ztunnel.Ztunnel) any {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), openTimeout) // it may be draining
	defer cancel()
	t := dump.Tunnel{Pods: map[string]dump.Pod{}, Settings: o.settings(len(p.loops.Loops()))}
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
	return dump.Ztunnel(p.subject(), t)
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
func (o *ztunnelOptions) settings(loops int) dump.Settings {
	i := &o.istiod
	s := dump.Settings{
		Proxy: true, ProxyMode: "Shared",
		LocalNode: o.node, Network: o.network, ClusterID: o.clusterID, ClusterDomain: o.clusterDomain,
		AdminAddr:     dump.ListenOn(cmp.Or(o.admin, "127.0.0.1:15000")),
		StatsAddr:     dump.ListenOn(cmp.Or(o.metrics, ":15020")),
		ReadinessAddr: dump.ListenOn(cmp.Or(o.readiness, ":15021")),
		InboundAddr:   "[::]:15008", SOCKS5Addr: "[::]:15080", IllegalPorts: ztunnel.IllegalPorts(),
		ConfigSource: o.config, SecretTTL: dump.SpanOf(i.ttl),
		WindowSize: o.streamWindow, ConnectionWindowSize: o.connWindow, FrameSize: o.maxFrame,
		PoolMaxStreams: o.poolStreams, PoolUnusedRelease: dump.SpanOf(o.poolIdle),
		TerminationDeadline: dump.SpanOf(o.drain()), WorkerThreads: loops,
	}
	if i.address != "" {
		s.XDSAddress, s.XDSRoot, s.XDSHostname = dump.Address(i.address), dump.RootAt(i.roots), i.name
	}
	s.Identify(o.identity, dump.RootAt(i.caRoots), i.caName)
	return s
}
