package waypoint

import (
	"crypto/tls"
	"errors"

	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/telemetry"
)

// followRevocations has every connection to another proxy looked at again when the
// identity source's revocation lists become others.
func (w *Waypoint) followRevocations() {
	r := w.options.Identity.Terms().Revoked
	if r == nil {
		return
	}
	r.OnChange(func() {
		w.server.Recheck(w.trusted(telemetry.ByDestination))
		for l, k := range w.workers {
			l.Do(func() { k.pool.Recheck(w.trusted(telemetry.BySource)) })
		}
	})
}

// trusted returns what tells why a connection is to be cut.
func (w *Waypoint) trusted(by telemetry.Reporter) func(*tls.ConnectionState) error {
	o := &w.options
	return hbone.Revoked(o.Identity, func(err error, cut bool) { o.Telemetry.Revoked(o.Log, by, err, cut) })
}

// countRevoked counts a handshake that failed because the peer's certificate is
// revoked.
func (w *Waypoint) countRevoked(by telemetry.Reporter, err error) {
	if _, ok := errors.AsType[*identity.RevokedError](err); ok {
		w.options.Telemetry.CertRejected(by)
	}
}
