package ztunnel

import (
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/telemetry"
)

// longConnection is how long a connection has lasted when its line says how the
// network was: 1 min.
const longConnection = time.Minute

// A link is the way to the other node, or to whoever is reached without a tunnel.
// Tunnels share connections, so what is counted is since the first flush, within 5
// s of the beginning. The kernel is asked then and at the end, and not about those
// that end before.
type link struct {
	retransmitted, lost uint32 // when it was first asked
	known               bool
}

// A measured is what knows about its TCP connection.
type measured interface {
	TCPInfo() (loop.TCPInfo, bool)
}

// begin asks for the first time, about a connection that others share.
func (l *link) begin(s flow.Stream) {
	if l.known {
		return
	}
	switch m := s.(type) {
	case interface{ KeepTCPInfo() }:
		m.KeepTCPInfo()
		l.known = true
	case measured:
		i, known := m.TCPInfo()
		l.retransmitted, l.lost, l.known = i.Retransmitted, i.Lost, known
	}
}

// end asks for the last time what there is to say about a connection that has
// lasted for so long; nil is nothing.
func (l *link) end(s flow.Stream, lasted, long time.Duration) *telemetry.Link {
	m, ok := s.(measured)
	if !ok || !l.known || long < 0 || lasted < long {
		return nil
	}
	i, known := m.TCPInfo()
	if !known {
		return nil
	}
	return &telemetry.Link{
		RTT: i.RTT, MinRTT: i.MinRTT,
		Retransmits: i.Retransmitted - l.retransmitted,
		Lost:        i.Lost - min(i.Lost, l.lost), // it also holds what is in doubt now
	}
}
