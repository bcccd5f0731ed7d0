package ztunnel_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/ztunnel"
)

func TestInboundStatuses(t *testing.T) {
	onBoth(t, meshtest.Options{}, func(t *testing.T, m *meshtest.Mesh) {
		web, items, other := m.Workload("web"), m.Workload("items"), m.Workload("other")
		m.Service("items", 80)
		m.Service("other", 80)
		serve(items, echo)
		m.Apply(policy("deny-other", "DENY", "selector: {matchLabels: {app: items}}", `from: [{source: {principals: [cluster.local/ns/default/sa/other]}}]`))
		pod := items.IP.String()
		for _, row := range []struct {
			what              string
			from              *meshtest.Workload
			method, authority string
			want              int
			why               string // in the line of it; "" for what is answered before it has one
		}{
			{"this pod", web, "CONNECT", pod + ":8080", 200, ""},
			{"its service by name", web, "CONNECT", "items.default.svc.cluster.local:80", 200, ""},
			{"its service by a short name", web, "CONNECT", "items:80", 503, "the name is not known"},
			{"another method", web, "GET", pod + ":8080", 400, ""},
			{"no port", web, "CONNECT", pod, 400, ""},
			{"port 0", web, "CONNECT", pod + ":0", 400, ""},
			{"no host", web, "CONNECT", ":80", 400, ""},
			{"another pod", web, "CONNECT", other.IP.String() + ":8080", 400, "ip mismatch"},
			{"nobody's address", web, "CONNECT", "192.0.2.1:8080", 400, "ip mismatch"},
			{"unknown name", web, "CONNECT", "nowhere.example.com:80", 503, "the name is not known"},
			{"unknown port of the service", web, "CONNECT", "items.default.svc.cluster.local:81", 503, "no such port"},
			{"a port of ours", web, "CONNECT", pod + ":15008", 503, "for the node tunnel itself"},
			{"another port of ours", web, "CONNECT", pod + ":15080", 503, "for the node tunnel itself"},
			{"nobody listens", web, "CONNECT", pod + ":8081", 503, "refused"},
			{"denied", other, "CONNECT", pod + ":8080", 401, "policy rejection: rbac_access_denied_matched_policy[ns[default]-policy[deny-other]-rule[0]]"},
		} {
			tunnel := row.from.Connect(items, row.method, row.authority)
			if tunnel.Status != row.want {
				t.Errorf("%s: got %d, want %d", row.what, tunnel.Status, row.want)
			}
			if tunnel.Status == 200 {
				say2(t, tunnel, "hello")
				if got := tunnel.Header.Get("baggage"); !strings.Contains(got, "service.name=items") || !strings.Contains(got, "k8s.namespace.name=default") {
					t.Errorf("%s: got baggage %q", row.what, got)
				}
			}
			if row.why != "" {
				m.Until(row.what+": a line with "+row.why, func() bool { return strings.Contains(strings.Join(m.Log(), "\n"), row.why) })
			}
		}
		m.WantMetric(`istio_tcp_connections_failed_total{reporter="destination",response_flags="DENY",source_workload="other"}`, 1)
		m.WantMetric(`istio_tcp_connections_failed_total{reporter="destination",response_flags="CONNECT"}`, 1)
		m.WantLog("message", "connection complete", "level", "error", "direction", "inbound", "src.workload", "other")
		wantRefused(t, other, "items:80", 2)
	})
}

// say2 checks that a tunnel carries bytes both ways.
func say2(t *testing.T, tunnel *meshtest.Tunnel, text string) {
	t.Helper()
	if _, err := tunnel.Write.Write([]byte(text)); err != nil {
		t.Error(err)
	}
	wantRead(t, tunnel.Read, text)
	tunnel.Close()
}

