package waypoint_test

import (
	"testing"

	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/waypoint"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// TestRevokedCertificatesEndConnections has the certificate of a client, and that of a
// destination, revoked under open connections of a waypoint that follows the lists.
func TestRevokedCertificatesEndConnections(t *testing.T) {
	for _, row := range []struct {
		account, reporter string
		code              int // of what comes after
		rejected          float64
	}{
		{"web", "destination", 0, 2}, // there is no way to the waypoint
		{"items", "source", 503, 7},  // two requests, each tried three times
	} {
		t.Run(row.account, func(t *testing.T) {
			a := meshtest.NewAuthority(t)
			follows, other := a.Open(true), a.Open(false)
			m := meshtest.With(t, meshtest.Options{
				Waypoint: func(o *waypoint.Options) { o.Identity = follows },
				Ztunnel:  func(o *ztunnel.Options) { o.Identity = other },
			})
			shop(m, "http", meshtest.Echo)
			m.Workload("more")
			c, others := m.From("web"), m.From("more")
			c.Get("http://items/").Want(200)
			others.Get("http://items/").Want(200)
			a.Revoke(other, row.account)
			rejected := `istio_crl_policy_rejections_total{reporter="` + row.reporter + `"}`
			m.WaitMetric(rejected, 1)
			if row.code != 0 {
				c.Get("http://items/").Want(row.code)
				others.Get("http://items/").Want(row.code)
				m.WaitMetric(rejected, row.rejected)
				return
			}
			others.Get("http://items/").Want(200)
			m.From("web").Get("http://items/").WantError()
			m.WaitMetric(rejected, row.rejected)
		})
	}
}
