package ztunnelcmd

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/program"
	"github.com/waystone-mesh/waystone/internal/program/programtest"
	"github.com/waystone-mesh/waystone/internal/xds"
	"github.com/waystone-mesh/waystone/telemetry"
)

func TestOneSourceOfConfiguration(t *testing.T) {
	for _, row := range []struct{ args, want string }{
		{"", "flag --config or --xds-address: one of them is required"},
		{"--config /nowhere --xds-address istiod:15012", "there can only be one source of configuration"},
		{"--xds-address ftp://istiod", `flag --xds-address: xds: istiod: address "ftp://istiod": the scheme`},
		{"--xds-address https://istiod/x", "has more than a host and a port"},
		{"--config /nowhere --xds-on-demand", "flag --xds-on-demand: is for a configuration that comes from istiod"},
		{"--xds-address istiod:15012 --xds-on-demand --require-waypoint", "flags --xds-on-demand and --require-waypoint: which waypoints"},
		{"--xds-address istiod:15012 --xds-on-demand --dns localhost:15053", "flags --xds-on-demand (XDS_ON_DEMAND) and --dns-capture (ISTIO_META_DNS_CAPTURE)"},
		{"--xds-address istiod:15012 --xds-on-demand --proxy-mode shared", "flags --xds-on-demand (XDS_ON_DEMAND) and --dns-capture (ISTIO_META_DNS_CAPTURE)"},
		{"proxy ztunnel --xds-address istiod:15012 --xds-on-demand", "flags --xds-on-demand (XDS_ON_DEMAND) and --dns-capture (ISTIO_META_DNS_CAPTURE)"},
		{"--config /nowhere --secret-ttl 0s", `flag --secret-ttl: "0s": is no time at all`},
		{"--config /nowhere --identity istio:ftp://x", "the scheme is neither https nor http"},
		{"proxy waypoint --config /nowhere", `unknown command "proxy"`},
	} {
		log, quiet := programtest.Quiet(t)
		args := append(quiet[2:], "--node", "n1", "--log-output", log) // not --config
		if err := programtest.Execute(t, Command(), append(args, strings.Fields(row.args)...)...); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %s", row.args, err, row.want)
		}
	}
}

func TestIstiosVariablesAreRead(t *testing.T) {
	var o options
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	o.define(set)
	environment := map[string]string{
		"XDS_ADDRESS": "istiod.istio-system.svc:15012", "CA_ADDRESS": "istiod.istio-system.svc:15012", "XDS_ROOT_CA": "/xds.pem", "CA_ROOT_CA": "SYSTEM",
		"ALT_XDS_HOSTNAME": "x", "ALT_CA_HOSTNAME": "c", "AUTH_TOKEN": "/token", "SECRET_TTL": "2h", "POD_NAME": "zt", "POD_NAMESPACE": "ns", "INSTANCE_IP": "10.0.0.7",
	}
	if err := flags.FromEnvironment(set, programtest.Lookup(environment)); err != nil {
		t.Fatal(err)
	}
	want := xdsOptions{address: "istiod.istio-system.svc:15012", roots: "/xds.pem", name: "x", pod: "zt", namespace: "ns", ip: "10.0.0.7"}
	if o.xds != want || o.Identity != "istio:istiod.istio-system.svc:15012" {
		t.Errorf("got %+v, %s", o.xds, o.Identity)
	}
	if ca := o.Istiod; ca.Token != "/token" || ca.Roots != "SYSTEM" || ca.Name != "c" || ca.TTL != 2*time.Hour {
		t.Errorf("got %+v", ca)
	}
	if err := o.oneSource(); err != nil {
		t.Error(err)
	}
	metadata, err := nodeMetadata([]string{"ISTIO_META_NETWORK=net=1", `ISTIO_METAJSON_LABELS={"a":"b"}`, "ISTIO_META_=x", "OTHER=y"})
	if labels, _ := metadata["LABELS"].(map[string]any); err != nil || metadata["NETWORK"] != "net=1" || labels["a"] != "b" || len(metadata) != 2 {
		t.Errorf("got %v, %v", metadata, err)
	}
	if _, err := nodeMetadata([]string{"ISTIO_METAJSON_X={"}); err == nil || !strings.Contains(err.Error(), "ISTIO_METAJSON_X") {
		t.Errorf("got %v", err)
	}
}