// What a peer says about itself names no series, and a connection from another
// network is not taken for the pod that has its address here.
func TestInboundBelievesCertificatesOnly(t *testing.T) {
	m := meshtest.New(t)
	web, items := m.Workload("web"), m.Workload("items")
	m.Service("items", 80)
	m.Service("other", 80)
	serve(items, echo)
	say2(t, web.Connect(items, "CONNECT", items.IP.String()+":8080", "baggage", "k8s.deployment.name=root", "forwarded", "host=other.default.svc.cluster.local"), "x")
	say2(t, web.Connect(items, "CONNECT", items.IP.String()+":8080", "x-forwarded-network", "far"), "x")
	m.WantMetric(`istio_tcp_connections_opened_total{source_workload="web",destination_service_name="items"}`, 1)
	m.WantMetric(`istio_tcp_connections_opened_total{source_workload="unknown",source_principal="spiffe://cluster.local/ns/default/sa/web",source_workload_namespace="default"}`, 1)
}

// 200 is not sent before the application has accepted.
func TestInboundAnswersWhenTheApplicationHas(t *testing.T) {
	held := make(chan func())
	m := meshtest.With(t, meshtest.Options{Ztunnel: func(o *ztunnel.Options) {
		dial := o.Dial
		o.Dial = holdAppDials(dial, held)
	}})
	web, items := m.Workload("web"), m.Workload("items")
	serve(items, echo)
	answered := make(chan net.Conn)
	go func() { answered <- dial(t, web, items.IP.String()+":8080") }()
	release := <-held
	m.WantMetric(`istio_tcp_connections_opened_total{reporter="destination"}`, 1)
	select {
	case <-answered:
		t.Error("answered before the application was reached")
	default:
	}
	release()
	nc := <-answered
	wantEcho(t, nc)
	nc.Close()
}

func policy(name, action, scope, rule string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %s, namespace: default}
spec:
  action: %s
  %s
  rules: [{%s}]
