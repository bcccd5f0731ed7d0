//go:build netns

package nettest_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/internal/nettest"
)

// get asks as the pod's application.
func get(t *testing.T, from *nettest.Pod, host string, at netip.AddrPort, path string) (status int, body string) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return from.Open(ctx, at) }}
	c := http.Client{Transport: tr, Timeout: 10 * time.Second}
	resp, err := c.Get("http://" + host + path)
	if err != nil {
		t.Fatalf("%s: GET %s%s: %v", from.Name, host, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestWaypoint has requests of a captured pod go through a waypoint, in a pod of
// its own that is not captured.
func TestWaypoint(t *testing.T) {
	m := nettest.New(t, nettest.Options{})
	web, items := m.Captured("node-a", "web"), m.Captured("node-b", "items")
	items.Serve(meshtest.Echo)
	vip := netip.AddrPortFrom(m.Service("items", 80).Waypoint().IP, 80)
	if status, body := get(t, web, "items", vip, "/page"); status != http.StatusOK {
		t.Errorf("GET /page: %d %q, want 200", status, body)
	}
	m.WaitMetric(`istio_tcp_connections_opened_total{reporter="destination",destination_workload="items",source_principal="spiffe://cluster.local/ns/default/sa/waypoint"}`, 1)
	m.Apply(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-secrets, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  action: DENY
  rules: [{to: [{operation: {paths: [/secret]}}]}]
`)
	for path, want := range map[string]int{"/page": http.StatusOK, "/secret": http.StatusForbidden} {
		if status, body := get(t, web, "items", vip, path); status != want {
			t.Errorf("GET %s: %d %q, want %d", path, status, body, want)
		}
	}
}

// TestKnownLater is of a pod that the agent tells of before the control plane
// does: what it connects to, and who connects to it, waits.
func TestKnownLater(t *testing.T) {
	m := nettest.New(t, nettest.Options{})
	release := m.Hold("ztunnel node-a")
	web, items := m.Captured("node-a", "web"), m.Captured("node-b", "items")
	echo(items)
	echo(web)
	failed := make(chan error, 2)
	go func() { failed <- brief(t.Context(), web, app(items)) }()
	go func() { failed <- brief(t.Context(), items, app(web)) }()
	select {
	case err := <-failed:
		t.Errorf("before the pod is known, a connection ended with %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	release()
	m.Ztunnel("node-a").Reconcile()
	for range 2 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

// TestManyPods is of a node with a hundred pods: how long it takes to serve them
// all, which the agent waits for when a tunnel is started.
func TestManyPods(t *testing.T) {
	const pods = 100
	m := nettest.New(t, nettest.Options{})
	web := m.Captured("node-a", "web")
	var all []*nettest.Pod
	for i := range pods {
		p := m.Pod("node-b", fmt.Sprintf("items-%d", i))
		p.Redirect(m.Capture())
		echo(p)
		all = append(all, p)
	}
	began := time.Now()
	for _, p := range all {
		if err := p.Enroll(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d pods are served after %v", pods, time.Since(began))
	for _, p := range all {
		wantOpen(t, web, app(p)).Close()
	}
}
