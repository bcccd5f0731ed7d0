package ztunnel_test

import (
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/meshtest"
)

const gold = "selector: {matchLabels: {tier: gold}}"

func TestOpenConnectionsAreJudgedAgain(t *testing.T) {
	const web = `from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]`
	const other = `from: [{source: {principals: [cluster.local/ns/default/sa/other]}}]`
	for _, row := range []struct {
		what   string
		change func(m *meshtest.Mesh, web, items *meshtest.Workload)
		over   bool
	}{
		{"a policy that denies", func(m *meshtest.Mesh, _, _ *meshtest.Workload) {
			m.Apply(policy("p", "DENY", "selector: {}", web))
		}, true},
		{"a policy that allows others", func(m *meshtest.Mesh, _, _ *meshtest.Workload) {
			m.Apply(policy("allow", "ALLOW", "selector: {}", other))
		}, true},
		{"a policy that allows others too", func(m *meshtest.Mesh, _, _ *meshtest.Workload) {
			m.Apply(policy("p", "ALLOW", "selector: {}", other))
		}, false},
		{"a policy that is gone", func(m *meshtest.Mesh, _, _ *meshtest.Workload) {
			m.Delete("AuthorizationPolicy/default/allow")
		}, false},
		{"a label that a policy selects", func(_ *meshtest.Mesh, _, items *meshtest.Workload) { items.Label("tier: gold") }, true},
		{"another label", func(_ *meshtest.Mesh, _, items *meshtest.Workload) { items.Label("tier: lead") }, false},
		{"the pod is not ready", func(_ *meshtest.Mesh, _, items *meshtest.Workload) { items.Ready(false) }, false},
		{"the pod is another account's", func(_ *meshtest.Mesh, _, items *meshtest.Workload) { items.Account("root") }, true},
		{"the client is another account's", func(_ *meshtest.Mesh, web, _ *meshtest.Workload) { web.Account("root") }, true},
		{"a label of the client", func(_ *meshtest.Mesh, web, _ *meshtest.Workload) { web.Label("tier: gold") }, false},
		{"a policy about others", func(m *meshtest.Mesh, _, _ *meshtest.Workload) {
			m.Apply(policy("p", "DENY", "selector: {}", other))
		}, false},
		{"a policy for others", func(m *meshtest.Mesh, _, _ *meshtest.Workload) {
			m.Apply(policy("p", "DENY", "selector: {matchLabels: {app: other}}", web))
		}, false},
		{"another pod", func(m *meshtest.Mesh, _, _ *meshtest.Workload) { m.Workload("third") }, false},
		{"another service", func(m *meshtest.Mesh, _, _ *meshtest.Workload) { m.Service("third", 80) }, false},
	} {
		t.Run(row.what, func(t *testing.T) {
			m := meshtest.New(t)
			client, items := m.Workload("web"), m.Workload("items")
			serve(items, echo)
			m.Apply(policy("allow", "ALLOW", "selector: {}", web))
			m.Apply(policy("gold", "DENY", gold, web))
			nc := dial(t, client, items.IP.String()+":8080")
			wantEcho(t, nc)
			row.change(m, client, items)
			if row.over {
				wantOver(t, nc)
				return
			}
			wantEcho(t, nc)
			nc.Close()
		})
	}
}

func TestJudgedAgainSaysWhy(t *testing.T) {
	onBoth(t, meshtest.Options{}, func(t *testing.T, m *meshtest.Mesh) {
		web, items := m.Workload("web"), m.Workload("items")
		serve(items, echo)
		nc := dial(t, web, items.IP.String()+":8080")
		wantEcho(t, nc)
		m.Apply(policy("p", "DENY", "selector: {}", `from: [{source: {namespaces: [default]}}]`))
		wantOver(t, nc)
		m.WantLog("direction", "inbound", "level", "error", "error", "connection closed due to policy change", "bytes_recv", 5)
		m.WantMetric(`istio_tcp_connections_failed_total{reporter="destination",response_flags="DENY"}`, 1)
		m.WantMetric(`istio_tcp_sockets_open`, 0)
	})
}

// A policy that comes while the application is being dialled is in time.
func TestJudgedWhileDialling(t *testing.T) {
	held := make(chan func())
	m := meshtest.With(t, meshtest.Options{Ztunnel: holding(held)})
	web, items := m.Workload("web"), m.Workload("items")
	serve(items, echo)
	result := make(chan error)
	go func() {
		nc, err := web.Dial(t.Context(), items.IP.String()+":8080")
		if err == nil {
			nc.Close()
		}
		result <- err
	}()
	release := <-held
	m.Apply(policy("p", "DENY", "selector: {}", `from: [{source: {namespaces: [default]}}]`))
	if err := <-result; err == nil || err.Error() != "socks: reply 2" {
		t.Errorf("got %v, want a 401's reply", err)
	}
	release()
}

// What a policy under dry run would refuse is counted, and not refused; what a
// policy refuses is counted under its rule.
func TestVerdictsAreCounted(t *testing.T) {
	onBoth(t, meshtest.Options{}, func(t *testing.T, m *meshtest.Mesh) {
		web, items := m.Workload("web"), m.Workload("items")
		serve(items, echo)
		const fromWeb = `from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]`
		m.Apply(strings.Replace(policy("soon", "DENY", "selector: {}", fromWeb), "namespace: default}", `namespace: default, annotations: {istio.io/dry-run: "true"}}`, 1))
		nc := dial(t, web, items.IP.String()+":8080")
		wantEcho(t, nc)
		const labels = `policy="soon",policy_namespace="default",`
		const rule = `rule="ns[default]-policy[soon]-rule[0]"`
		m.Apply(policy("soon", "DENY", "selector: {}", fromWeb))
		wantOver(t, nc)
		m.WantMetric(`waystone_authz_dry_run_total{action="DENY",enforced="allowed",result="denied",`+labels+rule+`}`, 1)
		m.WantMetric(`waystone_authz_denied_total{reason="denyRule",`+labels+rule+`}`, 1)
	})
}
