package waypointcmd

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
	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/jwks"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/program"
	"github.com/waystone-mesh/waystone/routing"
	"github.com/waystone-mesh/waystone/telemetry"
	"github.com/waystone-mesh/waystone/waypoint"
)

// options are the flags of a waypoint.
type options struct {
	program.Options
	gateway       flags.ObjectName
	account       flags.ObjectName
	address       string
	normalization *routing.Normalization // nil: what MeshConfig says
	maxAge        time.Duration
	accessLog     string
	accessText    bool
	accessKeys    []string
	jwksRoots     *x509.CertPool
}

// Command returns the command that runs a waypoint.
func Command() *cobra.Command {
	var o options
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
	flags.Define(set, &o.gateway, "gateway", "NS/NAME", "", flags.Name, "the Gateway that this is the waypoint of")
	o.Define(set, telemetry.Waypoint)
	flags.Define(set, &o.account, "service-account", "NS/NAME", "", flags.Name, "our own; if it is not given, that of the Gateway's pod, which is waited for")
	flags.Define(set, &o.address, "hbone-address", "ADDRESS", ":15008", flags.Listen, "where HBONE is taken; connections are made from its IP, if it has one")
	flags.Define(set, &o.normalization, "path-normalization", "NAME", "", parseNormalization, "of paths, before policies and routes: NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES; if it is not given, as MeshConfig says, or BASE")
	flags.Define(set, &o.maxAge, "max-connection-age", "DURATION", "0s", flags.Duration, "when a client's connection is told to end, jittered by a tenth; 0 is never")
	flags.Define(set, &o.accessLog, "access-log", "PATH", "/dev/stdout", flags.Text, "where the access log goes, or off; reopened on SIGUSR1")
	flags.Define(set, &o.accessText, "access-log-encoding", "NAME", "JSON", parseEncoding, "of the access log: JSON or TEXT")
	flags.Define(set, &o.accessKeys, "access-log-keys", "KEYS", "", telemetry.ParseKeys, "that the access log has after its own, with commas between them: "+strings.Join(telemetry.KeyNames(), ", "))
	flags.Define(set, &o.jwksRoots, "jwks-ca", "PATH", "", parseRoots, "certificates, in PEM, of authorities who vouch for where tokens' keys are fetched, beside the system's")
	return flags.Command(c, func(c *cobra.Command) error { return o.run(c.Context()) }, "gateway", "config", "identity")
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
func (o *options) run(ctx context.Context) (err error) {
	p := program.New(ctx, &o.Options)
	defer func() { err = p.Close(err) }()
	key := mesh.Key{Kind: "Gateway", Namespace: o.gateway.Namespace, Name: o.gateway.Name}

	t := telemetry.Options{Program: telemetry.Waypoint, Text: o.accessText, Keys: o.accessKeys, LegacyAddresses: o.Compat118}
	t.Trace.Service = key.Name + "." + key.Namespace
	if o.accessLog != "off" {
		if t.AccessLog, err = p.Open(o.accessLog); err != nil {
			return fmt.Errorf("flag --access-log: %w", err)
		}
	}
	if err := p.Report(t); err != nil {
		return err
	}
	if err := p.Know(config.Options{Gateway: key, Normalization: o.normalization}, nil); err != nil {
		return err
	}
	listening := p.Ready.Task("HBONE listener")
	p.Recent = decisions.New(0)
	keys := follow(p, o.jwksRoots)
	var asked atomic.Pointer[authorizers] // nil until we know who we are to them
	p.Reopened = func(ctx context.Context) {
		if a := asked.Load(); a != nil {
			a.reopen(ctx)
		}
	}
	if err := p.Answer(func() any {
		d := waypointDump{dump.Waypoint(p.Subject(), key, o.address), keys.Status(), []authorizerStatus{}}
		if a := asked.Load(); a != nil {
			d.Authorizers = a.status()
		}
		return d
	}); err != nil {
		return err
	}
	if err := p.Feed(); err != nil {
		return err
	}
	self, err := o.self(p, key)
	if err != nil {
		return err
	}
	if err := p.SVID(self); err != nil {
		return err
	}
	a := newAuthorizers(authorizerOptions{
		Self: self, Identity: p.Identity, Store: p.Store, Loop: p.Loops.Loops()[0], Network: o.Network, ClusterDomain: o.ClusterDomain,
		HBONE: o.HBONE(), Dial: program.DialFrom(o.ip()), Log: p.Log.Scope("authorizers"),
	})
	defer leave(p, a)
	asked.Store(a)
	w, err := waypoint.New(waypoint.Options{
		Self: self, Identity: p.Identity, Store: p.Store, Telemetry: p.Telemetry, Loops: p.Loops, Dial: program.DialFrom(o.ip()),
		Log: p.Log.Scope("waypoint"), Aliases: o.Aliases, Network: o.Network, Keys: keys.ring, Authorizer: a.client, Recent: p.Recent,
		HBONE: o.HBONE(), HTTP2: o.HBONE(), MaxAge: o.maxAge, PoolIdle: o.PoolIdle, PoolStreams: int(o.PoolStreams),
	})
	if err != nil {
		return err
	}
	keys.settle(p)
	ln, err := net.Listen("tcp", o.address)
	if err != nil {
		return fmt.Errorf("flag --hbone-address: %w", err)
	}
	p.Go(func() error { return w.Serve(ln) })
	listening()
	return p.Wait(w.Shutdown)
}

// leave ends the authorizers, whom nobody asks any more.
func leave(p *program.Process, a *authorizers) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := a.close(ctx); err != nil {
		p.Log.Scope("authorizers").Debug("close", "error", err)
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
func (o *options) ip() netip.Addr {
	a, err := netip.ParseAddrPort(o.address)
	if err != nil || a.Addr().IsUnspecified() {
		return netip.Addr{}
	}
	return a.Addr()
}

// self returns who we are: as the flag says, or as the pod of our Gateway is,
// which is waited for.
func (o *options) self(p *program.Process, gateway mesh.Key) (identity.ID, error) {
	if o.account != (flags.ObjectName{}) {
		return identity.ID{TrustDomain: o.TrustDomain, Namespace: o.account.Namespace, ServiceAccount: o.account.Name}, nil
	}
	defer p.Ready.Task("a pod of " + gateway.String() + " in the configuration, to know our service account (or --service-account)")()
	changed := make(chan struct{}, 1)
	p.Store.OnPublish(func(config.Changes) {
		select {
		case changed <- struct{}{}:
		default: // there is a notice already
		}
	})
	for {
		if id := podIdentity(p.Snapshot(), gateway); !id.IsZero() {
			return id, nil
		}
		select {
		case <-changed:
		case <-p.Context().Done():
			return identity.ID{}, context.Cause(p.Context())
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
