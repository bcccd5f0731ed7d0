//go:build netns

package nettest_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/capture"
	"github.com/waystone-mesh/waystone/internal/nettest"
)

// openFiles returns how many descriptors this process has.
func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestPodsComeAndGo leaves no descriptor behind.
func TestPodsComeAndGo(t *testing.T) {
	m := nettest.New(t, nettest.Options{})
	web := m.Captured("node-a", "web")
	before := 0
	for i := range 20 {
		if i == 2 {
			before = openFiles(t) // after whatever is opened once
		}
		items := m.Captured("node-b", fmt.Sprintf("items-%d", i))
		echo(items)
		nc := wantOpen(t, web, app(items))
		items.Delete()
		wantCut(t, nc)
		nc.Close()
	}
	m.Until("all descriptors are closed", func() bool { return openFiles(t) <= before })
}

// TestReleasedPod goes on in plain text.
func TestReleasedPod(t *testing.T) {
	m := nettest.New(t, nettest.Options{})
	plain, items := m.Pod("node-a", "plain"), m.Captured("node-b", "items")
	echo(items)
	wantOpen(t, plain, app(items)).Close()
	items.Release()
	wantOpen(t, plain, app(items)).Close()
	m.Until("the first line", func() bool { return len(lines(m, "inbound")) == 1 })
	items.Capture()
	wantOpen(t, plain, app(items)).Close()
	m.Until("the third connection's line", func() bool { return len(lines(m, "inbound")) == 2 })
}

// TestSandboxMadeAnew is of a pod whose network namespace is another than the
// tunnel was told: the uid is the same.
func TestSandboxMadeAnew(t *testing.T) {
	m := nettest.New(t, nettest.Options{})
	web, items := m.Captured("node-a", "web"), m.Captured("node-b", "items")
	echo(items)
	old := wantOpen(t, web, app(items))
	items.Replace()
	items.Capture()
	echo(items)
	wantOpen(t, web, app(items)).Close()
	_ = old.SetDeadline(time.Now().Add(10 * time.Second))
	wantCut(t, old)
}

// TestAddressReused is of a pod that is deleted, and whose successor has its
// address and its account before the agent tells of its end: connections to the
// one must not be taken for connections to the other.
func TestAddressReused(t *testing.T) {
	m := nettest.New(t, nettest.Options{})
	web, items := m.Captured("node-a", "web"), m.Captured("node-b", "items")
	echo(items)
	wantOpen(t, web, app(items)).Close()
	for i := range 5 {
		items.Remove()
		next := items.Successor(fmt.Sprintf("items-%d", i))
		echo(next)
		wantOpen(t, web, app(next)).Close()
		items.Forget()
		wantOpen(t, web, app(next)).Close()
		items = next
	}
}

// TestAgentRestarts: what is open stays open, and what went meanwhile ends.
func TestAgentRestarts(t *testing.T) {
	m := nettest.New(t, nettest.Options{})
	web, items, other := m.Captured("node-a", "web"), m.Captured("node-b", "items"), m.Captured("node-b", "other")
	echo(items)
	echo(other)
	stays, goes := wantOpen(t, web, app(items)), wantOpen(t, web, app(other))
	m.StopAgent("node-b")
	wantOpen(t, web, app(items)).Close()
	wantEcho(t, goes)
	other.Vanish()
	m.StartAgent("node-b")
	wantCut(t, goes)
	wantEcho(t, stays)
	wantOpen(t, web, app(items)).Close()
}

// TestPortTaken is of a pod whose application has one of our ports: the agent is
// told, and when the port is free the pod is served without its telling again.
func TestPortTaken(t *testing.T) {
	m := nettest.New(t, nettest.Options{})
	web, items := m.Captured("node-a", "web"), m.Pod("node-b", "items")
	echo(items)
	taken := items.Listen(15008)
	items.Redirect(capture.Options{})
	err := items.Enroll()
	if err == nil || !strings.Contains(err.Error(), "15008") || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("Enroll: %v, want one that names the port", err)
	}
	m.WantMetric("istio_active_proxy_count_total", 0)
	taken.Close()
	m.Until("the pod is served", func() bool {
		nc, _, err := open(t, web, app(items))
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
}

// TestUpgrade has a second node tunnel take over under load: no connection is
// refused or lost, and those that are open are drained to the deadline.
func TestUpgrade(t *testing.T) {
	m := nettest.New(t, nettest.Options{})
	web, items := m.Captured("node-a", "web"), m.Captured("node-b", "items")
	echo(items)
	long := wantOpen(t, web, app(items))

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	type result struct{ made, failed int }
	done := make(chan result)
	load := func() {
		var r result
		for ctx.Err() == nil {
			if err := brief(ctx, web, app(items)); err != nil && ctx.Err() == nil {
				t.Logf("connection %d: %v", r.made, err)
				r.failed++
			}
			r.made++
		}
		done <- r
	}
	for range 4 {
		go load()
	}
	for _, node := range []string{"node-b", "node-a"} {
		before, _ := m.Metric("istio_tcp_connections_opened_total")
		m.Until("some connections were made", func() bool {
			now, _ := m.Metric("istio_tcp_connections_opened_total")
			return now > before+40
		})
		m.Attach(node, m.Upgrade(node))
		m.Detach(node)
		ended := make(chan error, 1)
		deadline, cancel := context.WithTimeout(t.Context(), time.Second)
		go func() { ended <- m.StopZtunnel(deadline, node) }()
		if node == "node-b" {
			wantEcho(t, long)
		}
		<-ended
		cancel()
	}
	wantCut(t, long)
	stop()
	var all result
	for range 4 {
		r := <-done
		all.made += r.made
		all.failed += r.failed
	}
	t.Logf("%d connections while both nodes were upgraded, %d lost", all.made, all.failed)
	if all.failed > 0 {
		t.Errorf("%d of %d connections were lost", all.failed, all.made)
	}
	wantOpen(t, web, app(items)).Close()
}
