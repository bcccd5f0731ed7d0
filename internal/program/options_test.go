package program

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/program/programtest"
	"github.com/waystone-mesh/waystone/telemetry"
)

func TestFlagsAreReadFromTheEnvironment(t *testing.T) {
	parse := func(environment map[string]string, args ...string) (*Options, error) {
		var o Options
		set := pflag.NewFlagSet("test", pflag.ContinueOnError)
		o.Define(set, telemetry.Ztunnel)
		if err := set.Parse(args); err != nil {
			t.Fatal(err)
		}
		return &o, flags.FromEnvironment(set, programtest.Lookup(environment))
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
	if o.Node != "n1" || o.Network != "net1" || o.ClusterID != "c1" || o.LogLevel != "debug" || !o.LogJSON || o.Loops != 2 {
		t.Errorf("got %+v", o)
	}
	if o.TrustDomain != "given" {
		t.Errorf("trust domain: got %q: a flag that is given goes before its variable", o.TrustDomain)
	}
	if o.ClusterDomain != "cluster.local" {
		t.Errorf("cluster domain: got %q: an empty variable is none", o.ClusterDomain)
	}
	if h := o.HBONE(); h.StreamWindow != 65536 || h.ConnWindow != 131072 || h.MaxFrame != 16384 || h.MaxStreams != 200 {
		t.Errorf("HTTP/2: got %+v", h)
	}
	if o.PoolStreams != 7 || o.PoolIdle != 90*time.Second || o.Drain() != 3*time.Second {
		t.Errorf("got %d, %v, %v", o.PoolStreams, o.PoolIdle, o.Drain())
	}
	if o.Collector != (flags.Endpoint{Address: "collector:4317", TLS: true}) {
		t.Errorf("collector: got %+v", o.Collector)
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

func TestDrainFollowsTheGracePeriod(t *testing.T) {
	for _, row := range []struct{ deadline, grace, want time.Duration }{
		{0, 0, 5 * time.Second},
		{0, 30 * time.Second, 25 * time.Second},
		{0, 10 * time.Second, 9 * time.Second},
		{0, time.Second, 5 * time.Second},
		{time.Second, 30 * time.Second, time.Second},
	} {
		o := Options{Deadline: row.deadline, Grace: row.grace}
		if got := o.Drain(); got != row.want {
			t.Errorf("deadline %v, grace %v: got %v, want %v", row.deadline, row.grace, got, row.want)
		}
	}
}
