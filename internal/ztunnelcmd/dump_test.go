package ztunnelcmd

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/ztunnel"
)

func TestConnectionsAreToldAsZtunnelTellsThem(t *testing.T) {
	src, dst, vip := netip.MustParseAddrPort("10.0.0.1:4000"), netip.MustParseAddrPort("10.0.0.2:15008"), netip.MustParseAddrPort("10.96.0.1:80")
	peer := identity.ID{TrustDomain: "cluster.local", Namespace: "a", ServiceAccount: "b"}
	got, err := json.Marshal(connectionsOf([]ztunnel.Connection{
		{Source: src, Original: vip, Service: "web.a", Actual: dst, HBONE: true, Peer: peer, Since: time.Unix(0, 0).UTC(), Received: 1, Sent: 2},
		{Source: src, Service: "web.a", Actual: dst, HBONE: true},
		{Source: src, Actual: dst},
	}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`{"src":"10.0.0.1:4000","originalDst":"10.96.0.1:80","actualDst":"10.0.0.2:15008","protocol":"HBONE","peer":"spiffe://cluster.local/ns/a/sa/b","service":"web.a","since":"1970-01-01T00:00:00Z","receivedBytes":1,"sentBytes":2}`,
		`"originalDst":"web.a"`,
		`{"src":"10.0.0.1:4000","originalDst":null,"actualDst":"10.0.0.2:15008","protocol":"TCP",`,
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("got %s, want %s in it", got, want)
		}
	}
}

func TestSettingsAreToldAsTheyWereGiven(t *testing.T) {
	var o options
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	o.define(set)
	args := strings.Fields("--node n1 --xds-address https://istiod:15012 --xds-root-ca /roots.pem --identity istio:https://ca:15012 --ca-root-ca SYSTEM --admin off --pool-unused-release-timeout 90s --network net")
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(o.settings(3))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"localNode":"n1"`, `"network":"net"`, `"xdsAddress":"https://istiod:15012","xdsRootCert":{"File":"/roots.pem"}`, `"caAddress":"https://ca:15012","caRootCert":{"File":"SYSTEM"}`,
		`"statsAddr":{"SocketAddr":"[::]:15020"}`, `"poolUnusedReleaseTimeout":{"secs":90,"nanos":0}`, `"secretTtl":{"secs":86400,"nanos":0}`, `"numWorkerThreads":3`, `"illegalPorts":[15001,`,
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("got %s, want %s in it", got, want)
		}
	}
	if strings.Contains(string(got), "adminAddr") {
		t.Errorf("got %s, want no admin address: it is off", got)
	}
}

func TestWhereTrafficComesInIsTold(t *testing.T) {
	for _, test := range []struct {
		args string
		want []string
	}{
		{"", []string{`"proxyMode":"Shared"`, `"dnsProxy":false`, `"ipv6Enabled":true`, `"socks5Addr":"[::]:15080"`, `"inboundAddr":"[::]:15008"`, `15053`, `"inpodPortReuse":false`}},
		{"--dns 10.0.0.1:53 --dns-preferred-namespace a", []string{`"dnsProxy":true,"dnsProxyAddr":{"SocketAddr":"10.0.0.1:53"},"preferedServiceNamespace":"a"`}},
		{"--dns localhost:53 --dns-ipv6=false", []string{`"dnsProxyAddr":{"Localhost":[false,53]}`, `"socks5Addr":"0.0.0.0:15080"`}},
		{"--proxy-mode shared", []string{`"dnsProxy":true,"dnsProxyAddr":{"Localhost":[true,15053]}`, `"inboundPlaintextAddr":"[::]:15006","outboundAddr":"[::]:15001","inpodUds":"/var/run/ztunnel/ztunnel.sock","inpodPortReuse":true,"packetMark":1337`}},
		{"--proxy-mode shared --dns-capture=false", []string{`"dnsProxy":false`}},
		{"--proxy-mode dedicated --dns-ipv6=false", []string{`"proxyMode":"Dedicated"`, `"outboundAddr":"0.0.0.0:15001"`, `"dnsProxyAddr":{"Localhost":[false,15053]}`}},
		{"--crl /crl.pem --compliance-policy pqc --tls12", []string{`"crlPath":"/crl.pem","postQuantum":true,"tls12":true,"fips140":`}},
	} {
		var o options
		set := pflag.NewFlagSet("test", pflag.ContinueOnError)
		o.define(set)
		if err := set.Parse(strings.Fields(test.args)); err != nil {
			t.Fatal(err)
		}
		o.capture.mode = o.modeFor(nil)
		got, err := json.Marshal(o.settings(1))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range test.want {
			if !strings.Contains(string(got), want) {
				t.Errorf("%s: got %s, want %s in it", test.args, got, want)
			}
		}
	}
}
