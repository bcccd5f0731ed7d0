//go:build netns

package nettest_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"

	"github.com/waystone-mesh/waystone/internal/capture"
	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/internal/nettest"
)

const strict = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: default}
spec: {mtls: {mode: STRICT}}
`

// TestStrict lets nobody in without mTLS, those least of all that are in already.
func TestStrict(t *testing.T) {
	for _, at := range places {
		t.Run(at.name, func(t *testing.T) {
			m := nettest.New(t, nettest.Options{})
			web, plain, items := m.Captured(at.client, "web"), m.Pod(at.client, "plain"), m.Captured(at.server, "items")
			echo(items)
			open, secure := wantOpen(t, plain, app(items)), wantOpen(t, web, app(items))
			m.Apply(strict)
			wantCut(t, open)
			wantEcho(t, secure)
			wantRefused(t, plain, app(items))
			wantOpen(t, web, app(items)).Close()
			for _, why := range []string{
				"connection closed due to policy change",
				"policy rejection: rbac_access_denied_matched_policy[ns[istio-system]-policy[istio_converted_static_strict]-rule[0]]",
			} {
				m.WaitLog("direction", "inbound", "level", "error", "src.workload", "plain", "error", why)
			}
			m.Delete("PeerAuthentication/default/strict")
			wantOpen(t, plain, app(items)).Close()
		})
	}
}

// TestPolicyByIdentity refuses one client and lets the other in, both captured.
func TestPolicyByIdentity(t *testing.T) {
	m := nettest.New(t, nettest.Options{})
	web, other, items := m.Captured("node-a", "web"), m.Captured("node-a", "other"), m.Captured("node-b", "items")
	plain := m.Pod("node-a", "plain")
	echo(items)
	open := wantOpen(t, other, app(items))
	m.Apply(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web-only, namespace: default}
spec:
  selector: {matchLabels: {app: items}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]}]
`)
	wantCut(t, open)
	wantOpen(t, web, app(items)).Close()
	wantRefused(t, other, app(items))
	wantRefused(t, plain, app(items))
}

// TestOtherPodsAddress asks one pod's HBONE port for another's address.
func TestOtherPodsAddress(t *testing.T) {
	m := nettest.New(t, nettest.Options{})
	web, items, other := m.Pod("node-a", "web"), m.Captured("node-b", "items"), m.Captured("node-b", "other")
	echo(items)
	echo(other)
	for _, row := range []struct {
		authority string
		want      int
	}{
		{app(items).String(), http.StatusOK},
		{app(other).String(), http.StatusBadRequest},
		{"192.0.2.1:80", http.StatusBadRequest},
		{netip.AddrPortFrom(items.IP, 15001).String(), http.StatusServiceUnavailable},
		{netip.AddrPortFrom(items.IP, 15006).String(), http.StatusServiceUnavailable},
		{netip.AddrPortFrom(items.IP, 15008).String(), http.StatusServiceUnavailable},
	} {
		tunnel := web.Connect(items.Workload, http.MethodConnect, row.authority)
		if tunnel.Status != row.want {
			t.Errorf("CONNECT %s: %d, want %d", row.authority, tunnel.Status, row.want)
		}
		tunnel.Close()
	}
}

// TestOwnPorts dials the ports that the node tunnel listens on: nothing must come
// of it, and no connection to itself in particular.
func TestOwnPorts(t *testing.T) {
	m := nettest.New(t, nettest.Options{})
	web, plain, items := m.Captured("node-a", "web"), m.Pod("node-a", "plain"), m.Captured("node-b", "items")
	echo(items)
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for _, port := range []uint16{15001, 15006} {
		for _, from := range []*nettest.Pod{web, plain, items} {
			wantRefused(t, from, netip.AddrPortFrom(items.IP, port))
		}
		wantRefused(t, items, netip.AddrPortFrom(loopback, port))
	}
	m.WantMetric(`istio_tcp_connections_opened_total{reporter="destination"}`, 0)
	wantOpen(t, web, app(items)).Close() // and all is well
}

// TestOwnAddress is of a pod that calls itself, which is not redirected.
func TestOwnAddress(t *testing.T) {
	m := nettest.New(t, nettest.Options{})
	web := m.Captured("node-a", "web")
	vip := netip.AddrPortFrom(m.Service("web", 80).IP, 80)
	echo(web)
	wantOpen(t, web, app(web)).Close()
	if n := len(lines(m, "outbound")); n != 0 {
		t.Errorf("%d connections of it were taken", n)
	}
	wantOpen(t, web, vip).Close()
	m.Until("the one by its service was", func() bool { return len(lines(m, "outbound")) == 1 })
}

// TestBypass leaves some of the traffic alone.
func TestBypass(t *testing.T) {
	for _, row := range []struct {
		name     string
		client   capture.Options
		server   capture.Options
		inbound  int // lines
		outbound int
	}{
		{name: "outbound port", client: capture.Options{ExcludeOutboundPorts: []uint16{meshtest.AppPort}}, inbound: 1},
		{name: "outbound range", client: capture.Options{ExcludeOutboundCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}, inbound: 1},
		{name: "both ways", client: capture.Options{ExcludeOutboundPorts: []uint16{meshtest.AppPort}}, server: capture.Options{InboundBypass: true}},
		{name: "inbound port, of a client in the mesh", server: capture.Options{ExcludeInboundPorts: []uint16{meshtest.AppPort}}, inbound: 1, outbound: 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := nettest.New(t, nettest.Options{})
			web, items := m.Captured("node-a", "web"), m.Captured("node-b", "items")
			web.Redirect(row.client)
			items.Redirect(row.server)
			echo(items)
			wantOpen(t, web, app(items)).Close()
			m.Until(fmt.Sprintf("%d inbound and %d outbound", row.inbound, row.outbound), func() bool {
				return len(lines(m, "inbound")) == row.inbound && len(lines(m, "outbound")) == row.outbound
			})
		})
	}
}
