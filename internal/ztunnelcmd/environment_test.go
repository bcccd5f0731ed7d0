package ztunnelcmd

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/program/programtest"
)

// A treatment is what becomes of a variable of Istio's.
type treatment struct {
	flag   string // it is read by
	takes  string // without a flag: a value that is taken, "" if none is
	refuse string // a value that is refused, "" if none is
}

// istios are the variables of Istio's node tunnel (src/config.rs, src/lib.rs,
// src/telemetry.rs and src/xds/client.rs of 62d8265), all of them.
var istios = map[string]treatment{
	// General.
	"ENABLE_PROXY":          {takes: "true", refuse: "false"},
	"NETWORK":               {flag: "network"},
	"NODE_NAME":             {flag: "node"},
	"CLUSTER_ID":            {flag: "cluster-id"},
	"ISTIO_META_CLUSTER_ID": {flag: "cluster-id"},
	"CLUSTER_DOMAIN":        {flag: "cluster-domain"},
	"INSTANCE_IP":           {flag: "instance-ip"},
	"INSTANCE_IPS":          {flag: "instance-ip"},
	"POD_NAME":              {flag: "pod-name"},
	"POD_NAMESPACE":         {flag: "pod-namespace"},
	"SERVICE_ACCOUNT":       {flag: "service-account"},
	"TRUST_DOMAIN":          {flag: "trust-domain"},
	"PROXY_CONFIG":          {takes: "{}", refuse: "concurrency: many"},

	// Mode.
	"PROXY_MODE":           {flag: "proxy-mode", refuse: "sidecar"},
	"PROXY_WORKLOAD_INFO":  {flag: "proxy-workload", refuse: "a/b"},
	"INPOD_UDS":            {flag: "cni-socket"},
	"INPOD_PORT_REUSE":     {flag: "port-reuse", refuse: "x"},
	"PACKET_MARK":          {flag: "packet-mark", refuse: "0"},
	"LOCALHOST_APP_TUNNEL": {flag: "localhost-app-tunnel", refuse: "x"},
	"LOCAL_XDS_PATH":       {refuse: "/etc/local.yaml"},
	"LOCAL_XDS":            {refuse: "workloads: []"},

	// Control plane.
	"XDS_ADDRESS":      {flag: "xds-address"},
	"CA_ADDRESS":       {flag: "identity"},
	"XDS_ROOT_CA":      {flag: "xds-root-ca"},
	"CA_ROOT_CA":       {flag: "ca-root-ca"},
	"ALT_XDS_HOSTNAME": {flag: "xds-server-name"},
	"ALT_CA_HOSTNAME":  {flag: "ca-server-name"},
	"AUTH_TOKEN":       {flag: "auth-token"},
	"XDS_ON_DEMAND":    {flag: "xds-on-demand", refuse: "x"},
	"SECRET_TTL":       {flag: "secret-ttl", refuse: "soon"},
	"FAKE_CA":          {takes: "false", refuse: "true"},

	// Data.
	"POOL_MAX_STREAMS_PER_CONNECTION":  {flag: "pool-max-streams", refuse: "0"},
	"POOL_UNUSED_RELEASE_TIMEOUT":      {flag: "pool-unused-release-timeout", refuse: "x"},
	"HTTP2_STREAM_WINDOW_SIZE":         {flag: "stream-window", refuse: "4MiB"},
	"HTTP2_CONNECTION_WINDOW_SIZE":     {flag: "connection-window", refuse: "-1"},
	"HTTP2_FRAME_SIZE":                 {flag: "max-frame", refuse: "0"},
	"KEEPALIVE_ENABLED":                {flag: "keepalive", refuse: "x"},
	"KEEPALIVE_TIME":                   {flag: "keepalive-time", refuse: "0"},
	"KEEPALIVE_INTERVAL":               {flag: "keepalive-interval", refuse: "x"},
	"KEEPALIVE_RETRIES":                {flag: "keepalive-retries", refuse: "0"},
	"USER_TIMEOUT_ENABLED":             {flag: "user-timeout", refuse: "x"},
	"CONNECTION_TERMINATION_DEADLINE":  {flag: "termination-deadline", refuse: "x"},
	"TERMINATION_GRACE_PERIOD_SECONDS": {flag: "termination-grace-period", refuse: "x"},
	"ENABLE_ORIG_SRC":                  {flag: "original-source", refuse: "perhaps"},
	"ENABLE_RESPONSE_BAGGAGE":          {takes: "true", refuse: "false"},
	"IPV6_ENABLED":                     {flag: "dns-ipv6", refuse: "x"},
	"UNSTABLE_ENABLE_SOCKS5":           {takes: "false", refuse: "true"},
	istiosPreferred:                    {flag: "dns-preferred-namespace"},

	// DNS.
	"ISTIO_META_DNS_CAPTURE":    {flag: "dns-capture", refuse: "x"},
	"ISTIO_META_DNS_PROXY_ADDR": {flag: "dns", refuse: "x"},

	// Security.
	"TLS12_ENABLED":             {flag: "tls12", refuse: "x"},
	"COMPLIANCE_POLICY":         {flag: "compliance-policy", refuse: "fips"},
	"CRL_PATH":                  {flag: "crl"},
	"AUTHZ_POLICY_INFO_LOGGING": {takes: "true"},

	// Threads and logs.
	"ZTUNNEL_WORKER_THREADS":       {flag: "loops", refuse: "all"},
	"ZTUNNEL_CPU_LIMIT":            {takes: "8", refuse: "x"},
	"ZTUNNEL_RESOURCE_CPU_LIMIT":   {takes: "500m", refuse: "-1"},
	"ZTUNNEL_RESOURCE_CPU_REQUEST": {takes: "1.5", refuse: "m"},
	"RUST_LOG":                     {flag: "log-level"},
	"LOG_FORMAT":                   {flag: "log-format", refuse: "xml"},
	"ISTIO_META_ISTIO_VERSION":     {takes: "1.30.0"},
}

