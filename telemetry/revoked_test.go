package telemetry

import (
	"errors"
	"log/slog"
	"testing"
)

func TestRevocationsAreCounted(t *testing.T) {
	r := newRig(t, Options{Program: Ztunnel})
	r.CertRejected(BySource)
	r.CertRejected(ByDestination)
	log := slog.New(slog.DiscardHandler)
	r.Revoked(log, ByDestination, errors.New("revoked"), true)
	r.Revoked(log, BySource, errors.New("unproven"), false)
	for _, test := range []struct{ name, reporter, want string }{
		{"istio_crl_policy_rejections_total", "source", "1"},
		{"istio_crl_policy_rejections_total", "destination", "2"},
		{"istio_crl_untracked_connections_total", "source", "1"},
		{"istio_crl_untracked_connections_total", "destination", "0"},
	} {
		if got := value(t, r.Telemetry, test.name, `reporter="`+test.reporter+`"`); got != test.want {
			t.Errorf("%s of the %s: got %s, want %s", test.name, test.reporter, got, test.want)
		}
	}
}
