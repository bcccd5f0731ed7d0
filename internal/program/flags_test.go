package program

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/telemetry"
)

func execute(t *testing.T, c *cobra.Command, args ...string) error {
	t.Helper()
	c.SetArgs(args)
	c.SetOut(io.Discard)
	c.SetErr(io.Discard)
	return c.ExecuteContext(context.Background())
}

func TestBadFlagsAreNamedWithValueAndReason(t *testing.T) {
	good := []string{"--gateway", "default/wp", "--config", "/nowhere", "--identity", "self:/nowhere"}
	for _, row := range []struct{ args, want string }{
		{"--max-streams many", `flag --max-streams: "many": is not a number from 1 to 2147483647`},
		{"--max-streams 0", `flag --max-streams: "0": is not a number from 1`},
		{"--stream-window 4294967295", `flag --stream-window: "4294967295": is not a number from 1`},
		{"--gateway wp", `flag --gateway: "wp": is not of the form namespace/name`},
		{"--service-account a/b/c", `flag --service-account: "a/b/c": is not of the form namespace/name`},
		{"--path-normalization SOME", `flag --path-normalization: "SOME": `},
		{"--jwks-ca /nowhere", `flag --jwks-ca: "/nowhere": open`},
		{"--compat 1.19", `flag --compat: "1.19": the only release`},
		{"--hbone-address 15008", `flag --hbone-address: "15008": is not an address to listen on`},
		{"--hbone-address web:15008", `flag --hbone-address: "web:15008": "web" is not an IP address`},
		{"--metrics :70000", `flag --metrics: ":70000": the port "70000" is not 0 to 65535`},
		{"--hbone-address off", `flag --hbone-address: "off": is not an address`},
		{"--log-format xml", `flag --log-format: "xml": is neither json nor plain`},
		{"--access-log-encoding json", `flag --access-log-encoding: "json": is neither JSON nor TEXT`},
		{"--loops 150%", `flag --loops: "150%": is not a share of the cores`},
		{"--tls-records kernel", `flag --tls-records: "kernel": is neither own nor crypto/tls`},
		{"--loops -1", `flag --loops: "-1": is neither a number`},
		{"--max-connection-age soon", `flag --max-connection-age: "soon": is not a duration`},
		{"--termination-deadline -5s", `flag --termination-deadline: "-5s": is not a duration`},
		{"--trace-sampling 101", `flag --trace-sampling: "101": is not a percentage`},
		{"--otlp-endpoint collector", `flag --otlp-endpoint: "collector": is not the address of a collector`},
		{"--otlp-endpoint ftp://collector", `flag --otlp-endpoint: "ftp://collector": is not the URL of a collector`},
		{"--nonsense", "unknown flag: --nonsense"},
		{"more", `unknown command "more"`},
	} {
		err := execute(t, Waypoint(), append(good, strings.Fields(row.args)...)...)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %s", row.args, err, row.want)
		}
	}
}

func TestFlagsThatAreMissingAreNamed(t *testing.T) {
	err := execute(t, Ztunnel(), "--config", "x")
	for _, want := range []string{"flag --node: is required", "flag --identity: is required: where certificates come from: self:DIR"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "--config") {
		t.Errorf("got %v: there is a --config", err)
	}
}

