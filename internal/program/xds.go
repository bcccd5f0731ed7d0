package program

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/istiod"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/xds"
	"github.com/waystone-mesh/waystone/telemetry"
)

// istiodOptions are the flags about Istio's control plane: where configuration
// and certificates come from if not from files.
type istiodOptions struct {
	token string

	caRoots, caName string
	ttl             time.Duration
	impersonate     bool // we ask for our pods' certificates

	address, roots, name string
	onDemand             bool
	pod, namespace, ip   string
}

// define adds the flags of o: those about certificates, and for a node tunnel
// those about its configuration.
func (o *istiodOptions) define(set *pflag.FlagSet, p telemetry.Program) {
	const roots, token = "./var/run/secrets/istio/root-cert.pem", "./var/run/secrets/tokens/istio-token"
	const rootsUsage = "what istiod's certificate must chain to, %s: a file, SYSTEM, or PEM"
	define(set, &o.token, "auth-token", "FILE", token, parseText, "the token by which istiod knows us, read whenever it is needed", "AUTH_TOKEN")
	define(set, &o.caRoots, "ca-root-ca", "ROOTS", roots, parseText, fmt.Sprintf(rootsUsage, "as a CA"), "CA_ROOT_CA")
	define(set, &o.caName, "ca-server-name", "NAME", "", parseText, "a further name that the CA's certificate may have", "ALT_CA_HOSTNAME")
	define(set, &o.ttl, "secret-ttl", "DURATION", "24h", parseSpan, "how long certificates of istiod's CA are to be valid", "SECRET_TTL")
	if p != telemetry.Ztunnel {
		return
	}
	o.impersonate = true
	define(set, &o.address, "xds-address", "URL", "", parseText, "istiod, from which the configuration comes, rather than from --config", "XDS_ADDRESS")
	define(set, &o.roots, "xds-root-ca", "ROOTS", roots, parseText, fmt.Sprintf(rootsUsage, "as a source of configuration"), "XDS_ROOT_CA")
	define(set, &o.name, "xds-server-name", "NAME", "", parseText, "a further name that istiod's certificate may have", "ALT_XDS_HOSTNAME")
	define(set, &o.onDemand, "xds-on-demand", "bool", "false", parseOnDemand, "is not supported: every node tunnel knows the whole mesh", "XDS_ON_DEMAND")
	define(set, &o.pod, "pod-name", "NAME", "", parseText, "our pod, as istiod is told", "POD_NAME")
	define(set, &o.namespace, "pod-namespace", "NAME", "istio-system", parseText, "its namespace", "POD_NAMESPACE")
	define(set, &o.ip, "instance-ip", "ADDRESS", "", parseText, "its address", "INSTANCE_IP", "INSTANCE_IPS")
}

// parseOnDemand refuses what package xds can do and nobody would ask it for.
func parseOnDemand(s string) (bool, error) {
	b, err := parseBool(s)
	if b {
		err = errors.New("is not supported: connections do not wait for what they are about to be asked for")
	}
	return b, err
}

// parseIdentity also takes the address of a CA alone, as Istio's CA_ADDRESS has
// it: istiod.istio-system.svc:15012, or the same as a URL.
func parseIdentity(s string) (string, error) {
	if strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") {
		return "istio:" + s, nil
	}
	if _, port, err := net.SplitHostPort(s); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err == nil {
			return "istio:" + s, nil
		}
	}
	return s, nil
}