`, name, action, scope, rule)
}

func TestL4Policy(t *testing.T) {
	const strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: strict, namespace: default}\nspec: {mtls: {mode: STRICT}}\n"
	onBoth(t, meshtest.Options{}, func(t *testing.T, m *meshtest.Mesh) {
		m.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: friends, labels: {istio.io/dataplane-mode: ambient}}\n")
		web, items, friend := m.Workload("web"), m.Workload("items"), m.Workload("friends/pal")
		m.Service("items", 80)
		serve(items, echo)
		const all = "selector: {}"
		for _, row := range []struct {
			what, policy     string
			webIn, friendsIn bool
		}{
			{"ALLOW principal", policy("p", "ALLOW", all, `from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]`), true, false},
			{"ALLOW another namespace", policy("p", "ALLOW", all, `from: [{source: {namespaces: [friends]}}]`), false, true},
			{"DENY namespace", policy("p", "DENY", all, `from: [{source: {namespaces: [default]}}]`), false, true},
			{"DENY not namespace", policy("p", "DENY", all, `from: [{source: {notNamespaces: [default]}}]`), true, false},
			{"ALLOW address", policy("p", "ALLOW", all, fmt.Sprintf(`from: [{source: {ipBlocks: ["%s/32"]}}]`, web.IP)), true, false},
			{"DENY address", policy("p", "DENY", all, fmt.Sprintf(`from: [{source: {ipBlocks: ["%s"]}}]`, friend.IP)), true, false},
			{"ALLOW port", policy("p", "ALLOW", all, `to: [{operation: {ports: ["8080"]}}]`), true, true},
			{"ALLOW the service's port", policy("p", "ALLOW", all, `to: [{operation: {ports: ["80"]}}]`), false, false},
			{"DENY port", policy("p", "DENY", all, `to: [{operation: {ports: ["8080"]}}]`), false, false},
			{"of other pods", policy("p", "DENY", "selector: {matchLabels: {app: web}}", `from: [{source: {namespaces: ["*"]}}]`), true, true},
			{"ALLOW about HTTP", policy("p", "ALLOW", all, `to: [{operation: {methods: [GET]}}]`), false, false},
			{"STRICT", strict, true, true},
		} {
			m.Apply(row.policy)
			for from, in := range map[*meshtest.Workload]bool{web: row.webIn, friend: row.friendsIn} {
				if !in {
					wantRefused(t, from, "items.default:80", 2)
					continue
				}
				nc, err := from.Dial(t.Context(), "items.default:80")
				if err != nil {
					t.Errorf("%s: %s: %v", row.what, from.Name, err)
					continue
				}
				wantEcho(t, nc)
				nc.Close()
			}
			if row.policy != strict {
				m.Delete("AuthorizationPolicy/default/p")
			}
		}
	})
}

func TestRequireWaypoint(t *testing.T) {
	onBoth(t, meshtest.Options{Ztunnel: func(o *ztunnel.Options) { o.RequireWaypoint = true }}, func(t *testing.T, m *meshtest.Mesh) {
		web, items := m.Workload("web"), m.Workload("items")
		s := m.Service("items", 80)
		serve(items, echo)
		before := dial(t, web, "items:80")
		wantEcho(t, before)
		s.Protocol("tcp").Waypoint()
		wantOver(t, before)
		m.WantLog("direction", "inbound", "error", "connection closed due to policy change")
		wantRefused(t, web, items.IP.String()+":8080", 2)
		m.WantLog("direction", "inbound", "error", "bypassed waypoint", "level", "error")
		m.WantMetric(`istio_tcp_connections_failed_total{reporter="destination",response_flags="DENY"}`, 2)
		through := dial(t, web, "items:80")
		wantEcho(t, through)
		through.Close()
		m.WantMetric(`istio_tcp_connections_opened_total{reporter="destination",source_workload="waypoint"}`, 1)
		m.WantMetric(`istio_tcp_connections_opened_total{reporter="source",destination_workload="waypoint",destination_service_name="items"}`, 1)
	})
}

// The waypoint of a pod takes what is sent to the pod, and none of its own.
func TestWorkloadWaypoint(t *testing.T) {
	m := meshtest.With(t, meshtest.Options{Level: "debug"})
	web, items := m.Workload("web"), m.Workload("items")
	serve(items, echo)
	m.Waypoint("default/waypoint", "workload")
	items.Label("istio.io/use-waypoint: waypoint")
	nc := dial(t, web, items.IP.String()+":8080")
	wantEcho(t, nc)
	nc.Close()
	m.WantMetric(`istio_tcp_connections_opened_total{reporter="source",source_workload="web",destination_workload="waypoint"}`, 1)
	m.WantMetric(`istio_tcp_connections_opened_total{reporter="destination",source_workload="waypoint",destination_workload="items"}`, 1)
	lines := accessLines(m, "ztunnel::proxy::outbound")
	if len(lines) == 0 || !strings.HasSuffix(fmt.Sprint(lines[0]["message"]), ":15008 type ToServerWaypoint") {
		t.Errorf("got %v", lines)
	}
}

// A waypoint that is captured itself and speaks the PROXY protocol is told who
// the client is and what it dialled.
func TestProxyWaypoint(t *testing.T) {
	onBoth(t, meshtest.Options{}, func(t *testing.T, m *meshtest.Mesh) {
		web, items := m.Workload("web"), m.Workload("items")
		proxy := m.Workload("proxy").Label("gateway.networking.k8s.io/gateway-name: proxy")
		m.Apply(fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: proxy, namespace: default, annotations: {ambient.istio.io/waypoint-inbound-binding: PROXY/15088}}
spec:
  gatewayClassName: third-party
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
status:
  addresses: [{type: IPAddress, value: %s}]
`, proxy.IP))
		s := m.Service("items", 80).Label("istio.io/use-waypoint: proxy")
		serve(items, echo)
		ln := proxy.Listen(15088)
		go func() {
			for {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				go echo(nc)
			}
		}()
		who := "spiffe://cluster.local/ns/default/sa/web"
		head := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00" + string(rune(15+len(who))) + string(web.IP.AsSlice()) + string(s.IP.AsSlice())
		nc := dial(t, web, "items:80")
		wantRead(t, nc, head)
		var ports [4]byte
		if _, err := io.ReadFull(nc, ports[:]); err != nil || string(ports[2:]) != "\x00\x50" {
			t.Errorf("got ports % x, %v", ports, err)
		}
		wantRead(t, nc, "\xd0\x00"+string(rune(len(who)))+who)
		wantEcho(t, nc)
		nc.Close()
		m.WantMetric(`istio_tcp_connections_opened_total{reporter="destination",destination_workload="proxy"}`, 1)
	})
}
