package telemetry

import "testing"

func TestRevocationsAreCounted(t *testing.T) {
	r := newRig(t, Options{Program: Ztunnel})
	r.CertRejected(BySource)
	r.CertRejected(ByDestination)
	r.CertRejected(ByDestination)
	r.CertUntracked(BySource)
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