// A silentPlane is a control plane of an empty mesh.
type silentPlane struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
}

func (silentPlane) DeltaAggregatedResources(st discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	for {
		r, err := st.Recv()
		if err != nil {
			return err
		}
		if r.ResponseNonce != "" {
			continue
		}
		if err := st.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.TypeUrl, Nonce: "1"}); err != nil {
			return err
		}
	}
}

func TestZtunnelRunsWithIstiod(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, silentPlane{})
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(ln) }()
	defer func() { g.Stop(); <-done }()
	log, args := programtest.Quiet(t)
	c := Command()
	c.SetArgs(append([]string{"proxy", "ztunnel", "--node", "n1", "--xds-address", "http://" + ln.Addr().String()}, args[2:]...)) // not --config
	if err := c.ExecuteContext(programtest.UntilLogged(t, log, `"ready"`)); err != nil {
		t.Fatal(err)
	}
	programtest.WantLines(t, log, `"xds: connected"`, `"ready"`, `"ended"`)
}

func TestStatsOfTheStreamAreTold(t *testing.T) {
	s := xds.Stats{Connected: true, Terminations: [4]uint64{1, 2, 3, 4}, Types: [2]xds.TypeStats{{URL: xds.AddressType, Messages: 5, Bytes: 6, Nacks: 7, Resources: 8}, {URL: xds.AuthorizationType}}}
	got := xdsReadings(s)
	if !got.Connected || len(got.Endings) != 4 || got.Endings[2] != (telemetry.XDSEnding{Reason: "Reconnect", Count: 3}) {
		t.Errorf("got %+v", got)
	}
	if len(got.Types) != 2 || got.Types[0] != (telemetry.XDSType{URL: xds.AddressType, Messages: 5, Bytes: 6, Rejected: 7, Resources: 8}) {
		t.Errorf("got %+v", got.Types)
	}
}

// A note is what a prefetcher was told.
type note struct {
	identity.Source
	at chan string
}

func (n note) Prefetch(id identity.ID) { n.at <- "prefetch " + id.ServiceAccount }
func (n note) Forget(id identity.ID)   { n.at <- "forget " + id.ServiceAccount }

func TestCertificatesOfThePodsAreFetchedAhead(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	p := program.New(ctx, &program.Options{Node: "n1"})
	p.Store = config.NewStore(config.Options{})
	source := note{at: make(chan string, 10)}
	p.Identity = source
	pod := func(uid, account, node string) config.Update {
		return config.Update{Value: &mesh.Workload{UID: uid, Namespace: "default", ServiceAccount: account, TrustDomain: "cluster.local", Node: node, Tunnel: mesh.HBONE,
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}
	}
	apply := func(u ...config.Update) {
		t.Helper()
		if err := p.Store.Apply(u); err != nil {
			t.Fatal(err)
		}
	}
	apply(pod("a", "web", "n1"), pod("b", "other", "n2"))
	plain := pod("e", "waypoint", "n1")
	plain.Value.(*mesh.Workload).Tunnel = mesh.Plain
	apply(plain)
	ended := make(chan error, 1)
	go func() { ended <- prefetch(p) }()
	want := func(text string) {
		t.Helper()
		if got := <-source.at; got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
	want("prefetch web")
	apply(pod("c", "items", "n1"), pod("d", "web", "n1"))
	want("prefetch items")
	apply(config.Update{Key: mesh.Key{Kind: "Workload", Name: "a"}}, config.Update{Key: mesh.Key{Kind: "Workload", Name: "c"}})
	want("forget items") // and not web, which d has
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(source.at) > 0 {
		t.Errorf("also %q", <-source.at)
	}
}
