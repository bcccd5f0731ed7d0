// Package istiod reaches Istio's control plane.
//
// It is known by a certificate for its host name that chains to roots of ours,
// and it knows us by the token of our service account. Both are files that
// somebody else keeps fresh: the roots are read in every handshake, the token
// for every call. What is asked of it is other packages' business.
package istiod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
)

// Istio's own clients use these numbers too.
const (
	connectTimeout = 5 * time.Second
	pingEvery      = 30 * time.Second
	pingTimeout    = 10 * time.Second
)

// Options say where istiod is and who we are to it.
type Options struct {
	// Address is https://host:port, or host:port. With http:// the connection is
	// not protected; then no token is sent.
	Address string

	// Roots are whom its certificate must chain to: a file of PEM, "SYSTEM" for
	// the system's roots, or the PEM itself.
	Roots string

	// ServerName is a further name that its certificate may have. "" is none.
	ServerName string

	// Token is a file with the token of our service account. "" is none.
	Token string

	ClusterID string            // our cluster
	Headers   map[string]string // further fields of every call

	// Dial connects to host:port. nil: by TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// A target is an address, taken apart.
type target struct {
	host, address string
	plain         bool
}

// target reads o.Address.
func (o *Options) target() (target, error) {
	text := o.Address
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "":
		return target{}, fmt.Errorf("istiod: address %q: is not of the form https://host:port", o.Address)
	case u.Scheme != "https" && u.Scheme != "http":
		return target{}, fmt.Errorf("istiod: address %q: the scheme is neither https nor http", o.Address)
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return target{}, fmt.Errorf("istiod: address %q: has more than a host and a port", u.Redacted())
	}
	t := target{host: u.Hostname(), plain: u.Scheme == "http"}
	port := u.Port()
	if port == "" {
		port = map[bool]string{false: "15012", true: "15010"}[t.plain]
	}
	t.address = net.JoinHostPort(t.host, port)
	return t, nil
}

// Plain reports whether the connection is not protected.
func (o *Options) Plain() bool {
	t, err := o.target()
	return err == nil && t.plain
}

// Check reports what is wrong with o, as far as that can be known without a
// connection. Files need not be there yet.
func (o *Options) Check() error {
	t, err := o.target()
	switch {
	case err != nil:
		return err
	case t.plain:
		return nil
	case o.Roots == "":
		return errors.New("istiod: no roots to know it by")
	case strings.HasPrefix(o.Token, "eyJ"):
		return errors.New("istiod: the token itself was given, want the path of a file: a token has to be replaced before it expires")
	}
	if strings.Contains(o.Roots, pemBegin) {
		_, err = o.roots()
	}
	return err
}

// Connect returns a connection, which connects when something is asked. It does not
// try again by itself: what is asked while istiod is away fails.
func (o *Options) Connect() (*grpc.ClientConn, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	t, err := o.target()
	if err != nil {
		return nil, err
	}
	dial := o.Dial
	scheme := "passthrough:///" // Dial finds its way
	if dial == nil {
		scheme = "dns:///"
		dial = func(ctx context.Context, address string) (net.Conn, error) {
			d := net.Dialer{Timeout: connectTimeout, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 300 * time.Second, Interval: 75 * time.Second, Count: 9}}
			return d.DialContext(ctx, "tcp", address)
		}
	}
	transport := insecure.NewCredentials()
	if !t.plain {
		transport = credentials.NewTLS(o.tls(t.host))
	}
	return grpc.NewClient(scheme+t.address,
		grpc.WithTransportCredentials(transport),
		grpc.WithPerRPCCredentials(caller{o, t.plain}),
		grpc.WithContextDialer(dial),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.WithDisableServiceConfig(), // it is asked for in DNS

		// A pool would keep what the first message took, which may be 80 MB; those
		// that follow are few and short.
		experimental.WithBufferPool(mem.NopBufferPool{}),
		grpc.WithNoProxy(),
	)
}

// A caller says who calls.
type caller struct {
	o     *Options
	plain bool
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (c caller) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	md := make(map[string]string, len(c.o.Headers)+2)
	for name, value := range c.o.Headers {
		md[strings.ToLower(name)] = value
	}
	if c.o.ClusterID != "" {
		md["clusterid"] = c.o.ClusterID
	}
	if c.o.Token == "" || c.plain {
		return md, nil
	}
	token, err := readToken(c.o.Token)
	if err != nil {
		return nil, err
	}
	md["authorization"] = "Bearer " + token
	return md, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (c caller) RequireTransportSecurity() bool { return c.o.Token != "" && !c.plain }

// readToken reads a token. What is wrong is said without what was read.
func readToken(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("token: %s is empty", path)
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("token: %s holds more than a token", path)
	}
	return token, nil
}
