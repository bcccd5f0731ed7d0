package ztunnel_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/meshtest"
)

// onBoth runs f in memory, on the portable driver, and on loopback addresses, on
// two loops of epoll where there is any.
func onBoth(t *testing.T, o meshtest.Options, f func(t *testing.T, m *meshtest.Mesh)) {
	t.Run("memory", func(t *testing.T) { f(t, meshtest.With(t, o)) })
	o.Loopback, o.Loops = true, 2
	t.Run("loopback", func(t *testing.T) { f(t, meshtest.With(t, o)) })
}

// serve runs an application that hands every connection to f, which may return
// while it is open.
func serve(w *meshtest.Workload, f func(net.Conn)) {
	ln := w.Listen(meshtest.AppPort)
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go f(nc)
		}
	}()
}

// echo sends back what it is sent, as long as it comes.
func echo(nc net.Conn) {
	defer nc.Close()
	_, _ = io.Copy(nc, nc)
}

// an application whose connections the test takes.
func taken(w *meshtest.Workload) <-chan net.Conn {
	conns := make(chan net.Conn, 100)
	serve(w, func(nc net.Conn) { conns <- nc })
	return conns
}

func dial(t testing.TB, w *meshtest.Workload, addr string) net.Conn {
	t.Helper()
	nc, err := w.Dial(t.Context(), addr)
	if err != nil {
		t.Fatalf("%s to %s: %v", w.Name, addr, err)
	}
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second)) // rather than hang
	return nc
}

func wantRefused(t testing.TB, w *meshtest.Workload, addr string, reply int) {
	t.Helper()
	nc, err := w.Dial(t.Context(), addr)
	if err == nil {
		nc.Close()
	}
	if got, want := fmt.Sprint(err), fmt.Sprintf("socks: reply %d", reply); got != want {
		t.Errorf("%s to %s: got %s, want %s", w.Name, addr, got, want)
	}
}

func say(t testing.TB, nc net.Conn, text string) {
	t.Helper()
	if _, err := nc.Write([]byte(text)); err != nil {
		t.Errorf("write: %v", err)
	}
}

func wantRead(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Errorf("read %q, %v; want %q", got, err, want)
	}
}

// wantEcho checks that a connection carries bytes both ways.
func wantEcho(t testing.TB, nc net.Conn) {
	t.Helper()
	say(t, nc, "hello")
	wantRead(t, nc, "hello")
}

// wantOver checks that a connection was cut, rather than ended.
func wantOver(t testing.TB, nc net.Conn) {
	t.Helper()
	if n, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v; want a reset", n, err)
	}
	nc.Close()
}

// accessLines returns the lines of a scope, without what differs each time.
func accessLines(m *meshtest.Mesh, scope string) []map[string]any {
	var out []map[string]any
	for _, line := range m.Log() {
		var l map[string]any
		if json.Unmarshal([]byte(line), &l) == nil && l["scope"] == scope {
			out = append(out, l)
		}
	}
	return out
}

func wantSeries(t testing.TB, m *meshtest.Mesh, family string, want map[string]float64) {
	t.Helper()
	if got := m.Series(family); !maps.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", family, series(got), series(want))
	}
}

