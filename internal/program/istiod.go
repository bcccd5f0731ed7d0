package program

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/istiod"
	"github.com/waystone-mesh/waystone/telemetry"
)

// IstiodOptions are the flags about istiod as a CA.
type IstiodOptions struct {
	Token       string
	Roots, Name string
	TTL         time.Duration
	impersonate bool // we ask for our pods' certificates
}

const (
	// IstiodRoots is where Istio's charts mount what istiod's certificate chains to.
	IstiodRoots = "./var/run/secrets/istio/root-cert.pem"

	// RootsUsage is the usage of flags like it.
	RootsUsage = "what istiod's certificate must chain to, %s: a file, SYSTEM, or PEM"
)

func (o *IstiodOptions) define(set *pflag.FlagSet, p telemetry.Program) {
	flags.Define(set, &o.Token, "auth-token", "FILE", "./var/run/secrets/tokens/istio-token", flags.Text, "the token by which istiod knows us, read whenever it is needed", "AUTH_TOKEN")
	flags.Define(set, &o.Roots, "ca-root-ca", "ROOTS", IstiodRoots, flags.Text, fmt.Sprintf(RootsUsage, "as a CA"), "CA_ROOT_CA")
	flags.Define(set, &o.Name, "ca-server-name", "NAME", "", flags.Text, "a further name that the CA's certificate may have", "ALT_CA_HOSTNAME")
	flags.Define(set, &o.TTL, "secret-ttl", "DURATION", "24h", flags.Span, "how long certificates of istiod's CA are to be valid", "SECRET_TTL")
	o.impersonate = p == telemetry.Ztunnel
}

// parseIdentity also takes the address of a CA alone, as Istio's CA_ADDRESS has
// it: istiod.istio-system.svc:15012, or the same as a URL.
func parseIdentity(s string) (string, error) {
	if strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") {
		return "istio:" + s, nil
	}
	if _, port, err := net.SplitHostPort(s); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err == nil {
			return "istio:" + s, nil
		}
	}
	return s, nil
}

// ca says how istiod's CA is reached.
func (o *Options) ca() istiod.Options {
	i := &o.Istiod
	return istiod.Options{
		Roots: i.Roots, ServerName: i.Name, Token: i.Token, ClusterID: o.ClusterID,
		Headers: Variables(os.Environ(), "CA_HEADER_"),
	}
}

// Variables returns the variables whose names begin with prefix, without it.
func Variables(environment []string, prefix string) map[string]string {
	out := map[string]string{}
	for _, v := range environment {
		name, value, _ := strings.Cut(v, "=")
		if rest, ok := strings.CutPrefix(name, prefix); ok && rest != "" {
			out[rest] = value
		}
	}
	return out
}

// A Prefetcher is an identity source that has to ask for what it gives out, and is
// told whom it will be asked for.
type Prefetcher interface {
	Prefetch(identity.ID)
	Forget(identity.ID)
}
