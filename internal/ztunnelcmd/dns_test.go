package ztunnelcmd

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/program"
	"github.com/waystone-mesh/waystone/internal/program/programtest"
	"github.com/waystone-mesh/waystone/telemetry"
)

func TestFlagsOfDNS(t *testing.T) {
	for _, row := range []struct {
		environment map[string]string
		args        string
		want        string // addresses, capture, upstream, namespace, IPv6; or the error
	}{
		{nil, "", `[] true [] "" true`},
		{nil, "--dns off", `[] true [] "" true`},
		{nil, "--dns 10.0.0.1:15053 --dns-upstream 10.96.0.10,[fd00::10]:5353,fd00::11", "[10.0.0.1:15053] true [10.96.0.10:53 [fd00::10]:5353 [fd00::11]:53] \"\" true"},
		{map[string]string{"ISTIO_META_DNS_PROXY_ADDR": "localhost:15053", "ISTIO_META_DNS_CAPTURE": "false", istiosPreferred: "shared", "IPV6_ENABLED": "false"}, "",
			"[127.0.0.1:15053 [::1]:15053] false [] \"shared\" false"},
		{nil, "--dns :15053", "is not a single address to listen on"},
		{nil, "--dns [::]:15053", "is not a single address to listen on"},
		{nil, "--dns localhost:dns", "is not a single address to listen on"},
		{nil, "--dns-upstream 10.96.0.10,kube-dns", `"kube-dns" is not the address of a server`},
		{nil, "--dns-upstream 10.96.0.10:0", `"10.96.0.10:0" is not the address of a server`},
	} {
		var o dnsOptions
		set := pflag.NewFlagSet("test", pflag.ContinueOnError)
		o.define(set)
		err := set.Parse(strings.Fields(row.args))
		if err == nil {
			err = flags.FromEnvironment(set, func(name string) (string, bool) { v, ok := row.environment[name]; return v, ok })
		}
		got := fmt.Sprintf("%v %v %v %q %v", o.addrs, o.capture, o.upstream, o.prefer, o.ipv6)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, row.want) {
			t.Errorf("%s: got %s, want %s", row.args, got, row.want)
		}
	}
}

// TestPodsQuestionsAreAnswered asks a node tunnel as far as it is one, as the pod
// at 127.0.0.1.
func TestPodsQuestionsAreAnswered(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	var o options
	o.Identity, o.LogOutput, o.LogLevel, o.LogJSON, o.Loops = "self:"+t.TempDir(), log, "info", true, 1
	o.TrustDomain, o.ClusterDomain, o.Node = "td", "mesh.example", "n1"
	o.dns = dnsOptions{addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, capture: true, upstream: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")}}
	p := program.New(t.Context(), &o.Options)
	if err := p.Report(telemetry.Options{Program: telemetry.Ztunnel}); err != nil {
		t.Fatal(err)
	}
	if err := p.Know(config.Options{}, nil); err != nil {
		t.Fatal(err)
	}
	for _, w := range []config.Resource{
		&mesh.Workload{UID: "w", Name: "client", Namespace: "shop", CanonicalName: "client", TrustDomain: "td", Node: "n1", Tunnel: mesh.HBONE, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
		&mesh.Service{Name: "web", Namespace: "shop", Hostname: "web.shop.svc.mesh.example", Addresses: []mesh.Prefix{{Prefix: netip.MustParsePrefix("10.1.0.1/32")}}},
	} {
		if err := p.Store.Apply([]config.Update{{Value: w}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.resolve(p); err != nil {
		t.Fatal(err)
	}
	<-programtest.UntilLogged(t, log, "questions of pods").Done()
	text, _ := os.ReadFile(log)
	found := regexp.MustCompile(`"address":"\[([0-9.:]+)\]","upstream":"\[192.0.2.1:53\]"`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("log: %s", text)
	}
	c := dns.Client{Timeout: 10 * time.Second}
	reply, _, err := c.Exchange(new(dns.Msg).SetQuestion("web.", dns.TypeA), string(found[1]))
	if err != nil || len(reply.Answer) != 1 || !strings.HasSuffix(reply.Answer[0].String(), "\t10.1.0.1") {
		t.Errorf("got %v, %v", reply, err)
	}
	families, err := p.Telemetry.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := ""
	for _, f := range families {
		if f.GetName() == "istio_dns_requests_total" {
			counted = f.String()
		}
	}
	if !strings.Contains(counted, `"client"`) {
		t.Errorf("counted %q", counted)
	}
	if err := p.Close(nil); err != nil {
		t.Error(err)
	}
}

func TestQuestionsAreLeftAloneUnlessAskedFor(t *testing.T) {
	p := new(program.Process)
	for _, d := range []dnsOptions{
		{capture: true},
		{addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}},
	} {
		o := options{dns: d}
		if err := o.resolve(p); err != nil {
			t.Error(err)
		}
	}
}

func TestAnAddressThatCannotBeListenedOnIsAnError(t *testing.T) {
	log, args := programtest.Quiet(t)
	c := Command()
	c.SilenceErrors = true
	c.SetArgs(append(args, "--node", "n1", "--dns", "192.0.2.1:15053", "--dns-upstream", "10.96.0.10"))
	if err := c.ExecuteContext(programtest.UntilLogged(t, log, `"ready"`)); err == nil || !strings.Contains(err.Error(), "flag --dns: dns: listen udp 192.0.2.1:15053") {
		t.Errorf("got %v", err)
	}
}
