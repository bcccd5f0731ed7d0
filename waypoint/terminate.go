package waypoint

import (
	"iter"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// receiver is short for what every tunnel needs.
type receiver = flow.Receiver

// A tunnel is an [hbone.Tunnel], or in tests what stands in for one.
type tunnel interface {
	flow.Stream
	SetReceiver(flow.Receiver)
}

// A session is one tunnel from a client: who is calling, which destination they
// named, and whatever protocol they speak there.
type session struct {
	worker    *worker
	from      *hbone.Connection     // the client's
	authority mesh.Authority        // what the CONNECT named
	in        *hbone.Incoming       // nil once the CONNECT is answered with 200
	tunnel    tunnel                // nil until then
	serving   protocol              // nil until then, or until it is judged
	snapshot  uint64                // the version dest was looked up in
	paths     routing.Normalization // of requests, as that version has it
	dest      *config.Destination
	source    *mesh.Workload
	endpoint  *mesh.Endpoint // of a client that dialled a workload by its address
	index     int32          // in worker.sessions, plus one; 0: not there
	lingering bool           // dest is what it was: it is not ours any more
}

// A protocol is what is spoken in a session's tunnel.
type protocol interface {
	drain()             // finish what is in flight and close
	tick(now time.Time) // is called once a second
}

// terminate takes a CONNECT: HTTP and undeclared ports are answered at once, and
// judged request by request; a port declared to be something else is judged, and
// connected, first.
func (w *worker) terminate(in *hbone.Incoming) {
	s := &session{worker: w, from: in.Connection, authority: in.Authority, in: in}
	snap := w.options.Store.Snapshot()
	s.source = snap.Workload(w.options.Network, in.Source.Addr())
	if s.destination() == nil {
		w.wait(s)
		return
	}
	s.serve()
}

// serve answers the CONNECT, or has it answered.
func (s *session) serve() {
	s.worker.add(s)
	if isOpaque(s.dest.Port) {
		s.serveOpaque(nil, false)
		return
	}
	s.accept()
	s.tunnel.SetReceiver(s.detect())
}

// accept answers the CONNECT with 200.
func (s *session) accept() {
	s.tunnel = s.in.Accept(nil, s.worker.baggage)
	s.in = nil
}

// input is what policy is asked about the session: all that there is about an
// opaque tunnel, and about a request all but HTTP.
func (s *session) input() authz.Input {
	return authz.Input{Peer: s.from.Peer, Source: s.from.Source.Addr(), Dest: s.address()}
}

// address is what the client dialled, as policy sees it. A client that dialled a
// name has dialled the service's first address.
func (s *session) address() netip.AddrPort {
	a := s.authority
	if a.IP.IsValid() {
		return a.AddrPort()
	}
	if s.dest != nil && s.dest.Service != nil && len(s.dest.Service.Addresses) > 0 {
		return netip.AddrPortFrom(s.dest.Service.Addresses[0].Prefix.Addr(), a.Port)
	}
	return netip.AddrPortFrom(netip.Addr{}, a.Port)
}

// destination returns the destination as configuration has it now, or nil when
// this waypoint does not serve it. It is looked up again only if the snapshot
// has moved.
func (s *session) destination() *config.Destination {
	snap := s.worker.options.Store.Snapshot()
	if v := snap.Version(); v != s.snapshot {
		s.snapshot, s.paths = v, snap.Mesh().Normalization
		d := snap.Lookup(s.worker.options.Network, s.from.Peer.Namespace, s.authority)
		was := s.dest
		s.dest = s.worker.served(d)
		if s.dest == nil && d != nil && !d.Attached {
			s.dest = was // its end is news to this loop too
		}
		s.lingering = s.dest != nil && s.dest != d
		if s.lingering && s.serving != nil {
			s.serving.drain() // it is another's now: its client should come back, and go there
		}
	}
	return s.dest
}

// direct returns w as the one endpoint of a client that dialled it by address.
func (s *session) direct(w *mesh.Workload) *mesh.Endpoint {
	if s.endpoint == nil || s.endpoint.Workload != w {
		s.endpoint = &mesh.Endpoint{Workload: w, Addr: s.authority.AddrPort(), Load: new(atomic.Int64)}
		if s.dest != nil && len(s.dest.Endpoints) == 1 {
			s.endpoint.Load = s.dest.Endpoints[0].Load // which those share who came by a service
		}
	}
	return s.endpoint
}

// add notes that there is a session.
func (w *worker) add(s *session) {
	w.sessions = append(w.sessions, s)
	s.index = int32(len(w.sessions))
}

// allSessions yields the sessions, any of which may end meanwhile: the last takes
// its place, and was there already.
func (w *worker) allSessions() iter.Seq[*session] {
	return func(yield func(*session) bool) {
		for i := len(w.sessions) - 1; i >= 0; i-- {
			if i < len(w.sessions) && !yield(w.sessions[i]) {
				return
			}
		}
	}
}

// close forgets the session: its tunnel is over.
func (s *session) close() {
	if s.index == 0 {
		return
	}
	w := s.worker
	last := len(w.sessions) - 1
	w.sessions[last].index = s.index
	w.sessions[s.index-1] = w.sessions[last]
	w.sessions[last] = nil
	w.sessions = w.sessions[:last]
	s.index = 0
}
