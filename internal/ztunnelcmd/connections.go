package ztunnelcmd

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// connectionOptions are the flags about which connections there may be, and how
// they are made.
type connectionOptions struct {
	requireWaypoint    bool
	registryOnly       bool
	retries            int
	perIdentity, atAll int
	originalSource     bool
	localhost          bool
	spread             int
	long               time.Duration
}

func (o *connectionOptions) define(set *pflag.FlagSet) {
	flags.Define(set, &o.requireWaypoint, "require-waypoint", "bool", "false", flags.Bool, "refuse, with 401, who comes to a pod behind a waypoint without having been through it; a waypoint that is named and not there lets nobody through. Gateways from outside the mesh then need istio.io/ingress-use-waypoint on the service")
	flags.Define(set, &o.registryOnly, "outbound-policy", "POLICY", "ALLOW_ANY", parseOutboundPolicy, "ALLOW_ANY lets pods connect to addresses that nothing in the mesh has; REGISTRY_ONLY refuses it, except within the pod: declare what is outside by ServiceEntries. Nodes and pods in their network are known by their services only")
	flags.Define(set, &o.retries, "connect-retries", "NUMBER", "2", parseCount, "how many further endpoints of a service are tried when one does not answer, before any byte is sent; one that did not is taken last for 5 s")
	flags.Define(set, &o.perIdentity, "max-connections-per-identity", "NUMBER", "0", parseCount, "how many connections over HBONE each client's identity may have open to a pod; 0 is any. Those beyond are answered 503, by which the client's node tunnel tries another pod")
	flags.Define(set, &o.atAll, "max-connections", "NUMBER", "0", parseCount, "how many connections may be open to the pods of the node, and as many from them; 0 is any")
	flags.Define(set, &o.originalSource, "original-source", "bool", "true", flags.Bool, "connect to pods from the client's address, as far as it can be had", "ENABLE_ORIG_SRC")
	flags.Define(set, &o.localhost, "localhost-app-tunnel", "bool", "true", flags.Bool, "in the pod's network namespace, connect to who takes the PROXY protocol on its loopback address", "LOCALHOST_APP_TUNNEL")
	flags.Define(set, &o.spread, "pool-spread", "NUMBER", "4", parseCount, "to how many HBONE connections what passes between two pods is spread, so that what begins need not wait behind what moves 4 MiB a second or more; 0 or 1 is one, for as long as it has room")
	flags.Define(set, &o.long, "log-tcp-info-after", "DURATION", "1m", flags.Duration, "how long a connection has lasted when its line in the log says how the network was: tcp.rtt, tcp.min_rtt, tcp.retransmits and tcp.lost (on Linux); 0 is never")
}

// apply sets what the flags say. inside is whether pods are served in their network
// namespaces: elsewhere a loopback address is not the pod's.
func (o *connectionOptions) apply(z *ztunnel.Options, inside bool) {
	z.RequireWaypoint, z.RegistryOnly = o.requireWaypoint, o.registryOnly
	z.ConnectRetries = o.retries
	if o.retries == 0 {
		z.ConnectRetries = -1
	}
	z.MaxPerIdentity, z.MaxConnections = o.perIdentity, o.atAll
	z.NoOriginalSource = !o.originalSource
	z.LocalhostAppTunnel = o.localhost && inside
	z.PoolSpread, z.LongConnection = max(o.spread, 1), o.long
	if o.long == 0 {
		z.LongConnection = -1
	}
}

// parseOutboundPolicy reads a mode of Istio's outboundTrafficPolicy, and returns
// whether it is REGISTRY_ONLY.
func parseOutboundPolicy(s string) (bool, error) {
	switch strings.ToUpper(s) {
	case "ALLOW_ANY":
		return false, nil
	case "REGISTRY_ONLY":
		return true, nil
	}
	return false, errors.New("is neither ALLOW_ANY nor REGISTRY_ONLY")
}

// parseCount reads a number of things, which may be none.
func parseCount(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, errors.New("is not a number from 0 to 2147483647")
	}
	return int(n), nil
}