func TestFlagsAreReadFromTheEnvironment(t *testing.T) {
	parse := func(environment map[string]string, args ...string) (*options, error) {
		var o options
		set := pflag.NewFlagSet("test", pflag.ContinueOnError)
		o.define(set, telemetry.Ztunnel)
		if err := set.Parse(args); err != nil {
			t.Fatal(err)
		}
		return &o, fromEnvironment(set, func(name string) (string, bool) { v, ok := environment[name]; return v, ok })
	}
	o, err := parse(map[string]string{
		"NODE_NAME": "n1", "TRUST_DOMAIN": "td", "NETWORK": "net1", "ISTIO_META_CLUSTER_ID": "c1", "RUST_LOG": "debug",
		"LOG_FORMAT": "json", "HTTP2_STREAM_WINDOW_SIZE": "65536", "HTTP2_CONNECTION_WINDOW_SIZE": "131072", "HTTP2_FRAME_SIZE": "16384",
		"POOL_MAX_STREAMS_PER_CONNECTION": "7", "POOL_UNUSED_RELEASE_TIMEOUT": "90s", "CONNECTION_TERMINATION_DEADLINE": "3s",
		"ZTUNNEL_WORKER_THREADS": "2", "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector", "CLUSTER_DOMAIN": "",
	}, "--trust-domain", "given")
	if err != nil {
		t.Fatal(err)
	}
	if o.node != "n1" || o.network != "net1" || o.clusterID != "c1" || o.logLevel != "debug" || !o.logJSON || o.loops != 2 {
		t.Errorf("got %+v", o)
	}
	if o.trustDomain != "given" {
		t.Errorf("trust domain: got %q: a flag that is given goes before its variable", o.trustDomain)
	}
	if o.clusterDomain != "cluster.local" {
		t.Errorf("cluster domain: got %q: an empty variable is none", o.clusterDomain)
	}
	if h := o.hbone(); h.StreamWindow != 65536 || h.ConnWindow != 131072 || h.MaxFrame != 16384 || h.MaxStreams != 200 {
		t.Errorf("HTTP/2: got %+v", h)
	}
	if o.poolStreams != 7 || o.poolIdle != 90*time.Second || o.drain() != 3*time.Second {
		t.Errorf("got %d, %v, %v", o.poolStreams, o.poolIdle, o.drain())
	}
	if o.collector != (collector{"collector:4317", true}) {
		t.Errorf("collector: got %+v", o.collector)
	}

	_, err = parse(map[string]string{"HTTP2_FRAME_SIZE": "big", "NETWORK": "n", "LOG_FORMAT": "xml"})
	for _, want := range []string{
		`environment variable HTTP2_FRAME_SIZE (as --max-frame): "big": is not a number`,
		`environment variable LOG_FORMAT (as --log-format): "xml": is neither json nor plain`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestEveryVariableIsInTheHelp(t *testing.T) {
	for _, c := range []*cobra.Command{Waypoint(), Ztunnel()} {
		help := c.Flags().FlagUsages()
		c.Flags().VisitAll(func(f *pflag.Flag) {
			for _, name := range f.Annotations[environment] {
				if !strings.Contains(help, name) {
					t.Errorf("%s --%s: the help does not tell of %s", c.Name(), f.Name, name)
				}
			}
			if f.Usage == "" {
				t.Errorf("%s --%s: no usage", c.Name(), f.Name)
			}
		})
	}
}

func TestDrainFollowsTheGracePeriod(t *testing.T) {
	for _, row := range []struct{ deadline, grace, want time.Duration }{
		{0, 0, 5 * time.Second},
		{0, 30 * time.Second, 25 * time.Second},
		{0, 10 * time.Second, 9 * time.Second},
		{0, time.Second, 5 * time.Second},
		{time.Second, 30 * time.Second, time.Second},
	} {
		o := options{deadline: row.deadline, grace: row.grace}
		if got := o.drain(); got != row.want {
			t.Errorf("deadline %v, grace %v: got %v, want %v", row.deadline, row.grace, got, row.want)
		}
	}
}

func TestValuesAreRead(t *testing.T) {
	if d, err := parseDuration("45"); err != nil || d != 45*time.Second {
		t.Errorf("a bare number: got %v, %v", d, err)
	}
	if n, err := parseLoops("1%"); err != nil || n != 1 {
		t.Errorf("1%% of the cores: got %d, %v", n, err)
	}
	if c, err := parseCollector("http://[::1]:9999"); err != nil || c != (collector{"[::1]:9999", false}) {
		t.Errorf("collector: got %+v, %v", c, err)
	}
	if c, err := parseCollector("host:1"); err != nil || c != (collector{"host:1", false}) {
		t.Errorf("collector: got %+v, %v", c, err)
	}
	if l, err := parseList("a, b,,"); err != nil || len(l) != 2 || l[1] != "b" {
		t.Errorf("list: got %q, %v", l, err)
	}
	for _, good := range []string{":0", "127.0.0.1:15000", "[::1]:15000", "localhost:1"} {
		if _, err := parseListen(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	if text, err := parseEncoding("TEXT"); !text || err != nil {
		t.Errorf("TEXT: got %v, %v", text, err)
	}
	if _, err := parseBool("perhaps"); err == nil {
		t.Error("perhaps is a bool")
	}
}
