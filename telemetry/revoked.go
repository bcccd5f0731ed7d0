package telemetry

import (
	"log/slog"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// A revocations counts what revocation lists have done, by who reports.
type revocations struct {
	rejected, untracked [ByDestination + 1]atomic.Uint64
}

// Revoked counts and logs an open connection whose peer's certificate a list names:
// it is cut, or left alone because none of the issuer's keys that we know has signed
// the list.
func (t *Telemetry) Revoked(log *slog.Logger, r Reporter, err error, cut bool) {
	if cut {
		t.CertRejected(r)
		log.Info("a connection is cut", "reporter", r.String(), "error", err)
		return
	}
	t.revoked.untracked[r].Add(1)
	log.Warn("a connection is left alone", "reporter", r.String(), "error", err)
}

// CertRejected counts a connection that was refused or cut because the peer's
// certificate is revoked.
func (t *Telemetry) CertRejected(r Reporter) { t.revoked.rejected[r].Add(1) }

func (r *revocations) families() []prometheus.Collector {
	var list []prometheus.Collector
	for _, by := range []Reporter{BySource, ByDestination} {
		labels := prometheus.Labels{"reporter": by.String()}
		list = append(list,
			countWith("istio_crl_policy_rejections_total", "Connections refused or cut because the peer's certificate is revoked.", labels, r.rejected[by].Load),
			countWith("istio_crl_untracked_connections_total", "Connections left alone because the list that names the peer's certificate is not signed by its issuer.", labels, r.untracked[by].Load))
	}
	return list
}