func TestEveryVariableOfIstiosIsHonouredOrRefused(t *testing.T) {
	read := map[string]string{}
	Command().Flags().VisitAll(func(f *pflag.Flag) {
		for _, name := range f.Annotations[flags.Environment] {
			read[name] = f.Name
		}
	})
	for name, want := range istios {
		try := func(value string) error {
			set, lookup := Command().Flags(), programtest.Lookup(map[string]string{name: value})
			if err := checkEnvironment(lookup); err != nil {
				return err
			}
			if err := adoptIstios(set, nil, lookup); err != nil {
				return err
			}
			return flags.FromEnvironment(set, lookup)
		}
		if read[name] != want.flag {
			t.Errorf("%s: read by --%s, want --%s", name, read[name], want.flag)
		}
		if want.takes != "" {
			if err := try(want.takes); err != nil {
				t.Errorf("%s=%s: %v", name, want.takes, err)
			}
		}
		if want.refuse != "" {
			if err := try(want.refuse); err == nil || !strings.Contains(err.Error(), "environment variable "+name) {
				t.Errorf("%s=%s: got %v, want an error that names the variable", name, want.refuse, err)
			}
		}
		if want == (treatment{}) {
			t.Errorf("%s: nothing is said of it", name)
		}
	}
	for _, v := range others {
		if _, ok := istios[v.name]; !ok {
			t.Errorf("%s is none of Istio's", v.name)
		}
		if v.why == "" {
			t.Errorf("%s: no reason", v.name)
		}
	}
}

func TestVariablesOfNoMatterAreTold(t *testing.T) {
	got := ofNoMatter(programtest.Lookup(map[string]string{"ISTIO_META_ISTIO_VERSION": "1.31", "AUTHZ_POLICY_INFO_LOGGING": "", "FAKE_CA": "false"}))
	if len(got) != 1 || got[0].name != "ISTIO_META_ISTIO_VERSION" {
		t.Errorf("got %v", got)
	}
}

// given returns the flags that are not at their defaults once the command has
// been started with args in an environment.
func given(t *testing.T, args []string, environment map[string]string) map[string]string {
	t.Helper()
	set := Command().Flags()
	lookup := programtest.Lookup(environment)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	if err := adoptIstios(set, set.Args(), lookup); err != nil {
		t.Fatal(err)
	}
	if err := flags.FromEnvironment(set, lookup); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	set.Visit(func(f *pflag.Flag) { out[f.Name] = f.Value.String() })
	set.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			out[f.Name] = f.Value.String()
		}
	})
	return out
}

