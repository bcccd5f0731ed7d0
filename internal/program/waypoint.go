package program

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/decisions"
	"github.com/waystone-mesh/waystone/internal/dump"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/jwks"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
	"github.com/waystone-mesh/waystone/telemetry"
	"github.com/waystone-mesh/waystone/waypoint"
)

// waypointOptions are the flags of a waypoint.
type waypointOptions struct {
	options
	gateway       name
	account       name
	address       string
	normalization *routing.Normalization // nil: what MeshConfig says
	maxAge        time.Duration
	accessLog     string
	accessText    bool
	accessKeys    []string
	jwksRoots     *x509.CertPool
}

// Waypoint returns the command that runs a waypoint.
func Waypoint() *cobra.Command {
	var o waypointOptions
	c := &cobra.Command{
		Use:   "waypoint --gateway NAMESPACE/NAME --config PATH --identity SOURCE",
		Short: "Run a waypoint, the L7 proxy of the mesh",
		Long: `Run a waypoint: it ends the HBONE tunnels that node tunnels open to it, decides
about each request inside by AuthorizationPolicy and HTTPRoute, and sends it on
to the destination's node.

Where a flag names environment variables in brackets, the first that is set is
read when the flag is not given.

SIGTERM drains: not ready, GOAWAY, requests in flight up to the deadline.
SIGUSR1 reopens the logs.`,
	}
	set := c.Flags()
	define(set, &o.gateway, "gateway", "NS/NAME", "", parseName, "the Gateway that this is the waypoint of")
	o.options.define(set, telemetry.Waypoint)
	define(set, &o.account, "service-account", "NS/NAME", "", parseName, "our own; if it is not given, that of the Gateway's pod, which is waited for")
	define(set, &o.address, "hbone-address", "ADDRESS", ":15008", parseListen, "where HBONE is taken; connections are made from its IP, if it has one")
	define(set, &o.normalization, "path-normalization", "NAME", "", parseNormalization, "of paths, before policies and routes: NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES; if it is not given, as MeshConfig says, or BASE")
	define(set, &o.maxAge, "max-connection-age", "DURATION", "0s", parseDuration, "when a client's connection is told to end, jittered by a tenth; 0 is never")
	define(set, &o.accessLog, "access-log", "PATH", "/dev/stdout", parseText, "where the access log goes, or off; reopened on SIGUSR1")
	define(set, &o.accessText, "access-log-encoding", "NAME", "JSON", parseEncoding, "of the access log: JSON or TEXT")
	define(set, &o.accessKeys, "access-log-keys", "KEYS", "", telemetry.ParseKeys, "that the access log has after its own, with commas between them: "+strings.Join(telemetry.KeyNames(), ", "))
	define(set, &o.jwksRoots, "jwks-ca", "PATH", "", parseRoots, "certificates, in PEM, of authorities who vouch for where tokens' keys are fetched, beside the system's")
	return command(c, func(c *cobra.Command) error { return o.run(c.Context()) }, "gateway", "config", "identity")
}

func parseNormalization(s string) (*routing.Normalization, error) {
	n, err := routing.ParseNormalization(s)
	return &n, err
}

func parseEncoding(s string) (text bool, err error) {
	switch s {
	case "JSON":
		return false, nil
	case "TEXT":
		return true, nil
	}
	return false, fmt.Errorf("is neither JSON nor TEXT")
}

