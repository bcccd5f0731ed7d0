package telemetry

import (
	"time"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A Program is which of the proxies reports: it is the component of
// istio_build.
type Program string

// The programs, by Istio's names for them.
const (
	Waypoint Program = "proxy"
	Ztunnel  Program = "ztunnel"
)

// A Living knows what is in the mesh. It is asked about idle series only, from a
// goroutine of Telemetry's. A nil function knows of nothing.
type Living struct {
	// Workload reports whether w is, or another that yields the same labels: of
	// the same owner, say.
	Workload func(w *mesh.Workload) bool

	// Service reports whether s is, or a later version of it.
	Service func(s *mesh.Service) bool
}

// Options configure a Telemetry. The zero Options count, and log nothing.
type Options struct {
	Program Program // "" is Waypoint
	Version string  // the tag of istio_build: the Istio version we stand in for; "" is "unknown"

	// ClusterID stands in for that of a workload without one. "" is
	// "Kubernetes", Istio's default.
	ClusterID string

	// MaxSeries is how many sets of labels there may be; what is beyond is
	// counted under the value "overflow". 0 is 10,000: some 20 MiB. There may be a
	// tenth as many besides of what policies decide.
	MaxSeries int

	// Retain is for how long a series is kept that nothing counts in. 0 is one
	// hour.
	Retain time.Duration

	// Live says what is in the mesh: series about that are kept, however idle.
	// Those about what is gone disappear once they have been idle for Retain and
	// up to a quarter of it.
	Live Living

	// AccessLog takes a waypoint's line for each exchange and opaque tunnel. Nil
	// is none.
	AccessLog *Writer

	// OTLP is where the lines of the access log go as log records besides: those
	// of a waypoint whatever AccessLog is, and of a node tunnel "connection
	// complete" and "connection failed", whatever the level of the scope.
	OTLP OTLPOptions

	// Text chooses the default text format over JSON for AccessLog.
	Text bool

	// Keys are the names of further keys for AccessLog, in their order: those of
	// [KeyNames].
	Keys []string

	// LegacyAddresses prints clients' addresses as Istio did up to 1.18:
	// "envoy://internal_client_address/".
	LegacyAddresses bool

	// Log takes a node tunnel's access lines (scope "access"), and what
	// Telemetry has to say. Nil is none.
	Log *Log

	// Steps writes the lines about the steps of a tunnelled connection, those of
	// scopes "ztunnel::proxy::outbound" and "…::inbound", at info level rather
	// than at debug.
	Steps bool

	Trace TraceOptions

	now   func() time.Time // nil is time.Now
	sweep time.Duration    // how often; 0 is a quarter of Retain
	trace *tracer          // overrides Trace
}
