package ztunnelcmd

import (
	"context"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/program"
	"github.com/waystone-mesh/waystone/internal/xds"
	"github.com/waystone-mesh/waystone/telemetry"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// options are the flags of a node tunnel.
type options struct {
	program.Options
	xds         xdsOptions
	istiod      *xds.Source // where the configuration comes from there
	connections connectionOptions
	steps       bool
	keepAlive   keepAliveOptions
	dns         dnsOptions
	capture     modeOptions
	enroll      enrollOptions
}

// Command returns the command that runs a node tunnel.
func Command() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "ztunnel --node NAME (--config PATH | --xds-address URL) --identity SOURCE",
		Short: "Run a node tunnel, which carries the traffic of a node's pods",
		Long: `Run a node tunnel: it takes what the pods of its node send, carries it to other
nodes over HBONE with the pod's identity, and hands what arrives to the pods, if
L4 policy lets it pass.

Where istio-cni, or --enroll, redirects the traffic of pods (--proxy-mode shared,
which Istio's arguments and chart stand for), each pod is served inside its own
network namespace, and needs to know nothing of it. Elsewhere each pod hands its
connections over by SOCKS5, at port 15080 of its address, and is reached over
HBONE at port 15008 of it; with --dns, its questions in DNS are answered, too: of
the mesh's names from what is known of it.

What there is in the mesh is read from Kubernetes manifests (--config) or comes
from istiod (--xds-address), as for Istio's own node tunnel, whose variables are
read and whose arguments, "proxy ztunnel", are taken.

Where a flag names environment variables in brackets, the first that is set is
read when the flag is not given.

SIGTERM drains: not ready, GOAWAY, connections up to the deadline. SIGUSR1
reopens the log.`,
	}
	set := c.Flags()
	o.define(set)
	c = flags.Command(c, func(c *cobra.Command) error {
		if err := o.oneSource(); err != nil {
			return err
		}
		o.capture.mode = o.modeFor(c.Flags().Args())
		if err := o.mayDemand(); err != nil {
			return err
		}
		return o.run(c.Context())
	}, "node", "identity")
	c.Args = asIstiosArguments
	c.AddCommand(unenrollCommand())
	c.PreRunE = func(c *cobra.Command, args []string) error {
		if err := checkEnvironment(os.LookupEnv); err != nil {
			return err
		}
		return adoptIstios(c.Flags(), args, os.LookupEnv)
	}
	return c
}

func (o *options) define(set *pflag.FlagSet) {
	o.Define(set, telemetry.Ztunnel)
	o.xds.define(set)
	o.connections.define(set)
	flags.Define(set, &o.steps, "log-steps", "bool", "false", flags.Bool, "write the lines about each step of a connection at info level rather than at debug")
	o.keepAlive.define(set)
	o.dns.define(set)
	o.capture.define(set)
	o.enroll.define(set)
}

// source returns where the configuration comes from, nil for files.
func (o *options) source() program.Opener {
	if o.xds.address == "" {
		return nil
	}
	return func(log *slog.Logger) (program.Source, error) { return o.fromIstiod(os.Environ(), log) }
}

// run is a node tunnel from its first line of log to its last.
func (o *options) run(ctx context.Context) (err error) {
	p := program.New(ctx, &o.Options)
	defer func() { err = p.Close(err) }()

	if err := p.Report(telemetry.Options{Program: telemetry.Ztunnel, Steps: o.steps}); err != nil {
		return err
	}
	for _, v := range ofNoMatter(os.LookupEnv) {
		p.Log.Scope("main").Info("an environment variable changes nothing", "name", v.name, "reason", v.why)
	}
	if err := p.Know(config.Options{}, o.source()); err != nil {
		return err
	}
	serving := p.Ready.Task("ports of the pods")
	in, err := o.inPod(p)
	if err != nil {
		return err
	}
	about := ztunnel.Options{
		Node: o.Node, Identity: p.Identity, Store: p.Store, Telemetry: p.Telemetry, Loops: p.Loops,
		Log: p.Log.Scope("proxy"), Aliases: o.Aliases, Network: o.Network, ClusterDomain: o.ClusterDomain,
		MeshOnly: o.xds.address != "", InPod: in,
		HBONE: o.HBONE(), PoolIdle: o.PoolIdle, PoolStreams: int(o.PoolStreams),
	}
	o.connections.apply(&about, in != nil)
	if o.xds.onDemand {
		about.Demand = o.istiod.Demand
	}
	z, err := ztunnel.New(about)
	if err != nil {
		return err
	}
	if err := p.Answer(func() any { return o.dumped(p, z) }); err != nil {
		return err
	}
	if err := p.Feed(); err != nil {
		return err
	}
	p.Go(func() error { return prefetch(p) })
	if err := o.resolve(p); err != nil {
		return err
	}
	z.Reconcile()
	serving()
	if err := o.hear(p, z); err != nil {
		return err
	}
	p.Go(func() error { return z.Run(p.Context()) })
	return p.Wait(z.Shutdown)
}
