package waypoint

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/mesh"
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
	in        *hbone.Incoming
	tunnel    tunnel // nil until the CONNECT is answered with 200
	snapshot  uint64 // the version dest was looked up in
	dest      *config.Destination
	lingering bool        // dest is what it was: it is not ours any more
	input     authz.Input // of an opaque tunnel; of a request, all but HTTP
	source    *mesh.Workload
	endpoint  *mesh.Endpoint // of a client that dialled a workload by its address
	drain     func()         // finish what is in flight and close
	ticked    func(time.Time)
	opaque    *opaque
	closed    bool
}

// terminate takes a CONNECT: HTTP and undeclared ports are answered at once, and
// judged request by request; a port declared to be something else is judged, and
// connected, first.
func (w *worker) terminate(in *hbone.Incoming) {
	s := &session{worker: w, in: in}
	snap := w.options.Store.Snapshot()
	s.source = snap.Workload(w.options.Network, in.Source.Addr())
	s.input = authz.Input{Peer: in.Peer, Source: in.Source.Addr(), Dest: s.address()}
	if s.destination() == nil {
		w.wait(s)
		return
	}
	s.serve()
}

// serve answers the CONNECT, or has it answered.
func (s *session) serve() {
	s.worker.sessions[s] = struct{}{}
	if isOpaque(s.dest.Port) {
		s.serveOpaque(nil, false)
		return
	}
	s.tunnel = s.in.Accept(nil, s.worker.baggage)
	s.tunnel.SetReceiver(s.detect())
}

// address is what the client dialled, as policy sees it. A client that dialled a
// name has dialled the service's first address.
func (s *session) address() netip.AddrPort {
	a := s.in.Authority
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
		s.snapshot = v
		d := snap.Lookup(s.worker.options.Network, s.in.Peer.Namespace, s.in.Authority)
		was := s.dest
		s.dest = s.worker.served(d)
		if s.dest == nil && d != nil && !d.Attached {
			s.dest = was // its end is news to this loop too
		}
		s.lingering = s.dest != nil && s.dest != d
		if s.lingering && s.drain != nil {
			s.drain() // it is another's now: its client should come back, and go there
		}
		s.input.Dest = s.address()
	}
	return s.dest
}

// direct returns w as the one endpoint of a client that dialled it by address.
func (s *session) direct(w *mesh.Workload) *mesh.Endpoint {
	if s.endpoint == nil || s.endpoint.Workload != w {
		s.endpoint = &mesh.Endpoint{Workload: w, Addr: s.in.Authority.AddrPort(), Load: new(atomic.Int64)}
		if s.dest != nil && len(s.dest.Endpoints) == 1 {
			s.endpoint.Load = s.dest.Endpoints[0].Load // which those share who came by a service
		}
	}
	return s.endpoint
}

// tick is called once a second.
func (s *session) tick(now time.Time) {
	if s.ticked != nil {
		s.ticked(now)
	}
}

// close forgets the session: its tunnel is over.
func (s *session) close() {
	if !s.closed {
		s.closed = true
		delete(s.worker.sessions, s)
	}
}
