package program

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/telemetry"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// ztunnelOptions are the flags of a node tunnel.
type ztunnelOptions struct {
	options
	requireWaypoint bool
	originalSource  bool
	steps           bool
	dns             dnsOptions
}

// Ztunnel returns the command that runs a node tunnel.
func Ztunnel() *cobra.Command {
	var o ztunnelOptions
	c := &cobra.Command{
		Use:   "ztunnel --node NAME (--config PATH | --xds-address URL) --identity SOURCE",
		Short: "Run a node tunnel, which carries the traffic of a node's pods",
		Long: `Run a node tunnel: it takes what the pods of its node send, carries it to other
nodes over HBONE with the pod's identity, and hands what arrives to the pods, if
L4 policy lets it pass.

Each pod hands its connections over by SOCKS5, at port 15080 of its address, and
is reached over HBONE at port 15008 of it. With --dns, its questions in DNS are
answered, too: of the mesh's names from what is known of it.

What there is in the mesh is read from Kubernetes manifests (--config) or comes
from istiod (--xds-address), as for Istio's own node tunnel, whose variables are
read and whose arguments, "proxy ztunnel", are taken.

Where a flag names environment variables in brackets, the first that is set is
read when the flag is not given.

SIGTERM drains: not ready, GOAWAY, connections up to the deadline. SIGUSR1
reopens the log.`,
	}
	set := c.Flags()
	o.options.define(set, telemetry.Ztunnel)
	define(set, &o.requireWaypoint, "require-waypoint", "bool", "false", parseBool, "refuse, with 401, who comes to a pod behind a waypoint without having been through it")
	define(set, &o.originalSource, "original-source", "bool", "true", parseBool, "connect to pods from the client's address, as far as it can be had", "ENABLE_ORIG_SRC")
	define(set, &o.steps, "log-steps", "bool", "false", parseBool, "write the lines about each step of a connection at info level rather than at debug")
	o.dns.define(set)
	c = command(c, func(c *cobra.Command) error {
		if err := o.oneSource(); err != nil {
			return err
		}
		return o.run(c.Context())
	}, "node", "identity")
	c.Args = asIstiosArguments
	return c
}

// run is a node tunnel from its first line of log to its last.
func (o *ztunnelOptions) run(ctx context.Context) (err error) {
	p := newProcess(ctx, &o.options)
	defer func() { err = p.close(err) }()

	if err := p.report(telemetry.Options{Program: telemetry.Ztunnel, Steps: o.steps}); err != nil {
		return err
	}
	if err := p.know(config.Options{}); err != nil {
		return err
	}
	serving := p.ready.Task("ports of the pods")
	z, err := ztunnel.New(ztunnel.Options{
		Node: o.node, Identity: p.identity, Store: p.store, Telemetry: p.telemetry, Loops: p.loops,
		Log: p.log.Scope("proxy"), Aliases: o.aliases, Network: o.network, ClusterDomain: o.clusterDomain,
		RequireWaypoint: o.requireWaypoint, NoOriginalSource: !o.originalSource, MeshOnly: o.istiod.address != "",
		HBONE: o.hbone(), PoolIdle: o.poolIdle, PoolStreams: int(o.poolStreams),
	})
	if err != nil {
		return err
	}
	if err := p.answer(func() any { return o.dumped(p, z) }); err != nil {
		return err
	}
	if err := p.feed(); err != nil {
		return err
	}
	p.group.Go(p.prefetch)
	if err := o.resolve(p); err != nil {
		return err
	}
	z.Reconcile()
	serving()
	p.group.Go(func() error { return z.Run(p.ctx) })
	return p.wait(z.Shutdown)
}
