package ztunnel

import (
	"crypto/tls"
	"errors"
	"net/netip"

	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/telemetry"
)

// followRevocations has every connection to another proxy looked at again when the
// identity source's revocation lists become others.
func (z *Ztunnel) followRevocations() {
	r := z.options.Identity.Terms().Revoked
	if r == nil {
		return
	}
	r.OnChange(func() {
		z.mu.Lock()
		servers := make([]*hbone.Server, 0, len(z.pods))
		for _, p := range z.pods {
			servers = append(servers, p.server)
		}
		z.mu.Unlock()
		for _, s := range servers {
			s.Recheck(z.trusted(telemetry.ByDestination))
		}
		for l, w := range z.workers {
			l.Do(w.recheckPeers)
		}
	})
}

func (w *worker) recheckPeers() {
	trusted := w.trusted(telemetry.BySource)
	for _, pool := range w.pools {
		pool.Recheck(trusted)
	}
	for o := range w.outbound {
		o.far.recheck(trusted)
	}
}

// recheck looks at the connection in a tunnel again, if there is one.
func (f *far) recheck(trusted func(*tls.ConnectionState) error) {
	if f != nil && f.pool != nil {
		f.pool.Recheck(trusted)
	}
}

// trusted returns what tells why a connection is to be cut.
func (z *Ztunnel) trusted(by telemetry.Reporter) func(*tls.ConnectionState) error {
	o := &z.options
	return hbone.Revoked(o.Identity, func(err error, cut bool) { o.Telemetry.Revoked(o.Log, by, err, cut) })
}

// countRevoked counts a handshake that failed because the peer's certificate is
// revoked.
func (z *Ztunnel) countRevoked(by telemetry.Reporter, err error) {
	if _, ok := errors.AsType[*identity.RevokedError](err); ok {
		z.options.Telemetry.CertRejected(by)
	}
}

// events are what is to be told of connections that a pool makes.
func (z *Ztunnel) events() hbone.Events {
	return hbone.Events{HandshakeFailed: func(_ netip.AddrPort, err error) { z.countRevoked(telemetry.BySource, err) }}
}
