package ztunnelcmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/manifest"
)

// istiosMesh is where Istio's charts mount MeshConfig.
const istiosMesh = "./etc/istio/config/mesh"

// A variable is one of Istio's node tunnel that no flag is read from.
type variable struct {
	name  string
	takes func(value string) bool // nil: whatever is in it is of no matter
	why   string                  // it is refused otherwise, or of no matter
}

// others are they. What Istio's does by default, or what nobody would miss, is
// taken; what would have somebody believe in something that is not so is refused.
var others = []variable{
	{"ENABLE_PROXY", is("true"), "a node tunnel that carries nothing need not run"},
	{"LOCAL_XDS_PATH", nothing, "is Istio's own form, for its tests: give --config a file or directory of Kubernetes manifests"},
	{"LOCAL_XDS", nothing, "is Istio's own form, for its tests: give --config a file or directory of Kubernetes manifests"},
	{"FAKE_CA", is("false"), "certificates that anybody can make are not to be had: give --identity self:DIR, for a CA made in that directory"},
	{"UNSTABLE_ENABLE_SOCKS5", is("false"), "beside redirection there is no SOCKS5: give --proxy-mode socks for SOCKS5 alone"},
	{"ENABLE_RESPONSE_BAGGAGE", is("true"), "is not supported: answers always tell who has answered, for the other end's metrics"},
	{"AUTHZ_POLICY_INFO_LOGGING", nil, "the line of a connection that policy refuses names the policy at any level, and dry runs are counted"},
	{"ISTIO_META_ISTIO_VERSION", nil, "our own version is told"},
}

func is(want string) func(string) bool {
	return func(value string) bool { return strings.ToLower(value) == want }
}

func nothing(string) bool { return false }

// checkEnvironment reports variables of Istio's that are set to what we cannot do.
func checkEnvironment(lookup func(string) (string, bool)) error {
	var errs []error
	for _, v := range others {
		if value, ok := lookup(v.name); ok && value != "" && v.takes != nil && !v.takes(value) {
			errs = append(errs, fmt.Errorf("environment variable %s: %q: %s", v.name, value, v.why))
		}
	}
	return errors.Join(errs...)
}

// ofNoMatter returns the variables that are set and change nothing.
func ofNoMatter(lookup func(string) (string, bool)) (list []variable) {
	for _, v := range others {
		if value, ok := lookup(v.name); ok && value != "" && v.takes == nil {
			list = append(list, v)
		}
	}
	return list
}

// adoptIstios takes what Istio's node tunnel has from elsewhere than variables of
// its own: from the ProxyConfig in PROXY_CONFIG and in MeshConfig, and where
// neither says, from its defaults, if we were started as it is.
func adoptIstios(set *pflag.FlagSet, args []string, lookup func(string) (string, bool)) error {
	mesh, err := os.ReadFile(istiosMesh)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	own, _ := lookup("PROXY_CONFIG")
	c, err := manifest.DecodeProxyConfig(mesh, []byte(own))
	if err != nil {
		return fmt.Errorf("environment variable PROXY_CONFIG, and %s: %w", istiosMesh, err)
	}
	for name, value := range c.ProxyMetadata {
		name = metaPrefix + strings.TrimPrefix(name, metaPrefix)
		if old, ok := lookup(name); !ok || old == "" {
			if err := os.Setenv(name, value); err != nil { // where it is looked for
				return fmt.Errorf("proxyMetadata %q: %w", name, err)
			}
		}
	}
	address := c.DiscoveryAddress
	if address == "" && len(args) > 0 {
		address = "localhost:15012"
		if _, ok := lookup("KUBERNETES_SERVICE_HOST"); ok {
			address = "istiod.istio-system.svc:15012"
		}
	}
	var list []suggestion
	if address != "" && !set.Changed("config") {
		list = append(list, suggestion{"xds-address", "discoveryAddress", address})
	}
	if len(args) > 0 { // as Istio's, of which discoveryAddress is not the CA
		ca := "localhost:15012"
		if _, ok := lookup("KUBERNETES_SERVICE_HOST"); ok {
			ca = "istiod.istio-system.svc:15012"
		}
		list = append(list, suggestion{"identity", "the CA", ca})
	}
	if c.ProxyAdminPort != 0 {
		list = append(list, suggestion{"admin", "proxyAdminPort", "localhost:" + strconv.Itoa(int(c.ProxyAdminPort))})
	}
	if c.StatsPort != 0 {
		list = append(list, suggestion{"metrics", "statsPort", ":" + strconv.Itoa(int(c.StatsPort))})
	}
	if n := c.Concurrency; n != nil {
		list = append(list, suggestion{"loops", "concurrency", strconv.Itoa(int(*n))})
	} else if n, err := istiosThreads(lookup); err != nil {
		return err
	} else if n > 0 {
		list = append(list, suggestion{"loops", "ZTUNNEL_RESOURCE_CPU_LIMIT", strconv.Itoa(n)})
	}
	var errs []error
	for _, s := range list {
		errs = append(errs, flags.Suggest(set, lookup, s.flag, s.value, s.from))
	}
	return errors.Join(errs...)
}

// metaPrefix begins the variables that tell istiod about us.
const metaPrefix = "ISTIO_META_"

// A suggestion is a value of a flag that nobody has given.
type suggestion struct{ flag, from, value string }

// The variables that Istio's chart sets from the pod's resources: the limit (or,
// without one, the node's cores), and the limit and the request if there are any.
const (
	cores   = "ZTUNNEL_CPU_LIMIT"
	limit   = "ZTUNNEL_RESOURCE_CPU_LIMIT"
	request = "ZTUNNEL_RESOURCE_CPU_REQUEST"
)

// istiosThreads returns how many threads Istio's node tunnel would have when
// nobody says how many: those of the limit, else a quarter of the cores, and not
// fewer than the request or two. It is 0 when none of the variables is there.
func istiosThreads(lookup func(string) (string, bool)) (int, error) {
	n := map[string]int{}
	for _, name := range []string{cores, limit, request} {
		text, ok := lookup(name)
		if !ok || text == "" {
			continue
		}
		cpus, err := parseCPUs(text)
		if err != nil {
			return 0, fmt.Errorf("environment variable %s: %q: %w", name, text, err)
		}
		n[name] = cpus
	}
	switch {
	case len(n) == 0:
		return 0, nil
	case n[limit] > 0:
		return min(maxLoops, max(n[limit], n[request])), nil
	}
	all := n[cores]
	if all == 0 {
		all = runtime.GOMAXPROCS(0)
	}
	return min(maxLoops, max(n[request], 2, (all+3)/4)), nil
}

const maxLoops = 1023 // that --loops takes

// parseCPUs reads a Kubernetes quantity of CPUs: "2", "1.5", "500m". Parts of one
// count as one.
func parseCPUs(s string) (int, error) {
	number, milli := strings.CutSuffix(s, "m")
	x, err := strconv.ParseFloat(number, 64)
	if milli {
		x /= 1000
	}
	if err != nil || !(x > 0 && x <= 1<<20) || slices.Contains([]string{"", "+"}, number) {
		return 0, errors.New(`is not a quantity of CPUs: write "2", "1.5" or "500m"`)
	}
	n := int(x)
	if float64(n) < x {
		n++
	}
	return n, nil
}
