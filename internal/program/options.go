package program

import (
	"errors"
	"time"

	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/telemetry"
)

// options are the flags that the two programs share.
type options struct {
	set *pflag.FlagSet

	config     string
	istiod     istiodOptions
	meshConfig string
	revision   string
	identity   string

	// What MeshConfig says where the flags do not.
	trustDomain   string
	aliases       []string
	rootNamespace string

	clusterID     string
	clusterDomain string
	network       string
	node          string
	compat118     bool

	admin, metrics, readiness string

	logLevel  string
	logJSON   bool
	logOutput string

	collector collector
	sampling  float64

	loops        int
	cryptoTLS    bool
	streams      uint32
	streamWindow uint32
	connWindow   uint32
	maxFrame     uint32
	poolStreams  uint32
	poolIdle     time.Duration
	deadline     time.Duration
	grace        time.Duration
}

// define adds the flags of o. What a ztunnel reads from RUST_LOG and
// ZTUNNEL_WORKER_THREADS a waypoint does not, and it writes its log elsewhere.
func (o *options) define(set *pflag.FlagSet, p telemetry.Program) {
	logVariables, loopVariables, output := []string{}, []string{}, "/dev/stderr"
	if p == telemetry.Ztunnel {
		logVariables, loopVariables, output = []string{"RUST_LOG"}, []string{"ZTUNNEL_WORKER_THREADS"}, "/dev/stdout"
	}
	o.set = set
	define(set, &o.config, "config", "PATH", "", parseText, "a file or directory of Kubernetes manifests, which is watched")
	define(set, &o.meshConfig, "mesh-config", "PATH", "", parseText, "a file with MeshConfig, which is watched; without it, MeshConfig is in the ConfigMap istio of the root namespace among the manifests. What a flag says goes before what it says")
	define(set, &o.revision, "revision", "NAME", "", parseText, "of the control plane whose MeshConfig is ours: that of the ConfigMap istio-NAME", "REVISION")
	define(set, &o.identity, "identity", "SOURCE", "", parseIdentity, "where certificates come from: "+identity.Forms, "CA_ADDRESS")
	o.istiod.define(set, p)

	define(set, &o.trustDomain, "trust-domain", "NAME", defaultTrustDomain, parseText, "our trust domain, for which MeshConfig is read at start only", "TRUST_DOMAIN")
	define(set, &o.aliases, "trust-domain-alias", "NAMES", "", parseList, "further trust domains that mean ours, separated by commas")
	define(set, &o.rootNamespace, "root-namespace", "NAME", "istio-system", parseText, "the namespace whose policies are for the whole mesh, likewise")
	define(set, &o.clusterID, "cluster-id", "NAME", "Kubernetes", parseText, "our cluster", "CLUSTER_ID", "ISTIO_META_CLUSTER_ID")
	define(set, &o.clusterDomain, "cluster-domain", "NAME", "cluster.local", parseText, "the domain of services' names", "CLUSTER_DOMAIN")
	define(set, &o.network, "network", "NAME", "", parseText, "our network", "NETWORK", "ISTIO_META_NETWORK")
	define(set, &o.node, "node", "NAME", "", parseText, "the node we run on", "NODE_NAME")
	define(set, &o.compat118, "compat", "VERSION", "", parseCompat, "behave as that release of Istio where it matters; 1.18: a policy's selector istio.io/gateway-name attaches to any waypoint")

	define(set, &o.admin, "admin", "ADDRESS", "127.0.0.1:15000", parseOptionalListen, "where administration is served, a loopback address; or off")
	define(set, &o.metrics, "metrics", "ADDRESS", ":15020", parseOptionalListen, "where metrics are served; or off")
	define(set, &o.readiness, "readiness", "ADDRESS", ":15021", parseOptionalListen, "where /healthz/ready is served; or off")

	define(set, &o.logLevel, "log-level", "LEVELS", "info", parseText, `of the log: "info", "debug,access:off"`, logVariables...)
	define(set, &o.logJSON, "log-format", "FORMAT", "plain", parseFormat, "of the log: json or plain", "LOG_FORMAT")
	define(set, &o.logOutput, "log-output", "PATH", output, parseText, "where the log goes; reopened on SIGUSR1")
	define(set, &o.collector, "otlp-endpoint", "URL", "", parseCollector, "the OTLP collector (gRPC) that spans go to", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
	define(set, &o.sampling, "trace-sampling", "PERCENT", "1", parsePercent, "of the requests that come without a decision")

	define(set, &o.loops, "loops", "NUMBER", "0", parseLoops, `how many loops carry traffic, or a share of the cores ("50%"); 0 is one a core`, loopVariables...)
	define(set, &o.cryptoTLS, "tls-records", "NAME", "own", parseRecords, "who protects TLS records after the handshake: own, or crypto/tls, which needs more memory")
	define(set, &o.streams, "max-streams", "NUMBER", "200", parseSize, "streams that a peer may have on a connection")
	define(set, &o.streamWindow, "stream-window", "BYTES", "262144", parseSize, "what a stream may have on its way", "HTTP2_STREAM_WINDOW_SIZE")
	define(set, &o.connWindow, "connection-window", "BYTES", "1048576", parseSize, "what a connection may have on its way", "HTTP2_CONNECTION_WINDOW_SIZE")
	define(set, &o.maxFrame, "max-frame", "BYTES", "1048576", parseSize, "the longest HTTP/2 frame taken", "HTTP2_FRAME_SIZE")
	define(set, &o.poolStreams, "pool-max-streams", "NUMBER", "100", parseSize, "tunnels that share a connection to another proxy", "POOL_MAX_STREAMS_PER_CONNECTION")
	define(set, &o.poolIdle, "pool-unused-release-timeout", "DURATION", "5m", parseDuration, "how long such a connection is kept unused", "POOL_UNUSED_RELEASE_TIMEOUT")
	define(set, &o.deadline, "termination-deadline", "DURATION", "0s", parseDuration, "how long what is in flight may go on after SIGTERM; 0 is the grace period less 5 s (less 1 s if that is 10 s or under), or 5 s", "CONNECTION_TERMINATION_DEADLINE")
	define(set, &o.grace, "termination-grace-period", "SECONDS", "0s", parseDuration, "the pod's grace period", "TERMINATION_GRACE_PERIOD_SECONDS")
}

func parseCompat(s string) (bool, error) {
	if s != "1.18" {
		return false, errors.New("the only release there is to be compatible with is 1.18")
	}
	return true, nil
}

// hbone returns how connections between proxies are set up.
func (o *options) hbone() h2.Options {
	return h2.Options{StreamWindow: o.streamWindow, ConnWindow: o.connWindow, MaxFrame: o.maxFrame, MaxStreams: o.streams}
}

// drain is how long what is in flight may go on: what is left of the pod's grace
// period once the rest of the program has had its time.
func (o *options) drain() time.Duration {
	switch {
	case o.deadline > 0:
		return o.deadline
	case o.grace > 10*time.Second:
		return o.grace - 5*time.Second
	case o.grace > time.Second:
		return o.grace - time.Second
	}
	return 5 * time.Second
}
