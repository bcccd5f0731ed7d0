package ztunnel_test

import (
	"fmt"
	"testing"

	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// TestRevokedCertificatesEndConnections has a certificate revoked under open
// connections, of which the one side or the other follows the lists.
func TestRevokedCertificatesEndConnections(t *testing.T) {
	for _, by := range []string{"destination", "source"} {
		for name, o := range map[string]meshtest.Options{"memory": {}, "loopback": {Loopback: true, Loops: 2}} {
			t.Run(by+"/"+name, func(t *testing.T) { revokeUnderway(t, by, o) })
		}
	}
}

func revokeUnderway(t *testing.T, by string, o meshtest.Options) {
	a := meshtest.NewAuthority(t)
	follows, other := a.Open(true), a.Open(false)
	node, account, cut := "node-b", "web", 1.0
	if by == "source" {
		node, account, cut = "node-a", "items", 2 // to whom two connections are
	}
	o.Ztunnel = func(o *ztunnel.Options) {
		o.Identity = other
		if o.Node == node {
			o.Identity = follows
		}
	}
	m := meshtest.With(t, o)
	web, items, more := m.WorkloadOn("node-a", "web"), m.WorkloadOn("node-b", "items"), m.WorkloadOn("node-a", "more")
	serve(items, echo)
	addr := items.IP.String() + fmt.Sprintf(":%d", meshtest.AppPort)
	first, second := dial(t, web, addr), dial(t, more, addr)
	wantEcho(t, first)
	wantEcho(t, second)

	a.Revoke(other, account)
	wantOver(t, first)
	if by == "source" {
		wantOver(t, second)
	} else {
		wantEcho(t, second)
		second.Close()
	}
	rejected := `istio_crl_policy_rejections_total{reporter="` + by + `"}`
	m.WaitMetric(rejected, cut)
	m.WaitMetric(`istio_tcp_connections_closed_total{reporter="`+by+`",response_flags="CERT_REVOKED"}`, cut)

	if nc, err := web.Dial(t.Context(), addr); err == nil {
		nc.Close()
		t.Error("a connection was opened with a revoked certificate")
	}
	m.WaitMetric(rejected, cut+1)
}