func series(all map[string]float64) string {
	var lines []string
	for labels, v := range all {
		lines = append(lines, fmt.Sprintf("  {%s} %v", labels, v))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// labels is a series between web and items, as both sides report it.
func labels(reporter, flags string) string {
	end := func(side, name string) string {
		return fmt.Sprintf(`%[1]s_app="%[2]s",%[1]s_canonical_revision="v1",%[1]s_canonical_service="%[2]s",%[1]s_cluster="Kubernetes",%[1]s_principal="spiffe://cluster.local/ns/default/sa/%[2]s",`, side, name)
	}
	rest := func(side, name string) string {
		return fmt.Sprintf(`%[1]s_version="v1",%[1]s_workload="%[2]s",%[1]s_workload_namespace="default"`, side, name)
	}
	dest := end("destination", "items") + `destination_service="items.default.svc.cluster.local",destination_service_name="items",destination_service_namespace="default",` + rest("destination", "items")
	return `connection_security_policy="mutual_tls",` + dest + `,reporter="` + reporter + `",request_protocol="tcp",response_flags="` + flags + `",` + end("source", "web") + rest("source", "web")
}

func TestDirect(t *testing.T) {
	onBoth(t, meshtest.Options{}, func(t *testing.T, m *meshtest.Mesh) {
		web, items := m.Workload("web"), m.Workload("items")
		m.Service("items", 80)
		conns := taken(items)
		nc := dial(t, web, "items:80")
		app := <-conns
		if got := app.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != web.IP {
			t.Errorf("the application sees %v, want the client, %v", got, web.IP)
		}
		say(t, nc, "question")
		wantRead(t, app, "question")
		say(t, app, "answer")
		wantRead(t, nc, "answer")
		both := func(flags string, v float64) map[string]float64 {
			return map[string]float64{labels("source", flags): v, labels("destination", flags): v}
		}
		wantSeries(t, m, "istio_tcp_connections_opened_total", both("-", 1))
		wantSeries(t, m, "istio_tcp_connections_closed_total", map[string]float64{})
		m.WantMetric(`istio_tcp_sockets_open{reporter="source"}`, 1)
		m.WantMetric(`istio_tcp_sockets_open{reporter="destination"}`, 1)
		nc.Close()
		app.Close()
		m.Until("both lines are there", func() bool { return len(accessLines(m, "access")) == 2 })
		wantSeries(t, m, "istio_tcp_connections_closed_total", both("-", 1))
		wantSeries(t, m, "istio_tcp_received_bytes_total", both("-", 8))
		wantSeries(t, m, "istio_tcp_sent_bytes_total", both("-", 6))
		wantSeries(t, m, "istio_tcp_connections_failed_total", map[string]float64{})
		m.WantMetric(`istio_tcp_sockets_open`, 0)

		for _, l := range accessLines(m, "access") {
			for key, form := range map[string]string{
				"time": `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$`, "duration": `^\d+ms$`,
				"src.addr": `^` + regexp.QuoteMeta(web.IP.String()) + `:\d+$`,
			} {
				if s, _ := l[key].(string); !regexp.MustCompile(form).MatchString(s) {
					t.Errorf("%s is %v, want %s", key, l[key], form)
				}
				delete(l, key)
			}
			want := map[string]any{
				"level": "info", "scope": "access", "message": "connection complete",
				"src.workload": "web", "src.namespace": "default", "src.identity": "spiffe://cluster.local/ns/default/sa/web",
				"dst.addr": items.IP.String() + ":15008", "dst.hbone_addr": items.IP.String() + ":8080",
				"dst.service": "items.default.svc.cluster.local", "dst.workload": "items", "dst.namespace": "default",
				"dst.identity": "spiffe://cluster.local/ns/default/sa/items",
				"direction":    "outbound", "bytes_sent": float64(8), "bytes_recv": float64(6),
			}
			if l["direction"] == "inbound" {
				want["direction"], want["bytes_sent"], want["bytes_recv"] = "inbound", float64(6), float64(8)
			}
			for _, side := range []string{"src", "dst"} {
				if c, ok := l[side+".cluster"]; ok {
					want[side+".cluster"] = c
				}
			}
			if !maps.Equal(l, want) {
				t.Errorf("got %v\nwant %v", l, want)
			}
		}
	})
}

func TestTextLines(t *testing.T) {
	m := meshtest.With(t, meshtest.Options{Text: true, Level: "debug"})
	web, items := m.Workload("web"), m.Workload("items")
	m.Service("items", 80)
	serve(items, echo)
	nc := dial(t, web, "items:80")
	wantEcho(t, nc)
	nc.Close()
	const at = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z`
	const ends = `src\.addr=10\.244\.0\.1:\d+ src\.workload="web" src\.namespace="default" src\.identity="spiffe://cluster\.local/ns/default/sa/web" (src\.cluster="\S+" )?` +
		`dst\.addr=10\.244\.0\.2:15008 dst\.hbone_addr=10\.244\.0\.2:8080 dst\.service="items\.default\.svc\.cluster\.local" dst\.workload="items" dst\.namespace="default" dst\.identity="spiffe://cluster\.local/ns/default/sa/items" (dst\.cluster="\S+" )?`
	for _, form := range []string{
		at + ` DEBUG outbound\{id=[0-9a-f]{32}\}: ztunnel::proxy::outbound: proxy to 10\.244\.0\.2:8080 using HBONE via 10\.244\.0\.2:15008 type Direct`,
		at + ` DEBUG inbound\{id=[0-9a-f]{32} peer_ip=10\.244\.0\.1 peer_id=spiffe://cluster\.local/ns/default/sa/web\}: ztunnel::proxy::inbound: got CONNECT request to 10\.244\.0\.2:8080`,
		at + ` DEBUG outbound\{id=[0-9a-f]{32}\}: ztunnel::proxy::outbound: complete dur=[0-9.]+.s`,
		at + "\tdebug\taccess\tconnection opened\t" + ends + `direction="outbound"`,
		at + "\tdebug\taccess\tconnection opened\t" + ends + `direction="inbound"`,
		at + "\tinfo\taccess\tconnection complete\t" + ends + `direction="outbound" bytes_sent=5 bytes_recv=5 duration="\d+ms"`,
		at + "\tinfo\taccess\tconnection complete\t" + ends + `direction="inbound" bytes_sent=5 bytes_recv=5 duration="\d+ms"`,
	} {
		re := regexp.MustCompile("^" + form + "$")
		m.Until(form, func() bool { return slices.ContainsFunc(m.Log(), re.MatchString) })
	}
}

// Two lines of one connection have the same id.
func TestBothSidesLogOneID(t *testing.T) {
	m := meshtest.With(t, meshtest.Options{Level: "debug"})
	web, items := m.Workload("web"), m.Workload("items")
	serve(items, echo)
	nc := dial(t, web, items.IP.String()+":8080")
	wantEcho(t, nc)
	nc.Close()
	in, out := accessLines(m, "ztunnel::proxy::inbound"), accessLines(m, "ztunnel::proxy::outbound")
	if len(in) == 0 || len(out) == 0 || in[0]["id"] != out[0]["id"] || len(fmt.Sprint(in[0]["id"])) != 32 {
		t.Errorf("inbound %v, outbound %v", in, out)
	}
}

func TestPlainConnections(t *testing.T) {
	onBoth(t, meshtest.Options{Level: "debug"}, func(t *testing.T, m *meshtest.Mesh) {
		m.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: outside}\n")
		web, legacy := m.Workload("web"), m.Workload("outside/legacy")
		m.Service("outside/legacy", 80)
		serve(legacy, echo)
		for _, target := range []string{"legacy.outside:80", legacy.IP.String() + ":8080"} {
			nc := dial(t, web, target)
			wantEcho(t, nc)
			nc.Close()
		}
		m.Until("both lines", func() bool {
			sum, _ := m.Metric(`istio_tcp_connections_closed_total{reporter="source",connection_security_policy="unknown",source_principal="unknown",destination_principal="unknown",response_flags="-"}`)
			return sum == 2
		})
		m.WantMetric(`istio_tcp_connections_opened_total{reporter="destination"}`, 0)
		m.WantLog("message", "connection complete", "dst.addr", legacy.IP.String()+":8080", "src.identity", "<nil>", "dst.identity", "<nil>", "bytes_sent", 5)
		m.WantLog("scope", "ztunnel::proxy::outbound", "message", "proxy to "+legacy.IP.String()+":8080 using TCP via "+legacy.IP.String()+":8080 type Direct")
	})
}

func TestRefusedOutbound(t *testing.T) {
	onBoth(t, meshtest.Options{}, func(t *testing.T, m *meshtest.Mesh) {
		web, items := m.Workload("web"), m.Workload("items")
		m.Service("items", 80)
		m.Service("empty", 80)
		wantRefused(t, web, "items:80", 5) // nobody listens
		m.WantMetric(`istio_tcp_connections_failed_total{reporter="source",response_flags="CONNECT"}`, 1)
		m.WantMetric(`istio_tcp_connections_failed_total{reporter="destination",response_flags="CONNECT"}`, 1)
		m.WantLog("direction", "inbound", "level", "error", "dst.hbone_addr", items.IP.String()+":8080")
		m.WantLog("direction", "outbound", "error", "hbone: the peer answered the CONNECT with 503")
		opened, _ := m.Metric("istio_tcp_connections_opened_total")
		for _, row := range []struct {
			target string
			reply  int
			why    string
		}{
			{"items:81", 5, "ztunnel: the service has no such port: items.default.svc.cluster.local has no port 81"},
			{"empty:80", 5, "ztunnel: no healthy upstream: empty.default.svc.cluster.local:80"},
			{"nowhere:80", 4, "ztunnel: the name is not known in the mesh: nowhere"},
			{"127.0.0.1:15001", 2, "ztunnel: the connection is for the node tunnel itself"},
		} {
			wantRefused(t, web, row.target, row.reply)
			m.WantLog("message", "connection failed", "level", "warn", "error", row.why)
		}
		m.WantMetric("istio_tcp_connections_opened_total", opened)
	})
}