// run is a waypoint from its first line of log to its last.
func (o *waypointOptions) run(ctx context.Context) (err error) {
	p := newProcess(ctx, &o.options)
	defer func() { err = p.close(err) }()
	key := mesh.Key{Kind: "Gateway", Namespace: o.gateway.namespace, Name: o.gateway.name}

	t := telemetry.Options{Program: telemetry.Waypoint, Text: o.accessText, Keys: o.accessKeys, LegacyAddresses: o.compat118}
	t.Trace.Service = key.Name + "." + key.Namespace
	if o.accessLog != "off" {
		if t.AccessLog, err = p.open(o.accessLog); err != nil {
			return fmt.Errorf("flag --access-log: %w", err)
		}
	}
	if err := p.report(t); err != nil {
		return err
	}
	if err := p.know(config.Options{Gateway: key, Normalization: o.normalization}); err != nil {
		return err
	}
	listening := p.ready.Task("HBONE listener")
	p.recent = decisions.New(0)
	keys := p.follow(o.jwksRoots)
	var asked atomic.Pointer[authorizers] // nil until we know who we are to them
	p.reopened = func(ctx context.Context) {
		if a := asked.Load(); a != nil {
			a.reopen(ctx)
		}
	}
	if err := p.answer(func() any {
		d := waypointDump{dump.Waypoint(p.subject(), key, o.address), keys.Status(), []authorizerStatus{}}
		if a := asked.Load(); a != nil {
			d.Authorizers = a.status()
		}
		return d
	}); err != nil {
		return err
	}
	if err := p.feed(); err != nil {
		return err
	}
	self, err := o.self(p, key)
	if err != nil {
		return err
	}
	if err := p.svid(self); err != nil {
		return err
	}
	a := newAuthorizers(authorizerOptions{
		Self: self, Identity: p.identity, Store: p.store, Loop: p.loops.Loops()[0], Network: o.network, ClusterDomain: o.clusterDomain,
		HBONE: o.hbone(), Dial: dialFrom(o.ip()), Log: p.log.Scope("authorizers"),
	})
	defer p.leave(a)
	asked.Store(a)
	w, err := waypoint.New(waypoint.Options{
		Self: self, Identity: p.identity, Store: p.store, Telemetry: p.telemetry, Loops: p.loops, Dial: dialFrom(o.ip()),
		Log: p.log.Scope("waypoint"), Aliases: o.aliases, Network: o.network, Keys: keys.ring, Authorizer: a.client, Recent: p.recent,
		HBONE: o.hbone(), HTTP2: o.hbone(), MaxAge: o.maxAge, PoolIdle: o.poolIdle, PoolStreams: int(o.poolStreams),
	})
	if err != nil {
		return err
	}
	keys.settle(p)
	ln, err := net.Listen("tcp", o.address)
	if err != nil {
		return fmt.Errorf("flag --hbone-address: %w", err)
	}
	p.group.Go(func() error { return w.Serve(ln) })
	listening()
	return p.wait(w.Shutdown)
}

// leave ends the authorizers, whom nobody asks any more.
func (p *process) leave(a *authorizers) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := a.close(ctx); err != nil {
		p.log.Scope("authorizers").Debug("close", "error", err)
	}
}

// A waypointDump is what /config_dump shows: the configuration, and how those fare
// who are asked about requests.
type waypointDump struct {
	dump.WaypointDump
	TokenKeys   []jwks.Status      `json:"tokenKeys"`
	Authorizers []authorizerStatus `json:"authorizers"`
}

// ip is the address that HBONE is taken at, or not valid for all of them.
func (o *waypointOptions) ip() netip.Addr {
	a, err := netip.ParseAddrPort(o.address)
	if err != nil || a.Addr().IsUnspecified() {
		return netip.Addr{}
	}
	return a.Addr()
}

// self returns who we are: as the flag says, or as the pod of our Gateway is,
// which is waited for.
func (o *waypointOptions) self(p *process, gateway mesh.Key) (identity.ID, error) {
	if o.account != (name{}) {
		return identity.ID{TrustDomain: o.trustDomain, Namespace: o.account.namespace, ServiceAccount: o.account.name}, nil
	}
	defer p.ready.Task("a pod of " + gateway.String() + " in the configuration, to know our service account (or --service-account)")()
	changed := make(chan struct{}, 1)
	p.store.OnPublish(func(config.Changes) {
		select {
		case changed <- struct{}{}:
		default: // there is a notice already
		}
	})
	for {
		if id := podIdentity(p.snapshot(), gateway); !id.IsZero() {
			return id, nil
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
			return identity.ID{}, context.Cause(p.ctx)
		}
	}
}

// podIdentity returns the identity of a Gateway's pods, or none.
func podIdentity(snap *config.Snapshot, gateway mesh.Key) identity.ID {
	for w := range snap.Workloads() {
		if k := w.IsWaypointFor; k != nil && k.Namespace == gateway.Namespace && k.Name == gateway.Name {
			return w.Identity()
		}
	}
	return identity.ID{}
}