// oneSource reports flags that name no source of configuration, or two.
func (o *options) oneSource() error {
	switch {
	case o.config == "" && o.istiod.address == "":
		return errors.New("flag --config or --xds-address: one of them is required: a file or directory of Kubernetes manifests, or istiod")
	case o.config != "" && o.istiod.address != "":
		return errors.New("flags --config and --xds-address: there can only be one source of configuration")
	case o.meshConfig != "" && o.istiod.address != "":
		return errors.New("flag --mesh-config: istiod has MeshConfig, and does not say what is in it: give --trust-domain and --root-namespace if they are not the usual ones")
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

// ca says how istiod's CA is reached.
func (o *options) ca() istiod.Options {
	i := &o.istiod
	return istiod.Options{
		Roots: i.caRoots, ServerName: i.caName, Token: i.token, ClusterID: o.clusterID,
		Headers: variables(os.Environ(), "CA_HEADER_"),
	}
}

// fromIstiod returns the source of a configuration that istiod has.
func (p *process) fromIstiod(environment []string) (*xds.Source, error) {
	o := p.options
	i := &o.istiod
	metadata, err := nodeMetadata(environment)
	if err != nil {
		return nil, err
	}
	if metadata["CLUSTER_ID"] == nil {
		metadata["CLUSTER_ID"] = o.clusterID
	}
	s, err := xds.New(xds.Options{
		Istiod: istiod.Options{
			Address: i.address, Roots: i.roots, ServerName: i.name, Token: i.token, ClusterID: o.clusterID,
			Headers: variables(environment, "XDS_HEADER_"),
		},
		Node: xds.Node{IP: i.ip, Pod: i.pod, Namespace: i.namespace, Name: o.node, Metadata: metadata},
		Log:  p.log.Scope("xds"),
	})
	if err != nil {
		return nil, fmt.Errorf("flag --xds-address: %w", err)
	}
	return s, nil
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

// variables returns the variables whose names begin with prefix, without it.
func variables(environment []string, prefix string) map[string]string {
	out := map[string]string{}
	for _, v := range environment {
		name, value, _ := strings.Cut(v, "=")
		if rest, ok := strings.CutPrefix(name, prefix); ok && rest != "" {
			out[rest] = value
		}
	}
	return out
}

// nodeMetadata returns what the environment says of us to istiod: ISTIO_META_X
// is X, and ISTIO_METAJSON_X is X in JSON.
func nodeMetadata(environment []string) (map[string]any, error) {
	out := map[string]any{}
	for name, value := range variables(environment, "ISTIO_META_") {
		out[name] = value
	}
	for name, text := range variables(environment, "ISTIO_METAJSON_") {
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			return nil, fmt.Errorf("environment variable ISTIO_METAJSON_%s: %w", name, err)
		}
		out[name] = value
	}
	return out, nil
}

// A prefetcher is an identity source that has to ask for what it gives out, and
// is told whom it will be asked for.
type prefetcher interface {
	Prefetch(identity.ID)
	Forget(identity.ID)
}

// prefetch has the certificates of the node's pods at hand before somebody waits
// for them, and forgets those of identities that no pod here has any more.
func (p *process) prefetch() error {
	source, ok := p.identity.(prefetcher)
	if !ok {
		return nil
	}
	changed := make(chan struct{}, 1)
	p.store.OnPublish(func(c config.Changes) {
		for i := range c.Workloads {
			w := &c.Workloads[i]
			if w.Old != nil && w.Old.Node == p.options.node || w.New != nil && w.New.Node == p.options.node {
				select {
				case changed <- struct{}{}:
				default: // there is a notice already
				}
				return
			}
		}
	})
	have := map[identity.ID]bool{}
	for {
		want := localIdentities(p.snapshot(), p.options.node)
		for id := range want {
			if !have[id] {
				source.Prefetch(id)
			}
		}
		for id := range have {
			if !want[id] {
				source.Forget(id)
			}
		}
		have = want
		select {
		case <-changed:
		case <-p.ctx.Done():
			return nil
		}
	}
}

// localIdentities returns the identities that a node tunnel speaks for: of its pods
// that are in the mesh. Keys of others, of a waypoint's or its own for one, it has
// no business to hold; if one is needed after all, because a peer knows earlier
// that a pod has joined, it is asked for then.
func localIdentities(snap *config.Snapshot, node string) map[identity.ID]bool {
	out := map[identity.ID]bool{}
	for _, w := range snap.Local(node) {
		if w.Tunnel == mesh.HBONE && !w.HostNetwork && !w.NativeTunnel && len(w.Addresses) > 0 {
			out[w.Identity()] = true
		}
	}
	return out
}
