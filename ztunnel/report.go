package ztunnel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

// open counts an outbound connection, before anybody is dialled.
func (o *outbound) open() {
	r, rec := &o.route, &o.rec
	rec.Service, rec.Dest = r.service, r.dest
	rec.SourceID, rec.DestID, rec.LocalID = identity.ID{}, identity.ID{}, identity.ID{}
	if r.tunnel {
		rec.SourceID, rec.LocalID = o.src.Identity(), o.src.Identity()
		rec.DestID = r.ids[0] // who is required to answer
	}
	if o.far != nil && o.far.dest != nil {
		rec.Dest, rec.DestID = o.far.dest, o.far.peer
	}
	rec.HBONE, rec.Hop = r.tunnel, r.hop
	rec.Target, rec.Upstream, rec.UpstreamTunnelled = r.authority, r.addr, r.tunnel
	rec.LocalAddr = o.dialled()
	o.opened = true
	o.countLookup()
	o.worker.options.Telemetry.Open(rec)
}

// dialled is the address that the pod means, for as long as nobody is reached.
func (o *outbound) dialled() netip.AddrPort {
	target := o.search.target
	if s := o.route.service; s != nil {
		target = vip(s, target, o.worker.options.Network)
	}
	if target.IP.IsValid() {
		return target.AddrPort()
	}
	return o.route.addr
}

func (o *outbound) flush() {
	if o.opened {
		_, far := o.pair.Streams()
		o.link.begin(far)
		o.rec.Received, o.rec.Sent = o.pair.Bytes()
		o.worker.options.Telemetry.Flush(&o.rec)
	}
}

// countLookup counts a connection to an endpoint that is known by its name only.
func (o *outbound) countLookup() {
	if o.route.name != "" {
		o.worker.options.Telemetry.OnDemandDNS(o.src, o.route.name)
	}
}

// close reports an outbound connection, or an attempt at one.
func (o *outbound) close(err error) {
	o.rec.Err, o.rec.Flag = err, flagOf(err)
	o.rec.Duration = o.worker.age(o.rec.Start)
	if !o.opened && o.route.double {
		o.open() // nobody has answered, but the gateway is known
	}
	if !o.opened {
		o.countLookup()
		o.rec.Upstream = o.dialled()
		o.worker.options.Telemetry.Failed(&o.rec)
		return
	}
	o.opened = false
	_, far := o.pair.Streams()
	o.rec.Link = o.link.end(far, o.rec.Duration, o.worker.options.LongConnection)
	o.rec.Received, o.rec.Sent = o.pair.Bytes()
	o.worker.options.Telemetry.Close(&o.rec)
}

// record notes what the head of a CONNECT and its connection say.
func (i *inbound) record() {
	in := i.in
	i.rec.Ends = telemetry.Ends{
		Reporter: telemetry.ByDestination, SourceID: in.Peer, Target: in.Authority,
		SourceAddr: in.Source, LocalAddr: in.Local, LocalID: i.pod.workload.Load().Identity(),
	}
	i.rec.Start = i.worker.loop.Now()
	i.rec.HBONE = i.plain == nil
	if i.plain != nil {
		i.rec.Target, i.rec.LocalID = mesh.Authority{}, identity.ID{}
	}
	if t, ok := telemetry.ParseTraceparent(in.Traceparent); ok {
		i.rec.Trace = t
	}
}

// open counts an inbound connection to addr, before policy is asked.
func (i *inbound) open(addr netip.AddrPort) {
	w := i.dest.Workload
	i.rec.Source, i.rec.Dest = i.source, w
	if i.plain == nil {
		i.rec.DestID = w.Identity()
	}
	if i.fromGateway() { // its address is one of another network, or the gateway's
		i.rec.Source = i.worker.derived.workload(hbone.ParseBaggage(i.in.Baggage), i.in.Peer)
	}
	i.rec.Upstream = addr
	if i.rec.Service == nil {
		i.rec.Service = i.serviceOf(w, addr.Port())
	}
	i.input = authz.Input{Peer: i.in.Peer, Source: i.in.Source.Addr(), Dest: addr}
	i.opened = true
	i.worker.options.Telemetry.Open(&i.rec)
}

