package dump

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Settings are how a node tunnel was started, in the names and types of
// ztunnel's, which Kiali reads: what has another type there loses it the whole
// dump. What ztunnel has and we have not is left out.
type Settings struct {
	Proxy     bool   `json:"proxy"`
	ProxyMode string `json:"proxyMode"`

	DNSProxy           bool    `json:"dnsProxy"`
	DNSProxyAddr       *Listen `json:"dnsProxyAddr,omitempty"` // in each pod, where they are served in their network namespaces
	PreferredNamespace *string `json:"preferedServiceNamespace,omitempty"`
	IPv6               bool    `json:"ipv6Enabled"`

	LocalNode     string `json:"localNode"`
	Network       string `json:"network"`
	ClusterID     string `json:"clusterId"`
	ClusterDomain string `json:"clusterDomain"`

	AdminAddr     *Listen  `json:"adminAddr,omitempty"` // omitted: off
	StatsAddr     *Listen  `json:"statsAddr,omitempty"`
	ReadinessAddr *Listen  `json:"readinessAddr,omitempty"`
	InboundAddr   string   `json:"inboundAddr"`
	SOCKS5Addr    string   `json:"socks5Addr,omitempty"`
	PlaintextAddr string   `json:"inboundPlaintextAddr,omitempty"`
	OutboundAddr  string   `json:"outboundAddr,omitempty"`
	InPodSocket   string   `json:"inpodUds,omitempty"`
	PortReuse     bool     `json:"inpodPortReuse"`
	PacketMark    uint32   `json:"packetMark,omitempty"`
	IllegalPorts  []uint16 `json:"illegalPorts"`

	XDSAddress     string `json:"xdsAddress,omitempty"`
	XDSRoot        *Root  `json:"xdsRootCert,omitempty"`
	XDSHostname    string `json:"altXdsHostname,omitempty"`
	XDSOnDemand    bool   `json:"xdsOnDemand"`
	CAAddress      string `json:"caAddress,omitempty"`
	CARoot         *Root  `json:"caRootCert,omitempty"`
	CAHostname     string `json:"altCaHostname,omitempty"`
	FakeCA         bool   `json:"fakeCa"`
	SecretTTL      Span   `json:"secretTtl"`
	CRLPath        string `json:"crlPath,omitempty"`
	PostQuantum    bool   `json:"postQuantum"` // ours alone, as are the rest
	TLS12          bool   `json:"tls12"`
	FIPS140        bool   `json:"fips140"`
	IdentitySource string `json:"identitySource"`
	ConfigSource   string `json:"configSource,omitempty"`

	WindowSize           uint32 `json:"windowSize"`
	ConnectionWindowSize uint32 `json:"connectionWindowSize"`
	FrameSize            uint32 `json:"frameSize"`
	PoolMaxStreams       uint32 `json:"poolMaxStreamsPerConn"`
	PoolUnusedRelease    Span   `json:"poolUnusedReleaseTimeout"`
	TerminationDeadline  Span   `json:"selfTerminationDeadline"`
	WorkerThreads        int    `json:"numWorkerThreads"`
}

// A Listen is an address to listen on: {"Localhost": [false, 15000]}, of which the
// first says whether IPv6 is meant too, or {"SocketAddr": "[::]:15020"}.
type Listen struct {
	Localhost  []any  `json:"Localhost,omitempty"`
	SocketAddr string `json:"SocketAddr,omitempty"`
}

// ListenOn returns an address as flags have it: "127.0.0.1:15000", ":15020"; "off"
// is nil.
func ListenOn(s string) *Listen {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return nil
	}
	ip, _ := netip.ParseAddr(host)
	n, _ := strconv.ParseUint(port, 10, 16)
	switch {
	case host == "localhost" || ip.IsLoopback():
		return &Listen{Localhost: []any{host == "localhost" || ip.Is6(), n}}
	case host == "":
		return &Listen{SocketAddr: net.JoinHostPort("::", port)}
	}
	return &Listen{SocketAddr: s}
}

// A Root is where roots are read from.
type Root struct {
	File string `json:"File,omitempty"` // SYSTEM: those of the operating system; "": they were given themselves
}

// AnyOf is an address in a pod: of both families, unless there is no IPv6.
func AnyOf(port uint16, ipv6 bool) string {
	if ipv6 {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), port).String()
	}
	return netip.AddrPortFrom(netip.IPv4Unspecified(), port).String()
}

// LoopbackOf is an address on a pod's loopback interface likewise.
func LoopbackOf(port uint16, ipv6 bool) *Listen { return &Listen{Localhost: []any{ipv6, port}} }

// RootAt returns roots as flags have them: a file, SYSTEM, or PEM.
func RootAt(s string) *Root {
	if strings.Contains(s, "-----BEGIN") {
		s = ""
	}
	return &Root{s}
}

// A Span is a time.Duration in Rust's form.
type Span struct {
	Secs  int64 `json:"secs"`
	Nanos int64 `json:"nanos"`
}

// SpanOf returns d as a Span.
func SpanOf(d time.Duration) Span {
	return Span{int64(d / time.Second), int64(d % time.Second)}
}

// Address returns an address of a control plane without what may be secret in it.
func Address(s string) string {
	if !strings.Contains(s, "://") {
		return s
	}
	return bareURL(s)
}

// Identify tells where certificates come from: the kind of an identity source and,
// if it is Istio's CA, where that is.
func (s *Settings) Identify(source string, roots *Root, name string) {
	kind, rest, _ := strings.Cut(source, ":")
	s.IdentitySource = kind
	switch kind {
	case "istio":
		s.CAAddress, s.CARoot, s.CAHostname = Address(rest), roots, name
	case "self":
		s.FakeCA = true
	}
}
