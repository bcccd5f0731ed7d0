package bench

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

// good is a Load that has nothing wrong.
func good() Load { return Load{Identity: "self:/tmp/ca", Peers: []string{"default/items"}} }

func TestCheckNamesTheFlagAndTheReason(t *testing.T) {
	if err := good().Check(); err != nil {
		t.Fatalf("a Load of defaults: %v", err)
	}
	for _, c := range []struct {
		change func(*Load)
		want   string
	}{
		{func(l *Load) { l.Connect = "items:15008" }, `flag --connect: "items:15008": is not an IP address and a port`},
		{func(l *Load) { l.Transport = "quic" }, `flag --transport: "quic" is none of hbone, tcp, socks5`},
		{func(l *Load) { l.Authority = "10.96.0.10" }, `flag --authority: "10.96.0.10": authority "10.96.0.10": no port`},
		{func(l *Load) { l.Identity = "" }, "flag --identity: is required for --transport hbone"},
		{func(l *Load) { l.Peers = nil }, "flag --peer: is required for --transport hbone"},
		{func(l *Load) { l.As = "client" }, `flag --as: "client": is not of the form namespace/account`},
		{func(l *Load) { l.Peers = []string{"default/items", "any"} }, `flag --peer: "any": is not of the form namespace/account`},
		{func(l *Load) { l.TrustDomain = "no domain" }, `flag --as: "default/client": is not of the form namespace/account, or --trust-domain is not one`},
		{func(l *Load) { l.Protocol = "http3" }, `flag --protocol: "http3" is none of http1, grpc, grpc-stream, websocket, raw, connect`},
		{func(l *Load) { l.Conns = -1 }, "flag --conns: -1 is not 1 to 1000"},
		{func(l *Load) { l.Conns, l.Tunnels = 1001, 2000 }, "flag --conns: 1001 is not 1 to 1000"},
		{func(l *Load) { l.Tunnels = 10_001 }, "flag --tunnels: 10001 is not 1 to 10000"},
		{func(l *Load) { l.Concurrency = 2 }, "flag --concurrency: a tunnel of --protocol http1 has one exchange at a time"},
		{func(l *Load) { l.Loops = 65; l.Conns = 65; l.Tunnels = 65 }, "flag --loops: 65 is not 1 to 64"},
		{func(l *Load) { l.Rate = -1 }, "flag --rate: -1 is not 0 to 10000000"},
		{func(l *Load) { l.Arrival = "bursts" }, `flag --arrival: "bursts" is none of uniform, poisson`},
		{func(l *Load) { l.Method, l.Send = "GET", 1 }, "flag --send: a GET has no content"},
		{func(l *Load) { l.Size = 1 << 31 }, "flag --size: 2147483648 is not 0 to 2147483647"},
		{func(l *Load) { l.Send = 64<<20 + 1 }, "flag --send: 67108865 is not 0 to 67108864"},
		{func(l *Load) { l.Headers = []string{"no colon"} }, `flag --header: "no colon" is not of the form "name: value"`},
		{func(l *Load) { l.Headers = []string{"Host: x"} }, `flag --header: "Host: x": host is written by the generator`},
		{func(l *Load) { l.Duration = -1 }, "flag --duration: -1ns is negative"},
		{func(l *Load) { l.Warmup = -1 }, "flag --warmup: -1ns is negative"},
		{func(l *Load) { l.Requests = -1 }, "flag --requests: -1 is negative"},
		{func(l *Load) { l.ReadRate = -1 }, "flag --read-rate: -1 is negative"},
		{func(l *Load) { l.Hold, l.Rate = true, 1 }, "flag --hold: leaves tunnels idle, so that there is no --rate"},
		{func(l *Load) { l.Hold, l.Requests = true, 1 }, "flag --hold: makes one exchange on each tunnel"},
		{func(l *Load) { l.Hold, l.Protocol = true, speakConnect }, "flag --hold: --protocol connect leaves nothing open"},
		{func(l *Load) { l.ReadRate, l.Protocol = 1, speakConnect }, "flag --read-rate: --protocol connect reads one byte"},
	} {
		l := good()
		c.change(&l)
		if err := l.Check(); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestCheckReportsEverything(t *testing.T) {
	l := good()
	l.Tunnels, l.Rate = 10_001, -1
	if got, want := l.Check().Error(), "flag --tunnels: 10001 is not 1 to 10000\nflag --rate: -1 is not 0 to 10000000"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCheckOfOtherTransports(t *testing.T) {
	for _, transport := range []string{overTCP, overSOCKS5} {
		if err := (Load{Transport: transport}).Check(); err != nil {
			t.Errorf("%s without an identity: %v", transport, err)
		}
	}
}

func TestLoadIsTheSameAfterJSON(t *testing.T) {
	l := good().withDefaults()
	l.Duration, l.Warmup = 1500*time.Millisecond, time.Minute
	p, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(p), `"duration":"1.5s","warmup":"1m0s"`) {
		t.Errorf("durations are not text: %s", p)
	}
	var got Load
	if err := json.Unmarshal(p, &got); err != nil || !reflect.DeepEqual(got, l) {
		t.Errorf("got %+v, %v; want %+v", got, err, l)
	}
}

func TestDefaultsFitOneAnother(t *testing.T) {
	l := Load{Tunnels: 2, Loops: 8, Send: 1}.withDefaults()
	if l.Conns != 2 || l.Loops != 2 || l.Method != "POST" {
		t.Errorf("%d connections, %d loops, method %s; want 2, 2 and POST", l.Conns, l.Loops, l.Method)
	}
}
