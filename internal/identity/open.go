package identity

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/waystone-mesh/waystone/internal/istiod"
)

// Forms lists what [Open] understands, for the help text of a flag.
const Forms = "self:DIR (a CA of our own, made in DIR), files:DIR (DIR/<namespace>/<service account>/{cert,key}.pem and DIR/root-cert.pem), spiffe:SOCKET (the SPIFFE Workload API), istio:https://HOST:PORT (istiod's CA)"

// Options says what a source cannot find out by itself.
type Options struct {
	// TrustDomain is the one that self: issues for and that the certificates of
	// files: must be of. "" is "cluster.local".
	TrustDomain string

	// Aliases are further trust domains that TrustDomain's roots vouch for.
	Aliases []string

	// Istiod is who we are to istio: and how it is known; the address is part of
	// what is opened. Impersonate has it asked for identities other than our own,
	// which it allows node tunnels. TTL is how long its certificates are to be
	// valid; 0 is 24 h.
	Istiod      istiod.Options
	Impersonate bool
	TTL         time.Duration

	// Terms of handshakes, but for Revoked; which are the revocation lists of the
	// file CRL, if it names one: PEM, any number of them, or one in DER.
	Terms Terms
	CRL   string

	// CRLSettle is how long a change of that file must be over before it is read;
	// 0: 2 s, as Istio's.
	CRLSettle time.Duration

	// Log is told of reloads and of what was refused. nil discards.
	Log *slog.Logger

	lookedForTest      func()        // a files: source has read its directory again
	rootsSettleForTest time.Duration // 0: rootsSettle
}

// Open returns the source that spec names; see [Forms]. [Close] ends it.
func Open(spec string, o Options) (Source, error) {
	if o.TrustDomain == "" {
		o.TrustDomain = "cluster.local"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, td := range append([]string{o.TrustDomain}, o.Aliases...) {
		if _, err := spiffeid.TrustDomainFromString(td); err != nil {
			return nil, fmt.Errorf("identity: trust domain %q: %w", td, err)
		}
	}
	if o.CRL != "" {
		r, err := openRevocations(o.CRL, o.CRLSettle, o.Log)
		if err != nil {
			return nil, err
		}
		o.Terms.Revoked = r
	}
	src, err := openSource(spec, o)
	if err != nil && o.Terms.Revoked != nil {
		o.Terms.Revoked.Close()
	}
	return src, err
}

// openSource opens the source itself.
func openSource(spec string, o Options) (Source, error) {
	kind, where, _ := strings.Cut(spec, ":")
	switch kind {
	case "self", "files":
		if where == "" {
			return nil, fmt.Errorf("identity: %q names no directory; the forms are %s", spec, Forms)
		}
		if kind == "self" {
			return opened(openSelf(where, o))
		}
		return opened(openFiles(where, o))
	case "spiffe":
		if where == "" {
			where = os.Getenv("SPIFFE_ENDPOINT_SOCKET")
		}
		return opened(openSPIFFE(where, o))
	case "istio":
		if where == "" {
			return nil, fmt.Errorf("identity: %q names no address; the forms are %s", spec, Forms)
		}
		return opened(openIstio(where, o))
	}
	return nil, fmt.Errorf("identity: %q: unknown source; the forms are %s", spec, Forms)
}

// opened returns no source with an error: a nil pointer in a Source is one.
func opened[S Source](src S, err error) (Source, error) {
	if err != nil {
		return nil, err
	}
	return src, nil
}

// Close ends whatever src keeps running, the following of its revocation lists
// too, and waits for it. A source that keeps nothing running is left as it is.
func Close(src Source) error {
	if r := src.Terms().Revoked; r != nil {
		r.Close()
	}
	if c, ok := src.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (o *Options) looked() {
	if o.lookedForTest != nil {
		o.lookedForTest()
	}
}

// domains returns the trust domains that o's roots vouch for.
func (o *Options) domains() []string {
	return append([]string{o.TrustDomain}, o.Aliases...)
}

// vouches reports whether td is the trust domain or an alias of it.
func (o *Options) vouches(td string) bool {
	return td == o.TrustDomain || slices.Contains(o.Aliases, td)
}

// aliased adds to set, for each alias without roots of its own, those of the
// trust domain, and returns it.
func (o *Options) aliased(set *x509bundle.Set) *x509bundle.Set {
	own, ok := set.Get(spiffeid.RequireTrustDomainFromString(o.TrustDomain))
	if !ok {
		return set
	}
	for _, alias := range o.Aliases {
		if td := spiffeid.RequireTrustDomainFromString(alias); !set.Has(td) {
			set.Add(x509bundle.FromX509Authorities(td, own.X509Authorities()))
		}
	}
	return set
}
