package mesh

import (
	"net/netip"
	"sync/atomic"
)

// An Endpoint is one workload as a place to send to: for a port of a service,
// or, with port 0, for whatever port was asked.
type Endpoint struct {
	Workload *Workload
	Addr     netip.AddrPort // without an IP when only a host name or a network gateway leads there

	// Wants is the SPIFFE IDs that the workload's HBONE server may present,
	// sorted and joined by commas: its own, and those its service adds.
	Wants string

	// Load counts what is in flight there, over all loops. It is the
	// workload's, whichever service it is reached by, and outlives changes.
	Load *atomic.Int64
}