// recordVerdict notes what policy says of the caller: by which rule it is refused,
// and what the policies under dry run would have done, which is counted now: the
// next verdict may be another.
func (i *inbound) recordVerdict(v *authz.Verdict) {
	d := telemetry.Decision{Denied: !v.Allowed}
	if d.Denied {
		d.Reason = telemetry.Reason(v.Reason()) // they are spelled alike
	}
	if v.Policy != nil {
		d.Rule, d.Policy = v.ID(), v.Name()
	}
	d.DryDeny, d.DryAllow = rehearsal(&v.DryRun.Deny), rehearsal(&v.DryRun.Allow)
	for k := range v.Trials.Len() {
		t, allowed := v.Trials.At(k)
		d.Trials = append(d.Trials, telemetry.Trial{Policy: t.Policy, Replaces: t.Replaces, Allowed: allowed})
	}
	i.rec.Decision = d
	i.worker.options.Telemetry.Flush(&i.rec)
}

func rehearsal(o *authz.Outcome) telemetry.Rehearsal {
	return telemetry.Rehearsal{Result: o.Result.String(), Rule: o.ID, Policy: o.Policy}
}

// serviceOf tells which service a connection to the pod was for: the one the
// client's tunnel says, if the pod is in it, else the first that has the port.
// Only services of the pod come into question, so that no peer can make up
// series.
func (i *inbound) serviceOf(w *mesh.Workload, port uint16) *mesh.Service {
	snap := i.worker.options.Store.Snapshot()
	said := hbone.ParseForwarded(i.in.Forwarded).Host
	var first *mesh.Service
	for host := range w.Services {
		s := snap.Service(host)
		if s == nil {
			continue
		}
		if s.Hostname == said {
			return s
		}
		for _, p := range s.Ports {
			if s.TargetPort(w, p.Service) == port && (first == nil || s.Hostname < first.Hostname) {
				first = s
			}
		}
	}
	return first
}

func (i *inbound) flush() {
	if i.opened {
		far, _ := i.pair.Streams()
		i.link.begin(far)
		i.rec.Received, i.rec.Sent = i.pair.Bytes()
		i.worker.options.Telemetry.Flush(&i.rec)
	}
}

func (i *inbound) close(err error) {
	i.rec.Err, i.rec.Flag = err, flagOf(err)
	i.rec.Duration = i.worker.age(i.rec.Start)
	if !i.opened {
		i.worker.options.Telemetry.Failed(&i.rec)
		return
	}
	i.opened = false
	far, _ := i.pair.Streams()
	i.rec.Link = i.link.end(far, i.rec.Duration, i.worker.options.LongConnection)
	i.rec.Received, i.rec.Sent = i.pair.Bytes()
	i.worker.options.Telemetry.Close(&i.rec)
}

// inOrder returns how a connection ended that was joined: with nil too when
// either application reset its own, which is its affair and was passed on.
func inOrder(err error) error {
	var reset *h2.StreamError
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), hbone.Canceled(err):
		return nil
	case errors.As(err, &reset) && reset.Remote && reset.Code == h2.CodeConnect:
		return nil
	}
	return err
}

// flagOf is why a connection failed, in ztunnel's terms. NETWORK_POLICY is what it
// calls a connection to port 15008 that nobody answers in time.
func flagOf(err error) telemetry.Flag {
	var (
		revoked   *identity.RevokedError
		status    *hbone.StatusError
		dial      *hbone.DialError
		handshake *hbone.HandshakeError
		said      *net.OpError
	)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errPolicy), errors.Is(err, errPolicyChanged), errors.Is(err, errBypassed):
		return telemetry.Deny
	case errors.As(err, &status) && status.Status == 401:
		return telemetry.Deny
	case errors.Is(err, errNotInRegistry):
		return telemetry.NR
	case errors.Is(err, errFull), errors.Is(err, errAsking), errors.Is(err, errIdentityFull):
		return telemetry.UO
	case errors.As(err, &revoked):
		return telemetry.CertRevoked
	case errors.As(err, &handshake) && handshake.NoneOfOurs:
		return telemetry.IdentityError
	case errors.As(err, &handshake):
		return telemetry.TLSFailure
	case errors.Is(err, hbone.ErrEnded) && errors.As(err, &said) && said.Op == "remote error": // an alert: it does not accept us
		return telemetry.TLSFailure
	case errors.Is(err, hbone.ErrEnded):
		return telemetry.H2HandshakeFailure
	case errors.As(err, &dial) && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)):
		return telemetry.NetworkPolicy
	}
	return telemetry.ConnectFailure
}