func TestWhatIstiosStartsWith(t *testing.T) {
	for _, m := range []string{"ISTIO_META_A", "ISTIO_META_B"} {
		t.Setenv(m, "")
	}
	inKubernetes := map[string]string{"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
	proxyConfig := "{discoveryAddress: istiod-canary.istio-system.svc:15012, concurrency: 3, statsPort: 1, proxyAdminPort: 2, proxyMetadata: {A: a, ISTIO_META_B: b}}"
	for _, test := range []struct {
		name string
		args []string
		env  map[string]string
		want map[string]string
	}{
		{"nothing", nil, nil, nil},
		{"Istio's arguments", []string{"proxy", "ztunnel"}, nil, map[string]string{"xds-address": "localhost:15012", "identity": "localhost:15012"}},
		{"in Kubernetes", []string{"proxy"}, inKubernetes, map[string]string{"xds-address": "istiod.istio-system.svc:15012", "identity": "istiod.istio-system.svc:15012"}},
		{"in Kubernetes, on our own terms", nil, inKubernetes, nil},
		{"with files", []string{"proxy", "--config", "x", "--identity", "self:x"}, inKubernetes, map[string]string{"config": "x", "identity": "self:x"}},
		{"with a ProxyConfig", []string{"proxy"}, map[string]string{"PROXY_CONFIG": proxyConfig}, map[string]string{
			"xds-address": "istiod-canary.istio-system.svc:15012", "identity": "localhost:15012", "loops": "3", "metrics": ":1", "admin": "localhost:2",
		}},
		{"variables go before a ProxyConfig", []string{"proxy", "--metrics", "off"}, map[string]string{
			"PROXY_CONFIG": proxyConfig, "XDS_ADDRESS": "x:1", "CA_ADDRESS": "y:1", "ZTUNNEL_WORKER_THREADS": "50%",
		}, map[string]string{"xds-address": "x:1", "identity": "y:1", "loops": "50%", "metrics": "off", "admin": "localhost:2"}},
		{"a limit", nil, map[string]string{"ZTUNNEL_CPU_LIMIT": "64", "ZTUNNEL_RESOURCE_CPU_LIMIT": "1500m"}, map[string]string{"loops": "2"}},
		{"a request above the limit", nil, map[string]string{"ZTUNNEL_RESOURCE_CPU_LIMIT": "1", "ZTUNNEL_RESOURCE_CPU_REQUEST": "4"}, map[string]string{"loops": "4"}},
		{"no limit", nil, map[string]string{"ZTUNNEL_CPU_LIMIT": "63", "ZTUNNEL_RESOURCE_CPU_REQUEST": "200m"}, map[string]string{"loops": "16"}},
		{"a small node", nil, map[string]string{"ZTUNNEL_CPU_LIMIT": "2"}, map[string]string{"loops": "2"}},
		{"concurrency goes before a limit", nil, map[string]string{"PROXY_CONFIG": "concurrency: 0", "ZTUNNEL_RESOURCE_CPU_LIMIT": "2"}, map[string]string{"loops": "0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := given(t, test.args, test.env); !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
	if a, b := os.Getenv("ISTIO_META_A"), os.Getenv("ISTIO_META_B"); a != "a" || b != "b" {
		t.Errorf("proxyMetadata: %q, %q", a, b)
	}
}

func TestMeshConfigWhereIstiosChartsMountIt(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll(filepath.Dir(istiosMesh), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(istiosMesh, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("defaultConfig: {discoveryAddress: 'istiod:1', statsPort: 5}")
	got := given(t, nil, map[string]string{"PROXY_CONFIG": "statsPort: 6"})
	if want := map[string]string{"xds-address": "istiod:1", "metrics": ":6"}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	write("defaultConfig: 5")
	if err := adoptIstios(Command().Flags(), nil, programtest.Lookup(nil)); err == nil || !strings.Contains(err.Error(), istiosMesh) {
		t.Errorf("got %v", err)
	}
	write("defaultConfig: {discoveryAddress: 'istiod:1', statsPort: 5}")
	set := Command().Flags()
	if err := set.Parse([]string{"--config", "x"}); err != nil {
		t.Fatal(err)
	}
	if err := adoptIstios(set, nil, programtest.Lookup(nil)); err != nil || set.Changed("xds-address") {
		t.Errorf("with files: %v", err)
	}
}

func TestCPUs(t *testing.T) {
	for s, want := range map[string]int{"1": 1, "2": 2, "1.5": 2, "500m": 1, "2000m": 2, "2001m": 3, "0.1": 1} {
		if got, err := parseCPUs(s); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "m", "0", "-1", "x", "NaN", "Inf", "1e300", "+", "1 m"} {
		if got, err := parseCPUs(s); err == nil {
			t.Errorf("%q: got %d", s, got)
		}
	}
}
