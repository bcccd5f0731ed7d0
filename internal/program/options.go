package program

import (
	"errors"
	"time"

	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/telemetry"
)

// Options are the flags that the two programs share.
type Options struct {
	set *pflag.FlagSet

	Config     string
	Istiod     IstiodOptions
	Security   SecurityOptions
	MeshConfig string
	Revision   string
	Identity   string

	// What MeshConfig says where the flags do not.
	TrustDomain   string
	Aliases       []string
	RootNamespace string

	ClusterID     string
	ClusterDomain string
	Network       string
	Node          string
	Compat118     bool

	Admin, Metrics, Readiness string

	LogLevel  string
	LogJSON   bool
	LogOutput string

	Collector  flags.Endpoint
	Sampling   float64
	AccessOTLP flags.Endpoint

	Loops        int
	CryptoTLS    bool
	Streams      uint32
	StreamWindow uint32
	ConnWindow   uint32
	MaxFrame     uint32
	PoolStreams  uint32
	PoolIdle     time.Duration
	Deadline     time.Duration
	Grace        time.Duration
}

// Define adds the flags of o. What a ztunnel reads from RUST_LOG and
// ZTUNNEL_WORKER_THREADS a waypoint does not, and it writes its log elsewhere.
func (o *Options) Define(set *pflag.FlagSet, p telemetry.Program) {
	logVariables, loopVariables, output := []string{}, []string{}, "/dev/stderr"
	if p == telemetry.Ztunnel {
		logVariables, loopVariables, output = []string{"RUST_LOG"}, []string{"ZTUNNEL_WORKER_THREADS"}, "/dev/stdout"
	}
	o.set = set
	flags.Define(set, &o.Config, "config", "PATH", "", flags.Text, "a file or directory of Kubernetes manifests, which is watched")
	flags.Define(set, &o.MeshConfig, "mesh-config", "PATH", "", flags.Text, "a file with MeshConfig, which is watched; without it, MeshConfig is in the ConfigMap istio of the root namespace among the manifests. What a flag says goes before what it says")
	flags.Define(set, &o.Revision, "revision", "NAME", "", flags.Text, "of the control plane whose MeshConfig is ours: that of the ConfigMap istio-NAME", "REVISION")
	flags.Define(set, &o.Identity, "identity", "SOURCE", "", parseIdentity, "where certificates come from: "+identity.Forms, "CA_ADDRESS")
	o.Istiod.define(set, p)
	o.Security.define(set)

	flags.Define(set, &o.TrustDomain, "trust-domain", "NAME", defaultTrustDomain, flags.Text, "our trust domain, for which MeshConfig is read at start only", "TRUST_DOMAIN")
	flags.Define(set, &o.Aliases, "trust-domain-alias", "NAMES", "", flags.List, "further trust domains that mean ours, separated by commas")
	flags.Define(set, &o.RootNamespace, "root-namespace", "NAME", "istio-system", flags.Text, "the namespace whose policies are for the whole mesh, likewise")
	flags.Define(set, &o.ClusterID, "cluster-id", "NAME", "Kubernetes", flags.Text, "our cluster", "ISTIO_META_CLUSTER_ID", "CLUSTER_ID")
	flags.Define(set, &o.ClusterDomain, "cluster-domain", "NAME", "cluster.local", flags.Text, "the domain of services' names", "CLUSTER_DOMAIN")
	flags.Define(set, &o.Network, "network", "NAME", "", flags.Text, "our network", "NETWORK", "ISTIO_META_NETWORK")
	flags.Define(set, &o.Node, "node", "NAME", "", flags.Text, "the node we run on", "NODE_NAME")
	flags.Define(set, &o.Compat118, "compat", "VERSION", "", parseCompat, "behave as that release of Istio where it matters; 1.18: a policy's selector istio.io/gateway-name attaches to any waypoint")

	flags.Define(set, &o.Admin, "admin", "ADDRESS", "127.0.0.1:15000", flags.OptionalListen, "where administration is served, a loopback address; or off")
	flags.Define(set, &o.Metrics, "metrics", "ADDRESS", ":15020", flags.OptionalListen, "where metrics are served; or off")
	flags.Define(set, &o.Readiness, "readiness", "ADDRESS", ":15021", flags.OptionalListen, "where /healthz/ready is served; or off")

	flags.Define(set, &o.LogLevel, "log-level", "LEVELS", "info", flags.Text, `of the log: "info", "debug,access:off"`, logVariables...)
	flags.Define(set, &o.LogJSON, "log-format", "FORMAT", "plain", flags.Format, "of the log: json or plain", "LOG_FORMAT")
	flags.Define(set, &o.LogOutput, "log-output", "PATH", output, flags.Text, "where the log goes; reopened on SIGUSR1")
	flags.Define(set, &o.Collector, "otlp-endpoint", "URL", "", flags.Collector, "the OTLP collector (gRPC) that spans go to", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
	flags.Define(set, &o.Sampling, "trace-sampling", "PERCENT", "1", flags.Percent, "of the requests that come without a decision")

	flags.Define(set, &o.AccessOTLP, "access-log-otlp", "URL", "", flags.Collector, "the OTLP receiver (gRPC) that the lines of the access log go to as log records besides", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT")

	flags.Define(set, &o.Loops, "loops", "NUMBER", "0", flags.Loops, `how many loops carry traffic, or a share of the cores ("50%"); 0 is one a core`, loopVariables...)
	flags.Define(set, &o.CryptoTLS, "tls-records", "NAME", "own", flags.Records, "who protects TLS records after the handshake: own, or crypto/tls, which needs more memory")
	flags.Define(set, &o.Streams, "max-streams", "NUMBER", "200", flags.Size, "streams that a peer may have on a connection")
	flags.Define(set, &o.StreamWindow, "stream-window", "BYTES", "262144", flags.Size, "what a stream may have on its way", "HTTP2_STREAM_WINDOW_SIZE")
	flags.Define(set, &o.ConnWindow, "connection-window", "BYTES", "1048576", flags.Size, "what a connection may have on its way", "HTTP2_CONNECTION_WINDOW_SIZE")
	flags.Define(set, &o.MaxFrame, "max-frame", "BYTES", "1048576", flags.Size, "the longest HTTP/2 frame taken", "HTTP2_FRAME_SIZE")
	flags.Define(set, &o.PoolStreams, "pool-max-streams", "NUMBER", "100", flags.Size, "tunnels that share a connection to another proxy", "POOL_MAX_STREAMS_PER_CONNECTION")
	flags.Define(set, &o.PoolIdle, "pool-unused-release-timeout", "DURATION", "5m", flags.Duration, "how long such a connection is kept unused", "POOL_UNUSED_RELEASE_TIMEOUT")
	flags.Define(set, &o.Deadline, "termination-deadline", "DURATION", "0s", flags.Duration, "how long what is in flight may go on after SIGTERM; 0 is the grace period less 5 s (less 1 s if that is 10 s or under), or 5 s", "CONNECTION_TERMINATION_DEADLINE")
	flags.Define(set, &o.Grace, "termination-grace-period", "SECONDS", "0s", flags.Duration, "the pod's grace period", "TERMINATION_GRACE_PERIOD_SECONDS")
}

func parseCompat(s string) (bool, error) {
	if s != "1.18" {
		return false, errors.New("the only release there is to be compatible with is 1.18")
	}
	return true, nil
}

// HBONE returns how connections between proxies are set up.
func (o *Options) HBONE() h2.Options {
	return h2.Options{StreamWindow: o.StreamWindow, ConnWindow: o.ConnWindow, MaxFrame: o.MaxFrame, MaxStreams: o.Streams}
}

// Drain is how long what is in flight may go on: what is left of the pod's grace
// period once the rest of the program has had its time.
func (o *Options) Drain() time.Duration {
	switch {
	case o.Deadline > 0:
		return o.Deadline
	case o.Grace > 10*time.Second:
		return o.Grace - 5*time.Second
	case o.Grace > time.Second:
		return o.Grace - time.Second
	}
	return 5 * time.Second
}
