package ztunnelcmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/istiod"
	"github.com/waystone-mesh/waystone/internal/program"
	"github.com/waystone-mesh/waystone/internal/xds"
	"github.com/waystone-mesh/waystone/telemetry"
)

// xdsOptions are the flags about istiod as the source of the configuration.
type xdsOptions struct {
	address, roots, name string
	onDemand             bool
	pod, namespace, ip   string
}

func (o *xdsOptions) define(set *pflag.FlagSet) {
	flags.Define(set, &o.address, "xds-address", "URL", "", flags.Text, "istiod, from which the configuration comes, rather than from --config", "XDS_ADDRESS")
	flags.Define(set, &o.roots, "xds-root-ca", "ROOTS", program.IstiodRoots, flags.Text, fmt.Sprintf(program.RootsUsage, "as a source of configuration"), "XDS_ROOT_CA")
	flags.Define(set, &o.name, "xds-server-name", "NAME", "", flags.Text, "a further name that istiod's certificate may have", "ALT_XDS_HOSTNAME")
	flags.Define(set, &o.onDemand, "xds-on-demand", "bool", "false", flags.Bool, "have istiod tell of the node's pods, and otherwise only of what connections need to know; policies are known whole. The first connection to somewhere waits for istiod, and is refused if there is no answer in 5 s. Not with DNS (--dns-capture), nor --require-waypoint", "XDS_ON_DEMAND")
	flags.Define(set, &o.pod, "pod-name", "NAME", "", flags.Text, "our pod, as istiod is told", "POD_NAME")
	flags.Define(set, &o.namespace, "pod-namespace", "NAME", "istio-system", flags.Text, "its namespace", "POD_NAMESPACE")
	flags.Define(set, &o.ip, "instance-ip", "ADDRESS", "", flags.Text, "its address", "INSTANCE_IP", "INSTANCE_IPS")
}

// oneSource reports flags that name no source of configuration, or two.
func (o *options) oneSource() error {
	switch {
	case o.Config == "" && o.xds.address == "":
		return errors.New("flag --config or --xds-address: one of them is required: a file or directory of Kubernetes manifests, or istiod")
	case o.Config != "" && o.xds.address != "":
		return errors.New("flags --config and --xds-address: there can only be one source of configuration")
	case o.MeshConfig != "" && o.xds.address != "":
		return errors.New("flag --mesh-config: istiod has MeshConfig, and does not say what is in it: give --trust-domain and --root-namespace if they are not the usual ones")
	}
	return nil
}

// mayDemand reports flags that do not go with --xds-on-demand, because they are for
// node tunnels that know the whole mesh. That DNS is answered by default is no
// reason to take either back unasked: names would stop being known, or memory
// would be used that somebody does not have.
func (o *options) mayDemand() error {
	switch {
	case !o.xds.onDemand:
		return nil
	case o.xds.address == "":
		return errors.New("flag --xds-on-demand: is for a configuration that comes from istiod (--xds-address)")
	case o.connections.requireWaypoint:
		return errors.New("flags --xds-on-demand and --require-waypoint: which waypoints lead to a pod is only known to who knows all services: give one of them")
	case o.answers():
		return errors.New("flags --xds-on-demand (XDS_ON_DEMAND) and --dns-capture (ISTIO_META_DNS_CAPTURE), which is true unless said otherwise: names can only be answered from the whole mesh: give --dns-capture=false, and to istio-cni AMBIENT_DNS_CAPTURE=false, or do without --xds-on-demand")
	}
	return nil
}

// asIstiosArguments lets a node tunnel be started with the arguments of Istio's:
// "proxy ztunnel" says what it does anyway.
func asIstiosArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 && args[0] == "proxy" && (len(args) == 1 || len(args) == 2 && args[1] == "ztunnel") {
		return nil
	}
	return cobra.NoArgs(c, args)
}

// fromIstiod returns the source of a configuration that istiod has.
func (o *options) fromIstiod(environment []string, log *slog.Logger) (program.Source, error) {
	i := &o.xds
	metadata, err := nodeMetadata(environment)
	if err != nil {
		return nil, err
	}
	if metadata["CLUSTER_ID"] == nil {
		metadata["CLUSTER_ID"] = o.ClusterID
	}
	s, err := xds.New(xds.Options{
		OnDemand: i.onDemand,
		Istiod: istiod.Options{
			Address: i.address, Roots: i.roots, ServerName: i.name, Token: o.Istiod.Token, ClusterID: o.ClusterID,
			Headers: program.Variables(environment, "XDS_HEADER_"),
		},
		Node: xds.Node{IP: i.ip, Pod: i.pod, Namespace: i.namespace, Name: o.Node, Metadata: metadata},
		Log:  log,
	})
	if err != nil {
		return nil, fmt.Errorf("flag --xds-address: %w", err)
	}
	o.istiod = s
	return source{s}, nil
}

// A source is istiod, which tells of its stream.
type source struct{ *xds.Source }

// Readings adds what has happened on the stream.
func (s source) Readings(r *telemetry.Readings) {
	r.XDS = func() telemetry.XDS { return xdsReadings(s.Stats()) }
}

// xdsReadings tells telemetry what has happened on the stream.
func xdsReadings(s xds.Stats) telemetry.XDS {
	out := telemetry.XDS{Connected: s.Connected}
	for i, n := range s.Terminations {
		out.Endings = append(out.Endings, telemetry.XDSEnding{Reason: xds.Ending(i).String(), Count: n})
	}
	for _, t := range s.Types {
		out.Types = append(out.Types, telemetry.XDSType{URL: t.URL, Messages: t.Messages, Bytes: t.Bytes, Rejected: t.Nacks, Resources: t.Resources})
	}
	return out
}

// nodeMetadata returns what the environment says of us to istiod: ISTIO_META_X
// is X, and ISTIO_METAJSON_X is X in JSON.
func nodeMetadata(environment []string) (map[string]any, error) {
	out := map[string]any{}
	for name, value := range program.Variables(environment, "ISTIO_META_") {
		out[name] = value
	}
	for name, text := range program.Variables(environment, "ISTIO_METAJSON_") {
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			return nil, fmt.Errorf("environment variable ISTIO_METAJSON_%s: %w", name, err)
		}
		out[name] = value
	}
	return out, nil
}
