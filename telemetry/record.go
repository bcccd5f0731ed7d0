package telemetry

import (
	"net/netip"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A Reporter says who tells the story.
type Reporter uint8

// The reporters.
const (
	ByWaypoint    Reporter = iota // the L7 proxy
	BySource                      // the node tunnel of the client
	ByDestination                 // the node tunnel of the destination
)

func (r Reporter) String() string {
	return [...]string{"waypoint", "source", "destination"}[r]
}

// Ends are the two ends of an exchange or a connection, as far as they are
// known. Whatever is zero is reported as unknown.
type Ends struct {
	Reporter Reporter

	// Source and Dest are the workloads. Dest is the endpoint that was chosen:
	// nil for what was refused before one was. For a connection to a waypoint
	// it is the waypoint.
	Source, Dest *mesh.Workload

	// SourceID is the client's identity as its certificate gave it, DestID the
	// destination's: proven or, for the client's tunnel, required of it. LocalID
	// is the one we presented. All are zero where there was no mTLS, whatever
	// the workloads are. A waypoint may leave DestID zero: then it is Dest's own.
	//
	// The connection was mutually authenticated when SourceID is known and so is
	// DestID, or at a waypoint LocalID.
	SourceID, DestID, LocalID identity.ID

	// Service is the service the client asked for. ServiceHost stands in for it
	// when there is only a name; it must come from configuration, never from
	// the peer, because each makes a series of its own.
	Service     *mesh.Service
	ServiceHost mesh.Hostname

	// Target is the authority of the CONNECT: for a tunnel, what is logged as
	// dst.hbone_addr. It is zero when there was no CONNECT.
	Target mesh.Authority

	// SourceAddr is the client's address. LocalAddr is the address it dialled:
	// for a waypoint Target's, if that is one; for a node tunnel, what the client
	// dialled or, on the destination's side, where the connection came in (on
	// port 15008 when over HBONE).
	SourceAddr, LocalAddr netip.AddrPort
}

// An Outcome is what an exchange and a connection have in common: when, where
// to, how much, and how it ended.
type Outcome struct {
	Start    time.Time
	Duration time.Duration

	Flag        Flag   // why it ended otherwise than it should; zero when it did not
	Details     string // Envoy's response code details: "via_upstream", "rbac_access_denied_…"
	Termination string // why we ended a connection: a policy's name, for example

	// Received counts content that came from the client; Sent, content sent to
	// it.
	Received, Sent uint64

	Upstream          netip.AddrPort // the endpoint; of a tunnel's client side, what was dialled
	UpstreamTunnelled bool           // reached over HBONE
	UpstreamLocal     netip.AddrPort // our end of a plain connection to it
	TransportFailure  string         // why TLS to it failed

	Cluster   Cluster
	RouteName string
	SNI       string

	Decision Decision
}

// A Cluster is what Envoy would call the destination. Telemetry prints it in
// Istio's way; see [ClusterKind].
type Cluster struct {
	Kind   ClusterKind
	Port   uint16
	Subset string
	Host   string
}

// A ClusterKind is one of Istio's forms of naming a destination.
type ClusterKind uint8

// The kinds of cluster.
const (
	NoCluster  ClusterKind = iota // no destination was chosen: null
	InboundVIP                    // a service of this waypoint's: "inbound-vip|9080|http|host"
	Encap                         // a workload, addressed directly: "encap"
	Outbound                      // a service of another's: "outbound|9080|subset|host"
)

// HTTP is one exchange. The zero HTTP is ready to be filled; a pooled one is
// reset by assigning the zero value.
//
// Strings need to be valid during the calls that take the record and no
// longer.
type HTTP struct {
	Ends
	Outcome

	Method       string
	Path         string // as the client sent it, with query, before any rewrite
	Protocol     string // "HTTP/1.1", as l7.Protocol spells it
	Authority    string
	UserAgent    string
	ForwardedFor string
	RequestID    string

	Status      int           // 0 when no response was produced
	ServiceTime time.Duration // from the request's going out to its response's head; 0 when there was none
	Attempts    int           // how often it was sent to an endpoint; 0 when it never was

	// ReceivedWire and SentWire count heads and framing as well as content.
	ReceivedWire, SentWire uint64

	GRPC          bool
	GRPCStatus    int  // meaningful when HasGRPCStatus
	HasGRPCStatus bool // the call ended with a grpc-status

	// Requests and Responses count gRPC messages, of calls whose GRPC is set.
	Requests, Responses Messages

	span   trace.Span // nil unless the exchange is traced
	trace  [16]byte   // the ID of its trace, if it is known
	peers  *series    // where messages are counted
	counts messageCounts
}

// messageCounts is how much of Requests and Responses has been reported.
type messageCounts struct{ requests, responses uint64 }

// TCP is one connection or opaque tunnel. A node tunnel fills one for each
// side; it may be flushed any number of times between Open and Close.
//
// Once opened it must be closed. Its Ends must not change in between: a waypoint
// opens it when the endpoint is known, or when none was found.
type TCP struct {
	Ends
	Outcome

	HBONE bool  // it crosses the network in a tunnel
	Hop   Hop   // what the tunnel leads to
	Trace Trace // ties the log lines of both sides together
	Err   error // why it failed, or nil
	Link  *Link // how the network was; nil: not of interest, or not known

	series         *series
	received, sent uint64 // reported so far
	rehearsed      bool   // so has what was tried on it
}

// A Link is how the network was between a node tunnel and whoever it exchanged a
// connection's bytes with: as the kernel knows it (TCP_INFO).
type Link struct {
	RTT, MinRTT       time.Duration // at the end; MinRTT is 0 where it is not known
	Retransmits, Lost uint32        // segments, while the connection lasted
}

// A Hop says what is at the other end of a client's tunnel.
type Hop uint8

// The hops, as the node tunnel's log spells them.
const (
	Direct      Hop = iota // the workload itself
	ToWaypoint             // the waypoint in front of it
	Passthrough            // an address the mesh does not know
)

func (h Hop) String() string {
	return [...]string{"Direct", "ToServerWaypoint", "Passthrough"}[h]
}

// Messages counts the messages of a gRPC stream (length-prefixed, 5 bytes of
// prefix each) from its content, in whatever pieces that comes.
type Messages struct {
	Count  uint64
	left   uint32  // content of the current message still to come
	prefix [4]byte // of the next message, as far as seen
	seen   uint8   // bytes of the prefix seen, 0 to 4; the flag byte is the first
}

// Read takes note of p, the next content of the stream.
func (m *Messages) Read(p []byte) {
	for len(p) > 0 {
		if m.left > 0 {
			n := min(uint64(m.left), uint64(len(p)))
			m.left -= uint32(n)
			p = p[n:]
			continue
		}
		if m.seen > 0 { // a byte of the length
			m.prefix[m.seen-1] = p[0]
		}
		p = p[1:]
		if m.seen++; m.seen == 5 {
			m.seen = 0
			m.Count++
			m.left = uint32(m.prefix[0])<<24 | uint32(m.prefix[1])<<16 | uint32(m.prefix[2])<<8 | uint32(m.prefix[3])
		}
	}
}
